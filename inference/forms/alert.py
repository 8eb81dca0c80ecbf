"""Rules and channels of alerts, in the units that people think in."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django import forms

from inference.models import AlertChannel, AlertRule
from inference.selectors.alert import WINDOWS
from inference.services.alert import COUNT_MIN_MAX

Kind = AlertRule.Kind

# How many units of the table one unit of a person is.
FACTORS = {
    Kind.ERROR_RATE: 100,
    Kind.P95: 1,
    Kind.NO_TRAFFIC: 1,
    Kind.REVENUE_DROP: 100,
    Kind.REPLICA_LOST: 1,
    Kind.BUDGET_BURN: 100,
    Kind.DRIFT: 100,
}


class AlertRuleForm(forms.Form):
    """When to tell."""

    prefix = "rule"
    kind = forms.ChoiceField(label="What", choices=Kind.choices)
    threshold = forms.DecimalField(
        label="From",
        required=False,
        min_value=Decimal(0),
        max_value=Decimal(1_000_000),
        decimal_places=2,
        help_text="Percent for rates and drops, milliseconds for p95, copies, times the "
        "allowed burn rate, or the distance for drift. Not needed for no traffic.",
    )
    window_s = forms.TypedChoiceField(
        label="Over", choices=list(WINDOWS.items()), coerce=int, initial=900
    )
    count_min = forms.IntegerField(
        label="At least so many predictions",
        min_value=1,
        max_value=COUNT_MIN_MAX,
        initial=20,
        help_text="With fewer in the window, nothing is said.",
    )
    cool_down_s = forms.TypedChoiceField(
        label="Once it is over, quiet for",
        choices=[(0, "no time"), (900, "15 minutes"), (3_600, "1 hour"), (21_600, "6 hours")],
        coerce=int,
        initial=900,
    )

    def clean(self) -> dict[str, Any]:
        """The threshold in the unit of the table."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        kind, threshold = cleaned.get("kind"), cleaned.get("threshold")
        if kind == Kind.NO_TRAFFIC:
            cleaned["threshold"] = 1
        elif kind and threshold is None and "threshold" not in self.errors:
            self.add_error("threshold", "This field is required.")
        elif kind and threshold is not None:
            cleaned["threshold"] = int(threshold * FACTORS[Kind(kind)])
        return cleaned


class AlertChannelForm(forms.Form):
    """Where to tell."""

    prefix = "channel"
    kind = forms.ChoiceField(label="How", choices=AlertChannel.Kind.choices)
    target = forms.CharField(
        label="Mail address or https:// address",
        max_length=500,
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
        help_text="Mail goes to members of the account only.",
    )

    def __init__(self, addresses: Sequence[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.addresses = addresses
        self.fields["target"].widget.attrs["list"] = "alert-addresses"
