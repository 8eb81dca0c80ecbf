"""Short messages about what was just done, and how to undo it.

Django's messages carry them over a redirect; `show_toast` sends one with an answer to htmx.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypedDict

from django.contrib import messages
from django.contrib.messages.storage.base import Message
from django.http import HttpRequest, HttpResponse
from django_htmx.http import trigger_client_event


class Undo(TypedDict):
    """The address that takes a deed back, and what to send to it."""

    url: str
    fields: dict[str, str]


def add_undoable(
    request: HttpRequest, text: str, *, url: str, fields: Mapping[str, object]
) -> None:
    """Say on the next page what was done, beside a button that undoes it.

    Args:
        request: Of the person who did it.
        text: What was done.
        url: A POST address of this site that undoes it; it checks the person's right again,
            and refuses where something else has happened meanwhile.
        fields: What is sent there.
    """
    undo: Undo = {"url": url, "fields": {name: str(value) for name, value in fields.items()}}
    messages.success(request, text, extra_tags=json.dumps(undo))


def read_undo(message: Message) -> Undo | None:
    """How to undo what a message tells, where that is possible."""
    if not (message.extra_tags or "").startswith("{"):
        return None
    undo: Undo = json.loads(message.extra_tags or "")
    return undo


def show_toast(
    response: HttpResponse, text: str, *, tone: str = "good", undo: Undo | None = None
) -> HttpResponse:
    """Let an answer to htmx show a message on the page that asked."""
    return trigger_client_event(response, "toast", {"text": text, "tone": tone, "undo": undo})
