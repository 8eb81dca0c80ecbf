"""What people, banks and Stripe do, in one call each; and what the ledger shows then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from billing.models import (
    Dispute,
    LedgerAccount,
    SavedCard,
    StripeEvent,
    Topup,
    TopupRefund,
    Transfer,
)
from billing.services import card, ledger, stripe_event, topup
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account
from marketplace.selectors.access import Actor
from tests.fakestripe.process import FakeStripeProcess

GOOD = "4242424242424242"
OTHER_GOOD = "5555555555554444"
DECLINED = "4000000000000002"
REFUSED_LATER = "4000000000000341"
MUST_CONFIRM = "4000002760003184"
REFUND_FAILS = "4000000000005126"
REFUND_SLOW = "4000000000007726"


def cents_by_kind() -> dict[str, int]:
    """Balances that are not zero, in cents, by kind of ledger account."""
    sums: dict[str, int] = {}
    for row in LedgerAccount.objects.exclude(posted_nanos=0):
        sums[row.kind] = sums.get(row.kind, 0) + row.posted_nanos
    assert all(nanos % NANOS_PER_CENT == 0 for nanos in sums.values())
    return {kind: nanos // NANOS_PER_CENT for kind, nanos in sums.items() if nanos}


def age(rows: Any, **lapse: int) -> None:
    """Make rows older than the polls ask for."""
    rows.update(created_at=timezone.now() - timedelta(**(lapse or {"minutes": 5})))


@dataclass
class Flows:
    fake: FakeStripeProcess
    actor: Actor
    account: Account

    def start(self, amount_cents: int = 2_500, **more: Any) -> Topup:
        return topup.start_topup(self.actor, self.account, amount_cents=amount_cents, **more)

    def pay(self, row: Topup, number: str = GOOD) -> None:
        self.fake.order(f"checkout/{row.checkout_session_id}/pay", card_number=number)

    def buy(self, amount_cents: int = 2_500, number: str = GOOD, **more: Any) -> Topup:
        """Credit that is bought and booked."""
        row = self.start(amount_cents, **more)
        self.pay(row, number)
        return topup.settle_topup(row.pk)

    def save_card(self, number: str = GOOD) -> SavedCard:
        """A card of the account, kept at Stripe."""
        card.start_card_setup(self.account)
        session = self.objects("checkout.session")[-1]
        self.fake.order(f"checkout/{session['id']}/pay", card_number=number)
        assert card.settle_setup(session["id"])
        return SavedCard.objects.filter(account=self.account).latest("created_at")

    def spend(self, amount_cents: int) -> None:
        """As predictions do."""
        self._move(
            {
                self._account(LedgerAccount.Kind.WALLET): -amount_cents,
                ledger.get_ledger_account_id(LedgerAccount.Kind.PLATFORM_REVENUE): amount_cents,
            },
            Transfer.Kind.REVERSAL,
        )

    def give(self, amount_cents: int, kind: Transfer.Kind = Transfer.Kind.PROMO) -> None:
        """Credit that nobody paid for."""
        self._move(
            {
                ledger.get_ledger_account_id(LedgerAccount.Kind.PROMO_POOL): -amount_cents,
                self._account(LedgerAccount.Kind.WALLET): amount_cents,
            },
            kind,
        )

    def _account(self, kind: LedgerAccount.Kind) -> Any:
        return ledger.get_ledger_account_id(kind, holder_id=self.account.pk)

    def _move(self, amounts_cents: dict[Any, int], kind: Transfer.Kind) -> None:
        ledger.post_transfer(
            transfer_id=new_id(),
            kind=kind,
            idempotency_key=f"test:{new_id()}",
            amounts_nanos={key: cents * NANOS_PER_CENT for key, cents in amounts_cents.items()},
        )

    def wallet_cents(self) -> int:
        row = LedgerAccount.objects.filter(kind="wallet", holder=self.account).first()
        return row.posted_nanos // NANOS_PER_CENT if row else 0

    def dispute(self, row: Topup, **body: Any) -> str:
        return self.fake.order(f"charges/{self.charge_of(row)}/dispute", **body)["id"]

    def close(self, dispute_id: str, status: str, **body: Any) -> None:
        self.fake.order(f"disputes/{dispute_id}/close", status=status, **body)

    def warn(self, row: Topup) -> str:
        return self.fake.order(f"charges/{self.charge_of(row)}/fraud_warning")["id"]

    def charge_of(self, row: Topup) -> str:
        for charge in self.objects("charge"):
            if charge["metadata"].get("topup_id") == str(row.pk) and charge["paid"]:
                return charge["id"]
        raise AssertionError("no charge")

    def objects(self, kind: str) -> list[dict[str, Any]]:
        """All of a kind, oldest first."""
        return sorted(
            self.fake.state()["objects"].get(kind, []), key=lambda one: one.get("created", 0)
        )

    def events(self) -> list[dict[str, Any]]:
        """Everything that Stripe told so far, of a kind that we look after."""
        return [one for one in self.objects("event") if one["type"] in stripe_event.HANDLERS]

    def frozen(self) -> bool:
        self.account.refresh_from_db()
        return self.account.frozen_at is not None


def receive(events: Iterable[dict[str, Any]]) -> None:
    """As if the events came in this order, each applied at once; repeats are applied anew."""
    for event in events:
        handle = stripe_event.HANDLERS[event["type"]]
        row = StripeEvent.objects.create(
            id=f"{event['id']}_{new_id()}",
            type=event["type"],
            object_id=event["data"]["object"]["id"],
            payload={},
            created_at=timezone.now(),
        )
        assert handle is not None
        stripe_event.apply_event(row.pk)


def states() -> dict[str, list[Any]]:
    """What the rows say in the end, without times and ids of ours."""
    return {
        "topups": sorted(Topup.objects.values_list("state", "amount_cents", "fee_cents")),
        "refunds": sorted(TopupRefund.objects.values_list("state", "net_cents", "tax_cents")),
        "disputes": sorted(
            Dispute.objects.values_list("state", "taken_nanos", "withdrawn_cents", "fee_cents")
        ),
    }
