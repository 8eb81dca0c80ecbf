"""Stop an account, or let it go on."""

from __future__ import annotations

from django import forms

from billing.forms.adjustment import ReasonForm
from marketplace.models import Account


class StopForm(ReasonForm):
    account = forms.SlugField(label="Account", help_text="Its short name.")
    field_order = ("account", "reason")

    def clean_account(self) -> Account:
        """The account of this name."""
        account = Account.objects.filter(slug=self.cleaned_data["account"]).first()
        if account is None:
            raise forms.ValidationError("There is no such account.")
        return account
