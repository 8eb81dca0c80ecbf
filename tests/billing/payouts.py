"""What the tests of payouts share: a creator that earned, and time that passed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from billing.models import (
    ConnectAccount,
    LedgerAccount,
    PayoutItem,
    PayoutReversal,
    Release,
    Transfer,
    UsageEvent,
)
from billing.selectors.ledger import check_invariants
from billing.services import ledger, payout
from billing.services.payout import start_due_run
from billing.services.release import release_earnings
from billing.stripe.client import ConnectTransfer, TransferReversal
from marketplace.core.ids import new_id
from marketplace.models import Account
from tests.billing.conftest import PRICE_NANOS, Shop, hold, settle

ROOT = Path(__file__).resolve().parents[2]
# The creator's part of one prediction.
PART_NANOS = PRICE_NANOS * 8 // 10
Fund = Callable[..., None]


def broken() -> set[str]:
    """The invariants that do not hold; nothing here was asked of a gateway, which notes answers."""
    with transaction.atomic(durable=True):
        found = {one.invariant.name for one in check_invariants() if one.count}
    return found - {"usage-equals-answers", "charges-are-sealed"}


def book(shop: Shop, fund: Fund, count: int = 1) -> None:
    """So many predictions of the creator's model, in one transfer."""
    fund(10 * count * PRICE_NANOS)
    assert settle(*(shop.item(hold(shop)) for _ in range(count))) == ["settled"] * count


def shift_days(days: int, *, of_last_days: int = 10_000) -> None:
    """Make what was booked so many days older; ids of predictions bear their time."""
    earlier = days * 86_400_000 << 80
    since = timezone.now() - timedelta(days=of_last_days)
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in ("transfer", "usageevent", "royaltyshare"):
            cursor.execute(f"ALTER TABLE billing_{table} DISABLE TRIGGER USER")
        cursor.execute(
            "UPDATE billing_transfer SET created_at = created_at - %s * interval '1 day'"
            " WHERE created_at > %s",
            [days, since],
        )
        for event in UsageEvent.objects.filter(occurred_at__gt=since):
            cursor.execute(
                "UPDATE billing_royaltyshare SET prediction_id = %s WHERE prediction_id = %s",
                [UUID(int=event.pk.int - earlier), event.pk],
            )
            cursor.execute(
                """UPDATE billing_usageevent SET prediction_id = %s,
                    occurred_at = occurred_at - %s * interval '1 day' WHERE prediction_id = %s""",
                [UUID(int=event.pk.int - earlier), days, event.pk],
            )
        for table in ("transfer", "usageevent", "royaltyshare"):
            cursor.execute(f"ALTER TABLE billing_{table} ENABLE TRIGGER USER")


def at(days: int) -> datetime:
    """Noon, so many days from today."""
    noon = timezone.now().astimezone(UTC).replace(hour=12, minute=0, second=0)
    return noon + timedelta(days=days)


def today() -> date:
    return timezone.now().astimezone(UTC).date()


def correct(shop: Shop, amount_nanos: int, kind: str = LedgerAccount.Kind.CREATOR_RESERVE) -> None:
    """As something that is taken back does to the reserve, or to what is payable."""
    account_id = ledger.get_ledger_account_id(LedgerAccount.Kind(kind), holder_id=shop.creator.pk)
    loss_id = ledger.get_ledger_account_id(LedgerAccount.Kind.DISPUTE_LOSS)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.REVERSAL,
        idempotency_key=f"test:{new_id()}",
        amounts_nanos={account_id: amount_nanos, loss_id: -amount_nanos},
        reference="a wrong answer",
    )


def earn(shop: Shop, amount_nanos: int) -> None:
    """Payable earnings of exactly this amount, by way of the reserve; each on a later day."""
    days_ago = 100 - 2 * Release.objects.count()
    correct(shop, amount_nanos)
    shift_days(days_ago, of_last_days=3)
    release_earnings(at(16 - days_ago))


def connect(creator: Account, connect_account_id: str = "acct_creator") -> ConnectAccount:
    """A creator whom Stripe takes transfers to."""
    return ConnectAccount.objects.create(
        creator=creator,
        country="US",
        email="creator@example.com",
        connect_account_id=connect_account_id,
        transfers_status=ConnectAccount.Transfers.ACTIVE,
    )


def pay_and_take_back(shop: Shop) -> PayoutItem:
    """A payout that was paid, and taken back in part, as Stripe would answer."""
    earn(shop, 30 * 10**9 + 1)
    connect(shop.creator)
    run = start_due_run()
    assert run is not None
    item = run.items.get()
    now = timezone.now()
    sent = ConnectTransfer("tr_1", item.amount_cents, 0, item.destination, None, {}, None, now)
    payout._book_paid(item, sent)
    row = PayoutReversal.objects.create(
        item=item, amount_cents=7, is_forfeited=True, reason="Stolen cards."
    )
    payout._book_forfeit(item.creator_id, row)
    payout._book_reversal(row, TransferReversal("trr_1", "tr_1", 7, {}, None, now))
    return item


def run_worker(step: str, database_url: str, **environment: str) -> None:
    """A worker in a process of its own; it is killed at the step, unless that is its work."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.billing.payout_worker", step],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
            "STRONGROOM_DATABASE_URL": database_url,
            **environment,
        },
        capture_output=True,
        timeout=60,
        check=False,
    )
    expected = 0 if step == "release" else -signal.SIGKILL
    assert ended.returncode == expected, ended.stderr.decode()[-2_000:]
