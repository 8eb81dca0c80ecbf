"""Who is told of what, and what stands in a person's inbox.

The table of kinds is the whole policy. Roles are looked at when something is told and again when
the inbox is shown: who has left the account, or has another role since, sees nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet

from marketplace.core import limits
from marketplace.core.errors import InvalidInputError
from marketplace.models import (
    Account,
    Membership,
    Notification,
    NotificationPreference,
    User,
)
from marketplace.selectors.access import ROLES_BY_RIGHT

Kind = Notification.Kind
Role = Membership.Role


class Mail(Enum):
    """Whether a kind is mailed; the value is what the page of preferences says."""

    ALWAYS = "Always"
    OPTIONAL = "Optional"
    NEVER = "Not mailed"
    # Where alerts go is decided for each model.
    CHANNELS = "Set with each model's alerts"


@dataclass(frozen=True, slots=True)
class Policy:
    """Who is told of a kind, and whether by mail too; without roles it is about the person."""

    text: str
    mail: Mail
    roles: frozenset[str] = frozenset()


_OWNERS = frozenset({Role.OWNER})
_DECIDERS = ROLES_BY_RIGHT["publish"]
_BUILDERS = ROLES_BY_RIGHT["push"]
_PAYERS = ROLES_BY_RIGHT["billing"]

POLICIES: dict[str, Policy] = {
    Kind.ACCOUNT: Policy("Suspended, or restored, by the platform.", Mail.ALWAYS, _OWNERS),
    Kind.SIGNING_KEY: Policy("A key that signs your models was added.", Mail.ALWAYS, _OWNERS),
    Kind.PAYMENT: Policy("Refused by a card, a bank or an empty wallet.", Mail.ALWAYS, _PAYERS),
    Kind.INVOICE: Policy("New invoices, and those that are late.", Mail.ALWAYS, _PAYERS),
    Kind.PAYOUT: Policy("Sent to your bank, or refused.", Mail.NEVER, _PAYERS),
    Kind.LOW_BALANCE: Policy("The wallet is below your threshold.", Mail.OPTIONAL, _PAYERS),
    Kind.BUDGET: Policy("A key has used much of its budget.", Mail.OPTIONAL, _DECIDERS),
    Kind.PRICE: Policy("A model that you use becomes dearer.", Mail.OPTIONAL, _PAYERS),
    Kind.ONBOARDING: Policy("A version is published, or has failed.", Mail.NEVER, _BUILDERS),
    Kind.REVIEW: Policy("A version was approved or refused.", Mail.NEVER, _BUILDERS),
    Kind.MODERATION: Policy("Warnings and suspensions of models.", Mail.ALWAYS, _OWNERS),
    Kind.ALERT: Policy("What you watch on your models.", Mail.CHANNELS, _BUILDERS),
    Kind.ABUSE: Policy("A consumer seems to copy a model.", Mail.OPTIONAL, _DECIDERS),
    Kind.BATCH: Policy("A batch is over, or stands still.", Mail.OPTIONAL, _BUILDERS),
    Kind.SECURITY: Policy("How you sign in has changed.", Mail.ALWAYS),
    Kind.REPORT: Policy("What became of models that you reported.", Mail.ALWAYS),
    Kind.ANNOUNCEMENT: Policy("News of the platform.", Mail.NEVER),
    Kind.PLATFORM: Policy("For platform admins.", Mail.ALWAYS),
}


# --- Who is told --------------------------------------------------------------------


def choose_told(memberships: QuerySet[Membership], kind: str) -> QuerySet[Membership]:
    """Those of some memberships whose people get a kind into their inbox."""
    return _choose(memberships, kind).exclude(_refuses(kind, in_inbox=False))


def choose_mailed(memberships: QuerySet[Membership], kind: str) -> QuerySet[Membership]:
    """Those of some memberships whose people get a kind by mail."""
    chosen = _choose(memberships, kind)
    if POLICIES[kind].mail is not Mail.OPTIONAL:
        return chosen
    return chosen.exclude(_refuses(kind, by_mail=False))


def list_mail_addresses(account: Account, kind: str) -> list[str]:
    """Where a mail of a kind about an account goes."""
    members = choose_mailed(account.memberships.all(), kind).order_by("user__email")
    return list(members.values_list("user__email", flat=True))


def choose_people(people: QuerySet[User], kind: str) -> QuerySet[User]:
    """Those of some people who get a kind about themselves into their inbox."""
    refused = NotificationPreference.objects.filter(
        person=OuterRef("pk"), account=None, kind=kind, in_inbox=False
    )
    return people.filter(is_active=True).exclude(Exists(refused))


def _choose(memberships: QuerySet[Membership], kind: str) -> QuerySet[Membership]:
    return memberships.filter(role__in=POLICIES[kind].roles, user__is_active=True)


def _refuses(kind: str, **place: bool) -> Exists:
    return Exists(
        NotificationPreference.objects.filter(
            person=OuterRef("user_id"), account=OuterRef("account_id"), kind=kind, **place
        )
    )


# --- The inbox ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Inbox:
    """Whose inbox it is: a person's, in one of its accounts, with the role that it has there.

    Without a membership only what is about the person itself is in it.
    """

    person: User
    membership: Membership | None

    @property
    def account(self) -> Account | None:
        """The account that it is about."""
        return self.membership.account if self.membership else None

    @property
    def kinds(self) -> list[Notification.Kind]:
        """The kinds that this person may see, in their order."""
        return [*self.kinds_of_account, *self.kinds_of_person]

    @property
    def kinds_of_account(self) -> list[Notification.Kind]:
        """Those that the role may see."""
        if self.membership is None:
            return []
        return [kind for kind in Kind if self.membership.role in POLICIES[kind].roles]

    @property
    def kinds_of_person(self) -> list[Notification.Kind]:
        """Those about the person itself."""
        own = [kind for kind in Kind if not POLICIES[kind].roles]
        return own if self.person.is_staff else [one for one in own if one != Kind.PLATFORM]


@dataclass(frozen=True, slots=True)
class Choice:
    """A part of an inbox."""

    is_unread: bool = False
    kind: str = ""


@dataclass(frozen=True, slots=True)
class NotificationPage:
    """One page of an inbox, and where the next one begins."""

    rows: list[Notification]
    next_before: str


def list_notifications(inbox: Inbox, chosen: Choice | None = None) -> QuerySet[Notification]:
    """What stands in an inbox, newest first."""
    may_see = Q(account=None, kind__in=inbox.kinds_of_person)
    if inbox.account is not None:
        may_see |= Q(account=inbox.account, kind__in=inbox.kinds_of_account)
    rows = Notification.objects.filter(may_see, person=inbox.person).order_by("-id")
    if chosen is not None and chosen.is_unread:
        rows = rows.filter(read_at=None)
    if chosen is not None and chosen.kind:
        rows = rows.filter(kind=chosen.kind)
    return rows


def get_page(inbox: Inbox, chosen: Choice, *, before: str = "") -> NotificationPage:
    """A page of an inbox.

    Args:
        inbox: Whose.
        chosen: Which part of it.
        before: The id that the page before ended with; empty for the first page.

    Raises:
        InvalidInputError: `before` is no id.
    """
    rows = list_notifications(inbox, chosen)
    if before:
        rows = rows.filter(pk__lt=_read_id(before))
    # One more than shown tells whether there are more, without counting them all.
    found = list(rows[: limits.NOTIFICATIONS_PER_PAGE + 1])
    shown = found[: limits.NOTIFICATIONS_PER_PAGE]
    return NotificationPage(shown, str(shown[-1].pk) if len(found) > len(shown) else "")


def count_unread(inbox: Inbox) -> int:
    """How many are unread, up to one more than the bell shows."""
    unread = list_notifications(inbox, Choice(is_unread=True)).order_by()
    return unread[: limits.BELL_COUNT_MAX + 1].count()


def list_preferences(inbox: Inbox) -> dict[str, NotificationPreference]:
    """What the person has decided for this account and for itself, by kind."""
    about = Q(account=None)
    if inbox.account is not None:
        about |= Q(account=inbox.account)
    rows = NotificationPreference.objects.filter(about, person=inbox.person)
    return {row.kind: row for row in rows}


def _read_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidInputError("This is no id of a notification.") from error
