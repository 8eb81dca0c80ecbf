from __future__ import annotations

from django import forms

from marketplace.models import AccountDeletion


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


class PersonDeletionForm(forms.Form):
    """That somebody means it."""

    email = forms.CharField(label="Your e-mail address", max_length=254)
