from __future__ import annotations

from typing import Any

from django import forms

from marketplace.models import Account, AccountDeletion


class DeletionForm(forms.Form):
    """That somebody means it, and what becomes of the credit."""

    confirm = forms.CharField(label="Name of the account", max_length=80)
    credit = forms.ChoiceField(
        choices=AccountDeletion.Credit.choices,
        initial=AccountDeletion.Credit.REFUND,
        label="Credit that is left",
        widget=forms.RadioSelect,
    )
    erases_requester = forms.BooleanField(
        label="Delete me as a person, too, if I belong to no other account then", required=False
    )

    def __init__(self, data: Any, *, account: Account) -> None:
        super().__init__(data)
        self.fields["confirm"].help_text = f"Type {account.slug} to show that you mean it."


class PersonDeletionForm(forms.Form):
    """That somebody means it."""

    email = forms.CharField(label="Your e-mail address", max_length=254)
