"""Which of an account's predictions are looked at."""

from __future__ import annotations

from typing import Any

from django import forms

from inference.models import Prediction
from inference.selectors.prediction import PredictionFilter
from marketplace.core.errors import MarketplaceError
from marketplace.core.money import parse_dollars
from marketplace.forms.past import PastForm
from marketplace.models import Account


class PredictionForm(PastForm):
    """Everything is optional: without anything it is all of the account's predictions."""

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
        super().__init__(data, account=account)
        self.auto_id = "predictions_%s"

    def clean_cost(self) -> int | None:
        """Dollars as nano-dollars, or nothing."""
        text = self.cleaned_data["cost"].strip()
        try:
            return parse_dollars(text) if text else None
        except (MarketplaceError, ValueError) as error:
            raise forms.ValidationError("An amount in dollars, like 0.001.") from error

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
