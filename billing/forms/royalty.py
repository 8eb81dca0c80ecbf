"""Promise a royalty: of which version, and how much."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from django import forms

from billing.services.royalty import BPS_MAX
from marketplace.core.errors import NotFoundError
from marketplace.models import ModelVersion
from marketplace.selectors.access import Actor, access_model
from marketplace.selectors.catalog import get_version

_VERSION = re.compile(r"([^/\s:]+)/([^/\s:]+):(\d{1,9})")


class RoyaltyForm(forms.Form):
    parent = forms.CharField(
        label="Made from",
        max_length=200,
        help_text="A version of somebody else, as owner/name:3.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    percent = forms.DecimalField(
        label="Percent of your share",
        min_value=Decimal("0.01"),
        max_value=Decimal(100),
        max_digits=5,
        decimal_places=2,
        help_text="Of what you earn with this version, from the next prediction on.",
    )

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._actor = actor
        self.auto_id = "royalty_%s"

    def clean_parent(self) -> ModelVersion:
        """The version, if the actor may see its model."""
        return read_version(self._actor, self.cleaned_data["parent"])

    @property
    def bps(self) -> int:
        """The share in hundredths of a percent."""
        return int(self.cleaned_data["percent"] * (BPS_MAX // 100))


def read_version(actor: Actor, text: str) -> ModelVersion:
    """The version that a text like `owner/name:3` names.

    Raises:
        ValidationError: It names none that this actor may see.
    """
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise forms.ValidationError("Name a version as owner/name:3.")
    try:
        return get_version(access_model(actor, match[1], match[2]), int(match[3]))
    except NotFoundError:
        raise forms.ValidationError("There is no such version.") from None
