"""Set what a prediction costs, in dollars."""

from __future__ import annotations

from typing import Any

from django import forms

from billing.services.price import NANOS_PER_PREDICTION_MAX
from marketplace.core.money import format_nanos, parse_dollars


class PriceForm(forms.Form):
    dollars_per_prediction = forms.CharField(
        label="Price per prediction",
        max_length=24,
        help_text="In dollars, to a billionth: 0.0005 is half a tenth of a cent. Valid at once.",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auto_id = "price_%s"

    def clean_dollars_per_prediction(self) -> int:
        """The price in nano-dollars."""
        try:
            nanos = parse_dollars(self.cleaned_data["dollars_per_prediction"])
        except ValueError as error:
            raise forms.ValidationError(f"This is {error}.") from None
        if nanos > NANOS_PER_PREDICTION_MAX:
            raise forms.ValidationError(f"At most {format_nanos(NANOS_PER_PREDICTION_MAX)}.")
        return nanos
