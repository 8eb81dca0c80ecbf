"""Forms of signing keys."""

from __future__ import annotations

from django import forms


class ConfirmForm(forms.Form):
    """The person's password, asked for again."""

    password = forms.CharField(
        label="Your password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )
