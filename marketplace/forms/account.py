"""Forms of people and accounts."""

from __future__ import annotations

from django import forms
from django.contrib.auth.forms import PasswordResetForm

from marketplace.core import limits
from marketplace.models import Membership
from marketplace.models.account import slug_validator

_SLUG_HELP = "Lowercase letters, digits and hyphens. It stands in addresses and never changes."


def _slug_field(label: str) -> forms.CharField:
    return forms.CharField(
        label=label,
        max_length=39,
        validators=[slug_validator],
        help_text=_SLUG_HELP,
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )


class SignUpForm(forms.Form):
    email = forms.EmailField(
        label="E-mail address",
        widget=forms.EmailInput(attrs={"autocomplete": "email", "autofocus": True}),
    )
    slug = _slug_field("Account name")
    password = forms.CharField(
        label="Password",
        strip=False,
        help_text="At least 10 characters.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )


class LoginForm(forms.Form):
    email = forms.EmailField(
        label="E-mail address",
        widget=forms.EmailInput(attrs={"autocomplete": "username", "autofocus": True}),
    )
    password = forms.CharField(
        label="Password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )


class ResetForm(PasswordResetForm):
    """Asks where to send the link; says nothing about who has an account."""

    email = forms.EmailField(
        label="E-mail address",
        max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "email", "autofocus": True}),
    )


class NewPasswordForm(forms.Form):
    password = forms.CharField(
        label="New password",
        strip=False,
        help_text="At least 10 characters.",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )


class ChangePasswordForm(NewPasswordForm):
    current = forms.CharField(
        label="Current password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )
    field_order = ("current", "password")


class PersonForm(forms.Form):
    name = forms.CharField(label="Name", max_length=limits.NAME_LENGTH_MAX, required=False)


class AccountForm(forms.Form):
    name = forms.CharField(label="Display name", max_length=limits.NAME_LENGTH_MAX)


class AccountPageForm(AccountForm):
    """What an account's page says."""

    bio = forms.CharField(
        label="About",
        max_length=limits.BIO_LENGTH_MAX,
        required=False,
        help_text="Plain text on your public page: who you are, and what your models are good at.",
        widget=forms.Textarea(attrs={"rows": 3}),
    )


class OrganisationForm(AccountForm):
    slug = _slug_field("Account name")
    field_order = ("slug", "name")


class MemberForm(forms.Form):
    email = forms.EmailField(label="E-mail address")
    role = forms.ChoiceField(
        choices=Membership.Role.choices, initial=Membership.Role.DEVELOPER, label="Role"
    )


class RoleForm(forms.Form):
    role = forms.ChoiceField(choices=Membership.Role.choices)
