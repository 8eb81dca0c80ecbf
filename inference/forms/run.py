"""The wish to share a run."""

from __future__ import annotations

from django import forms

from inference.services.run import LIFETIME_DAYS_DEFAULT, LIFETIMES

# Both parts escaped, packed and signed: never this much.
OFFER_LENGTH_MAX = 512 * 1024
_WORDS = {1: "a day", 365: "a year"}


class ShareForm(forms.Form):
    days = forms.TypedChoiceField(
        label="Keep it for",
        choices=[(days, _WORDS.get(days, f"{days} days")) for days in LIFETIMES],
        coerce=int,
        initial=LIFETIME_DAYS_DEFAULT,
    )
    offer = forms.CharField(max_length=OFFER_LENGTH_MAX, widget=forms.HiddenInput)
