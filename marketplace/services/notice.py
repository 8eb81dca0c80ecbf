"""Mails of the platform: owed from the transaction of the deed on, sent by a worker."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.mail import send_mail
from django.db import connection
from django.template.loader import render_to_string

from marketplace.models import Account, Notice, Notification, User
from marketplace.selectors.account import list_owner_addresses
from marketplace.selectors.notification import choose_mailed
from marketplace.services.mail import mail_once
from marketplace.services.notification import notify

# A worker's turn; the rest waits for the next.
MAILS_PER_RUN_MAX = 100


def owe_notice(
    template: str,
    context: dict[str, Any],
    *,
    kind: Notification.Kind,
    path: str = "",
    account: Account | None = None,
    person: User | None = None,
) -> Notice:
    """Owe a mail to the owners of an account, or to one person, and tell them in the inbox.

    Args:
        template: Its name below `emails/`; the subject is in `…_subject.txt` beside it.
        context: What the templates show.
        kind: As what the inbox shows it; one that is always mailed.
        path: The page where there is more to see.
        account: Whose owners are to know.
        person: Who is to know.
    """
    assert connection.in_atomic_block, "a mail belongs into the transaction of its deed"
    context = context | {"web_url": settings.WEB_URL}
    subject = " ".join(render_to_string(f"emails/{template}_subject.txt", context).split())
    text = render_to_string(f"emails/{template}.txt", context)
    to = account or person
    assert to is not None, "constraint marketplace_notice_to_one"
    owed = Notice.objects.create(account=account, person=person, subject=subject[:200], text=text)
    notify(kind, to, key=f"notice:{owed.pk}", title=subject, path=path)
    return owed


def owe_mails(
    template: str, context: dict[str, Any], *, kind: Notification.Kind, account: Account
) -> int:
    """Owe a mail to each person of an account who wants this kind by mail; returns how many.

    The inbox is another matter: see `notify`.

    Args:
        template: Its name below `emails/`; the subject is in `…_subject.txt` beside it.
        context: What the templates show.
        kind: Whose roles and preferences say who is mailed.
        account: What it is about.
    """
    assert connection.in_atomic_block, "a mail belongs into the transaction of its deed"
    context = context | {"web_url": settings.WEB_URL}
    subject = " ".join(render_to_string(f"emails/{template}_subject.txt", context).split())
    text = render_to_string(f"emails/{template}.txt", context)
    mailed = choose_mailed(account.memberships.all(), kind).order_by("user_id")
    people = mailed.values_list("user_id", flat=True)
    owed = [Notice(person_id=one, subject=subject[:200], text=text) for one in people]
    return len(Notice.objects.bulk_create(owed))


def mail_notices() -> int:
    """Send what is owed, the oldest first; returns how many were sent."""
    waiting = Notice.objects.filter(mailed_at=None).order_by("created_at", "pk")
    ids = list(waiting.values_list("pk", flat=True)[:MAILS_PER_RUN_MAX])
    return sum(_mail(notice_id) for notice_id in ids)


def _mail(notice_id: UUID) -> bool:
    rows = Notice.objects.select_for_update(skip_locked=True, of=("self",), no_key=True)
    return mail_once(
        rows.select_related("account", "person"),
        notice_id,
        what="notice",
        list_addresses=_list_addresses,
        send=_send,
    )


def _list_addresses(notice: Notice) -> list[str]:
    if notice.account is not None:
        return list_owner_addresses(notice.account)
    assert notice.person is not None, "constraint marketplace_notice_to_one"
    return [notice.person.email]


def _send(notice: Notice, addresses: list[str]) -> None:
    send_mail(notice.subject, notice.text, None, addresses)
