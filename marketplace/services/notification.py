"""Tell people something in their inbox: with the deed, in its transaction, and once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import cast
from uuid import UUID

from django.db import connection, transaction
from django.db.models import QuerySet

from marketplace.core import limits
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import lowest_id
from marketplace.models import (
    Account,
    Announcement,
    Membership,
    Notification,
    NotificationPreference,
    User,
)
from marketplace.selectors.access import Actor
from marketplace.selectors.notification import (
    POLICIES,
    Choice,
    Inbox,
    Mail,
    choose_people,
    choose_told,
    list_notifications,
)
from marketplace.services import audit

Kind = Notification.Kind
Audience = Announcement.Audience

TITLE_LENGTH_MAX = 200
TEXT_LENGTH_MAX = 500
# Rows of one statement: an announcement goes to everybody.
_ROWS_PER_STATEMENT = 1_000
_FORGET_BATCH = 5_000


def notify(
    kind: Notification.Kind,
    to: Account | QuerySet[Account] | User | QuerySet[User],
    *,
    key: str,
    title: str,
    text: str = "",
    path: str = "",
) -> None:
    """Put a line into the inbox of everybody who is told of this kind.

    Safe to repeat: whoever was told of `key` is not told again, read or not.

    Args:
        kind: Of the table in `marketplace.selectors.notification`; its roles say who is told.
        to: The account or accounts that it is about; for kinds without roles, the people.
        key: What it tells of, as `what:id`.
        title: One line; cut where it is too long.
        text: A sentence more, at most.
        path: The page of this site where there is more to see.
    """
    assert connection.in_atomic_block, "it belongs into the transaction of what it tells of"
    line = {
        "kind": str(kind),
        "key": key,
        "title": _cut(title, TITLE_LENGTH_MAX),
        "text": _cut(text, TEXT_LENGTH_MAX),
        "path": path,
    }
    # In one order for all who write: two who tell the same do not wait for each other.
    told = sorted(_list_told(kind, to), key=str)
    now = utc_now()
    Notification.objects.bulk_create(
        [
            Notification(person_id=person, account_id=account, created_at=now, **line)
            for person, account in told
        ],
        batch_size=_ROWS_PER_STATEMENT,
        ignore_conflicts=True,
    )


def _list_told(
    kind: Notification.Kind, to: Account | QuerySet[Account] | User | QuerySet[User]
) -> Iterable[tuple[UUID, UUID | None]]:
    if isinstance(to, Account):
        to = Account.objects.filter(pk=to.pk)
    elif isinstance(to, User):
        to = User.objects.filter(pk=to.pk)
    if to.model is Account:
        assert POLICIES[kind].roles, f"{kind} is about people, not about accounts"
        members = choose_told(Membership.objects.filter(account__in=to.values("pk")), kind)
        return members.values_list("user_id", "account_id")
    assert not POLICIES[kind].roles, f"{kind} is about accounts, not about people"
    people = User.objects.filter(pk__in=cast("QuerySet[User]", to).values("pk"))
    return [(pk, None) for pk in choose_people(people, kind).values_list("pk", flat=True)]


def _cut(text: str, length_max: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length_max else f"{line[: length_max - 1]}…"


# --- Announcements ------------------------------------------------------------------


def tell_announcements() -> int:
    """Put announcements that have begun into the inboxes of those they are for; how many."""
    now = utc_now()
    begun = Announcement.objects.filter(told_at=None, starts_at__lte=now, ends_at__gt=now)
    return sum(_tell(one) for one in list(begun.order_by("pk").values_list("pk", flat=True)))


@transaction.atomic
def _tell(announcement_id: UUID) -> bool:
    rows = Announcement.objects.select_for_update(skip_locked=True, no_key=True)
    found = rows.filter(pk=announcement_id, told_at=None).first()
    if found is None:
        return False
    # A link to another site is not followed from here: the banner has it.
    path = found.link if found.link.startswith("/") else ""
    notify(
        Kind.ANNOUNCEMENT,
        _audience(found),
        key=f"announcement:{found.pk}",
        title=_cut(found.text, TITLE_LENGTH_MAX),
        text=found.text if len(found.text) > TITLE_LENGTH_MAX else "",
        path=path,
    )
    found.told_at = utc_now()
    found.save(update_fields=["told_at"])
    return True


def _audience(announcement: Announcement) -> QuerySet[User]:
    people = User.objects.all()
    match announcement.audience:
        case Audience.STAFF:
            return people.filter(is_staff=True)
        case Audience.CREATORS:
            return people.filter(accounts__models__isnull=False)
    return people


# --- The person ---------------------------------------------------------------------


def mark(
    inbox: Inbox, *, ids: Iterable[UUID] | None = None, kind: str = "", is_read: bool
) -> tuple[int, datetime]:
    """Mark lines as read or unread; those that are so already stay as they are.

    Args:
        inbox: Whose; ids of others are passed over.
        ids: Which; None for all of them.
        kind: With None for `ids`, only those of this kind.
        is_read: What they become.

    Returns:
        How many were changed, and the moment that they carry: by it `unmark` finds them.
    """
    now = utc_now()
    rows = list_notifications(inbox, Choice(kind=kind)).filter(read_at__isnull=is_read)
    if ids is not None:
        rows = rows.filter(pk__in=list(ids)[: limits.NOTIFICATIONS_PER_PAGE])
    return rows.order_by().update(read_at=now if is_read else None), now


def unmark(inbox: Inbox, *, moment: datetime) -> int:
    """Take back what `mark` made read at a moment; returns how many are unread again."""
    return list_notifications(inbox).filter(read_at=moment).order_by().update(read_at=None)


def set_preferences(inbox: Inbox, choices: Mapping[str, tuple[bool, bool]]) -> None:
    """Decide, for each kind, about (inbox, mail); the same again changes nothing.

    Raises:
        InvalidInputError: A kind that the person is not told of, or a mail that cannot be
            turned off; nothing was written.
    """
    wanted: dict[str, tuple[bool, bool]] = {}
    for kind, (in_inbox, by_mail) in choices.items():
        if kind not in inbox.kinds:
            raise InvalidInputError(f"You are not told of {kind!r} here.")
        if not by_mail and POLICIES[kind].mail is not Mail.OPTIONAL:
            raise InvalidInputError(f"Mails about {Kind(kind).label!r} cannot be turned off.")
        wanted[kind] = (in_inbox, by_mail)
    with transaction.atomic():
        # Two tabs take turns, so that the log has what was before and what after.
        User.objects.select_for_update(no_key=True).get(pk=inbox.person.pk)
        changed = [kind for kind, choice in wanted.items() if _prefer(inbox, kind, choice)]
        if changed:
            audit.record(
                Actor(user=inbox.person).label,
                "notification.preferences",
                inbox.person,
                payload={
                    "account": inbox.account.slug if inbox.account else None,
                    **{kind: _describe(wanted[kind]) for kind in changed},
                },
            )


def _prefer(inbox: Inbox, kind: str, choice: tuple[bool, bool]) -> bool:
    account = inbox.account if POLICIES[kind].roles else None
    mine = {"person": inbox.person, "account": account, "kind": kind}
    row = NotificationPreference.objects.filter(**mine).first()
    before = (row.in_inbox, row.by_mail) if row is not None else (True, True)
    if before == choice:
        return False
    in_inbox, by_mail = choice
    row = row or NotificationPreference(**mine)
    row.in_inbox, row.by_mail = in_inbox, by_mail
    row.save()
    return True


def _describe(choice: tuple[bool, bool]) -> str:
    places = [name for name, is_on in zip(("inbox", "mail"), choice, strict=True) if is_on]
    return " and ".join(places) or "nowhere"


def forget_notifications() -> int:
    """Delete what is older than `NOTIFICATION_MEMORY`, read or not; returns how many."""
    # Ids begin with the time.
    old = Notification.objects.filter(pk__lt=lowest_id(utc_now() - limits.NOTIFICATION_MEMORY))
    count = 0
    while ids := list(old.order_by("pk").values_list("pk", flat=True)[:_FORGET_BATCH]):
        count += Notification.objects.filter(pk__in=ids).delete()[0]
    return count
