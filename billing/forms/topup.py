"""Buy credit, in whole dollars and cents."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms

from billing.services.topup import AMOUNT_CENTS_MAX, AMOUNT_CENTS_MIN


class TopupForm(forms.Form):
    amount_dollars = forms.DecimalField(
        label="Amount",
        min_value=Decimal(AMOUNT_CENTS_MIN) / 100,
        max_value=Decimal(AMOUNT_CENTS_MAX) / 100,
        decimal_places=2,
        initial=Decimal(25),
        help_text=f"From ${AMOUNT_CENTS_MIN // 100} to ${AMOUNT_CENTS_MAX // 100:,}.",
        widget=forms.NumberInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
    )

    saves_card = forms.BooleanField(
        label="Keep the card, so that credit can be bought by itself", required=False
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The form is shown inside pages that hold other forms.
        self.auto_id = "topup_%s"

    @property
    def amount_cents(self) -> int:
        """The amount in cents, of a valid form."""
        return int(self.cleaned_data["amount_dollars"] * 100)
