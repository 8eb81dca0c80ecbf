"""Which of an account's usage is looked at, and by what it is summed."""

from __future__ import annotations

from typing import Any

from django import forms

from billing.models import UsageEvent
from billing.selectors.usage import GROUPS, UsageFilter
from marketplace.core.tag import TAG_LENGTH_MAX, TAG_RULE, is_tag
from marketplace.forms.past import PastForm
from marketplace.models import Account

_GROUP_LABELS = {"day": "Day", "model": "Model", "key": "Key", "tag": "Tag"}


class UsageForm(PastForm):
    """Everything is optional: without anything it is all of the account's usage."""

    mode = forms.ChoiceField(
        label="Mode", required=False, choices=[("", "Live and test"), *UsageEvent.Mode.choices]
    )
    tag = forms.CharField(
        label="Tag",
        required=False,
        max_length=TAG_LENGTH_MAX,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    by = forms.ChoiceField(
        label="Sum by",
        required=False,
        choices=[("", "Nothing"), *((one, _GROUP_LABELS[one]) for one in GROUPS)],
    )

    def __init__(self, data: Any, *, account: Account) -> None:
        super().__init__(data, account=account)
        # The form is a form of the address; it has no button that changes anything.
        self.auto_id = "usage_%s"

    def clean_tag(self) -> str:
        """A tag as requests have them, or nothing."""
        text = str(self.cleaned_data["tag"])
        if text and not is_tag(text):
            raise forms.ValidationError(f"A tag has {TAG_RULE}.")
        return text

    @property
    def filter(self) -> UsageFilter:
        """What a valid form asks for."""
        cleaned = self.cleaned_data
        return UsageFilter(
            since=cleaned["since"],
            until=cleaned["until"],
            model=cleaned["model"],
            key_id=cleaned["key"].pk if cleaned["key"] else None,
            mode=cleaned["mode"],
            tag=cleaned["tag"],
        )

    @property
    def group(self) -> str:
        """By what a valid form sums; empty for nothing."""
        return str(self.cleaned_data["by"])
