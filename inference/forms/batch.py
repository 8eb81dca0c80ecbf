"""A new batch, as a person asks for it."""

from __future__ import annotations

from datetime import timedelta

from django import forms

from marketplace.core.tag import TAG_RULE, is_tag

# As the queue, in words: a day is what most batches get.
_TIMES = ((1, "an hour"), (6, "6 hours"), (24, "a day"), (72, "3 days"), (168, "a week"))
HOURS_DEFAULT = 24


class BatchForm(forms.Form):
    """What runs, on which file."""

    model = forms.CharField(
        label="Model",
        max_length=200,
        widget=forms.TextInput(
            {"placeholder": "owner/name", "autocomplete": "off", "spellcheck": "false"}
        ),
        help_text="owner/name; with :version or @channel for another one than is on sale.",
    )
    file = forms.FileField(
        label="File",
        widget=forms.ClearableFileInput({"accept": ".jsonl,.ndjson,application/jsonl"}),
        help_text='One line of JSON per prediction: {"custom_id": "a1", "input": {"text": "…"}}.',
    )
    hours = forms.TypedChoiceField(
        label="Ends at the latest after",
        choices=_TIMES,
        coerce=int,
        initial=HOURS_DEFAULT,
        help_text="What has not run by then fails, and costs nothing.",
    )
    tag = forms.CharField(
        label="Tag",
        max_length=64,
        required=False,
        help_text="What its usage is called, in the table of usage.",
    )

    def clean_tag(self) -> str:
        """As the gateway takes it."""
        return _clean_tag(self.cleaned_data["tag"])

    @property
    def cancel_after(self) -> timedelta:
        """Of a valid form."""
        return timedelta(hours=self.cleaned_data["hours"])


class StartForm(forms.Form):
    """The wish to start what was looked at; the file is there already."""

    model = forms.CharField(max_length=200, widget=forms.HiddenInput)
    file = forms.CharField(max_length=64, widget=forms.HiddenInput)
    hours = forms.TypedChoiceField(choices=_TIMES, coerce=int, widget=forms.HiddenInput)
    tag = forms.CharField(max_length=64, required=False, widget=forms.HiddenInput)

    def clean_tag(self) -> str:
        """As the gateway takes it."""
        return _clean_tag(self.cleaned_data["tag"])

    @property
    def cancel_after(self) -> timedelta:
        """Of a valid form."""
        return timedelta(hours=self.cleaned_data["hours"])


def _clean_tag(tag: str) -> str:
    if tag and not is_tag(tag):
        raise forms.ValidationError(f"A tag has {TAG_RULE}.")
    return tag
