"""What of an inbox is shown, and where a person wants to be told of what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django import forms
from django.forms import BoundField

from marketplace.models import Notification
from marketplace.selectors.notification import (
    POLICIES,
    Choice,
    Inbox,
    Mail,
    Policy,
    list_preferences,
)


class InboxForm(forms.Form):
    """A form of the address; without anything it is the whole inbox."""

    show = forms.ChoiceField(required=False, choices=[("", "All"), ("unread", "Unread")])
    kind = forms.ChoiceField(label="Kind", required=False)

    def __init__(self, data: Any, *, inbox: Inbox) -> None:
        super().__init__(data)
        self.auto_id = "inbox_%s"
        kinds = [(kind.value, kind.label) for kind in inbox.kinds]
        self.fields["kind"].choices = [("", "All kinds"), *kinds]  # type: ignore[attr-defined]

    @property
    def choice(self) -> Choice:
        """What a valid form asks for."""
        cleaned = self.cleaned_data
        return Choice(is_unread=cleaned["show"] == "unread", kind=cleaned["kind"])


class MarkForm(forms.Form):
    """Which lines become what: some, or all of a kind; or back to what they were at a moment."""

    id = forms.UUIDField(required=False)
    kind = forms.ChoiceField(required=False, choices=[("", ""), *Notification.Kind.choices])
    to = forms.ChoiceField(choices=[("read", ""), ("unread", ""), ("before", "")])
    # What a mark said of itself; only its undo sends it.
    moment = forms.CharField(required=False, max_length=40)


@dataclass(frozen=True, slots=True)
class PreferenceLine:
    """A kind with its fields; without `mail` there is nothing to decide about mails."""

    kind: Notification.Kind
    policy: Policy
    inbox: BoundField
    mail: BoundField | None


class PreferencesForm(forms.Form):
    """A field for each place where a kind can be told."""

    def __init__(self, data: Any = None, *, inbox: Inbox) -> None:
        super().__init__(data)
        self.inbox = inbox
        decided = list_preferences(inbox)
        for kind in inbox.kinds:
            row = decided.get(kind)
            self.fields[f"{kind}-inbox"] = forms.BooleanField(
                label=f"{kind.label}: inbox",
                required=False,
                initial=row.in_inbox if row else True,
            )
            if POLICIES[kind].mail is Mail.OPTIONAL:
                self.fields[f"{kind}-mail"] = forms.BooleanField(
                    label=f"{kind.label}: mail",
                    required=False,
                    initial=row.by_mail if row else True,
                )

    @property
    def lines_of_account(self) -> Iterator[PreferenceLine]:
        """The kinds about the account."""
        return map(self._line, self.inbox.kinds_of_account)

    @property
    def lines_of_person(self) -> Iterator[PreferenceLine]:
        """The kinds about the person."""
        return map(self._line, self.inbox.kinds_of_person)

    @property
    def choices(self) -> dict[str, tuple[bool, bool]]:
        """What a valid form says, by kind: (inbox, mail)."""
        cleaned = self.cleaned_data
        return {
            str(kind): (cleaned[f"{kind}-inbox"], cleaned.get(f"{kind}-mail", True))
            for kind in self.inbox.kinds
        }

    def _line(self, kind: Notification.Kind) -> PreferenceLine:
        has_mail = f"{kind}-mail" in self.fields
        mail = self[f"{kind}-mail"] if has_mail else None
        return PreferenceLine(kind, POLICIES[kind], self[f"{kind}-inbox"], mail)
