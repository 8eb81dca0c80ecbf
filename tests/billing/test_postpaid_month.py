"""A month on credit against the stand-in for Stripe as a process, on its own clock."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail

from billing.models import (
    Invoice,
    MeterReport,
    PostpaidTerms,
    StripeCustomer,
    StripeEvent,
    Transfer,
)
from billing.selectors.meter import HOUR, read_clock
from billing.services import dunning, meter
from billing.services import invoice as service
from billing.services import postpaid as terms_service
from billing.services.meter import seal_hours, send_reports
from billing.services.stripe_client import get_stripe
from billing.services.stripe_event import HANDLERS
from billing.services.tax_details import save_tax_details, send_tax_details
from marketplace.models import Membership, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import PRICE_NANOS, Shop, asked, balances, reserve, settle
from tests.billing.postpaid import age, agree, broken, receivable
from tests.billing.stand_in import fake as fake  # noqa: PLC0414 - a fixture
from tests.billing.stand_in import receiver as receiver  # noqa: PLC0414 - a fixture
from tests.billing.stand_in import told as told  # noqa: PLC0414 - a fixture
from tests.billing.stripe_client.test_payments import save_card
from tests.fakestripe.process import (
    FakeStripeProcess,
    Receiver,
    wait_until,
)

pytestmark = pytest.mark.django_db(transaction=True)

DAY_S = 86_400
# So long ago the terms were agreed, and the usage was used: the month's invoice is a month old.
AGREED_DAYS, USED_DAYS = 62, 40
UNITS = 1_000_000


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


@dataclass
class Month:
    """The shop, Stripe, and what it tells us."""

    shop: Shop
    fake: FakeStripeProcess
    receiver: Receiver
    terms: PostpaidTerms

    def at(self, days_ago: float) -> None:
        """Let Stripe's clock say so."""
        self.fake.order("clock", offset_s=-int(days_ago * DAY_S))

    def use(self, units: int = UNITS) -> None:
        nanos = units * PRICE_NANOS
        ((hold_id, _, outcome),) = reserve(asked(self.shop.consumer.pk, nanos))
        assert outcome == "held"
        item = self.shop.item(hold_id, units=units, gross_nanos=nanos)
        assert settle(item) == ["settled"]

    def hear(self, seed: int = 0) -> None:
        """Apply every webhook, twice and in any order."""
        sent = [one for one in self.fake.state()["objects"]["event"] if one["type"] in HANDLERS]
        wanted = {one["id"] for one in sent}
        wait_until(lambda: wanted <= {one["id"] for one in self.list_delivered()}, 20)
        events = [
            (one["type"], one["data"]["object"]["id"])
            for one in self.list_delivered()
            if one["id"] in wanted
        ] * 2
        random.Random(seed).shuffle(events)
        for kind, object_id in events:
            HANDLERS[kind](object_id)

    def list_delivered(self) -> list[dict[str, Any]]:
        return [json.loads(one.payload) for one in self.receiver.deliveries]

    def pay(self) -> None:
        """Keep a card as the default, and pay what is open by it."""
        customer_id = StripeCustomer.objects.get().customer_id
        card = save_card(get_stripe(), customer_id)
        get_stripe().set_default_card(
            customer_id=customer_id, payment_method_id=card.id, idempotency_key="default"
        )
        for invoice in Invoice.objects.filter(state="open"):
            get_stripe().pay_invoice(invoice.stripe_id, idempotency_key=f"pay:{invoice.pk}")


@pytest.fixture
def month(
    shop: Shop, fake: FakeStripeProcess, receiver: Receiver, platform_admin: User, owner: User
) -> Month:
    Membership.objects.create(account=shop.consumer, user=owner, role="owner")
    fake.order("clock", offset_s=-AGREED_DAYS * DAY_S)
    terms = agree(shop, platform_admin)
    assert terms.state == "active"
    PostpaidTerms.objects.update(activated_at=read_clock() - timedelta(days=USED_DAYS, hours=2))
    return Month(shop, fake, receiver, terms)


@pytest.fixture
def used(month: Month, monkeypatch: pytest.MonkeyPatch) -> Month:
    """What was used then is reported, by the clock of that time."""
    month.use()
    age(USED_DAYS * 24)
    moment = read_clock() - timedelta(days=USED_DAYS) + 2 * HOUR
    month.at(USED_DAYS - 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(meter, "read_clock", lambda: moment)
        seal_hours()
        assert send_reports() == 1
        # The answer to a second try is that it is there already.
        MeterReport.objects.update(state="sent")
        assert send_reports() == 1
    return month


def test_the_months_end_makes_an_invoice_that_agrees_and_is_paid(used: Month) -> None:
    used.at(0)
    used.hear()

    first, second = Invoice.objects.order_by("period_end")
    assert (first.state, first.total_cents, first.check_state) == ("open", 100, "agrees")
    assert (second.state, second.total_cents) == ("paid", 0)
    assert first.number
    assert first.hosted_url.startswith(used.fake.url)
    assert receivable(used.shop).owed_nanos == UNITS * PRICE_NANOS

    used.pay()
    service.poll_invoices()

    first.refresh_from_db()
    assert (first.state, first.booked_at is not None) == ("paid", True)
    assert balances()["stripe_clearing"] == (-1_000_000_000, 0)
    assert balances()["rounding"] == (-1_000_000, 0)
    assert receivable(used.shop).posted_nanos == 0
    assert Transfer.objects.filter(kind="invoice_paid").count() == 1
    assert broken() == set()


@pytest.mark.parametrize("seed", range(3))
def test_webhooks_in_any_order_lead_to_the_same_books(used: Month, seed: int) -> None:
    used.at(0)
    service.poll_invoices()
    used.pay()

    used.hear(seed)

    assert balances()["stripe_clearing"] == (-1_000_000_000, 0)
    assert not StripeEvent.objects.exists()
    assert broken() == set()


def test_who_does_not_pay_is_paused_on_stripes_clock_and_resumes(used: Month) -> None:
    used.at(0)
    used.hear()
    invoice = Invoice.objects.get(total_cents=100)
    # Issued a month ago and due two weeks later, by Stripe's clock.
    assert isinstance(invoice.finalized_at, datetime)
    assert invoice.due_at == invoice.finalized_at + timedelta(days=14)

    dunning.remind_of_invoices()

    assert PostpaidTerms.objects.get().paused_at is not None
    assert "paused" in mail.outbox[0].subject
    used.pay()
    service.mirror_invoice(invoice.stripe_id)
    assert PostpaidTerms.objects.get().paused_at is None


def test_what_is_too_little_to_charge_is_carried_and_still_owed(
    month: Month, monkeypatch: pytest.MonkeyPatch
) -> None:
    month.use(200_000)  # 20.02 cents.
    age(USED_DAYS * 24)
    moment = read_clock() - timedelta(days=USED_DAYS) + 2 * HOUR
    month.at(USED_DAYS - 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(meter, "read_clock", lambda: moment)
        seal_hours()
        send_reports()
    month.at(0)

    service.poll_invoices()
    service.poll_invoices()

    first = Invoice.objects.get(total_cents=20)
    assert (first.state, first.due_cents, first.paid_cents) == ("paid", 0, 0)
    assert (first.check_state, first.booked_at is not None) == ("agrees", True)
    # 20 cents are carried to the next; what was rounded is not owed any more.
    assert receivable(month.shop).owed_nanos == 200_000_000
    assert "stripe_clearing" not in balances() or balances()["stripe_clearing"] == (0, 0)
    assert broken() == set()


def test_an_ended_credit_gets_its_last_invoice(used: Month) -> None:
    terms_service.close_terms(Actor(), used.terms)
    used.at(USED_DAYS - 1)

    terms_service.advance_postpaid()
    used.at(USED_DAYS - 2)
    service.poll_invoices()
    used.pay()
    service.poll_invoices()
    terms_service.advance_postpaid()

    invoice = Invoice.objects.get(total_cents=100)
    assert (invoice.state, invoice.booked_at is not None) == ("paid", True)
    assert PostpaidTerms.objects.get().state == "closed"
    assert receivable(used.shop).posted_nanos == 0
    assert broken() == set()


def test_address_and_tax_id_reach_stripe(month: Month) -> None:
    fields = {
        "name": "Acme Inc",
        "line1": "1 Main St",
        "line2": "",
        "city": "Springfield",
        "postal_code": "12345",
        "state": "",
        "country": "DE",
        "tax_id_type": "eu_vat",
        "tax_id": "DE123456789",
    }
    save_tax_details(Actor(), month.shop.consumer, fields)
    assert send_tax_details(month.shop.consumer)
    assert not send_tax_details(month.shop.consumer)
    save_tax_details(Actor(), month.shop.consumer, fields | {"tax_id": "DE987654321"})
    assert send_tax_details(month.shop.consumer)

    objects = month.fake.state()["objects"]
    (customer,) = objects["customer"]
    assert (customer["name"], customer["address"]["city"]) == ("Acme Inc", "Springfield")
    kept = [one["value"] for one in objects["tax_id"] if not one.get("deleted")]
    assert kept == ["DE987654321"]
