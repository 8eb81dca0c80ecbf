"""The form that makes an API key."""

from __future__ import annotations

from datetime import datetime, timedelta

from django import forms
from django.utils import timezone

from marketplace.core import limits
from marketplace.forms.limits import KeyLimitsForm
from marketplace.models import APIKey
from marketplace.services.key import SCOPES_BY_MODE
from marketplace.services.limits import KEY_LIMIT_FIELDS

LIFETIMES = {
    "": "Never",
    "7": "In 7 days",
    "30": "In 30 days",
    "90": "In 90 days",
    "365": "In a year",
}
_MODE_LABELS = [
    (APIKey.Mode.LIVE, "Live key: runs predictions, paid from the wallet"),
    (APIKey.Mode.TEST, "Test key: runs your own models, without charge"),
    (APIKey.Mode.TOKEN, "Creator token: pushes and publishes models by the command line"),
]


def _label_scope(scope: APIKey.Scope) -> str:
    """What a scope allows, and the kinds of key that may have it."""
    kinds = [mode.label.lower() for mode in APIKey.Mode if scope in SCOPES_BY_MODE[mode]]
    return scope.label if len(kinds) == len(APIKey.Mode) else f"{scope.label} ({', '.join(kinds)})"


class KeyForm(KeyLimitsForm):
    name = forms.CharField(
        label="Name",
        max_length=limits.NAME_LENGTH_MAX,
        help_text="What it is for, such as the service that will use it.",
    )
    mode = forms.ChoiceField(
        label="Kind", choices=_MODE_LABELS, initial=APIKey.Mode.LIVE, widget=forms.RadioSelect
    )
    scopes = forms.MultipleChoiceField(
        label="May",
        choices=[(scope.value, _label_scope(scope)) for scope in APIKey.Scope],
        widget=forms.CheckboxSelectMultiple,
        required=False,
        help_text="Tick none for all that its kind may do.",
    )
    lifetime = forms.ChoiceField(label="Expires", choices=list(LIFETIMES.items()), required=False)

    def has_limits(self) -> bool:
        """Whether the part with the limits has something to show: entries, or faults."""
        return any(self[name].errors or self[name].value() for name in KEY_LIMIT_FIELDS)

    def expires_at(self) -> datetime | None:
        """When the key ends; None for never."""
        days = self.cleaned_data["lifetime"]
        return timezone.now() + timedelta(days=int(days)) if days else None
