"""Give a prediction's price back."""

from __future__ import annotations

from django import forms

from billing.forms.adjustment import ReasonForm
from billing.forms.amount import DollarsField


class ReversalForm(ReasonForm):
    prediction = forms.CharField(
        label="Prediction",
        max_length=64,
        help_text="Its id: 26 letters, which the consumer sees beside it.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    amount = DollarsField(
        label="Amount", required=False, help_text="In dollars; empty gives all of it back."
    )
    field_order = ("prediction", "amount", "reason")
