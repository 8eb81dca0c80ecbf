"""Meters, subscriptions, invoices and credit notes, by the real SDK against the stand-in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import requests

from billing.errors import CardDeclinedError, StripeRefusedError, StripeUnavailableError
from billing.stripe.client import Invoice, MeterHour, StripeGateway, Subscription
from fakestripe import cards
from tests.billing.stripe_client.test_payments import save_card
from tests.fakestripe.process import FakeStripeProcess, wait_until

EVENT = "strongroom_nanos"
DAY_S = 86_400
MONTH_S = 32 * DAY_S
# One nano-dollar: a ten-millionth of a cent.
NANO = Decimal("0.0000001")


@dataclass
class Postpaid:
    """A customer who pays after each month."""

    fake: FakeStripeProcess
    gateway: StripeGateway
    customer_id: str
    meter_id: str
    subscription: Subscription

    def now(self) -> datetime:
        answer = requests.get(f"{self.fake.url}/_test/clock", timeout=10).json()
        return datetime.fromtimestamp(answer["now"], UTC)

    def advance(self, seconds: int) -> None:
        self.fake.order("clock", advance_s=seconds)

    def use(self, nanos: int, identifier: str, **changes) -> bool:
        params = {
            "event_name": EVENT,
            "customer_id": self.customer_id,
            "value": nanos,
            "identifier": identifier,
            "occurred_at": self.now(),
        }
        return self.gateway.send_meter_event(**(params | changes))

    def hours(self) -> list[MeterHour]:
        full = self.now().replace(minute=0, second=0, microsecond=0)
        return self.gateway.summarize_meter(
            meter_id=self.meter_id,
            customer_id=self.customer_id,
            start=full - timedelta(days=2),
            end=full + timedelta(hours=1),
        )

    def end_month(self) -> Invoice:
        """Past the end of the period, into the hour of grace."""
        left = self.gateway.retrieve_subscription(self.subscription.id).current_period_end
        self.advance(int((left - self.now()).total_seconds()) + 5)
        return self.last_invoice()

    def last_invoice(self) -> Invoice:
        found = self.gateway.retrieve_subscription(self.subscription.id)
        return self.gateway.retrieve_invoice(found.latest_invoice_id)

    def keep_card(self, number: str = cards.SUCCESS) -> None:
        card = save_card(self.gateway, self.customer_id, number)
        self.gateway.set_default_card(
            customer_id=self.customer_id,
            payment_method_id=card.id,
            idempotency_key=f"default:{card.id}",
        )


def price_of(gateway: StripeGateway, meter_id: str, amount: Decimal = NANO, key: str = "nanos"):
    return gateway.ensure_metered_price(
        meter_id=meter_id,
        lookup_key=key,
        unit_amount_decimal=amount,
        product_name="Prediction credit",
    )


@pytest.fixture
def postpaid(fake, gateway, customer_id) -> Postpaid:
    meter = gateway.ensure_meter(event_name=EVENT, display_name="Nano-dollars")
    price = price_of(gateway, meter.id)
    subscription = gateway.create_subscription(
        customer_id=customer_id,
        price_id=price.id,
        metadata={"account_id": "1"},
        idempotency_key="subscription:1",
    )
    return Postpaid(fake, gateway, customer_id, meter.id, subscription)


def test_meter_and_price_are_made_once(fake, gateway):
    meter = gateway.ensure_meter(event_name=EVENT, display_name="Nano-dollars")
    assert (meter.event_name, meter.status) == (EVENT, "active")
    assert gateway.ensure_meter(event_name=EVENT, display_name="Other") == meter
    price = price_of(gateway, meter.id)
    assert (price.unit_amount_decimal, price.lookup_key, price.meter_id) == (
        NANO,
        "nanos",
        meter.id,
    )
    assert price_of(gateway, meter.id) == price

    dearer = price_of(gateway, meter.id, NANO * 2)

    assert dearer.id != price.id
    assert price_of(gateway, meter.id, NANO * 2) == dearer
    keys = [item["lookup_key"] for item in fake.state()["objects"]["price"]]
    assert keys == [None, "nanos"]
    assert fake.count("billing.meter") == 1


@pytest.mark.parametrize(("amount", "is_taken"), [("0.000000000001", True), ("1e-13", False)])
def test_prices_have_at_most_twelve_decimals(gateway, amount, is_taken):
    meter = gateway.ensure_meter(event_name=EVENT, display_name="Nano-dollars")
    if is_taken:
        assert price_of(gateway, meter.id, Decimal(amount)).unit_amount_decimal == Decimal(amount)
        return
    with pytest.raises(StripeRefusedError):
        price_of(gateway, meter.id, Decimal(amount))


def test_use_is_counted_a_little_later_and_once(postpaid):
    assert postpaid.use(700, "use:1") is True
    assert postpaid.use(700, "use:1") is False
    assert postpaid.use(300, "use:2") is True
    assert postpaid.hours() == []

    postpaid.advance(31)

    assert sum(hour.value for hour in postpaid.hours()) == 1_000
    assert all(hour.end - hour.start == timedelta(hours=1) for hour in postpaid.hours())


def test_hours_are_told_apart_oldest_first_over_many_pages(postpaid):
    start = postpaid.now()
    for number in range(120):
        moment = start - timedelta(hours=number)
        postpaid.use(number + 1, f"use:{number}", occurred_at=moment)
    postpaid.advance(31)
    full = start.replace(minute=0, second=0, microsecond=0)
    hours = postpaid.gateway.summarize_meter(
        meter_id=postpaid.meter_id,
        customer_id=postpaid.customer_id,
        start=full - timedelta(hours=119),
        end=full + timedelta(hours=1),
    )

    assert [hour.value for hour in hours] == list(range(120, 0, -1))
    assert [hour.start for hour in hours] == sorted(hour.start for hour in hours)


def test_a_lost_report_is_counted_once(postpaid):
    postpaid.fake.order("faults", kind="drop_after_effect", path="/v1/billing/meter_events")
    # The SDK asks again by itself, and that is refused as a duplicate or answered from the key.
    assert postpaid.use(5, "use:1") in (True, False)
    postpaid.fake.order(
        "faults", kind="drop_after_effect", path="/v1/billing/meter_events", times=3
    )
    with pytest.raises(StripeUnavailableError):
        postpaid.use(7, "use:2")
    assert postpaid.use(7, "use:2") is False

    postpaid.advance(31)

    assert [hour.value for hour in postpaid.hours()] == [12]


@pytest.mark.parametrize(
    ("_case", "wait_s", "is_known"),
    [("within the day", DAY_S - 60, True), ("after it", DAY_S + 60, False)],
)
def test_an_identifier_is_known_for_a_day_only(postpaid, _case, wait_s, is_known):
    # Why what was reported must be written down here, too.
    postpaid.use(1, "use:1")
    postpaid.advance(wait_s)

    assert postpaid.use(1, "use:1") is not is_known


@pytest.mark.parametrize(
    ("_case", "shift", "is_taken"),
    [
        ("35 days ago", timedelta(days=-35, minutes=1), True),
        ("older", timedelta(days=-35, minutes=-1), False),
        ("5 minutes ahead", timedelta(minutes=4, seconds=50), True),
        ("more", timedelta(minutes=5, seconds=30), False),
    ],
)
def test_reports_have_limits_in_time(postpaid, _case, shift, is_taken):
    moment = postpaid.now() + shift
    if is_taken:
        assert postpaid.use(1, "use:1", occurred_at=moment)
        return
    with pytest.raises(StripeRefusedError):
        postpaid.use(1, "use:1", occurred_at=moment)
    assert postpaid.fake.count("billing.meter_event") == 0


def test_a_report_without_meter_or_customer_is_refused(postpaid):
    with pytest.raises(StripeRefusedError):
        postpaid.use(1, "use:1", event_name="other")
    with pytest.raises(StripeRefusedError):
        postpaid.use(1, "use:1", customer_id="cus_nobody")
    with pytest.raises(StripeRefusedError):
        postpaid.use(-1, "use:1")

    assert postpaid.use(1, "use:1") is True


def test_a_report_is_taken_back_within_a_day(postpaid):
    def cancel(identifier: str, key: str) -> None:
        postpaid.gateway.cancel_meter_event(
            event_name=EVENT, identifier=identifier, idempotency_key=key
        )

    postpaid.use(5, "use:1")
    postpaid.use(7, "use:2")
    for _ in range(2):
        cancel("use:1", "cancel:1")
    postpaid.advance(31)
    assert [hour.value for hour in postpaid.hours()] == [7]

    postpaid.advance(DAY_S)

    with pytest.raises(StripeRefusedError):
        cancel("use:2", "cancel:2")


def test_a_subscription_is_made_found_and_ended(fake, gateway, postpaid):
    made = postpaid.subscription
    assert (made.status, made.customer, made.latest_invoice_id) == (
        "active",
        postpaid.customer_id,
        None,
    )
    assert 28 <= (made.current_period_end - made.current_period_start).days <= 31
    found = gateway.find_subscription(customer_id=postpaid.customer_id, key="account_id", value="1")
    assert found == made == gateway.retrieve_subscription(made.id)
    assert (
        gateway.find_subscription(customer_id=postpaid.customer_id, key="account_id", value="2")
        is None
    )
    postpaid.keep_card()
    postpaid.use(2_000_000_000, "use:1")
    postpaid.advance(60)

    ended = gateway.cancel_subscription(made.id, idempotency_key="end:1")

    assert ended.status == "canceled"
    assert gateway.cancel_subscription(made.id, idempotency_key="end:2").status == "canceled"
    with pytest.raises(StripeRefusedError):
        gateway.cancel_subscription("sub_nobody", idempotency_key="end:3")
    # What was used is billed all the same.
    postpaid.advance(3_605)
    [invoice] = gateway.list_invoices(customer_id=postpaid.customer_id)
    assert (invoice.status, invoice.amount_paid) == ("paid", 200)
    postpaid.advance(MONTH_S)
    assert len(gateway.list_invoices(customer_id=postpaid.customer_id)) == 1


def test_a_month_becomes_an_invoice_that_the_card_pays(postpaid, gateway):
    postpaid.keep_card()
    # 12.345678901 dollars, of which the last digits are no cents.
    postpaid.use(12_345_678_901, "use:1")
    draft = postpaid.end_month()
    period = postpaid.subscription
    assert (draft.status, draft.number, draft.finalized_at) == ("draft", None, None)
    assert (draft.period_start, draft.period_end) == (
        period.current_period_start,
        period.current_period_end,
    )
    # Reported in the hour of grace, and used in the month: still part of it.
    late = period.current_period_end - timedelta(seconds=60)
    postpaid.use(10_000_000, "use:2", occurred_at=late)

    postpaid.advance(3_605)

    paid = postpaid.last_invoice()
    assert paid.id == draft.id
    assert (paid.status, paid.total, paid.amount_due, paid.amount_paid, paid.amount_remaining) == (
        "paid",
        1_236,
        1_236,
        1_236,
        0,
    )
    assert (paid.subtotal, paid.tax, paid.attempt_count) == (1_236, 0, 1)
    assert paid.subscription_id == period.id
    assert paid.number
    assert paid.hosted_url.startswith(postpaid.fake.url)
    assert paid.finalized_at
    assert paid.paid_at
    [line] = paid.lines
    assert (line.amount, line.quantity) == (1_236, 12_355_678_901)
    assert (line.period_start, line.period_end) == (paid.period_start, paid.period_end)
    [payment] = gateway.list_payment_intents(
        created_from=postpaid.now() - timedelta(hours=1), created_until=postpaid.now()
    )
    assert gateway.find_invoice_of_payment(payment.id) == paid.id
    assert gateway.find_invoice_of_payment("pi_other") is None


def test_what_comes_after_the_hour_of_grace_is_lost_to_the_invoice(postpaid):
    # Why everything must be reported within the hour, and compared afterwards.
    postpaid.keep_card()
    postpaid.use(1_000_000_000, "use:1")
    draft = postpaid.end_month()
    postpaid.advance(3_605)
    late = draft.period_end - timedelta(seconds=60)
    postpaid.use(1_000_000_000, "use:2", occurred_at=late)
    postpaid.advance(DAY_S)

    assert postpaid.last_invoice().total == 100
    assert postpaid.end_month().total == 0


def test_an_invoice_that_nobody_pays_is_asked_for_again(postpaid, gateway):
    postpaid.keep_card(cards.REFUSED_LATER)
    postpaid.use(1_000_000_000, "use:1")
    postpaid.end_month()
    postpaid.advance(3_605)
    refused = postpaid.last_invoice()
    assert (refused.status, refused.attempt_count, refused.amount_remaining) == ("open", 1, 100)
    assert gateway.retrieve_subscription(postpaid.subscription.id).status == "past_due"
    with pytest.raises(CardDeclinedError):
        gateway.pay_invoice(refused.id, idempotency_key="pay:1")
    postpaid.advance(3 * DAY_S + 60)
    assert postpaid.last_invoice().attempt_count == 3

    postpaid.keep_card()
    paid = gateway.pay_invoice(refused.id, idempotency_key="pay:2")

    assert (paid.status, paid.amount_paid) == ("paid", 100)
    assert gateway.pay_invoice(refused.id, idempotency_key="pay:2") == paid
    assert gateway.retrieve_subscription(postpaid.subscription.id).status == "active"
    with pytest.raises(StripeRefusedError):
        gateway.pay_invoice(refused.id, idempotency_key="pay:3")


def test_without_a_card_the_page_of_the_invoice_is_the_way(postpaid, gateway):
    postpaid.use(1_000_000_000, "use:1")
    postpaid.end_month()
    postpaid.advance(3_605)
    unpaid = postpaid.last_invoice()
    page = requests.get(unpaid.hosted_url, timeout=10)
    assert (unpaid.status, page.status_code) == ("open", 200)
    assert "Stand-in for Stripe: no money moves" in page.text
    assert "$1.00" in page.text
    refused = requests.post(unpaid.hosted_url, data={"card_number": cards.DECLINE}, timeout=10)
    assert refused.status_code == 402
    assert "Your card was declined." in refused.text

    requests.post(unpaid.hosted_url, data={"card_number": cards.SUCCESS}, timeout=10)

    assert postpaid.last_invoice().status == "paid"


def test_an_invoice_that_was_given_up_is_asked_for_no_more_and_can_be_paid(postpaid, gateway):
    postpaid.keep_card(cards.REFUSED_LATER)
    postpaid.use(1_000_000_000, "use:1")
    postpaid.end_month()
    with pytest.raises(StripeRefusedError):
        gateway.mark_invoice_uncollectible(postpaid.last_invoice().id, idempotency_key="up:0")
    postpaid.advance(3_605)
    unpaid = postpaid.last_invoice()
    assert (unpaid.status, unpaid.attempt_count) == ("open", 1)

    given_up = gateway.mark_invoice_uncollectible(unpaid.id, idempotency_key="up:1")

    assert given_up.status == "uncollectible"
    assert gateway.mark_invoice_uncollectible(unpaid.id, idempotency_key="up:1") == given_up
    with pytest.raises(StripeRefusedError):
        gateway.mark_invoice_uncollectible(unpaid.id, idempotency_key="up:2")
    postpaid.advance(8 * DAY_S)
    assert (postpaid.last_invoice().status, postpaid.last_invoice().attempt_count) == (
        "uncollectible",
        1,
    )
    refused = requests.post(unpaid.hosted_url, data={"card_number": cards.DECLINE}, timeout=10)
    assert (refused.status_code, postpaid.last_invoice().status) == (402, "uncollectible")
    requests.post(unpaid.hosted_url, data={"card_number": cards.SUCCESS}, timeout=10)
    assert (postpaid.last_invoice().status, postpaid.last_invoice().amount_paid) == ("paid", 100)
    with pytest.raises(StripeRefusedError):
        gateway.mark_invoice_uncollectible(unpaid.id, idempotency_key="up:3")


def test_too_little_for_a_card_waits_for_the_next_invoice(postpaid):
    postpaid.keep_card()
    postpaid.use(300_000_000, "use:1")
    postpaid.end_month()
    postpaid.advance(3_605)
    first = postpaid.last_invoice()
    assert (first.total, first.amount_due, first.status) == (30, 0, "paid")
    postpaid.use(300_000_000, "use:2")
    postpaid.end_month()
    postpaid.advance(3_605)

    second = postpaid.last_invoice()
    assert (second.total, second.amount_due, second.amount_paid) == (30, 60, 60)


def test_a_credit_note_lowers_an_open_invoice_or_the_next(postpaid, gateway):
    def credit(invoice: Invoice, cents: int, key: str):
        return gateway.create_credit_note(
            invoice_id=invoice.id, amount_cents=cents, memo="Sorry", idempotency_key=key
        )

    postpaid.use(1_000_000_000, "use:1")
    postpaid.end_month()
    postpaid.advance(3_605)
    unpaid = postpaid.last_invoice()
    note = credit(unpaid, 40, "credit:1")
    assert (note.amount, note.status, note.invoice_id) == (40, "issued", unpaid.id)
    assert postpaid.last_invoice().amount_remaining == 60
    with pytest.raises(StripeRefusedError):
        credit(unpaid, 61, "credit:2")
    # The rest: the note itself makes the invoice a paid one, and is still one note.
    whole = credit(unpaid, 60, "credit:3")
    assert postpaid.last_invoice().status == "paid"
    assert credit(unpaid, 60, "credit:3") == whole

    postpaid.keep_card()
    postpaid.use(2_000_000_000, "use:2")
    postpaid.end_month()
    postpaid.advance(3_605)
    paid = postpaid.last_invoice()
    assert (paid.total, paid.amount_paid) == (200, 200)
    credit(paid, 50, "credit:4")
    postpaid.use(1_000_000_000, "use:3")
    postpaid.end_month()
    postpaid.advance(3_605)

    assert (postpaid.last_invoice().total, postpaid.last_invoice().amount_paid) == (100, 50)


def test_three_months_at_once_are_three_months(postpaid, receiver):
    postpaid.keep_card()
    postpaid.use(1_000_000_000, "use:1")
    receiver.clear()
    postpaid.advance(3 * MONTH_S)
    invoices = postpaid.gateway.list_invoices(customer_id=postpaid.customer_id)

    assert [item.total for item in invoices] == [0, 0, 100]
    assert [item.status for item in invoices] == ["paid"] * 3
    ends = [item.period_end for item in invoices]
    assert ends == sorted(ends, reverse=True)
    assert [item.created_at for item in invoices] == ends
    assert all(item.paid_at == item.created_at + timedelta(hours=1) for item in invoices)
    first_only = postpaid.gateway.list_invoices(
        created_from=ends[2], created_until=ends[2] + timedelta(hours=1)
    )
    assert first_only == [invoices[2]]

    def types() -> list[str]:
        events = [
            postpaid.gateway.verify_webhook(item.payload, item.signature)
            for item in receiver.deliveries
        ]
        # One that was answered late may come again.
        return list({event.id: event.type for event in events}.values())

    # They arrive side by side, in no order.
    steps = ("invoice.created", "invoice.finalized", "invoice.paid")
    wait_until(lambda: [types().count(step) for step in steps] == [3, 3, 3], 60)


def test_tax_is_told_apart_on_invoices(fake, gateway, customer_id):
    fake.order("tax", rate_bps=2_000)
    meter = gateway.ensure_meter(event_name=EVENT, display_name="Nano-dollars")
    made = gateway.create_subscription(
        customer_id=customer_id,
        price_id=price_of(gateway, meter.id).id,
        metadata={},
        idempotency_key="subscription:1",
        is_taxed=True,
    )
    taxed = Postpaid(fake, gateway, customer_id, meter.id, made)
    taxed.use(1_000_000_000, "use:1")
    taxed.end_month()
    taxed.advance(3_605)

    found = taxed.last_invoice()
    assert (found.subtotal, found.tax, found.total) == (100, 20, 120)


def test_customers_look_after_themselves_in_the_portal(postpaid, gateway):
    url = gateway.create_portal_session(
        customer_id=postpaid.customer_id, return_url="https://shop.example.com/billing"
    )
    page = requests.get(url, timeout=10)
    assert "Stand-in for Stripe: no money moves" in page.text
    assert "No invoices yet." in page.text
    assert requests.post(url, data={"card_number": cards.DECLINE}, timeout=10).status_code == 402
    assert gateway.list_cards(postpaid.customer_id) == []
    requests.post(url, data={"card_number": cards.SUCCESS}, timeout=10)
    [card] = gateway.list_cards(postpaid.customer_id)
    postpaid.use(1_000_000_000, "use:1")
    postpaid.end_month()
    postpaid.advance(3_605)
    assert postpaid.last_invoice().status == "paid"

    again = gateway.create_portal_session(
        customer_id=postpaid.customer_id, return_url="https://shop.example.com/billing"
    )
    assert postpaid.last_invoice().hosted_url in requests.get(again, timeout=10).text
    requests.post(again, data={"method": card.id, "wish": "remove"}, timeout=10)

    assert gateway.list_cards(postpaid.customer_id) == []
    assert requests.get(url, timeout=10).status_code == 404
