"""The main calls to Stripe, made for real: `python -m bench.stripe_live`.

The tests hold the client to Stripe's published description, by a stand-in. This asks Stripe
itself, in test mode: a customer, a top-up page, a saved card that is charged and refunded, a
card that is declined, a creator's account with its link, and metered use. It prints what it
did and what Stripe said, and ends what it began as far as Stripe lets it; the customer and
the creator's account stay in the test account. A live key is refused.

The key is read from `STRONGROOM_STRIPE_SECRET_KEY`. With `--api-base` it can be
pointed at the stand-in.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from billing.errors import CardDeclinedError, StripeRefusedError, StripeUnavailableError
from billing.stripe.calls import our_errors
from billing.stripe.client import StripeConfig, StripeGateway, make_client

KEY_VARIABLE = "STRONGROOM_STRIPE_SECRET_KEY"
TEST_KEYS = ("sk_test_", "rk_test_")
# Stripe's names for test cards; no number leaves this machine.
CARD_AVAILABLE_AT_ONCE = "pm_card_bypassPending"
CARD_REFUSED_LATER = "pm_card_chargeCustomerFail"
PAGE = "https://example.com/strongroom"
EVENT_NAME = "strongroom_live_check_nanos"


class UnexpectedError(Exception):
    """Stripe did not do what we count on."""


@dataclass
class Run:
    """One run; its name is in every key, so that each run is a new one."""

    gateway: StripeGateway
    client: Any
    name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    failures: int = 0
    undo: list[tuple[str, Callable[[], object]]] = field(default_factory=list)

    def key(self, what: str) -> str:
        return f"live-check:{self.name}:{what}"

    def step(self, what: str, do: Callable[[], str]) -> bool:
        """Do something, and say what came of it; False if it went wrong."""
        try:
            print(f"ok      {what}: {do()}", flush=True)
        except (StripeRefusedError, StripeUnavailableError, UnexpectedError) as error:
            cause = error.__cause__ or error
            print(f"FAILED  {what}: {type(error).__name__}: {cause}", flush=True)
            self.failures += 1
            return False
        return True

    def clean_up(self) -> None:
        while self.undo:
            what, do = self.undo.pop()
            try:
                do()
                print(f"undone  {what}", flush=True)
            except (StripeRefusedError, StripeUnavailableError) as error:
                print(f"left    {what}: {error.__cause__ or error}", flush=True)


class Flows:
    """What the product does with Stripe, in the order in which it needs it."""

    def __init__(self, run: Run) -> None:
        self._run, self._gateway = run, run.gateway
        self._account_id = uuid.uuid4()
        self._customer_id = self._card_id = self._intent_id = ""

    def everything(self) -> None:
        if not self._run.step("customer", self.customer):
            return  # Nothing else makes sense without one.
        for what, do in (
            ("top-up page", self.page),
            ("saved card", self.card),
            ("charge while away", self.charge),
            ("refund", self.refund),
            ("declined card", self.decline),
            ("balance", self.balance),
            ("creator's account", self.creator),
            ("metered use", self.metering),
            ("billing portal", self.portal),
        ):
            self._run.step(what, do)

    def customer(self) -> str:
        self._customer_id = self._gateway.create_customer(
            account_id=self._account_id,
            email="live-check@example.com",
            idempotency_key=self._run.key("customer"),
        )
        return self._customer_id

    def page(self) -> str:
        topup_id = uuid.uuid4()
        page = self._gateway.create_checkout_session(
            topup_id=topup_id,
            customer_id=self._customer_id,
            amount_cents=2_500,
            success_url=f"{PAGE}?session_id={{CHECKOUT_SESSION_ID}}",
            cancel_url=PAGE,
            idempotency_key=self._run.key("page"),
            save_card=True,
        )
        found = self._gateway.find_checkout_session(
            topup_id=topup_id, customer_id=self._customer_id
        )
        expect(found is not None and found.id == page.id, "the page was not found again")
        ended = self._gateway.expire_checkout_session(
            page.id, idempotency_key=self._run.key("expire")
        )
        expect(ended.status == "expired", f"the page is {ended.status}")
        return f"{page.id} opened, found and expired"

    def card(self) -> str:
        self._card_id = self._attach(CARD_AVAILABLE_AT_ONCE)
        self._gateway.set_default_card(
            customer_id=self._customer_id,
            payment_method_id=self._card_id,
            idempotency_key=self._run.key("default"),
        )
        [card] = self._gateway.list_cards(self._customer_id)
        return f"{card.brand} {card.last4}, fingerprint {card.fingerprint}"

    def charge(self) -> str:
        def charge() -> Any:
            return self._gateway.charge_card(
                customer_id=self._customer_id,
                payment_method_id=self._card_id,
                amount_cents=500,
                metadata={"live_check": self._run.name},
                idempotency_key=self._run.key("charge"),
            )

        intent = charge()
        expect(charge().id == intent.id, "the same key charged twice")
        self._intent_id = intent.id
        found = self._gateway.find_payment_intent(
            customer_id=self._customer_id, key="live_check", value=self._run.name
        )
        expect(found == intent, "the payment was not found by its metadata")
        paid = self._gateway.retrieve_charge(intent.latest_charge_id)
        return f"{intent.id} {intent.status}, risk {paid.risk_level}, {paid.card_funding}"

    def refund(self) -> str:
        refund = self._gateway.create_refund(
            payment_intent_id=self._intent_id,
            amount_cents=100,
            metadata={"live_check": self._run.name},
            idempotency_key=self._run.key("refund"),
        )
        found = self._gateway.find_refund(
            payment_intent_id=self._intent_id, key="live_check", value=self._run.name
        )
        expect(found is not None and found.id == refund.id, "the refund was not found again")
        return f"{refund.id} {refund.status}"

    def decline(self) -> str:
        try:
            self._gateway.charge_card(
                customer_id=self._customer_id,
                payment_method_id=self._attach(CARD_REFUSED_LATER),
                amount_cents=500,
                metadata={},
                idempotency_key=self._run.key("decline"),
            )
        except CardDeclinedError as error:
            expect(bool(error.params["payment_intent_id"]), "a decline names no payment")
            return f"declined, {error.params['decline_code']}"
        raise UnexpectedError("a card that must be declined was charged")

    def balance(self) -> str:
        now = datetime.now(UTC)
        found = self._gateway.retrieve_balance()
        rows = self._gateway.list_balance_transactions(
            created_from=now - timedelta(hours=1), created_until=now + timedelta(hours=1)
        )
        expect(all(row.amount - row.fee == row.net for row in rows), "a movement adds up wrong")
        return f"{found.available_cents} available, {found.pending_cents} pending, {len(rows)} rows"

    def creator(self) -> str:
        account = self._gateway.create_creator_account(
            account_id=self._account_id,
            email="live-check@example.com",
            country="US",
            display_name="Live check",
            idempotency_key=self._run.key("creator"),
        )
        link = self._gateway.create_account_link(
            connect_account_id=account.id,
            refresh_url=PAGE,
            return_url=PAGE,
            idempotency_key=self._run.key("link"),
        )
        found = self._gateway.retrieve_creator_account(account.id)
        expect(found.metadata == {"account_id": str(self._account_id)}, "metadata is lost")
        expect(self._transfer_code(account.id) != "", "money went to who may not receive any")
        print(f"        onboard by hand, if you like: {link}")
        return f"{found.id} {found.transfers_status}, {len(found.requirements)} details asked for"

    def metering(self) -> str:
        meter = self._gateway.ensure_meter(event_name=EVENT_NAME, display_name="Live check")
        price = self._gateway.ensure_metered_price(
            meter_id=meter.id,
            lookup_key=EVENT_NAME,
            unit_amount_decimal=Decimal("0.0000001"),
            product_name="Live check",
        )
        subscription = self._gateway.create_subscription(
            customer_id=self._customer_id,
            price_id=price.id,
            metadata={"live_check": self._run.name},
            idempotency_key=self._run.key("subscription"),
        )
        self._run.undo.append(
            (
                "subscription",
                lambda: self._gateway.cancel_subscription(
                    subscription.id, idempotency_key=self._run.key("cancel")
                ),
            )
        )
        first, second = self._report(), self._report()
        expect(first and not second, "the same identifier was not refused the second time")
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        hours = self._gateway.summarize_meter(
            meter_id=meter.id,
            customer_id=self._customer_id,
            start=hour,
            end=hour + timedelta(hours=1),
        )
        return f"{subscription.id} {subscription.status}, {len(hours)} hours counted so far"

    def portal(self) -> str:
        self._gateway.create_portal_session(customer_id=self._customer_id, return_url=PAGE)
        return "a session was opened"

    def _attach(self, test_card: str) -> str:
        with our_errors():
            method = self._run.client.v1.payment_methods.attach(
                test_card, params={"customer": self._customer_id}
            )
        self._run.undo.append(
            (
                f"card {method.id}",
                lambda: self._gateway.detach_card(
                    method.id, idempotency_key=self._run.key(f"detach:{method.id}")
                ),
            )
        )
        return str(method.id)

    def _transfer_code(self, account_id: str) -> str:
        """Stripe's code for refusing a transfer to an account that is not ready."""
        try:
            self._gateway.create_transfer(
                amount_cents=100,
                destination=account_id,
                transfer_group=self._run.name,
                metadata={},
                idempotency_key=self._run.key("transfer"),
            )
        except StripeRefusedError as error:
            return str(error.params["stripe_code"])
        return ""

    def _report(self) -> bool:
        return self._gateway.send_meter_event(
            event_name=EVENT_NAME,
            customer_id=self._customer_id,
            value=1_000,
            identifier=self._run.key("use"),
            occurred_at=datetime.now(UTC),
        )


def expect(is_true: bool, otherwise: str) -> None:
    if not is_true:
        raise UnexpectedError(otherwise)


def main() -> int:
    """0 when all went as expected, 1 when not, 2 when it may not even begin."""
    parser = argparse.ArgumentParser(prog="bench.stripe_live", description=__doc__)
    parser.add_argument("--api-base", help="address of a stand-in instead of Stripe")
    options = parser.parse_args()
    key = os.environ.get(KEY_VARIABLE, "")
    if not key.startswith(TEST_KEYS):
        print(
            f"{KEY_VARIABLE} must be a key of test mode ({', '.join(TEST_KEYS)}).", file=sys.stderr
        )
        return 2
    config = StripeConfig(key, "whsec_unused", options.api_base)
    run = Run(StripeGateway(config), make_client(config))
    print(f"run {run.name} against {options.api_base or 'Stripe, test mode'}")
    try:
        Flows(run).everything()
    finally:
        run.clean_up()
    print("all as expected" if not run.failures else f"{run.failures} steps went wrong")
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
