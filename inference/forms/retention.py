"""For how many days an account keeps contents and files."""

from __future__ import annotations

from django import forms

from marketplace.core.limits import RETENTION_DAYS_MAX


class RetentionForm(forms.Form):
    """So many days, and whether what is older may go."""

    days = forms.IntegerField(
        label="Days",
        min_value=0,
        max_value=RETENTION_DAYS_MAX,
        widget=forms.NumberInput({"inputmode": "numeric"}),
        help_text=f"0 to {RETENTION_DAYS_MAX}; 0 keeps nothing at all.",
    )
    is_confirmed = forms.BooleanField(
        label="Delete what is older, for good", required=False, help_text="Needed to shorten it."
    )
