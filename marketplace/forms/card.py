"""The form of the card's editor."""

from __future__ import annotations

from typing import Any

from django import forms

from marketplace.core import limits

# Far more states than anybody makes; an `integer` of the database ends there.
NUMBER_MAX = 2**31 - 1


class LinesField(forms.CharField):
    """A text whose lines end as they do elsewhere; browsers send CR and LF."""

    def to_python(self, value: Any) -> str:
        """The text with plain line ends, which are what counts against its limit."""
        return str(super().to_python(value)).replace("\r\n", "\n").replace("\r", "\n")

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        """None: a browser would cut what is pasted, and say nothing."""
        return {}


class CardForm(forms.Form):
    text = LinesField(
        label="Source",
        max_length=limits.CARD_LENGTH_MAX,
        required=False,
        strip=False,
        widget=forms.Textarea(
            attrs={"rows": 28, "class": "code", "spellcheck": "true", "wrap": "soft"}
        ),
    )
    # What the person has seen; another has saved since if the card has another one by now.
    base = forms.IntegerField(min_value=0, max_value=NUMBER_MAX, widget=forms.HiddenInput)


class RestoreForm(forms.Form):
    base = forms.IntegerField(min_value=0, max_value=NUMBER_MAX, widget=forms.HiddenInput)
