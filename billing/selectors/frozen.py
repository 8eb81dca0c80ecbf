"""Read which accounts are stopped, since when, by whom and why."""

from __future__ import annotations

from dataclasses import dataclass

from billing.models import LedgerAccount
from marketplace.models import Account, AuditEvent

ACCOUNTS_SHOWN = 200


@dataclass(frozen=True, slots=True)
class StoppedAccount:
    """An account that may not act, and what it holds meanwhile."""

    account: Account
    by: str
    reason: str
    wallet_nanos: int
    payable_nanos: int


def list_stopped() -> list[StoppedAccount]:
    """Suspended accounts, the latest first."""
    accounts = list(
        Account.objects.filter(suspended_at__isnull=False).order_by("-suspended_at")[
            :ACCOUNTS_SHOWN
        ]
    )
    ids = [account.pk for account in accounts]
    events = {
        event.account_id: event
        for event in AuditEvent.objects.filter(
            account_id__in=ids, action="account.suspend"
        ).order_by("seq")
    }
    balances = {
        (row.holder_id, row.kind): row.posted_nanos
        for row in LedgerAccount.objects.filter(
            holder_id__in=ids,
            kind__in=[LedgerAccount.Kind.WALLET, LedgerAccount.Kind.CREATOR_PAYABLE],
        )
    }
    found = []
    for account in accounts:
        event = events.get(account.pk)
        found.append(
            StoppedAccount(
                account=account,
                by=event.actor if event else "",
                reason=event.payload.get("reason", "") if event else "",
                wallet_nanos=balances.get((account.pk, LedgerAccount.Kind.WALLET), 0),
                payable_nanos=balances.get((account.pk, LedgerAccount.Kind.CREATOR_PAYABLE), 0),
            )
        )
    return found
