"""Forms that limit: rates of anything, budgets and lists of a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms

from marketplace.core import limits
from marketplace.core.money import format_nanos, parse_dollars
from marketplace.models import APIKey
from marketplace.models.limits import CONCURRENCY_MAX, PER_MINUTE_MAX, QUERIES_MAX
from marketplace.services.limits import KEY_LIMIT_FIELDS

# A hundred entries of the longest kind, with room for blanks.
_LIST_LENGTH_MAX = 20_000


class DollarField(forms.CharField):
    """An amount that people type in dollars; cleaned, it is nano-dollars, or None."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"})
        super().__init__(max_length=24, widget=widget, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        """Nano-dollars as dollars; what was typed stays as it is."""
        return format_nanos(value).removeprefix("$") if isinstance(value, int) else value

    def clean(self, value: Any) -> Any:
        """The amount in nano-dollars."""
        text = super().clean(value)
        if not text:
            return None
        try:
            return parse_dollars(text)
        except ValueError as error:
            raise forms.ValidationError(f"This is {error}.") from None


class LinesField(forms.CharField):
    """A list of which people type one entry a line."""

    def __init__(self, *, placeholder: str, **kwargs: Any) -> None:
        attrs = {"rows": 3, "class": "code", "spellcheck": "false", "placeholder": placeholder}
        widget = forms.Textarea(attrs=attrs)
        super().__init__(max_length=_LIST_LENGTH_MAX, required=False, widget=widget, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        """The entries, one a line; what was typed stays as it is."""
        return "\n".join(value) if isinstance(value, list) else value

    def clean(self, value: Any) -> Any:
        """The entries."""
        return super().clean(value).replace(",", "\n").split()


def _rate(label: str, maximum: int, help_text: str = "") -> forms.IntegerField:
    return forms.IntegerField(
        label=label, min_value=1, max_value=maximum, required=False, help_text=help_text
    )


class RateForm(forms.Form):
    requests_per_minute = _rate("Requests per minute", PER_MINUTE_MAX)
    units_per_minute = _rate(
        "Units per minute", PER_MINUTE_MAX, "What the price counts, such as the rows of a batch."
    )
    concurrency_max = _rate("Requests at the same time", CONCURRENCY_MAX)


class QueryBudgetForm(forms.Form):
    """How many different inputs a consumer may ask a model."""

    queries_per_day_max = _rate("Different inputs per day", QUERIES_MAX)
    queries_total_max = _rate("Different inputs in all", QUERIES_MAX)


class GuardForm(QueryBudgetForm):
    """How a model is kept from being copied by asking."""

    queries_per_day_max = _rate(
        "Different inputs per day",
        QUERIES_MAX,
        "Of each consumer, to all versions together; the same input again is not counted.",
    )
    samples_queries = forms.BooleanField(
        label="Watch for copying",
        required=False,
        help_text=(
            "A few inputs are kept for 30 days as embeddings, from which they cannot be made "
            "again. The model's page says so."
        ),
    )


class KeyLimitsForm(RateForm):
    budget_day_nanos = DollarField(label="Budget per day", required=False)
    budget_month_nanos = DollarField(label="Budget per month", required=False)
    budget_total_nanos = DollarField(label="Budget in all", required=False)
    allowed_models = LinesField(
        label="Models",
        placeholder="owner/name",
        help_text=f"One a line, at most {limits.ALLOWED_ENTRIES_MAX}. Empty: every model.",
    )
    allowed_networks = LinesField(
        label="Networks",
        placeholder="203.0.113.0/24",
        help_text=(
            f"Where it may be used from: one address or network (IPv4, IPv6) a line, at most "
            f"{limits.ALLOWED_ENTRIES_MAX}. Empty: from everywhere."
        ),
    )

    @staticmethod
    def initial_of(api_key: APIKey) -> dict[str, Any]:
        """What a key is limited to now."""
        return {name: getattr(api_key, name) for name in KEY_LIMIT_FIELDS}

    def key_limits(self) -> Mapping[str, Any]:
        """What was asked for, of every limit there is."""
        return {name: self.cleaned_data[name] for name in KEY_LIMIT_FIELDS}
