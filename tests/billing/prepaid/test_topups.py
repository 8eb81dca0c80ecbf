"""Tax, fees and mismatches of top-ups; limits on starting them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from billing.errors import StripeUnavailableError
from billing.models import (
    Dispute,
    LedgerAccount,
    ReviewCase,
    StripeEvent,
    Topup,
    TopupRefund,
    Transfer,
)
from billing.services import stripe_event, topup
from billing.services.topup import STARTS_PER_HOUR_MAX
from billing.stripe.client import StripeGateway
from marketplace.core.errors import LimitExceededError
from marketplace.core.money import NANOS_PER_CENT
from tests.billing.prepaid.flows import GOOD, Flows, cents_by_kind, receive
from tests.billing.test_ledger import broken

pytestmark = pytest.mark.django_db


def test_the_fee_is_booked_once_from_the_charge(flows: Flows) -> None:
    row = flows.buy(2_500)

    for _ in range(3):
        topup.settle_topup(row.pk)
        topup.note_payments()
        topup.note_payment(row.pk)

    fee = row.fee_cents
    assert fee
    assert Transfer.objects.filter(kind="fee").count() == 1
    assert cents_by_kind() == {
        "wallet": 2_500,
        "stripe_clearing": -(2_500 - fee),
        "stripe_fee": -fee,
    }
    assert (row.charge_id, row.card_fingerprint) == (flows.charge_of(row), row.card_fingerprint)
    assert row.card_fingerprint
    assert (row.card_funding, row.risk_level) == ("credit", "normal")
    assert broken() == set()


def test_what_is_not_known_of_a_payment_is_noted_later(flows: Flows, quick: None) -> None:
    row = flows.start()
    flows.pay(row)
    flows.fake.order("faults", kind="unavailable", path="/v1/charges/*", times=1)

    assert topup.settle_topup(row.pk).state == Topup.State.CREDITED
    assert "stripe_fee" not in cents_by_kind()
    assert topup.note_payments() == 1

    assert cents_by_kind()["stripe_fee"] < 0
    assert topup.note_payments() == 0


def test_tax_is_taken_on_top_and_put_aside(flows: Flows, settings) -> None:
    settings.STRIPE_TAX = True
    flows.fake.order("tax", rate_bps=1_900)

    row = flows.buy(2_500)

    assert (row.amount_cents, row.tax_cents, row.gross_cents) == (2_500, 475, 2_975)
    sums = cents_by_kind()
    assert (sums["wallet"], sums["tax_payable"]) == (2_500, 475)
    assert sums["stripe_clearing"] == -(2_975 - row.fee_cents)
    assert broken() == set()


def test_without_the_setting_no_tax_is_asked_for(flows: Flows) -> None:
    flows.fake.order("tax", rate_bps=1_900)

    row = flows.buy(2_500)

    assert (row.state, row.tax_cents) == (Topup.State.CREDITED, 0)
    assert "tax_payable" not in cents_by_kind()


@pytest.mark.parametrize(
    ("changes", "_what"),
    [
        ({"amount_subtotal": 2_400}, "less"),
        ({"amount_total": 2_501}, "not the sum"),
        ({"currency": "eur"}, "another currency"),
        ({"customer": "cus_another"}, "another customer"),
        ({"metadata": {"topup_id": "another"}}, "another row"),
        ({"amount_tax": 100, "amount_total": 2_600}, "tax that nobody asked for"),
        ({"payment_intent_id": None}, "no payment"),
    ],
)
def test_a_payment_that_does_not_fit_is_quarantined(
    flows: Flows, monkeypatch: pytest.MonkeyPatch, changes: dict, _what: str
) -> None:
    row = flows.start(2_500)
    flows.pay(row)
    honest = StripeGateway.retrieve_checkout_session

    monkeypatch.setattr(
        StripeGateway,
        "retrieve_checkout_session",
        lambda self, session_id: replace(honest(self, session_id), **changes),
    )

    assert topup.settle_topup(row.pk).state == Topup.State.QUARANTINED
    assert cents_by_kind() == {}
    monkeypatch.undo()
    # Set aside is set aside, whatever comes.
    assert topup.settle_topup(row.pk).state == Topup.State.QUARANTINED


def test_as_many_pages_an_hour_as_there_may_be_and_one_more(flows: Flows) -> None:
    Topup.objects.bulk_create(
        Topup(account=flows.account, amount_cents=500, state=Topup.State.EXPIRED)
        for _ in range(STARTS_PER_HOUR_MAX - 1)
    )
    flows.start()

    with pytest.raises(LimitExceededError):
        flows.start()

    old = Topup.objects.filter(state=Topup.State.EXPIRED)
    old.update(created_at=timezone.now() - timedelta(hours=1, minutes=1))
    assert flows.start().checkout_url


def test_events_about_strangers_are_ignored(flows: Flows) -> None:
    """Objects that are not ours, though they are on the same Stripe account."""
    customer = flows.fake.request("POST", "/v1/customers", {}, Idempotency_Key="c").json()["id"]
    session = flows.fake.request(
        "POST",
        "/v1/checkout/sessions",
        {
            "mode": "payment",
            "customer": customer,
            "line_items[0][quantity]": "1",
            "line_items[0][price_data][currency]": "usd",
            "line_items[0][price_data][unit_amount]": "2500",
            "line_items[0][price_data][product_data][name]": "Tea",
            "success_url": "https://example.com",
        },
        Idempotency_Key="s",
    ).json()["id"]
    flows.fake.order(f"checkout/{session}/pay", card_number=GOOD)
    charge = flows.objects("charge")[-1]
    flows.fake.order(f"charges/{charge['id']}/fraud_warning")
    refund = {"payment_intent": charge["payment_intent"], "amount": "100"}
    flows.fake.request("POST", "/v1/refunds", refund, Idempotency_Key="r")
    flows.fake.order(f"charges/{charge['id']}/dispute")
    types = {event["type"] for event in flows.events()}
    assert {"charge.dispute.created", "refund.created", "payment_intent.succeeded"} <= types

    receive(flows.events())

    assert set(StripeEvent.objects.values_list("state", flat=True)) == {"ignored"}
    assert cents_by_kind() == {}
    for model in (Dispute, ReviewCase, TopupRefund, Topup):
        assert not model.objects.exists()


def test_an_event_about_what_stripe_does_not_know_is_kept_as_failed(flows: Flows) -> None:
    unknown = {"id": "evt", "type": "charge.dispute.created", "data": {"object": {"id": "du_x"}}}

    receive([unknown])

    assert StripeEvent.objects.get().state == StripeEvent.State.FAILED
    assert cents_by_kind() == {}


def test_undelivered_events_are_fetched_once(flows: Flows) -> None:
    row = flows.start()
    flows.pay(row)

    assert stripe_event.poll_undelivered() > 0
    assert stripe_event.poll_undelivered() == 0
    stripe_event.sweep_events()

    row.refresh_from_db()
    assert row.state == Topup.State.CREDITED


def test_the_wallet_is_the_payers_own(flows: Flows) -> None:
    row = flows.buy(2_500)

    wallet = LedgerAccount.objects.get(kind="wallet")
    assert (wallet.holder_id, wallet.posted_nanos) == (row.account_id, 2_500 * NANOS_PER_CENT)


@pytest.mark.parametrize("kind", ["drop_after_effect", "error_after_effect", "reset"])
def test_a_page_whose_making_was_not_answered_is_credited(
    flows: Flows, quick: None, kind: str
) -> None:
    flows.start()  # The customer is known.
    Topup.objects.all().delete()
    flows.fake.order("faults", kind=kind, method="POST", path="/v1/checkout/sessions")
    with pytest.raises(StripeUnavailableError):
        flows.start()
    row = Topup.objects.get()
    pages = [
        one
        for one in flows.objects("checkout.session")
        if one["metadata"] == {"topup_id": str(row.pk)}
    ]
    assert len(pages) == (0 if kind == "reset" else 1)
    for page in pages:
        flows.fake.order(f"checkout/{page['id']}/pay", card_number=GOOD)
    Topup.objects.update(created_at=timezone.now() - timedelta(minutes=5))

    for _ in range(2):
        topup.poll_topups()

    assert cents_by_kind().get("wallet", 0) == 2_500 * len(pages)


def test_a_mismatch_would_be_credited_without_the_comparison(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of what sets payments aside: it is this comparison and nothing else."""
    row = flows.start(2_500)
    flows.pay(row)
    Topup.objects.filter(pk=row.pk).update(amount_cents=9_900)
    monkeypatch.setattr(
        topup, "_credit", lambda topup_, page: topup._book(topup_, page.payment_intent_id, 0)
    )

    assert topup.settle_topup(row.pk).state == Topup.State.CREDITED
    assert flows.wallet_cents() == 9_900
