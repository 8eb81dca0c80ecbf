"""What a person must write before a key is destroyed."""

from __future__ import annotations

from typing import Any

from django import forms

from marketplace.core import limits


class ShredForm(forms.Form):
    """The name of what is destroyed, and why."""

    reason = forms.CharField(
        max_length=limits.REASON_LENGTH_MAX,
        widget=forms.Textarea({"rows": 3}),
        help_text="It stands in the proof, for good.",
    )
    confirm = forms.CharField(
        label="Name of the version",
        max_length=200,
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, subject: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._subject = subject
        self.fields["confirm"].help_text = f"Write {subject} to confirm."

    def clean_confirm(self) -> str:
        """Exactly the name: nothing is destroyed by a slip."""
        text: str = self.cleaned_data["confirm"]
        if text != self._subject:
            raise forms.ValidationError(f"This is not {self._subject}. Nothing was destroyed.")
        return text
