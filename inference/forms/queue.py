"""Which of an account's jobs are looked at."""

from __future__ import annotations

from django import forms

from inference.models import Job
from inference.selectors.job import JobFilter


class QueueForm(forms.Form):
    """Everything is optional: without anything it is all of the account's."""

    model = forms.CharField(
        label="Model",
        required=False,
        max_length=103,
        widget=forms.TextInput(attrs={"placeholder": "owner/name", "autocomplete": "off"}),
    )
    state = forms.ChoiceField(
        label="State",
        required=False,
        choices=[("", "Waits or runs"), ("waiting", "Waits"), ("running", "Runs")],
    )
    tag = forms.CharField(
        label="Tag", required=False, max_length=Job._meta.get_field("tag").max_length
    )

    def clean_model(self) -> str:
        """`owner/name`, or nothing."""
        text = self.cleaned_data["model"].strip()
        if text and (text.count("/") != 1 or not all(text.split("/"))):
            raise forms.ValidationError("Name a model as owner/name.")
        return str(text)

    @property
    def filter(self) -> JobFilter:
        """What a valid form asks for; all where it is not valid."""
        if not self.is_valid():
            return JobFilter()
        cleaned = self.cleaned_data
        return JobFilter(model=cleaned["model"], state=cleaned["state"], tag=cleaned["tag"])
