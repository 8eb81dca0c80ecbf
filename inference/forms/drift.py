"""The days that a version is compared with."""

from __future__ import annotations

from django import forms


class BaselineForm(forms.Form):
    """From one day to another, in UTC."""

    first = forms.DateField(label="First day", widget=forms.DateInput({"type": "date"}))
    last = forms.DateField(label="Last day", widget=forms.DateInput({"type": "date"}))
