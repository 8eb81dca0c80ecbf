"""Read members and the account's part of the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from marketplace.core.money import format_nanos
from marketplace.models import Account, AuditEvent, Membership
from marketplace.selectors.access import Actor, list_accounts

# What only the platform's admins do; who of them did it is the platform's own business.
PLATFORM_ACTIONS = frozenset(
    {
        "version.approve",
        "version.refuse",
        "account.suspend",
        "account.unsuspend",
        "account.limit",
        "model.warn",
        "model.suspend",
        "model.reinstate",
        "appeal.answer",
        "impersonation.begin",
        "impersonation.view",
        "impersonation.end",
        "creator.share",
    }
)


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event of the log as an account sees it; `details` are (name, text) pairs."""

    at: datetime
    who: str
    action: str
    details: list[tuple[str, str]]


def list_members(account: Account) -> QuerySet[Membership]:
    """Who belongs to the account, by e-mail address."""
    return account.memberships.select_related("user").order_by("user__email")


def list_owner_addresses(account: Account) -> list[str]:
    """Where to write to who owns the account."""
    owners = account.memberships.filter(role=Membership.Role.OWNER, user__is_active=True)
    return list(owners.order_by("user__email").values_list("user__email", flat=True))


def list_memberships(actor: Actor) -> QuerySet[Membership]:
    """The accounts that the actor may act for, with the person's role in each, by name."""
    return (
        Membership.objects.filter(user=actor.user, account__in=list_accounts(actor))
        .select_related("account")
        .order_by("account__slug")
    )


def own_first(membership: Membership) -> tuple[bool, bool, datetime]:
    """Sorts a person's memberships: the own account, other owned ones, then the oldest.

    Anybody can make anybody a member of a new organisation; none that came later may become
    the account that somebody works in without choosing it.
    """
    is_owner = membership.role == Membership.Role.OWNER
    is_person = membership.account.kind == Account.Kind.PERSON
    return (not (is_owner and is_person), not is_owner, membership.created_at)


def list_events(account: Account) -> QuerySet[AuditEvent]:
    """What happened in the account, the latest first."""
    return AuditEvent.objects.filter(account_id=account.pk).order_by("-seq")


def describe_event(event: AuditEvent) -> EventLine:
    """An event in words."""
    is_platform = event.action in PLATFORM_ACTIONS
    return EventLine(
        at=event.at,
        who="platform" if is_platform else event.actor.removeprefix("user:"),
        action=event.action,
        details=[_describe(name, value) for name, value in event.payload.items()],
    )


def _describe(name: str, value: Any) -> tuple[str, str]:
    is_money = name.endswith("_nanos")
    label = name.removesuffix("_nanos").replace("_", " ")
    if isinstance(value, dict) and value.keys() == {"from", "to"}:
        before, after = (_to_text(value[end], is_money=is_money) for end in ("from", "to"))
        return label, f"{before} → {after}"
    return label, _to_text(value, is_money=is_money)


def _to_text(value: Any, *, is_money: bool) -> str:
    if value is None or value == []:
        return "none"
    if is_money and isinstance(value, int):
        return format_nanos(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
