"""Creators become known to Stripe, and our record follows what Stripe says."""

from __future__ import annotations

import hashlib
import hmac
import time
from datetime import timedelta

import pytest
import requests
from django.test import Client
from django.utils import timezone

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.models import ConnectAccount, StripeCall, StripeEvent
from billing.selectors.payout import find_obstacle
from billing.services import connect as service
from billing.services import stripe_event
from billing.services.connect import (
    COUNTRIES,
    poll_connect_accounts,
    refresh_account,
    start_onboarding,
)
from billing.stripe.client import StripeGateway
from marketplace.core.errors import InvalidInputError
from marketplace.models import Account, AuditEvent, User
from marketplace.selectors.access import Actor
from tests.billing.payouts import connect
from tests.billing.stand_in import fake as fake  # noqa: PLC0414 - a fixture
from tests.billing.stand_in import receiver as receiver  # noqa: PLC0414 - a fixture
from tests.billing.stand_in import told as told  # noqa: PLC0414 - a fixture
from tests.fakestripe.process import (
    WEBHOOK_SECRET,
    wait_until,
)

pytestmark = pytest.mark.django_db

CAPABILITY = "v2.core.account[configuration.recipient].capability_status_updated"


@pytest.fixture
def actor(owner: User) -> Actor:
    return Actor(user=owner)


def test_onboarding_makes_one_account_and_a_link_for_each_click(fake, actor, account) -> None:
    first = start_onboarding(actor, account, country="DE")
    second = start_onboarding(actor, account, country="DE")

    assert first != second
    assert first.startswith(fake.url)
    assert fake.count("v2.core.account") == 1
    row = ConnectAccount.objects.get()
    assert (row.creator, row.country, row.email) == (account, "DE", "owner@example.com")
    assert row.transfers_status == ConnectAccount.Transfers.RESTRICTED
    assert len(row.requirements) == 3
    # Each call had its row before it left.
    endpoints = sorted(StripeCall.objects.values_list("endpoint", "state"))
    assert endpoints == [("v2.core.account_links.create", "ok")] * 2 + [
        ("v2.core.accounts.create", "ok")
    ]
    assert AuditEvent.objects.filter(action="connect.start").count() == 1


def test_a_teammates_click_is_the_same_request(fake, actor, account, teammate) -> None:
    fake.order("faults", kind="drop_after_effect", path="/v2/core/accounts", times=3)
    with pytest.raises(StripeUnavailableError):
        start_onboarding(actor, account, country="DE")

    start_onboarding(Actor(user=teammate), account, country="DE")

    assert fake.count("v2.core.account") == 1
    assert ConnectAccount.objects.get().email == "owner@example.com"


@pytest.mark.parametrize("country", ["", "XX", "de", "KP", "Germany"])
def test_a_country_that_cannot_be_paid_is_refused(fake, actor, account, country: str) -> None:
    with pytest.raises(InvalidInputError):
        start_onboarding(actor, account, country=country)

    assert not ConnectAccount.objects.exists()
    assert fake.count("v2.core.account") == 0


def test_after_a_refusal_another_country_can_be_tried(fake, actor, account, monkeypatch) -> None:
    kept = StripeGateway.create_creator_account

    def refuse(gateway: StripeGateway, **asked: object) -> object:
        if asked["country"] == "JP":
            raise StripeRefusedError("Not there.")
        return kept(gateway, **asked)

    monkeypatch.setattr(StripeGateway, "create_creator_account", refuse)
    with pytest.raises(StripeRefusedError):
        start_onboarding(actor, account, country="JP")
    start_onboarding(actor, account, country="DE")

    row = ConnectAccount.objects.get()
    assert (row.country, fake.count("v2.core.account")) == ("DE", 1)
    # Later clicks do not move the account to another country.
    start_onboarding(actor, account, country="FR")
    row.refresh_from_db()
    assert row.country == "DE"


def onboarded(fake, actor, account, outcome: str = "complete") -> ConnectAccount:
    url = start_onboarding(actor, account, country="DE")
    requests.post(url, data={"outcome": outcome}, allow_redirects=False, timeout=10)
    return ConnectAccount.objects.get()


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        ("complete", "below_minimum"),
        ("incomplete", "requirements_due"),
        ("wrong", "requirements_due"),
        ("review", "transfers_inactive"),
    ],
)
def test_what_the_creator_entered_decides(fake, actor, account, outcome: str, code: str) -> None:
    row = refresh_account(onboarded(fake, actor, account, outcome))

    assert row.is_ready is (outcome == "complete")
    assert row.checked_at is not None
    assert find_obstacle(account).code == code


def test_a_status_that_we_do_not_know_pays_nobody(fake, actor, account, monkeypatch) -> None:
    row = onboarded(fake, actor, account)
    kept = StripeGateway.retrieve_creator_account

    def say(gateway: StripeGateway, connect_account_id: str) -> object:
        import dataclasses

        return dataclasses.replace(kept(gateway, connect_account_id), transfers_status="paused")

    monkeypatch.setattr(StripeGateway, "retrieve_creator_account", say)

    assert not refresh_account(row).is_ready


def post_webhook(payload: bytes, signature: str) -> int:
    headers = {"Stripe-Signature": signature}
    answer = Client().post(
        "/stripe/webhook", payload, content_type="application/json", headers=headers
    )
    return answer.status_code


def sign(payload: bytes) -> str:
    moment = int(time.time())
    digest = hmac.new(
        WEBHOOK_SECRET.encode(), b"%d." % moment + payload, hashlib.sha256
    ).hexdigest()
    return f"t={moment},v1={digest}"


def test_a_thin_event_refreshes_the_record_once_or_often(fake, receiver, actor, account) -> None:
    row = onboarded(fake, actor, account)
    wait_until(lambda: any(CAPABILITY.encode() in one.payload for one in receiver.deliveries))
    events = [one for one in receiver.deliveries if CAPABILITY.encode() in one.payload]
    assert not ConnectAccount.objects.get().is_ready

    for _ in range(2):
        assert post_webhook(events[0].payload, events[0].signature) == 200
        stripe_event.sweep_events()

    row.refresh_from_db()
    assert row.is_ready
    assert StripeEvent.objects.get().state == StripeEvent.State.APPLIED


def test_an_event_is_believed_in_nothing_but_that_something_happened(
    fake, receiver, actor, account
) -> None:
    """A well-signed event that claims another account's is asked for at Stripe."""
    onboarded(fake, actor, account)
    wait_until(lambda: any(CAPABILITY.encode() in one.payload for one in receiver.deliveries))
    [event, *_] = [one for one in receiver.deliveries if CAPABILITY.encode() in one.payload]
    row = ConnectAccount.objects.get()
    fake.order(f"accounts/{row.connect_account_id}/capability", status="restricted")

    post_webhook(event.payload, sign(event.payload))
    stripe_event.sweep_events()

    row.refresh_from_db()
    assert row.transfers_status == ConnectAccount.Transfers.RESTRICTED


def test_events_about_others_are_ignored(fake) -> None:
    assert service.refresh_by_event("acct_of_somebody") is False


def test_the_poll_asks_for_those_not_looked_at_for_long(fake, actor, account) -> None:
    row = onboarded(fake, actor, account)
    assert poll_connect_accounts() == 0
    ConnectAccount.objects.update(checked_at=timezone.now() - timedelta(hours=7))

    assert poll_connect_accounts() == 1
    row.refresh_from_db()
    assert row.is_ready
    assert poll_connect_accounts() == 0


def test_the_poll_passes_an_account_that_stripe_does_not_know(fake, actor, account) -> None:
    row = onboarded(fake, actor, account)
    lost = connect(Account.objects.create(slug="lost", name="Lost"), "acct_lost")
    ConnectAccount.objects.filter(pk=row.pk).update(checked_at=timezone.now() - timedelta(days=1))

    assert poll_connect_accounts() == 2
    row.refresh_from_db()
    lost.refresh_from_db()
    assert row.is_ready
    assert lost.checked_at is not None


def test_the_poll_stops_while_stripe_does_not_answer(fake, actor, account) -> None:
    connect(account)
    connect(Account.objects.create(slug="other", name="Other"), "acct_other")
    fake.kill()
    try:
        assert poll_connect_accounts() == 1
    finally:
        fake.start()


# --- Pages -------------------------------------------------------------------------


def test_a_creator_goes_to_stripe_and_comes_back(fake, owner_client, account) -> None:
    page = owner_client.get("/dashboard/payouts").content.decode()
    assert "Not set up yet" in page
    assert "Tell Stripe who you are" in page

    answer = owner_client.post("/dashboard/payouts?account=acme", {"country": "DE"})
    assert answer.status_code == 302
    assert fake.url in answer.url
    back = requests.post(
        answer.url, data={"outcome": "complete"}, allow_redirects=False, timeout=10
    ).headers["Location"]
    assert back == "http://127.0.0.1:8000/dashboard/payouts/return?account=acme"
    page = owner_client.get(back.removeprefix("http://127.0.0.1:8000")).content.decode()

    assert "Active" in page
    assert "A payout is $25.00 or more" in page
    # The browser checks the form along its redirects.
    policy = owner_client.get("/dashboard/payouts")["Content-Security-Policy"]
    assert "form-action 'self'" in policy


def test_the_page_says_what_is_missing_and_leads_on(fake, owner_client, account) -> None:
    answer = owner_client.post("/dashboard/payouts?account=acme", {"country": "DE"})
    requests.post(answer.url, data={"outcome": "wrong"}, allow_redirects=False, timeout=10)

    page = owner_client.get("/dashboard/payouts/return?account=acme").content.decode()

    assert "Stripe still asks for" in page
    assert "identity.individual.documents.primary_verification" in page
    # The country is not asked for again.
    assert 'name="country"' not in page
    again = owner_client.post("/dashboard/payouts?account=acme")
    assert (again.status_code, again.url.startswith(fake.url)) == (302, True)
    # A link that was used leads back here.
    expired = requests.get(answer.url, allow_redirects=False, timeout=10).headers["Location"]
    page = owner_client.get(expired.removeprefix("http://127.0.0.1:8000")).content.decode()
    assert "was used or has expired" in page


def test_a_wrong_country_is_told(fake, owner_client, account) -> None:
    for country in ("", "XX"):
        answer = owner_client.post("/dashboard/payouts?account=acme", {"country": country})
        assert answer.status_code == 422
    assert not ConnectAccount.objects.exists()
    assert "DE" in COUNTRIES


def test_who_may_not_handle_money_may_look(fake, teammate_client, account) -> None:
    page = teammate_client.get("/dashboard/payouts?account=acme")
    assert b"Continue to Stripe" not in page.content

    answer = teammate_client.post("/dashboard/payouts?account=acme", {"country": "DE"})
    assert answer.status_code == 403
    assert fake.count("v2.core.account") == 0


def test_while_stripe_is_silent_the_page_says_so(fake, owner_client, account) -> None:
    connect(account)
    fake.kill()
    try:
        page = owner_client.get("/dashboard/payouts/return?account=acme").content.decode()
        assert "Stripe does not answer right now" in page
        answer = owner_client.post("/dashboard/payouts?account=acme")
        assert answer.status_code == 503
    finally:
        fake.start()
