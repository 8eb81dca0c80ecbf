"""What a creator promises of a model."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms


class ShareField(forms.DecimalField):
    """Percent for people, hundred-thousandths inside."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            min_value=Decimal(50), max_value=Decimal("99.999"), decimal_places=3, **kwargs
        )

    def prepare_value(self, value: Any) -> Any:
        """A number from the table as percent; what a person wrote as it was."""
        return f"{Decimal(value) / 1000:f}" if isinstance(value, int) else value

    def clean(self, value: Any) -> Any:
        cleaned = super().clean(value)
        return None if cleaned is None else int(cleaned * 1000)


class SLOForm(forms.Form):
    """Targets and their window."""

    availability_target = ShareField(
        label="Availability, percent", help_text="Answered, of all that could be; up to 99.999."
    )
    window_days = forms.IntegerField(label="Window, days", min_value=1, max_value=90)
    latency_ms = forms.IntegerField(
        label="Latency, milliseconds",
        required=False,
        min_value=1,
        max_value=600_000,
        help_text="Empty for no promise.",
    )
    latency_target = ShareField(label="Within that time, percent")
