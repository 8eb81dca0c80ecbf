"""Read members and the account's part of the audit log."""

from __future__ import annotations

from django.db.models import QuerySet

from marketplace.models import Account, AuditEvent, Membership


def list_members(account: Account) -> QuerySet[Membership]:
    """Who belongs to the account, by e-mail address."""
    return account.memberships.select_related("user").order_by("user__email")


def list_events(account: Account) -> QuerySet[AuditEvent]:
    """What happened in the account, the latest first."""
    return AuditEvent.objects.filter(account_id=account.pk).order_by("-seq")
