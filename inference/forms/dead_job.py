"""Which dead jobs are looked at."""

from __future__ import annotations

from typing import Any

from django import forms

from inference.selectors import dead_job as selectors
from inference.selectors.dead_job import DeadFilter


class DeadForm(forms.Form):
    """A model, a reason, both or none of them; only what there is can be chosen."""

    model = forms.ChoiceField(label="Model", required=False)
    reason = forms.ChoiceField(label="Reason", required=False)

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        for name, label, found in (
            ("model", "All models", selectors.list_models()),
            ("reason", "All reasons", selectors.list_reasons()),
        ):
            choices = [("", label), *((text, f"{text} ({count})") for text, count in found if text)]
            self.fields[name].choices = choices  # type: ignore[attr-defined]

    @property
    def filter(self) -> DeadFilter:
        """What a valid form asks for; all where it is not valid."""
        cleaned = self.cleaned_data if self.is_valid() else {}
        return DeadFilter(model=cleaned.get("model", ""), reason=cleaned.get("reason", ""))
