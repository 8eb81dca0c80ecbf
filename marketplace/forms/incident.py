"""Forms of incidents: what is typed is shown once more before it is published."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from django import forms
from django.core.serializers.json import DjangoJSONEncoder
from django.http import QueryDict

from marketplace.core import limits
from marketplace.models import Incident, Part
from marketplace.services.incident import list_states


class PreviewedForm(forms.Form):
    """A form that counts only when what it holds was looked at as it will be seen.

    `looked_at` carries a digest of what was shown; what was changed since is shown again.
    """

    looked_at = forms.CharField(required=False, max_length=64, widget=forms.HiddenInput())

    def digest(self) -> str:
        """Of what is to be published."""
        answers = {name: one for name, one in self.cleaned_data.items() if name != "looked_at"}
        text = json.dumps(answers, sort_keys=True, cls=DjangoJSONEncoder)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def was_looked_at(self) -> bool:
        """Whether exactly this was shown before."""
        return bool(self.cleaned_data["looked_at"] == self.digest())

    def show(self) -> None:
        """Have the next answer say that this was shown."""
        self._answer(looked_at=self.digest())

    def _answer(self, **answers: str) -> None:
        assert isinstance(self.data, QueryDict)
        data = self.data.copy()
        for name, answer in answers.items():
            data[name] = answer
        self.data = data


class IncidentForm(PreviewedForm):
    title = forms.CharField(
        max_length=limits.INCIDENT_TITLE_LENGTH_MAX,
        help_text="A headline. It cannot be changed later.",
    )
    impact = forms.ChoiceField(
        choices=Incident.Impact.choices,
        initial=Incident.Impact.MINOR,
        help_text="Major and critical ones stand on top of every page while they are open.",
    )
    parts = forms.MultipleChoiceField(
        required=False, choices=Part.choices, widget=forms.CheckboxSelectMultiple()
    )
    models = forms.CharField(
        required=False,
        label="And these models",
        max_length=limits.INCIDENT_MODELS_MAX * 104,
        widget=forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
        help_text=f"As owner/name, one a line; at most {limits.INCIDENT_MODELS_MAX}.",
    )
    planned_from = forms.DateTimeField(
        required=False,
        label="Maintenance from (UTC)",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )
    planned_until = forms.DateTimeField(
        required=False,
        label="Maintenance until (UTC)",
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )
    state = forms.ChoiceField(choices=Incident.State.choices, label="Where it stands")
    text = forms.CharField(
        label="First update",
        max_length=limits.INCIDENT_TEXT_LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="Plain text: what people notice, and what is done. Who wrote it is not shown.",
    )

    def clean_models(self) -> list[str]:
        """Names, by line or comma."""
        text: str = self.cleaned_data["models"]
        return text.replace(",", " ").split()

    def clean(self) -> dict[str, Any]:
        """Work that is planned has other states than trouble."""
        answers = super().clean() or {}
        impact, state = answers.get("impact"), answers.get("state")
        if impact and state and state not in list_states(impact):
            words = ", ".join(one.label.lower() for one in list_states(impact))
            self.add_error("state", f"With this impact it is one of: {words}.")
        return answers


class UpdateForm(PreviewedForm):
    seen = forms.IntegerField(min_value=0, max_value=32_767, widget=forms.HiddenInput())
    state = forms.ChoiceField(label="Where it stands")
    text = forms.CharField(
        label="Update",
        max_length=limits.INCIDENT_TEXT_LENGTH_MAX,
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="Plain text. It cannot be changed later; who wrote it is not shown.",
    )

    def __init__(
        self,
        answers: QueryDict | None,
        *,
        initial: dict[str, Any],
        states: Sequence[Incident.State],
    ) -> None:
        super().__init__(answers, initial=initial)
        choices = [(state.value, state.label) for state in states]
        self.fields["state"].choices = choices  # type: ignore[attr-defined]

    def show_anew(self, *, seen: int) -> None:
        """Have the next answer say what was read by then, and look at it once more."""
        self._answer(seen=str(seen), looked_at="")
