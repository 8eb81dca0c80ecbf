"""What creators say and ask about payouts."""

from __future__ import annotations

from datetime import date
from typing import Any

from django import forms

from billing.selectors.earnings import GROUPS
from billing.services.connect import COUNTRIES


class OnboardingForm(forms.Form):
    country = forms.ChoiceField(
        label="Country",
        choices=[("", "Choose …"), *COUNTRIES.items()],
        help_text="Where you or your company are at home. It cannot be changed later.",
    )


class EarningsForm(forms.Form):
    """Which earnings are looked at; without anything those of the last days."""

    month = forms.ChoiceField(label="Month", required=False)
    by = forms.ChoiceField(
        label="Sum by", required=False, choices=[("", GROUPS["day"]), *list(GROUPS.items())[1:]]
    )

    def __init__(self, data: Any, *, months: list[date]) -> None:
        super().__init__(data)
        self.auto_id = "earnings_%s"
        named = [(f"{one:%Y-%m}", f"{one:%B %Y}") for one in months]
        self.fields["month"].choices = [("", "The last 30 days"), *named]  # type: ignore[attr-defined]

    @property
    def first_day(self) -> date | None:
        """The month that was chosen."""
        text = self.cleaned_data["month"]
        return date.fromisoformat(f"{text}-01") if text else None

    @property
    def group(self) -> str:
        """By what a valid form sums."""
        return str(self.cleaned_data["by"] or "day")
