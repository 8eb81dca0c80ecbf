"""An amount of money that a person types."""

from __future__ import annotations

from typing import Any

from django import forms

from marketplace.core.money import parse_dollars


class DollarsField(forms.CharField):
    """Dollars to a billionth, cleaned to nano-dollars above zero; None where it may be empty."""

    def __init__(self, **options: Any) -> None:
        widget = forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"})
        super().__init__(max_length=32, widget=widget, **options)

    def clean(self, value: Any) -> Any:
        """The amount in nano-dollars."""
        text = super().clean(value)
        if not text:
            return None
        try:
            nanos = parse_dollars(text)
        except ValueError as error:
            raise forms.ValidationError(f"This is {error}.") from None
        if nanos == 0:
            raise forms.ValidationError("An amount is more than nothing.")
        return nanos
