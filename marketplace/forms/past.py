"""Which part of what an account has run is looked at: days, a model, a key."""

from __future__ import annotations

from typing import Any

from django import forms

from marketplace.models import Account, APIKey

_DAY = forms.DateInput(attrs={"type": "date"})


class PastForm(forms.Form):
    """Everything is optional: without anything it is all of the account's."""

    since = forms.DateField(label="From", required=False, widget=_DAY)
    until = forms.DateField(label="To", required=False, widget=_DAY)
    model = forms.CharField(
        label="Model",
        required=False,
        max_length=103,
        widget=forms.TextInput(attrs={"placeholder": "owner/name", "autocomplete": "off"}),
    )
    key = forms.ModelChoiceField(
        label="Key", required=False, queryset=APIKey.objects.none(), empty_label="All keys"
    )

    def __init__(self, data: Any, *, account: Account) -> None:
        super().__init__(data)
        self.fields["key"].queryset = APIKey.objects.filter(account=account).order_by("name", "pk")  # type: ignore[attr-defined]

    def clean_model(self) -> str:
        """`owner/name`, or nothing."""
        text = self.cleaned_data["model"].strip()
        if text and (text.count("/") != 1 or not all(text.split("/"))):
            raise forms.ValidationError("Name a model as owner/name.")
        return str(text)

    def clean(self) -> dict[str, Any]:
        """The days must be in their order."""
        cleaned = super().clean() or {}
        since, until = cleaned.get("since"), cleaned.get("until")
        if since and until and since > until:
            self.add_error("until", "The last day is before the first.")
        return cleaned
