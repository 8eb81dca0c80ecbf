"""Endpoints of webhooks, and which of their deliveries to look at."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any
from uuid import UUID

from django import forms

from inference.core.calling import URL_LENGTH_MAX
from inference.models import EventType, WebhookDelivery
from inference.models.webhook import DESCRIPTION_LENGTH_MAX
from inference.selectors.webhook import Choice
from inference.services.webhook import CHOICES


class WebhookForm(forms.Form):
    """Where to tell, and of what."""

    url = forms.CharField(
        label="Address",
        max_length=URL_LENGTH_MAX,
        widget=forms.TextInput(
            {"placeholder": "https://", "autocomplete": "off", "spellcheck": "false"}
        ),
        help_text="Public, and over HTTPS. Redirects are not followed.",
    )
    events = forms.MultipleChoiceField(
        label="Events",
        choices=[(str(one), str(one)) for one in CHOICES],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None chosen means all, also those that come to be later.",
    )
    description = forms.CharField(
        label="Description", max_length=DESCRIPTION_LENGTH_MAX, required=False
    )


class DeliveryForm(forms.Form):
    """Which deliveries."""

    state = forms.ChoiceField(
        label="State",
        choices=[("", "Any"), *WebhookDelivery.State.choices],
        required=False,
    )
    type = forms.ChoiceField(
        label="Event",
        choices=[("", "Any"), *((str(one), str(one)) for one in EventType)],
        required=False,
    )

    def choice(self, endpoint_id: UUID | None = None) -> Choice:
        """What a valid form asks for; all where it is not valid."""
        cleaned: dict[str, Any] = self.cleaned_data if self.is_valid() else {}
        return Choice(endpoint_id, cleaned.get("state", ""), cleaned.get("type", ""))


class ReplayForm(forms.Form):
    """From which day on to send once more what has failed."""

    since = forms.DateField(
        label="Failed since",
        widget=forms.DateInput({"type": "date"}, format="%Y-%m-%d"),
        help_text="A day in UTC.",
    )

    def moment(self) -> datetime:
        """The begin of the day."""
        return datetime.combine(self.cleaned_data["since"], time(), UTC)
