"""Any order of payments, predictions, refunds, disputes and payouts keeps the books right.

Real Postgres and the stand-in for Stripe, against a model of a few integers that computes
everything by itself: what each ledger account must be is said by the rules below, and by nothing
of `billing`.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Any, ClassVar
from uuid import UUID

import pytest
import requests
from django.db import DatabaseError, connection, connections, transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.errors import NothingToRefundError, RefundTooLargeError
from billing.models import (
    Adjustment,
    CouponRedemption,
    Dispute,
    Hold,
    LedgerAccount,
    PayoutItem,
    PayoutReversal,
    ReconcileDifference,
    ReviewCase,
    Royalty,
    Topup,
    TopupRefund,
    Transfer,
    UsageEvent,
    UsageReversal,
)
from billing.services import dispute as disputes
from billing.services import ledger, payout, refund, release, stripe_client, warm_hour
from billing.services import topup as topups
from billing.services.adjustment import approve, propose_adjustment, propose_credit
from billing.services.coupon import make_credit_coupon, redeem_coupon
from billing.services.fraud import decide_case
from billing.services.fraud_warning import poll_fraud_warnings
from billing.services.payout import advance_payouts, start_run, take_back
from billing.services.postpaid import change_terms
from billing.services.price import set_price
from billing.services.reconcile import reconcile
from billing.services.release import release_earnings
from billing.services.reversal import reverse_usage
from billing.services.royalty import promise_royalty
from billing.services.stripe_client import get_stripe
from inference.models import Deployment
from marketplace.core import ids
from marketplace.core.errors import (
    AccountFrozenError,
    ConflictError,
    ForbiddenError,
    InsufficientCreditError,
    MarketplaceError,
)
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, Membership, ModelVersion, User
from marketplace.selectors.access import Actor
from marketplace.services.cashier import WarmHour
from tests.billing import payouts
from tests.billing.conftest import Shop, asked, give_back, query, reserve, settle
from tests.billing.lock_order import whole_history
from tests.billing.postpaid import agree
from tests.billing.prepaid.flows import REFUND_SLOW, Flows, receive
from tests.billing.stand_in import running
from tests.billing.test_ledger import broken, record_answer
from tests.billing.test_payout import onboard
from tests.factories import UserFactory
from tests.fakestripe.process import SECRET_KEY, WEBHOOK_SECRET, FakeStripeProcess

CENT = 10_000_000
SHARE_BPS = 7_777
PAYOUT_CENTS_MIN = 500
LIMIT_NANOS = 3_000 * CENT
# What a bank transfer would still be waited for can be paid out at once.
AT_ONCE = "4000000000000077"
# Stripe's clock: nothing that it has is so young that it would be excused.
LONG_AGO_S = 2 * 3_600
LOST = ("", "", "reset", "drop_after_effect")
# A failure is not made smaller: it would take longer than to understand it.
PHASES = (Phase.explicit, Phase.generate)
PICK = st.integers(0, 1_000)


@dataclass
class Payment:
    """A top-up: what Stripe knows of it, and whether it is booked."""

    row: Topup
    truth: str = "open"
    is_booked: bool = False
    is_disputed: bool = False
    by_bank: bool = False

    @property
    def fee_cents(self) -> int:
        """What Stripe's price list says, rounded half up."""
        cents = self.row.amount_cents
        if self.by_bank:
            return min(int(Fraction(cents * 8, 1_000) + Fraction(1, 2)), 500)
        return int(Fraction(cents * 29, 1_000) + Fraction(1, 2)) + 30


@dataclass
class Refund:
    payment: Payment
    row_id: UUID
    cents: int
    state: str = "in_flight"


@dataclass
class Quarrel:
    """A dispute: what the bank said, and what of it is booked."""

    payment: Payment
    stripe_id: str
    cents: int
    is_inquiry: bool
    truth: str = "open"
    state: str = ""
    taken_nanos: int = 0
    withdrawn_nanos: int = 0
    # What of it was given credit, and is given again if it comes back.
    given_nanos: int = 0


@dataclass
class Sale:
    """A prediction that cost something: who paid, and who got what of it."""

    prediction_id: UUID
    payer: tuple[str, UUID]
    gross_nanos: int
    parts_nanos: dict[UUID, int]
    given_nanos: int = 0
    is_reversed: bool = False


@dataclass
class Terms:
    flat_nanos: int
    token_rate: int = 0
    minimum_nanos: int = 0
    free: int = 0
    tiers: tuple[tuple[int, int], ...] = ()

    @property
    def is_counted(self) -> bool:
        return bool(self.free or self.tiers)

    def cost(self, units: int, tokens: int, position: int | None) -> int:
        """Row by row; without a position the most that it may be."""
        gross = Fraction(units * self.flat_nanos) + ceil(Fraction(tokens * self.token_rate, 10**6))
        if position is None:
            return max(ceil(gross), self.minimum_nanos)
        steps = [(0, 0 if self.free else 10_000), (self.free, 10_000), *self.tiers]
        part = sum(
            Fraction([bps for start, bps in steps if start <= row][-1], 10_000 * units)
            for row in range(position, position + units)
        )
        return max(ceil(gross * part), self.minimum_nanos) if part else 0


TERMS = st.sampled_from(
    [
        Terms(1_234_567_891),
        Terms(333_333_333),
        Terms(77_777_777, token_rate=1_000_003, minimum_nanos=90_000_001),
        Terms(500_000_001, free=2, tiers=((5, 3_333), (9, 6_667))),
        Terms(100_000_007, token_rate=77_000_001, tiers=((3, 1),)),
    ]
)


class Money(RuleBasedStateMachine):
    """One account with a wallet, one on credit, two creators, two admins, and Stripe."""

    fake: ClassVar[FakeStripeProcess]
    admins: ClassVar[tuple[User, User]]
    # Whether all of it happens in one transaction, and never was in the end.
    is_apart: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.savepoint = whole_history() if self.is_apart else nullcontext()
        self.savepoint.__enter__()
        self.fake.reset()
        self.fake.order("clock", offset_s=-LONG_AGO_S)
        name = new_id().hex[:12]
        self.admin, self.second = (Actor(user=user) for user in self.admins)
        person = UserFactory(email=f"{name}@x.example")
        self.consumer = Account.objects.create(slug=f"consumer-{name}", name="Consumer")
        self.debtor = Account.objects.create(slug=f"debtor-{name}", name="Debtor")
        for account in (self.consumer, self.debtor):
            Membership.objects.create(account=account, user=person, role="owner")
        self.flows = Flows(self.fake, Actor(user=person), self.consumer)
        self.shops = [make_shop(f"creator-{n}-{name}", self.consumer) for n in range(2)]
        self.creators = [shop.creator.pk for shop in self.shops]
        for shop in self.shops:
            onboard(self.fake, shop.creator)
        # What every ledger account must be.
        self.sheet: Counter[tuple[str, UUID | None]] = Counter()
        self.given_nanos = 0
        self.limit_nanos = LIMIT_NANOS
        self.agreement = agree(replace(self.shops[0], consumer=self.debtor), self.admins[0])
        self.change_limit(LIMIT_NANOS // CENT)
        self.terms = [Terms(0), Terms(0)]
        for number in range(2):
            self.change_price(number, Terms(1_001_001_001))
        self.payments: list[Payment] = []
        self.refunds: list[Refund] = []
        self.quarrels: list[Quarrel] = []
        self.warnings: dict[str, Payment] = {}
        self.sales: list[Sale] = []
        self.items: dict[UUID, int] = {}
        self.paid: dict[UUID, int] = {}
        self.taken_back: dict[UUID, tuple[UUID, int]] = {}
        self.counters: Counter[tuple[UUID, int]] = Counter()
        self.royalty: Royalty | None = None
        self.freezes: set[str] = set()
        self.signals: set[str] = set()
        self.coupons = self.releases = self.hours = 0
        self.kept_warm = deploy_own(self.consumer)
        self.alone_nanos = 0
        # Something to begin with.
        self.open_page(6_000)
        self.pay(0, "card")
        self.return_from_page(0)

    # --- The model

    @property
    def wallet(self) -> tuple[str, UUID]:
        return ("wallet", self.consumer.pk)

    def move(self, amounts: dict[tuple[str, UUID | None], int]) -> None:
        assert sum(amounts.values()) == 0
        self.sheet.update(amounts)

    def spend(self, nanos: int) -> int:
        """Credit that nobody paid for goes first; how much of it went."""
        gone_nanos = min(self.given_nanos, nanos)
        self.given_nanos -= gone_nanos
        return gone_nanos

    def bought_cents(self) -> int:
        return max(0, self.sheet[self.wallet] - self.given_nanos) // CENT

    def rest_cents(self, payment: Payment) -> int:
        if not payment.is_booked or payment.is_disputed:
            return 0
        gone = [
            one.cents for one in self.refunds if one.payment is payment and one.state != "failed"
        ]
        return payment.row.amount_cents - sum(gone)

    # --- Top-ups

    @precondition(lambda self: len(self.payments) < 9)
    @rule(cents=st.integers(500, 6_000))
    def open_page(self, cents: int) -> None:
        try:
            row = self.flows.start(cents)
        except AccountFrozenError:
            assert self.freezes
            return
        assert not self.freezes
        self.payments.append(Payment(row))

    @precondition(lambda self: any(one.truth == "open" for one in self.payments))
    @rule(pick=PICK, how=st.sampled_from(["card", "card", "card", "slow", "bank", "expire"]))
    def pay(self, pick: int, how: str) -> None:
        payment = choose(pick, [one for one in self.payments if one.truth == "open"])
        if how == "expire":
            get_stripe().expire_checkout_session(
                payment.row.checkout_session_id, idempotency_key=f"test:{new_id()}"
            )
            payment.truth = "expired"
        elif how == "bank":
            self.fake.order(f"checkout/{payment.row.checkout_session_id}/pay", delayed=True)
            payment.truth, payment.by_bank = "pending", True
        else:
            self.flows.pay(payment.row, AT_ONCE if how == "card" else REFUND_SLOW)
            payment.truth = "paid"

    @precondition(lambda self: any(one.truth == "pending" for one in self.payments))
    @rule(pick=PICK, succeeds=st.booleans())
    def bank_answers(self, pick: int, succeeds: bool) -> None:
        payment = choose(pick, [one for one in self.payments if one.truth == "pending"])
        session_id = payment.row.checkout_session_id
        self.fake.order(f"checkout/{session_id}/settle", succeeds=succeeds)
        payment.truth = "paid" if succeeds else "failed"

    @precondition(lambda self: self.payments)
    @rule(pick=PICK)
    def return_from_page(self, pick: int) -> None:
        payment = choose(pick, self.payments)
        topups.settle_topup(payment.row.pk)
        self.know_payment(payment)

    def know_payment(self, payment: Payment) -> None:
        if payment.truth != "paid" or payment.is_booked:
            return
        payment.is_booked = True
        nanos, fee_nanos = payment.row.amount_cents * CENT, payment.fee_cents * CENT
        self.move({("stripe_clearing", None): -nanos, self.wallet: nanos})
        self.move({("stripe_fee", None): -fee_nanos, ("stripe_clearing", None): fee_nanos})

    # --- Predictions

    @rule(number=st.integers(0, 1), terms=TERMS)
    def change_price(self, number: int, terms: Terms) -> None:
        self.shops[number].price = set_price(
            Actor(),
            self.shops[number].model,
            nanos_per_prediction=terms.flat_nanos,
            rates={"input_token": terms.token_rate} if terms.token_rate else {},
            max_units={"input_token": 10_000} if terms.token_rate else {},
            minimum_nanos=terms.minimum_nanos,
            free_units=terms.free,
            tiers=terms.tiers,
        )
        self.terms[number] = terms

    @rule(
        number=st.integers(0, 1),
        on_credit=st.booleans(),
        units=st.integers(1, 6),
        tokens=st.integers(0, 9_999),
    )
    def predict(self, number: int, on_credit: bool, units: int, tokens: int) -> None:
        account = self.debtor if on_credit else self.consumer
        shop, terms = replace(self.shops[number], consumer=account), self.terms[number]
        tokens = tokens if terms.token_rate else 0
        most_nanos = terms.cost(units, tokens, None)
        payer = ("receivable", account.pk) if on_credit else self.wallet
        free_nanos = self.sheet[payer] + (self.limit_nanos if on_credit else 0)

        ((hold_id, _, outcome),) = reserve(asked(account.pk, most_nanos))

        if free_nanos < most_nanos:
            assert outcome == "insufficient_credit"
            return
        assert outcome == "held"
        prediction_id = new_id()
        record_answer(shop, prediction_id)
        item = shop.item(
            prediction_id,
            units=units,
            hold_id=str(hold_id),
            gross_nanos=most_nanos,
            metered={"input_token": tokens} if terms.token_rate else None,
        )
        assert settle(item) == ["settled"]
        assert settle(item) == ["repeated"]
        position = self.counters[account.pk, number] if terms.is_counted else None
        if terms.is_counted:
            self.counters[account.pk, number] += units
        gross_nanos = terms.cost(units, tokens, position)
        # What is left of the hold is free again; a hold that is spent is gone.
        assert give_back(hold_id) == (gross_nanos < most_nanos)
        if gross_nanos:
            self.sell(number, prediction_id, payer, gross_nanos)

    def sell(
        self, number: int, prediction_id: UUID, payer: tuple[str, UUID], gross_nanos: int
    ) -> None:
        creator_nanos = gross_nanos * SHARE_BPS // 10_000
        parts = Counter({self.creators[number]: creator_nanos})
        if number == 0 and self.royalty is not None:
            given_nanos = creator_nanos * self.royalty.bps // 10_000
            parts.update({self.creators[1]: given_nanos, self.creators[0]: -given_nanos})
        self.move(
            {payer: -gross_nanos, ("platform_revenue", None): gross_nanos - creator_nanos}
            | {("creator_reserve", creator): nanos for creator, nanos in parts.items()}
        )
        given_nanos = self.spend(gross_nanos) if payer == self.wallet else 0
        self.sales.append(Sale(prediction_id, payer, gross_nanos, dict(parts), given_nanos))

    @precondition(lambda self: self.royalty is None)
    @rule(bps=st.integers(1, 10_000))
    def promise_a_royalty(self, bps: int) -> None:
        first, second = self.shops
        self.royalty = promise_royalty(Actor(), first.version, parent=second.version, bps=bps)

    @precondition(lambda self: self.sales)
    @rule(pick=PICK, percent=st.integers(1, 100))
    def reverse(self, pick: int, percent: int) -> None:
        sale = choose(pick, self.sales)
        public_id = ids.to_public(sale.prediction_id)
        gross_nanos = max(1, sale.gross_nanos * percent // 100)
        try:
            reverse_usage(self.admin, public_id, reason="Wrong.", gross_nanos=gross_nanos)
        except ConflictError:
            assert sale.is_reversed
            return
        assert not sale.is_reversed
        sale.is_reversed = True
        creators_nanos = sum(sale.parts_nanos.values()) * gross_nanos // sale.gross_nanos
        amounts: Counter[tuple[str, UUID | None]] = Counter({sale.payer: gross_nanos})
        amounts["platform_revenue", None] -= gross_nanos - creators_nanos
        # The seller gives what those whom royalties went to do not give, each rounded down.
        [seller, *others] = sale.parts_nanos
        parts = {one: sale.parts_nanos[one] * gross_nanos // sale.gross_nanos for one in others}
        parts[seller] = creators_nanos - sum(parts.values())
        for creator, nanos in parts.items():
            reserved = min(nanos, max(0, self.sheet["creator_reserve", creator]))
            amounts["creator_reserve", creator] -= reserved
            amounts["creator_payable", creator] -= nanos - reserved
        self.move(dict(amounts))
        self.given_nanos += min(sale.given_nanos, gross_nanos)

    # --- Credit that nobody paid for, and what admins move

    @rule(cents=st.integers(1, 7_000))
    def credit(self, cents: int) -> None:
        nanos = cents * CENT + 1
        row = propose_credit(self.admin, self.consumer, amount_nanos=nanos, reason="Sorry.")
        self.decide(row, nanos)
        self.move({("goodwill", None): -nanos, self.wallet: nanos})
        self.given_nanos += nanos

    def decide(self, row: Any, nanos: int) -> None:
        if self.alone_nanos + nanos <= 10_000 * CENT:
            self.alone_nanos += nanos
            assert row.state == "posted"
            return
        assert row.state == "pending"
        with pytest.raises(ForbiddenError):
            approve(self.admin, row.pk)
        assert approve(self.second, row.pk).state == "posted"

    @rule(cents=st.integers(1, 2_000), from_wallet=st.booleans(), number=st.integers(0, 1))
    def adjust(self, cents: int, from_wallet: bool, number: int) -> None:
        nanos = cents * CENT
        source = self.wallet if from_wallet else ("goodwill", None)
        kind = LedgerAccount.Kind
        source_id = ledger.get_ledger_account_id(kind(source[0]), holder_id=source[1])
        target = ("creator_payable", self.creators[number])
        target_id = ledger.get_ledger_account_id(kind.CREATOR_PAYABLE, holder_id=target[1])
        asked_for = {"source_id": source_id, "target_id": target_id, "amount_nanos": nanos}
        is_alone = self.alone_nanos + nanos <= 10_000 * CENT
        if from_wallet and self.sheet[source] < nanos:
            if is_alone:
                with pytest.raises(InsufficientCreditError), transaction.atomic():
                    propose_adjustment(self.admin, **asked_for, reason="By hand.")
            return
        self.decide(propose_adjustment(self.admin, **asked_for, reason="By hand."), nanos)
        self.move({source: -nanos, target: nanos})
        if from_wallet:
            self.spend(nanos)

    @precondition(lambda self: self.coupons < 5)
    @rule(cents=st.integers(1, 3_000))
    def coupon(self, cents: int) -> None:
        self.coupons += 1
        code = f"C-{new_id().hex[-12:]}"
        until = timezone.now() + timedelta(days=1)
        make_credit_coupon(
            self.admin, code=code, credit_nanos=cents * CENT, uses_max=1, valid_until=until
        )
        for _ in range(2):
            with suppress(MarketplaceError):
                redeem_coupon(self.flows.actor, self.consumer, code)
        self.move({("promo_pool", None): -cents * CENT, self.wallet: cents * CENT})
        self.given_nanos += cents * CENT

    @rule(cents=st.integers(1_000, 5_000))
    def change_limit(self, cents: int) -> None:
        """Of the account on credit; what it owes may be above it then."""
        change_terms(
            self.admin, self.agreement, limit_nanos=cents * CENT, due_days=14, reason="Anew."
        )
        self.limit_nanos = cents * CENT

    @rule(cents=st.integers(0, 900))
    def keep_warm(self, cents: int) -> None:
        nanos = cents * CENT + 1
        hour = name_hour(self.kept_warm, self.hours, nanos)
        self.hours += 1
        try:
            assert warm_hour.charge(hour)
        except AccountFrozenError:
            assert self.freezes
            return
        except InsufficientCreditError:
            assert self.sheet[self.wallet] < nanos
            return
        assert not self.freezes
        # Nor at another price.
        assert not warm_hour.charge(hour)
        assert not warm_hour.charge(replace(hour, amount_nanos=nanos + 1))
        self.move({self.wallet: -nanos, ("platform_revenue", None): nanos})
        self.spend(nanos)

    # --- Refunds

    @rule(cents=st.none() | st.integers(1, 4_000), lost=st.sampled_from(LOST))
    def ask_for_refund(self, cents: int | None, lost: str) -> None:
        if len({one.row_id for one in self.refunds}) > 8:
            return
        self.pay_back(
            lambda: refund.request_refund(
                self.flows.actor, self.consumer, amount_cents=cents, reason="Enough."
            ),
            self.payments,
            cents,
            lost,
        )

    def pay_back(
        self,
        action: Callable[[], list[TopupRefund]],
        candidates: list[Payment],
        cents: int | None,
        lost: str,
    ) -> None:
        most = min(self.bought_cents(), sum(self.rest_cents(one) for one in candidates))
        # Stripe may know more than we, and is asked for what it can give; then it may be less.
        is_settled = all(self.is_known(one) for one in self.refunds)
        try:
            rows = self.lose("/v1/refunds", lost, action)
        except AccountFrozenError:
            assert self.freezes
            return
        except NothingToRefundError:
            assert most == 0 or not is_settled
            return
        except RefundTooLargeError:
            assert cents is not None
            assert cents > most or not is_settled
            return
        total = sum(row.net_cents for row in rows)
        wanted = most if cents is None else cents
        assert total == wanted or (not is_settled and total < wanted)
        for place, row in enumerate(rows):
            payment = next(one for one in candidates if one.row.pk == row.topup_id)
            assert 0 < row.net_cents <= self.rest_cents(payment)
            one = Refund(payment, row.pk, row.net_cents)
            self.refunds.append(one)
            nanos = row.net_cents * CENT
            self.move({self.wallet: -nanos, ("refund_in_flight", None): nanos})
            if place or not lost:
                self.know_refund(one)

    def lose(self, path: str, lost: str, action: Callable[[], Any]) -> Any:
        """With the answer to the next request of this kind lost, before or after its effect."""
        if not lost:
            return action()
        self.fake.order("faults", kind=lost, method="POST", path=path)
        try:
            return action()
        finally:
            assert requests.delete(f"{self.fake.url}/_test/faults", timeout=10).ok

    def at_stripe(self, one: Refund) -> str | None:
        (found,) = [
            body["status"]
            for body in self.flows.objects("refund")
            if body["metadata"].get("refund_id") == str(one.row_id)
        ] or [None]
        return found

    def is_known(self, one: Refund) -> bool:
        states = {"in_flight": ("pending",), "succeeded": ("succeeded",), "failed": ("failed",)}
        return self.at_stripe(one) in states[one.state]

    def know_refund(self, one: Refund) -> None:
        """Both ways a refund can have gone at the bank, from both states it can be booked in."""
        status, nanos = self.at_stripe(one), one.cents * CENT
        if status is None and one.payment.is_disputed:
            # It never arrived, and is refused now: the bank has the money, or asks for it.
            status = "failed"
        pots = {"in_flight": "refund_in_flight", "succeeded": "stripe_clearing"}
        if status == "failed" and one.state != "failed":
            self.move({(pots[one.state], None): -nanos, self.wallet: nanos})
            one.state = "failed"
        elif status == "succeeded" and one.state == "in_flight":
            self.move({("refund_in_flight", None): -nanos, ("stripe_clearing", None): nanos})
            one.state = "succeeded"

    @precondition(lambda self: self.refunds)
    @rule(pick=PICK, succeeds=st.booleans())
    def bank_decides_refund(self, pick: int, succeeds: bool) -> None:
        one = choose(pick, self.refunds)
        found = [
            body
            for body in self.flows.objects("refund")
            if body["metadata"].get("refund_id") == str(one.row_id) and body["status"] != "failed"
        ]
        if found:
            status = "succeeded" if succeeds else "failed"
            self.fake.order(f"refunds/{found[0]['id']}/settle", status=status)

    # --- Disputes and warnings

    @precondition(lambda self: self.disputable())
    @rule(pick=PICK, part=st.sampled_from([1, 1, 3]), is_inquiry=st.booleans())
    def open_dispute(self, pick: int, part: int, is_inquiry: bool) -> None:
        payment = choose(pick, self.disputable())
        cents = payment.row.amount_cents // part
        stripe_id = self.flows.dispute(payment.row, amount=cents, is_inquiry=is_inquiry)
        payment.is_disputed = True
        self.quarrels.append(Quarrel(payment, stripe_id, cents, is_inquiry))

    def disputable(self) -> list[Payment]:
        return [one for one in self.payments if one.truth == "paid" and not one.is_disputed]

    @precondition(lambda self: any(one.truth == "open" for one in self.quarrels))
    @rule(pick=PICK, won=st.booleans())
    def close_dispute(self, pick: int, won: bool) -> None:
        one = choose(pick, [one for one in self.quarrels if one.truth == "open"])
        one.truth = "won" if won or one.is_inquiry else "lost"
        self.flows.close(one.stripe_id, "warning_closed" if one.is_inquiry else one.truth)

    @precondition(lambda self: self.quarrels)
    @rule(pick=PICK)
    def hear_of_dispute(self, pick: int) -> None:
        one = choose(pick, self.quarrels)
        assert disputes.settle_dispute(one.stripe_id)
        self.know_dispute(one)

    def know_dispute(self, one: Quarrel) -> None:
        self.know_payment(one.payment)
        key = f"dispute:{one.stripe_id}"
        self.freeze(key)
        disputed_nanos = one.cents * CENT
        had_bank = not one.is_inquiry and one.truth != "won"
        withdrawn_nanos = disputed_nanos if had_bank else 0
        limit_nanos = 0 if one.truth == "won" else disputed_nanos
        taken_nanos = min(one.taken_nanos, limit_nanos)
        if one.truth in ("open", "lost") and (one.truth == "open" or one.state != "lost"):
            taken_nanos += max(0, min(limit_nanos - taken_nanos, self.sheet[self.wallet]))
        before = pockets(one.taken_nanos, one.withdrawn_nanos)
        after = pockets(taken_nanos, withdrawn_nanos)
        wallet, hold, loss, clearing = (a - b for a, b in zip(after, before, strict=True))
        self.move(
            {
                self.wallet: wallet,
                ("dispute_hold", self.consumer.pk): hold,
                ("dispute_loss", None): loss,
                ("stripe_clearing", None): clearing,
            }
        )
        one.given_nanos += self.spend(max(0, -wallet))
        back_nanos = min(one.given_nanos, max(0, wallet))
        one.given_nanos -= back_nanos
        self.given_nanos += back_nanos
        if not one.is_inquiry and not one.state:
            fee_nanos = 1_500 * CENT
            self.move({("stripe_fee", None): -fee_nanos, ("stripe_clearing", None): fee_nanos})
        one.state = one.truth
        one.taken_nanos, one.withdrawn_nanos = taken_nanos, withdrawn_nanos
        if one.truth == "won":
            self.freezes.discard(key)

    def freeze(self, key: str) -> None:
        if key not in self.signals:
            self.signals.add(key)
            self.freezes.add(key)

    @precondition(lambda self: len(self.warnings) < 2 and self.disputable())
    @rule(pick=PICK)
    def warn_of_fraud(self, pick: int) -> None:
        payment = choose(pick, self.disputable())
        self.warnings[self.flows.warn(payment.row)] = payment

    def know_warning(self, stripe_id: str, action: Callable[[], Any]) -> None:
        """Frozen, and what is unspent of that payment goes back; a repeat sends what was not."""
        payment = self.warnings[stripe_id]
        self.know_payment(payment)
        key = f"fraud_warning:{stripe_id}"
        present = TopupRefund.objects.filter(request_key=key)

        def look() -> list[TopupRefund]:
            was = set(present.values_list("pk", flat=True))
            action()
            self.freeze(key)
            rows = [row for row in present if row.pk not in was]
            if not rows:
                for one in self.refunds:
                    if one.row_id in was:
                        self.know_refund(one)
                raise NothingToRefundError
            return rows

        known = present.exists()
        if known:
            with suppress(NothingToRefundError):
                look()
        else:
            self.pay_back(look, [payment], None, "")

    @precondition(lambda self: self.freezes)
    @rule()
    def clear_the_case(self) -> None:
        for case in ReviewCase.objects.filter(account=self.consumer, state="open"):
            decide_case(self.admin, case, decision="clear", reason="It was a mistake.")
        self.freezes.clear()

    # --- What Stripe tells, in any order, more than once or not at all; and who asks

    @rule(picks=st.lists(PICK, min_size=1, max_size=6))
    def hear(self, picks: list[int]) -> None:
        events = self.flows.events()
        for pick in picks:
            if events:
                self.hear_one(choose(pick, events))

    def hear_one(self, event: dict[str, Any]) -> None:
        kind, object_id = event["type"], event["data"]["object"]["id"]
        if kind.startswith("radar."):
            self.know_warning(object_id, lambda: receive([event]))
            return
        receive([event])
        names = event["data"]["object"].get("metadata") or {}
        if kind.startswith(("checkout.", "payment_intent.")):
            for payment in self.payments:
                if str(payment.row.pk) == names["topup_id"]:
                    self.know_payment(payment)
        elif kind.startswith("refund."):
            for one in self.refunds:
                if str(one.row_id) == names["refund_id"]:
                    self.know_refund(one)
        elif kind.startswith("charge.dispute."):
            self.know_dispute(next(one for one in self.quarrels if one.stripe_id == object_id))
        elif kind.startswith("transfer."):
            self.know_payouts()

    @rule()
    def poll(self) -> None:
        earlier = timezone.now() - timedelta(minutes=5)
        Topup.objects.update(created_at=earlier)
        TopupRefund.objects.update(created_at=earlier)
        topups.poll_topups()
        for payment in self.payments:
            self.know_payment(payment)
        refund.poll_refunds()
        for one in self.refunds:
            if one.state == "in_flight":
                self.know_refund(one)

    @rule()
    def poll_disputes(self) -> None:
        # Asked for in this order: the open ones as they were looked at, then new ones by time.
        known = [one for one in self.quarrels if one.state == "open"]
        new = [one for one in self.quarrels if not one.state]
        if len(known) + len(new) > 1:
            return
        disputes.poll_disputes()
        for one in known + new:
            self.know_dispute(one)

    @rule()
    def poll_warnings(self) -> None:
        for stripe_id in self.warnings:
            if f"fraud_warning:{stripe_id}" not in self.signals and len(self.warnings) == 1:
                self.know_warning(stripe_id, poll_fraud_warnings)

    # --- Creators

    @precondition(lambda self: self.releases < 30)
    @rule()
    def release(self) -> None:
        """What is in the reserves becomes older than the wait, and payable as a whole."""
        days_ago = 100 - 2 * self.releases
        self.releases += 1
        self.age_reserves(days_ago)
        for _ in range(2):
            release_earnings(payouts.at(16 - days_ago))
        for creator in self.creators:
            nanos = self.sheet["creator_reserve", creator]
            self.move({("creator_reserve", creator): -nanos, ("creator_payable", creator): nanos})

    def age_reserves(self, days: int) -> None:
        """Let what is in the reserves have been booked so long ago."""
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("ALTER TABLE billing_transfer DISABLE TRIGGER USER")
            cursor.execute(
                "UPDATE billing_transfer t SET created_at = created_at - %s * interval '1 day'"
                " WHERE kind <> 'release' AND created_at > now() - interval '3 days' AND EXISTS"
                " (SELECT 1 FROM billing_transferentry e JOIN billing_ledgeraccount a"
                " ON a.id = e.ledger_account_id WHERE e.transfer_id = t.id"
                " AND a.kind = 'creator_reserve')",
                [days],
            )
            cursor.execute("ALTER TABLE billing_transfer ENABLE TRIGGER USER")

    @rule()
    def run_payouts(self) -> None:
        run = start_run(self.admin)
        found = {item.creator_id: item for item in run.items.all()}
        open_ones = set(
            PayoutItem.objects.filter(pk__in=self.items).values_list("creator_id", flat=True)
        )
        for creator in self.creators:
            cents = self.sheet["creator_payable", creator] // CENT
            if cents < PAYOUT_CENTS_MIN or creator in open_ones:
                assert creator not in found
                continue
            assert found[creator].amount_cents == cents
            self.items[found[creator].pk] = cents
            nanos = cents * CENT
            self.move({("creator_payable", creator): -nanos, ("payout_in_flight", creator): nanos})

    @precondition(lambda self: self.items)
    @rule(lost=st.sampled_from(LOST))
    def send_payouts(self, lost: str) -> None:
        self.lose("/v1/transfers", lost, advance_payouts)
        self.know_payouts(is_certain=not lost)

    def know_payouts(self, *, is_certain: bool = False) -> None:
        """Each item against what Stripe has of it: at most one transfer, of that amount."""
        sent = self.flows.objects("transfer")
        for pk, cents in list(self.items.items()):
            item = PayoutItem.objects.get(pk=pk)
            amounts = [one["amount"] for one in sent if one["transfer_group"] == f"payout_{pk}"]
            assert amounts in ([], [cents])
            creator, nanos = item.creator_id, cents * CENT
            if item.state == "paid":
                assert amounts == [cents]
                self.move({("payout_in_flight", creator): -nanos, ("stripe_clearing", None): nanos})
                self.paid[pk] = self.items.pop(pk)
            elif is_certain:
                # It waits for money of the platform's, and for nothing else.
                assert (item.state, amounts) == ("waiting", [])
                assert get_stripe().retrieve_balance().available_cents < cents
        for pk, (creator, cents) in list(self.taken_back.items()):
            if PayoutReversal.objects.get(pk=pk).state == "done":
                nanos = cents * CENT
                self.move({("stripe_clearing", None): -nanos, ("creator_payable", creator): nanos})
                del self.taken_back[pk]

    @precondition(lambda self: any(cents > 1 for cents in self.paid.values()))
    @rule(
        pick=PICK, percent=st.integers(1, 100), forfeits=st.booleans(), lost=st.sampled_from(LOST)
    )
    def take_back(self, pick: int, percent: int, forfeits: bool, lost: str) -> None:
        pk = choose(pick, [pk for pk, cents in self.paid.items() if cents > 1])
        cents = max(1, self.paid[pk] * percent // 200)
        self.paid[pk] -= cents
        item, nanos = PayoutItem.objects.get(pk=pk), cents * CENT
        row = take_back(
            self.admin, item, amount_cents=cents, is_forfeited=forfeits, reason="Stolen cards."
        )
        if forfeits:
            self.move({("creator_payable", item.creator_id): -nanos, ("dispute_loss", None): nanos})
        self.taken_back[row.pk] = (item.creator_id, cents)
        self.lose("/v1/transfers/*/reversals", lost, advance_payouts)
        self.know_payouts()

    # --- What must be true

    @invariant()
    def books_are_right(self) -> None:
        rows = LedgerAccount.objects.all()
        found = {(row.kind, row.holder_id): row.posted_nanos for row in rows if row.posted_nanos}
        assert found == {key: nanos for key, nanos in self.sheet.items() if nanos}
        assert {row.held_nanos for row in rows} <= {0}
        assert broken() == set()
        self.consumer.refresh_from_db()
        assert (self.consumer.frozen_at is not None) == bool(self.freezes)

    def finish(self) -> None:
        """Once everything was told, Stripe has what our books say, to the cent."""
        for event in random.Random(len(self.payments)).sample(
            self.flows.events(), len(self.flows.events())
        ):
            self.hear_one(event)
        for _ in range(2):
            self.poll()
            if self.items or self.taken_back:
                advance_payouts()
                self.know_payouts()
        self.books_are_right()
        balance = get_stripe().retrieve_balance()
        at_stripe = (balance.available_cents + balance.pending_cents) * CENT
        assert at_stripe == -self.sheet["stripe_clearing", None]
        run = reconcile()
        assert run.unexplained_count == 0, list(ReconcileDifference.objects.values())

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            transaction.set_rollback(True)
            self.savepoint.__exit__(None, None, None)


def choose(pick: int, among: Any) -> Any:
    return among[pick % len(among)]


def pockets(taken_nanos: int, withdrawn_nanos: int) -> tuple[int, int, int, int]:
    """Of a dispute: the wallet, what is held, our loss, and Stripe's side."""
    return (
        -taken_nanos,
        max(0, taken_nanos - withdrawn_nanos),
        min(0, taken_nanos - withdrawn_nanos),
        withdrawn_nanos,
    )


def deploy_own(account: Account) -> Deployment:
    """A version of an account's own that runs."""
    model = AIModel.objects.create(account=account, name="kept-warm", title="Kept warm")
    return Deployment.objects.create(version=ModelVersion.objects.create(model=model, number=1))


def name_hour(deployment: Deployment, number: int, nanos: int) -> WarmHour:
    """One of the hours of a year that is over."""
    starts_at = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=number)
    account = deployment.version.model.account
    return WarmHour(account, deployment.pk, deployment.version_id, starts_at, nanos)


def make_shop(slug: str, consumer: Account) -> Shop:
    creator = Account.objects.create(slug=slug, name="Creator")
    model = AIModel.objects.create(account=creator, name="echo", title="Echo")
    version = ModelVersion.objects.create(model=model, number=1, state=ModelVersion.State.APPROVED)
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=consumer.pk)
    return Shop(creator, consumer, model, version, None, wallet_id)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def _stripe(tmp_path_factory) -> Iterator[FakeStripeProcess]:
    with running(tmp_path_factory.mktemp("stripe")) as process:
        yield process


@pytest.fixture
def machine(_stripe, settings, monkeypatch, platform_admin: User) -> type[Money]:
    settings.STRIPE_SECRET_KEY = SECRET_KEY
    settings.STRIPE_WEBHOOK_SECRET = WEBHOOK_SECRET
    settings.STRIPE_API_BASE = _stripe.url
    settings.STRIPE_TAX = False
    settings.CREATOR_SHARE_BPS = SHARE_BPS
    settings.PRICE_NOTICE_DAYS = 0
    settings.PAYOUT_MINIMUM_CENTS = PAYOUT_CENTS_MIN
    # The SDK does not repeat by itself, which takes its time.
    monkeypatch.setattr("billing.stripe.client.RETRIES_MAX", 0)
    stripe_client.get_stripe.cache_clear()
    second = UserFactory(email="second@example.com", is_staff=True)
    members = {"fake": _stripe, "admins": (platform_admin, second)}
    yield type("Machine", (Money,), members)
    stripe_client.get_stripe.cache_clear()


@pytest.mark.django_db
def test_money(machine: type[Money]) -> None:
    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=6,
            stateful_step_count=28,
            derandomize=True,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- The same rules by hand ---------------------------------------------------------

Step = Callable[[Money], Any]
BUY_MORE: tuple[Step, ...] = (
    lambda one: one.open_page(1_003),
    lambda one: one.pay(0, "card"),
    lambda one: one.return_from_page(1),
)
SELL: tuple[Step, ...] = (
    lambda one: one.change_price(0, Terms(1_234_567_891)),
    lambda one: one.predict(0, False, 6, 0),
    lambda one: one.predict(1, False, 3, 0),
)
PAY_OUT: tuple[Step, ...] = (
    *SELL,
    lambda one: one.release(),
    lambda one: one.run_payouts(),
    lambda one: one.send_payouts("drop_after_effect"),
    lambda one: one.send_payouts(""),
)
HISTORIES: dict[str, tuple[Step, ...]] = {
    "bought": BUY_MORE,
    "refund": (lambda one: one.ask_for_refund(1_001, ""),),
    "refund whose answer is lost": (
        lambda one: one.ask_for_refund(1_001, "drop_after_effect"),
        lambda one: one.poll(),
    ),
    "refund that fails later": (
        lambda one: one.ask_for_refund(1_001, ""),
        lambda one: one.bank_decides_refund(0, False),
        lambda one: one.hear(list(range(20)) * 2),
    ),
    "gift that nobody gets in cash": (
        *SELL,
        lambda one: one.coupon(500),
        lambda one: one.ask_for_refund(None, ""),
        lambda one: one.ask_for_refund(None, ""),
    ),
    "kept warm": (
        lambda one: one.coupon(500),
        lambda one: one.keep_warm(700),
        lambda one: one.ask_for_refund(None, ""),
        lambda one: one.keep_warm(900),
    ),
    "dispute lost": (
        *SELL,
        lambda one: one.open_dispute(0, 1, False),
        lambda one: one.hear_of_dispute(0),
        lambda one: one.close_dispute(0, False),
        lambda one: one.hear_of_dispute(0),
    ),
    "inquiry": (
        lambda one: one.open_dispute(0, 1, True),
        lambda one: one.hear_of_dispute(0),
        lambda one: one.close_dispute(0, True),
        lambda one: one.hear_of_dispute(0),
    ),
    "fraud warning": (
        lambda one: one.warn_of_fraud(0),
        lambda one: one.hear(list(range(20))),
    ),
    "shared": (
        lambda one: one.promise_a_royalty(3_333),
        *SELL,
        lambda one: one.reverse(0, 37),
        lambda one: one.reverse(0, 37),
    ),
    "counted": (
        lambda one: one.change_price(1, Terms(100_000_007, 77_000_001, tiers=((3, 1),))),
        lambda one: one.predict(1, False, 5, 1_001),
        lambda one: one.predict(1, True, 5, 1_001),
    ),
    "released again": (
        *SELL,
        lambda one: one.release(),
        *SELL,
        lambda one: one.release(),
    ),
    "paid out": PAY_OUT,
    "taken back": (
        *PAY_OUT,
        lambda one: one.take_back(0, 50, True, "drop_after_effect"),
        lambda one: one.send_payouts(""),
    ),
}


def act(machine: type[Money], history: str) -> None:
    one = machine()
    try:
        one.books_are_right()
        for step in HISTORIES[history]:
            step(one)
            one.books_are_right()
        one.finish()
    finally:
        transaction.set_rollback(True)
        one.savepoint.__exit__(None, None, None)


@pytest.mark.django_db
@pytest.mark.parametrize("history", HISTORIES)
def test_a_history_that_is_right_raises_no_alarm(machine: type[Money], history: str) -> None:
    act(machine, history)


# --- What is broken on purpose -------------------------------------------------------


def twice(owner: Any, name: str, patch: pytest.MonkeyPatch) -> None:
    """Do it once more, under another key."""
    kept = getattr(owner, name)

    def call(*args: Any, **more: Any) -> Any:
        answer = kept(*args, **more)
        with fresh_keys():
            kept(*args, **more)
        return answer

    patch.setattr(owner, name, call)


@contextmanager
def fresh_keys() -> Iterator[None]:
    kept = ledger.post_transfer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ledger,
            "post_transfer",
            lambda **more: kept(**more | {"idempotency_key": f"again:{new_id()}"}),
        )
        yield


def replace_function(name: str, old: str, new: str) -> None:
    ((source,),) = query("SELECT pg_get_functiondef(%s::regproc)", name)
    assert old in source
    with connection.cursor() as cursor:
        cursor.execute(source.replace(old, new))


def forget_losses(taken_nanos: int, withdrawn_nanos: int, tax_nanos: int = 0) -> disputes.Effect:
    """What the wallet does not pay is written off nowhere."""
    return disputes.Effect(-taken_nanos, taken_nanos - withdrawn_nanos, 0, withdrawn_nanos)


def pocket_the_fee(charge_id: str, fee_cents: int, *, reference: str) -> None:
    """Stripe's fee comes out of what was bought."""
    wallet_id = LedgerAccount.objects.get(kind="wallet", posted_nanos__gt=0).pk
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.FEE,
        idempotency_key=f"fee:{charge_id}",
        amounts_nanos={wallet_id: -fee_cents * CENT, clearing_id: fee_cents * CENT},
        reference=reference,
    )


def lose_the_mark(patch: pytest.MonkeyPatch) -> None:
    """A release that does not know what was released, and whose keys are random."""
    values = release._values
    patch.setattr(
        release, "_values", lambda *args: values(*args) | {"after": date(1970, 1, 1), "mark": 0}
    )

    def book(creator_id: UUID, reserve_id: UUID, day: Any) -> None:
        payable = LedgerAccount.Kind.CREATOR_PAYABLE
        payable_id = ledger.get_ledger_account_id(payable, holder_id=creator_id)
        ledger.post_transfer(
            transfer_id=new_id(),
            kind=Transfer.Kind.RELEASE,
            idempotency_key=f"release:{new_id()}",
            amounts_nanos={reserve_id: -day.amount_nanos, payable_id: day.amount_nanos},
        )

    patch.setattr(release, "_release_day", book)


CONTROLS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], Any]]] = {
    "a refund is booked twice": ("refund", lambda patch: twice(refund, "_book_sent", patch)),
    "a refund that fails is booked twice": (
        "refund that fails later",
        lambda patch: twice(refund, "_book_failed", patch),
    ),
    "a refund that failed is not booked": (
        "refund that fails later",
        lambda patch: patch.setattr(refund, "_book_failed", lambda row, note: None),
    ),
    "given credit counts as bought": (
        "gift that nobody gets in cash",
        lambda patch: patch.setattr("billing.selectors.refund._find_given_nanos", lambda wallet: 0),
    ),
    "a loss by a dispute is not booked": (
        "dispute lost",
        lambda patch: patch.setattr(disputes, "effect_of", forget_losses),
    ),
    "a dispute's fee is not booked": (
        "dispute lost",
        lambda patch: patch.setattr(disputes, "_book_fee", lambda row, cents: None),
    ),
    "a wallet pays Stripe's fee": (
        "bought",
        lambda patch: patch.setattr(topups, "_book_fee", pocket_the_fee),
    ),
    "a top-up is credited twice": ("bought", lambda patch: twice(topups, "_book", patch)),
    "money is a float": (
        "shared",
        lambda patch: replace_function(
            "billing_settle",
            "r.gross_nanos * r.creator_share_bps / 10000 AS creator_nanos",
            "(r.gross_nanos::float4 * r.creator_share_bps / 10000)::bigint AS creator_nanos",
        ),
    ),
    "each row is rounded": (
        "counted",
        lambda patch: replace_function(
            "billing_rate",
            "div(v_gross * v_weight + p_units * 10000 - 1, p_units * 10000)",
            "p_units * div(div(v_gross * v_weight + p_units * 10000 - 1, p_units * 10000)"
            " + p_units - 1, p_units)",
        ),
    ),
    "a reversal takes it all from the creator": (
        "shared",
        lambda patch: replace_function(
            "billing_reverse_usage",
            "v_event.creator_nanos::numeric * p_gross_nanos",
            "v_event.gross_nanos::numeric * p_gross_nanos",
        ),
    ),
    "an hour's key is random": (
        "kept warm",
        lambda patch: patch.setattr(warm_hour, "name_hour", lambda _: f"warm_hour:{new_id()}"),
    ),
    "a release forgets, and its key is random": ("released again", lose_the_mark),
    "a payout's key is random": (
        "paid out",
        lambda patch: patch.setattr(payout, "_key_of", lambda item: f"payout:{new_id()}"),
    ),
    "what was taken back is not booked": (
        "taken back",
        lambda patch: patch.setattr(payout, "_book_reversal", lambda row, done: None),
    ),
}


@pytest.mark.django_db
@pytest.mark.parametrize("control", CONTROLS)
def test_the_machine_notices(
    machine: type[Money], monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    history, damage = CONTROLS[control]
    damage(monkeypatch)

    # The ledger's own floors refuse some of them.
    with pytest.raises((AssertionError, DatabaseError, InsufficientCreditError)):
        act(machine, history)


# --- Many at once ---------------------------------------------------------------------

THREADS = 4
STEPS = 14


@dataclass
class Worker:
    """Does what gateways, people, webhooks and polls do, as its dice say."""

    money: Money
    seed: int
    coupon: str
    done: Counter[str] = field(default_factory=Counter)
    failures: list[BaseException] = field(default_factory=list)
    # The hours kept warm that it was told are charged now.
    hours: list[int] = field(default_factory=list)

    def run(self, gate: threading.Barrier) -> None:
        dice = random.Random(self.seed)
        actions = {
            name.removeprefix("do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("do_")
        }
        try:
            gate.wait(20)
            for _ in range(STEPS):
                name = dice.choice(sorted(actions))
                # What is not possible now is refused by name, and changes nothing.
                with suppress(MarketplaceError):
                    actions[name](dice)
                    self.done[name] += 1
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failures.append(error)
        finally:
            connections.close_all()

    def do_predict(self, dice: random.Random) -> None:
        shop = dice.choice(self.money.shops)
        account = dice.choice([self.money.consumer, self.money.debtor])
        shop = replace(shop, consumer=account)
        nanos = shop.price.nanos_per_prediction
        ((hold_id, _, outcome),) = reserve(asked(account.pk, nanos))
        if outcome == "held":
            prediction_id = new_id()
            with transaction.atomic():
                record_answer(shop, prediction_id)
                item = shop.item(prediction_id, hold_id=str(hold_id), gross_nanos=nanos)
                assert settle(item) == ["settled"]

    do_predict_again = do_predict

    def do_settle_topup(self, dice: random.Random) -> None:
        topups.settle_topup(dice.choice(self.money.payments).row.pk)

    def do_refund(self, dice: random.Random) -> None:
        refund.request_refund(
            Actor(), self.money.consumer, amount_cents=dice.randint(1, 300), reason="Enough."
        )

    def do_dispute(self, dice: random.Random) -> None:
        disputes.settle_dispute(dice.choice(self.money.quarrels).stripe_id)

    def do_reverse(self, dice: random.Random) -> None:
        known = sorted(UsageEvent.objects.values_list("pk", flat=True))
        reverse_usage(self.money.admin, ids.to_public(dice.choice(known)), reason="Wrong.")

    def do_credit(self, dice: random.Random) -> None:
        nanos = dice.randint(1, 10**9)
        propose_credit(self.money.admin, self.money.consumer, amount_nanos=nanos, reason="Sorry.")

    def do_coupon(self, dice: random.Random) -> None:
        redeem_coupon(Actor(), self.money.consumer, self.coupon)

    def do_keep_warm(self, dice: random.Random) -> None:
        number = dice.randint(0, 5)
        if warm_hour.charge(name_hour(self.money.kept_warm, number, CENT)):
            self.hours.append(number)

    def do_release(self, dice: random.Random) -> None:
        release_earnings(payouts.at(16 - 100))

    def do_run_payouts(self, dice: random.Random) -> None:
        start_run(self.money.admin)
        advance_payouts()


def at_once(money: Money, seed: int) -> list[Worker]:
    """What workers did side by side that share every account."""
    money.open_page(2_000)
    money.pay(0, "card")
    money.open_page(3_000)
    money.pay(0, "card")
    for number in (0, 1, 0):
        money.predict(number, False, 6, 0)
    money.open_dispute(1, 3, False)
    # As old as `do_release` asks for.
    money.age_reserves(100)
    code = f"C-{new_id().hex[-12:]}"
    until = timezone.now() + timedelta(days=1)
    make_credit_coupon(
        money.admin, code=code, credit_nanos=CENT, uses_max=THREADS, valid_until=until
    )
    workers = [Worker(money, seed + number, code) for number in range(THREADS)]
    gate = threading.Barrier(THREADS)
    threads = [threading.Thread(target=one.run, args=(gate,)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return workers


def sum_wallet(money: Money) -> int:
    """What the wallet must hold, by the rows that say what was done, not by the ledger's."""
    account = {"account": money.consumer}
    bought = sum(one.amount_cents for one in Topup.objects.filter(state="credited", **account))
    alive = TopupRefund.objects.filter(**account).exclude(state="failed")
    taken = sum(Dispute.objects.filter(**account).values_list("taken_nanos", flat=True))
    used = sum(UsageEvent.objects.filter(**account).values_list("gross_nanos", flat=True))
    back = sum(UsageReversal.objects.filter(**account).values_list("gross_nanos", flat=True))
    posted = Adjustment.objects.filter(kind="credit", state="posted")
    given = sum(posted.values_list("amount_nanos", flat=True))
    coupons = CouponRedemption.objects.filter(**account).count() * CENT
    cents = bought - sum(one.net_cents for one in alive)
    return cents * CENT - taken - used + back + given + coupons


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", [1, 2])
def test_many_at_once_keep_the_books_and_wait_for_nobody_in_a_circle(
    machine: type[Money], seed: int
) -> None:
    machine.is_apart = False
    money = machine()

    workers = at_once(money, 100 * seed)

    assert [one.failures for one in workers] == [[]] * THREADS
    done = sum((one.done for one in workers), Counter())
    assert done["predict"] + done["predict_again"] > 0
    assert done["coupon"] <= 1
    for payment in money.payments:
        topups.settle_topup(payment.row.pk)
    for quarrel in money.quarrels:
        disputes.settle_dispute(quarrel.stripe_id)
    for _ in range(2):
        TopupRefund.objects.update(created_at=timezone.now() - timedelta(minutes=5))
        refund.poll_refunds()
        advance_payouts()
    give_back(*Hold.objects.filter(state="pending").values_list("pk", flat=True))
    wallet = LedgerAccount.objects.get(kind="wallet", holder=money.consumer)
    hours = [number for one in workers for number in one.hours]
    assert len(hours) == len(set(hours))
    assert wallet.posted_nanos == sum_wallet(money) - len(hours) * CENT >= 0
    clearing = LedgerAccount.objects.get(kind="stripe_clearing")
    balance = get_stripe().retrieve_balance()
    assert -clearing.posted_nanos == (balance.available_cents + balance.pending_cents) * CENT
    assert broken() == set()
