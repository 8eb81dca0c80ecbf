"""Read which accounts are stopped or frozen, since when, by whom and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from billing.models import AccountFreeze, LedgerAccount
from marketplace.models import Account, AuditEvent

ACCOUNTS_SHOWN = 200


@dataclass(frozen=True, slots=True)
class StoppedAccount:
    """An account that may not act, and what it holds meanwhile.

    `case_id` is the case of suspected fraud that froze it; None where an admin stopped it.
    """

    account: Account
    since: datetime
    by: str
    reason: str
    case_id: UUID | None
    wallet_nanos: int
    payable_nanos: int


def list_stopped() -> list[StoppedAccount]:
    """Accounts that an admin stopped, the latest first."""
    accounts = Account.objects.filter(suspended_at__isnull=False).order_by("-suspended_at")
    shown = list(accounts[:ACCOUNTS_SHOWN])
    events = {
        event.account_id: event
        for event in AuditEvent.objects.filter(
            account_id__in=[one.pk for one in shown], action="account.suspend"
        ).order_by("seq")
    }
    balances = _map_balances(shown)
    found = []
    for account in shown:
        assert account.suspended_at is not None, "filtered"
        event = events.get(account.pk)
        found.append(
            StoppedAccount(
                account=account,
                since=account.suspended_at,
                by=event.actor if event else "",
                reason=event.payload.get("reason", "") if event else "",
                case_id=None,
                wallet_nanos=balances.get((account.pk, LedgerAccount.Kind.WALLET), 0),
                payable_nanos=balances.get((account.pk, LedgerAccount.Kind.CREATOR_PAYABLE), 0),
            )
        )
    return found


def list_frozen() -> list[StoppedAccount]:
    """Accounts whose payments are in doubt, the latest first."""
    accounts = Account.objects.filter(frozen_at__isnull=False).order_by("-frozen_at")
    shown = list(accounts[:ACCOUNTS_SHOWN])
    freezes = {
        freeze.account_id: freeze
        for freeze in AccountFreeze.objects.filter(account__in=shown, lifted_at=None)
        .select_related("case")
        .order_by("created_at")
    }
    balances = _map_balances(shown)
    found = []
    for account in shown:
        assert account.frozen_at is not None, "filtered"
        freeze = freezes.get(account.pk)
        found.append(
            StoppedAccount(
                account=account,
                since=account.frozen_at,
                by="",
                reason=freeze.case.get_state_display() if freeze else "",
                case_id=freeze.case_id if freeze else None,
                wallet_nanos=balances.get((account.pk, LedgerAccount.Kind.WALLET), 0),
                payable_nanos=balances.get((account.pk, LedgerAccount.Kind.CREATOR_PAYABLE), 0),
            )
        )
    return found


def _map_balances(accounts: Iterable[Account]) -> dict[tuple[UUID | None, str], int]:
    kinds = [LedgerAccount.Kind.WALLET, LedgerAccount.Kind.CREATOR_PAYABLE]
    rows = LedgerAccount.objects.filter(holder__in=list(accounts), kind__in=kinds)
    return {(row.holder_id, row.kind): row.posted_nanos for row in rows}
