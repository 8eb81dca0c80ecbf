"""A receipt that somebody wants to be checked."""

from __future__ import annotations

from django import forms

from billing.selectors.receipt_check import DOCUMENT_LENGTH_MAX


class ReceiptForm(forms.Form):
    document = forms.CharField(
        label="Receipt",
        max_length=DOCUMENT_LENGTH_MAX,
        help_text="Paste one, or change a digit and verify again: then it no longer holds.",
        widget=forms.Textarea(
            attrs={"rows": 12, "spellcheck": "false", "autocomplete": "off", "class": "mono"}
        ),
    )
