"""Credit by Checkout, against the stand-in for Stripe as a process."""

from __future__ import annotations

from datetime import timedelta

import pytest
import requests
from django.test import Client
from django.utils import timezone

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.models import StripeCall, StripeCustomer, StripeEvent, Topup, Transfer
from billing.services import stripe_client, stripe_event, topup
from billing.services.topup import (
    AMOUNT_CENTS_MAX,
    AMOUNT_CENTS_MIN,
    OPEN_TOPUPS_MAX,
    POLL_BATCH_SIZE,
)
from marketplace.core.errors import ConflictError
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT
from marketplace.models import Account, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import balances
from tests.billing.stand_in import fake as fake  # noqa: PLC0414 - a fixture
from tests.billing.stand_in import receiver as receiver  # noqa: PLC0414 - a fixture
from tests.billing.stand_in import told as told  # noqa: PLC0414 - a fixture
from tests.factories import APIKeyFactory
from tests.fakestripe.process import WEBHOOK_SECRET, FakeStripeProcess, Receiver

pytestmark = pytest.mark.django_db


@pytest.fixture
def actor(owner: User) -> Actor:
    return Actor(user=owner)


def pay(row: Topup, card: str = "4242424242424242") -> None:
    session = requests.Session()
    answer = session.post(
        row.checkout_url + "/pay", data={"card_number": card}, allow_redirects=False, timeout=10
    )
    assert answer.status_code in (302, 303, 402), answer.text


def start(actor: Actor, account: Account, amount_cents: int = 2_500) -> Topup:
    return topup.start_topup(actor, account, amount_cents=amount_cents)


def test_a_paid_page_is_credited_once(fake, actor: Actor, account: Account) -> None:
    row = start(actor, account)
    assert topup.settle_topup(row.pk).state == Topup.State.OPEN
    pay(row)

    for _ in range(3):
        row = topup.settle_topup(row.pk)

    assert row.state == Topup.State.CREDITED
    assert Transfer.objects.filter(kind="top_up").count() == 1
    assert balances()["wallet"] == (2_500 * NANOS_PER_CENT, 0)
    assert set(StripeCall.objects.values_list("endpoint", "state")) == {
        ("customers.create", "ok"),
        ("checkout.sessions.create", "ok"),
    }


def test_a_declined_card_credits_nothing(fake, actor: Actor, account: Account) -> None:
    row = start(actor, account)
    pay(row, "4000000000000002")

    assert topup.settle_topup(row.pk).state == Topup.State.OPEN
    assert not Transfer.objects.exists()


def test_a_second_topup_keeps_the_customer(fake, actor: Actor, account: Account) -> None:
    start(actor, account)
    start(actor, account)

    assert StripeCustomer.objects.count() == 1
    assert fake.count("customer") == 1


@pytest.mark.parametrize("amount_cents", [AMOUNT_CENTS_MIN - 1, AMOUNT_CENTS_MAX + 1, 0, -500])
def test_an_amount_out_of_bounds_is_refused(
    fake, owner_client: Client, account: Account, owner: User, amount_cents: int
) -> None:
    secret, _ = token(account, owner)

    answer = post_topup(secret, account, amount_cents)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert not Topup.objects.exists()
    assert fake.count("checkout.session") == 0


@pytest.mark.parametrize("amount_cents", [AMOUNT_CENTS_MIN, AMOUNT_CENTS_MAX])
def test_an_amount_at_the_bounds_is_accepted(
    fake, account: Account, owner: User, amount_cents: int
) -> None:
    secret, _ = token(account, owner)

    answer = post_topup(secret, account, amount_cents)

    assert answer.status_code == 201
    assert answer.json()["checkout_url"].startswith(fake.url)


def token(account: Account, user: User):
    from marketplace.core import keys

    secret = keys.generate(keys.TOKEN)
    key = APIKeyFactory(
        account=account,
        created_by=user,
        mode="token",
        digest=secret.digest,
        hint=secret.hint,
        scopes=["read", "billing"],
    )
    return secret.text, key


def post_topup(secret: str, account: Account, amount_cents: int):
    return Client().post(
        "/api/topups",
        {"account": account.slug, "amount_cents": amount_cents},
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}"},
    )


def test_one_page_too_many_ends_the_oldest(fake, actor: Actor, account: Account) -> None:
    rows = [start(actor, account) for _ in range(OPEN_TOPUPS_MAX + 1)]

    states = [Topup.objects.get(pk=row.pk).state for row in rows]

    assert states == [Topup.State.EXPIRED] + [Topup.State.OPEN] * OPEN_TOPUPS_MAX
    assert page_states(fake) == ["expired"] + ["open"] * OPEN_TOPUPS_MAX


def test_a_paid_page_is_credited_and_not_ended_to_make_room(
    fake, actor: Actor, account: Account
) -> None:
    rows = [start(actor, account) for _ in range(OPEN_TOPUPS_MAX)]
    pay(rows[0])

    start(actor, account)

    assert Topup.objects.get(pk=rows[0].pk).state == Topup.State.CREDITED
    assert page_states(fake) == ["complete"] + ["open"] * OPEN_TOPUPS_MAX


def test_payments_on_their_way_are_not_ended_to_make_room(
    fake, actor: Actor, account: Account
) -> None:
    for _ in range(OPEN_TOPUPS_MAX):
        row = start(actor, account)
        fake.order(f"checkout/{row.checkout_session_id}/pay", delayed=True)

    with pytest.raises(ConflictError):
        start(actor, account)

    assert Topup.objects.filter(state=Topup.State.OPEN).count() == OPEN_TOPUPS_MAX


def page_states(fake: FakeStripeProcess) -> list[str]:
    pages = fake.state()["objects"]["checkout.session"]
    return sorted((page["status"] for page in pages), key=["complete", "expired", "open"].index)


def test_failed_tries_do_not_lock_the_account_out(
    fake, actor: Actor, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.stripe.client.RETRIES_MAX", 0)  # They take their time.
    fake.order("faults", kind="unavailable", path="/v1/checkout/sessions", times=1_000)
    for _ in range(OPEN_TOPUPS_MAX + 1):
        with pytest.raises(StripeUnavailableError, match="Nothing was paid"):
            start(actor, account)
    assert requests.delete(f"{fake.url}/_test/faults", timeout=10).ok

    assert start(actor, account).checkout_url


def test_a_row_whose_page_is_refused_ends(fake, actor: Actor, account: Account, settings) -> None:
    settings.STRIPE_SECRET_KEY = "sk_test_changed"
    stripe_client.get_stripe.cache_clear()

    with pytest.raises(StripeRefusedError, match="Nothing was paid"):
        start(actor, account)

    assert Topup.objects.get().state == Topup.State.EXPIRED


@pytest.mark.parametrize("query", ["?session_id=cs_test_1", ""])
def test_a_payer_who_returns_while_stripe_is_silent_is_asked_to_wait(
    fake, actor: Actor, account: Account, owner: User, owner_client: Client, query: str
) -> None:
    row = start(actor, account)
    pay(row)
    secret, _ = token(account, owner)
    fake.kill()

    page = owner_client.get(f"/console/topups/{row.pk}{query}")
    answer = Client().get(f"/api/topups/{row.pk}", headers={"Authorization": f"Bearer {secret}"})
    fake.start()

    assert page.status_code == 200
    assert b"Waiting for Stripe" in page.content
    assert b"Nothing was" not in page.content
    assert (answer.status_code, answer.json()["state"]) == (200, "open")
    page = owner_client.get(f"/console/topups/{row.pk}{query}")
    assert b"were added to the wallet" in page.content


def test_others_see_no_topup_and_start_none(
    fake, actor: Actor, account: Account, outsider: User, teammate: User
) -> None:
    row = start(actor, account)
    elsewhere = Account.objects.get(slug="elsewhere")
    secret, _ = token(elsewhere, outsider)
    headers = {"Authorization": f"Bearer {secret}"}

    assert Client().get(f"/api/topups/{row.pk}", headers=headers).status_code == 404
    assert post_topup(secret, account, 2_500).status_code == 404
    assert Client().get(f"/api/wallet?account={account.slug}", headers=headers).status_code == 404
    assert Client().get(f"/api/usage?account={account.slug}", headers=headers).status_code == 404
    # A developer of the account may look, and may not spend its money.
    secret, _ = token(account, teammate)
    assert post_topup(secret, account, 2_500).status_code == 403
    assert Topup.objects.count() == 1


def test_a_payment_that_does_not_fit_is_set_aside(fake, actor: Actor, account: Account) -> None:
    row = start(actor, account)
    pay(row)
    Topup.objects.filter(pk=row.pk).update(amount_cents=9_900)

    assert topup.settle_topup(row.pk).state == Topup.State.QUARANTINED
    assert not Transfer.objects.exists()


def test_the_poll_finds_what_no_webhook_told_of(fake, actor: Actor, account: Account) -> None:
    row = start(actor, account)
    pay(row)
    Topup.objects.update(created_at=timezone.now() - timedelta(minutes=5))

    assert topup.poll_topups() == 1

    row.refresh_from_db()
    assert row.state == Topup.State.CREDITED


def test_the_poll_finds_a_page_whose_making_was_not_answered(
    fake, actor: Actor, account: Account
) -> None:
    row = start(actor, account)
    pay(row)
    # As after a crash between Stripe's answer and our write.
    Topup.objects.update(
        checkout_session_id=None, checkout_url="", created_at=timezone.now() - timedelta(minutes=5)
    )

    topup.poll_topups()

    row.refresh_from_db()
    assert row.state == Topup.State.CREDITED
    assert balances()["wallet"] == (2_500 * NANOS_PER_CENT, 0)


def age_all() -> None:
    Topup.objects.update(created_at=timezone.now() - timedelta(minutes=5))


def start_lost(actor: Actor, account: Account) -> Topup:
    """A row whose page Stripe does not know: the key was changed, or test data wiped."""
    return Topup.objects.create(
        account=account,
        created_by=actor.user,
        amount_cents=2_500,
        checkout_session_id=f"cs_test_{new_id()}",
    )


def test_the_poll_passes_a_page_that_stripe_does_not_know(
    fake, actor: Actor, account: Account
) -> None:
    lost, paid = start_lost(actor, account), start(actor, account)
    pay(paid)
    age_all()
    Topup.objects.filter(pk=lost.pk).update(created_at=timezone.now() - timedelta(hours=1))

    assert topup.poll_topups() == 2

    lost.refresh_from_db()
    paid.refresh_from_db()
    assert (lost.state, paid.state) == (Topup.State.OPEN, Topup.State.CREDITED)


def test_stuck_rows_do_not_hide_a_newer_one_from_the_poll(
    fake, actor: Actor, account: Account
) -> None:
    paid = start(actor, account)
    pay(paid)
    for _ in range(POLL_BATCH_SIZE):
        start_lost(actor, account)
    Topup.objects.update(created_at=timezone.now() - timedelta(hours=1))
    Topup.objects.filter(pk=paid.pk).update(created_at=timezone.now() - timedelta(minutes=5))

    assert topup.poll_topups() == POLL_BATCH_SIZE
    paid.refresh_from_db()
    assert paid.state == Topup.State.OPEN
    topup.poll_topups()

    paid.refresh_from_db()
    assert paid.state == Topup.State.CREDITED


def test_the_poll_stops_while_stripe_does_not_answer(fake, actor: Actor, account: Account) -> None:
    start(actor, account)
    start(actor, account)
    age_all()
    fake.kill()

    assert topup.poll_topups() == 1
    fake.start()

    assert topup.poll_topups() == 2


@pytest.mark.parametrize(
    ("succeeds", "state", "transfers"),
    [(True, Topup.State.CREDITED, 1), (False, Topup.State.EXPIRED, 0)],
)
def test_a_delayed_payment_ends_the_row_either_way(
    fake, actor: Actor, account: Account, succeeds: bool, state: str, transfers: int
) -> None:
    row = start(actor, account)
    fake.order(f"checkout/{row.checkout_session_id}/pay", delayed=True)
    assert topup.settle_topup(row.pk).state == Topup.State.OPEN

    fake.order(f"checkout/{row.checkout_session_id}/settle", succeeds=succeeds)

    assert topup.settle_topup(row.pk).state == state
    assert Transfer.objects.filter(kind="top_up").count() == transfers


def deliver(receiver: Receiver, count: int = 1) -> list:
    from tests.fakestripe.process import wait_until

    wait_until(lambda: len(completed(receiver)) >= count, 10)
    return completed(receiver)


def completed(receiver: Receiver) -> list:
    return [
        delivery
        for delivery in receiver.deliveries
        if b'"checkout.session.completed"' in delivery.payload
    ]


def post_webhook(payload: bytes, signature: str):
    return Client().post(
        "/stripe/webhook",
        payload,
        content_type="application/json",
        headers={"Stripe-Signature": signature},
    )


def test_a_webhook_credits_and_its_repeats_do_not(
    fake, receiver: Receiver, actor: Actor, account: Account
) -> None:
    row = start(actor, account)
    pay(row)
    delivery = deliver(receiver)[0]

    for _ in range(3):
        assert post_webhook(delivery.payload, delivery.signature).status_code == 200
    for _ in range(2):
        stripe_event.sweep_events()

    assert StripeEvent.objects.count() == 1
    assert StripeEvent.objects.get().state == StripeEvent.State.APPLIED
    assert Transfer.objects.filter(kind="top_up").count() == 1
    assert balances()["wallet"] == (2_500 * NANOS_PER_CENT, 0)


def test_a_webhook_is_believed_in_nothing_but_that_something_happened(
    fake, receiver: Receiver, actor: Actor, account: Account
) -> None:
    """Even a well-signed event that claims a payment is checked against Stripe."""
    paid, unpaid = start(actor, account), start(actor, account)
    pay(paid)
    delivery = deliver(receiver)[0]
    claim = delivery.payload.replace(
        paid.checkout_session_id.encode(), unpaid.checkout_session_id.encode()
    )

    assert post_webhook(claim, sign(claim)).status_code == 200
    stripe_event.sweep_events()

    unpaid.refresh_from_db()
    assert unpaid.state == Topup.State.OPEN
    assert not Transfer.objects.exists()


def sign(payload: bytes, *, age_s: int = 0, secret: str = WEBHOOK_SECRET) -> str:
    import hashlib
    import hmac
    import time

    moment = int(time.time()) - age_s
    digest = hmac.new(secret.encode(), b"%d." % moment + payload, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


@pytest.mark.parametrize(
    ("_case", "signature", "reason"),
    [
        ("none", lambda body: "", "signature_missing"),
        ("forged", lambda body: sign(body, secret="whsec_other"), "signature_invalid"),
        ("of another body", lambda body: sign(b"{}"), "signature_invalid"),
        ("replayed after an hour", lambda body: sign(body, age_s=3_600), "timestamp_too_old"),
        ("from tomorrow", lambda body: sign(body, age_s=-86_400), "timestamp_in_future"),
    ],
)
def test_a_webhook_not_signed_now_writes_nothing(
    fake, receiver: Receiver, actor: Actor, account: Account, _case: str, signature, reason: str
) -> None:
    row = start(actor, account)
    pay(row)
    payload = deliver(receiver)[0].payload

    answer = post_webhook(payload, signature(payload))

    assert (answer.status_code, answer.json()["code"]) == (400, "webhook_refused")
    assert answer.json()["reason"] == reason
    assert not StripeEvent.objects.exists()
    assert not Transfer.objects.exists()


def test_a_webhook_that_is_too_large_is_refused(fake) -> None:
    body = b"x" * (512 * 1024 + 1)

    assert post_webhook(body, sign(body)).status_code == 413


def test_a_failing_event_is_tried_again(
    fake, receiver: Receiver, actor: Actor, account: Account
) -> None:
    row = start(actor, account)
    pay(row)
    delivery = deliver(receiver)[0]
    post_webhook(delivery.payload, delivery.signature)
    fake.kill()
    stripe_event.sweep_events()
    assert StripeEvent.objects.get().state == StripeEvent.State.FAILED
    fake.start()

    stripe_event.sweep_events()

    assert StripeEvent.objects.get().state == StripeEvent.State.APPLIED
    assert Transfer.objects.filter(kind="top_up").count() == 1
