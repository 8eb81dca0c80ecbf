"""Which of an account's predictions are looked at."""

from __future__ import annotations

from typing import Any

from django import forms

from inference.models import Prediction
from inference.selectors.prediction import PredictionFilter
from marketplace.core.errors import MarketplaceError
from marketplace.core.money import parse_dollars
from marketplace.models import Account, APIKey

_DAY = forms.DateInput(attrs={"type": "date"})


class PredictionForm(forms.Form):
    """Everything is optional: without anything it is all of the account's predictions."""

    since = forms.DateField(label="From", required=False, widget=_DAY)
    until = forms.DateField(label="To", required=False, widget=_DAY)
    model = forms.CharField(
        label="Model",
        required=False,
        max_length=103,
        widget=forms.TextInput(attrs={"placeholder": "owner/name", "autocomplete": "off"}),
    )
    key = forms.ModelChoiceField(
        label="Key", required=False, queryset=APIKey.objects.none(), empty_label="All keys"
    )
    state = forms.ChoiceField(
        label="State", required=False, choices=[("", "All states"), *Prediction.State.choices]
    )
    cost = forms.CharField(
        label="Cost at least, $",
        required=False,
        max_length=20,
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
    )

    def __init__(self, data: Any, *, account: Account) -> None:
        super().__init__(data)
        self.auto_id = "predictions_%s"
        self.fields["key"].queryset = APIKey.objects.filter(account=account).order_by("name", "pk")  # type: ignore[attr-defined]

    def clean_model(self) -> str:
        """`owner/name`, or nothing."""
        text = self.cleaned_data["model"].strip()
        if text and (text.count("/") != 1 or not all(text.split("/"))):
            raise forms.ValidationError("Name a model as owner/name.")
        return str(text)

    def clean_cost(self) -> int | None:
        """Dollars as nano-dollars, or nothing."""
        text = self.cleaned_data["cost"].strip()
        try:
            return parse_dollars(text) if text else None
        except (MarketplaceError, ValueError) as error:
            raise forms.ValidationError("An amount in dollars, like 0.001.") from error

    def clean(self) -> dict[str, Any]:
        """The days must be in their order."""
        cleaned = super().clean() or {}
        since, until = cleaned.get("since"), cleaned.get("until")
        if since and until and since > until:
            self.add_error("until", "The last day is before the first.")
        return cleaned

    @property
    def filter(self) -> PredictionFilter:
        """What a valid form asks for."""
        cleaned = self.cleaned_data
        return PredictionFilter(
            since=cleaned["since"],
            until=cleaned["until"],
            model=cleaned["model"],
            key_id=cleaned["key"].pk if cleaned["key"] else None,
            state=cleaned["state"],
            cost_nanos_min=cleaned["cost"],
        )
