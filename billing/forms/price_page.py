"""The forms of a model's price page: the whole price, an offer, a coupon."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from django import forms

from billing.models import Price
from billing.services.coupon import DAYS_MAX, USES_MAX
from billing.services.price import PriceTerms
from billing.templatetags.prices import SCALES
from marketplace.core.money import format_nanos
from marketplace.forms.limits import DollarField
from strongroom.rating import MILLION, UNITS_MAX

_BPS_PER_PERCENT = 100
# By kind: what the rate and the bound are called.
_KINDS = {
    "input_token": ("Per 1,000 input tokens", "Most input tokens of a row"),
    "output_token": ("Per 1,000 output tokens", "Most output tokens of a row"),
    "compute_ms": ("Per second of compute", "Most milliseconds of a row"),
    "row": ("Per row", ""),
    "pixel": ("Per megapixel", "Most pixels of a row"),
}
_TIER_HELP = (
    "One on each line: from which prediction of a month on, and what part is charged then."
    " 1000: 80 % means a fifth less from the 1,000th on."
)


class PriceForm(forms.Form):
    """All that a price can say, in dollars and percent."""

    flat = DollarField(label="Per prediction", required=False, help_text="For each row of a batch.")
    minimum = DollarField(label="At least, for a prediction", required=False)
    free_units = forms.IntegerField(
        label="Free predictions a month",
        required=False,
        min_value=0,
        max_value=UNITS_MAX,
        help_text="For each account.",
    )
    tiers = forms.CharField(
        label="Cheaper with volume",
        required=False,
        max_length=1_000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_TIER_HELP,
    )

    batch_percent = forms.IntegerField(
        label="Lines of batches cost, in percent",
        required=False,
        min_value=1,
        max_value=100,
        help_text="Of all this. They run when there is room; empty is 100.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auto_id = "price_%s"
        for kind, (rate_label, most_label) in _KINDS.items():
            self.fields[f"rate_{kind}"] = DollarField(label=rate_label, required=False)
            if most_label:
                self.fields[f"most_{kind}"] = forms.IntegerField(
                    label=most_label, required=False, min_value=0, max_value=UNITS_MAX
                )

    @property
    def metered(self) -> list[tuple[Any, Any]]:
        """The fields of each kind: rate and bound, if it has one."""
        return [
            (self[f"rate_{kind}"], self[f"most_{kind}"] if most else None)
            for kind, (_, most) in _KINDS.items()
        ]

    def clean_tiers(self) -> list[list[int]]:
        """Each as (row from which on, basis points)."""
        tiers = []
        for line in filter(str.strip, self.cleaned_data["tiers"].splitlines()):
            start, colon, part = line.partition(":")
            try:
                percent = Decimal(part.strip().removesuffix("%").strip())
                bps = percent * _BPS_PER_PERCENT
                first = int(start.strip().replace(",", ""))
                if not colon or bps != int(bps):
                    raise ValueError
            except (ValueError, ArithmeticError):
                raise forms.ValidationError(
                    f"{line.strip()[:40]!r} is not like 1000: 80 %."
                ) from None
            # People count from one.
            tiers.append([first - 1, int(bps)])
        return tiers

    @property
    def terms(self) -> dict[str, Any]:
        """What a valid form asks for, as `set_price` takes it."""
        given = self.cleaned_data
        rates = {
            kind: given[f"rate_{kind}"] * MILLION // SCALES[kind][0]
            for kind in _KINDS
            if given[f"rate_{kind}"]
        }
        most = {
            kind: given[f"most_{kind}"] for kind in rates if given.get(f"most_{kind}") is not None
        }
        return {
            "nanos_per_prediction": given["flat"] or 0,
            "rates": rates,
            "max_units": most,
            "minimum_nanos": given["minimum"] or 0,
            "free_units": given["free_units"] or 0,
            "tiers": given["tiers"],
            "batch_percent": given["batch_percent"] or 100,
        }


def list_initial(price: Price | None) -> dict[str, Any]:
    """A price as the form shows it."""
    if price is None:
        return {}
    terms = PriceTerms.of(price)
    initial: dict[str, Any] = {
        "flat": terms.nanos_per_prediction,
        "minimum": terms.minimum_nanos or None,
        "free_units": terms.free_units or None,
        "batch_percent": terms.batch_percent if terms.batch_percent < 100 else None,
        "tiers": "\n".join(
            f"{start + 1}: {Decimal(bps) / _BPS_PER_PERCENT:f} %" for start, bps in terms.tiers
        ),
    }
    for kind, nanos in terms.rates.items():
        initial[f"rate_{kind}"] = format_nanos(nanos * SCALES[kind][0] // MILLION)
    return initial | {f"most_{kind}": most for kind, most in terms.max_units.items()}


class OfferForm(forms.Form):
    """A part off everybody's price, for one account."""

    account = forms.SlugField(label="Account", max_length=63)
    percent_off = forms.DecimalField(
        label="Percent off", min_value=Decimal("0.01"), max_value=Decimal("99.99"), decimal_places=2
    )
    until = forms.DateField(
        label="Last day", required=False, widget=forms.DateInput(attrs={"type": "date"})
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auto_id = "offer_%s"

    @property
    def off_bps(self) -> int:
        """Of a valid form."""
        return int(self.cleaned_data["percent_off"] * _BPS_PER_PERCENT)

    @property
    def valid_until(self) -> datetime | None:
        """Of a valid form: the end of the day, UTC."""
        return end_of(self.cleaned_data["until"])


class CouponForm(forms.Form):
    """A code for a part off everybody's price."""

    code = forms.CharField(label="Code", max_length=32)
    percent_off = forms.DecimalField(
        label="Percent off", min_value=Decimal("0.01"), max_value=Decimal("99.99"), decimal_places=2
    )
    days = forms.IntegerField(label="For so many days", min_value=1, max_value=DAYS_MAX)
    uses_max = forms.IntegerField(label="Accounts at most", min_value=1, max_value=USES_MAX)
    until = forms.DateField(
        label="Last day to use it", widget=forms.DateInput(attrs={"type": "date"})
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auto_id = "coupon_%s"

    @property
    def terms(self) -> dict[str, Any]:
        """Of a valid form, as `make_price_coupon` takes it."""
        given = self.cleaned_data
        return {
            "code": given["code"],
            "off_bps": int(given["percent_off"] * _BPS_PER_PERCENT),
            "days": given["days"],
            "uses_max": given["uses_max"],
            "valid_until": end_of(given["until"]),
        }


class RedeemForm(forms.Form):
    """A code to use."""

    code = forms.CharField(
        label="Code", max_length=64, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )


def end_of(day: date | None) -> datetime | None:
    """The last moment of a day, UTC."""
    return None if day is None else datetime.combine(day, time.max, UTC)
