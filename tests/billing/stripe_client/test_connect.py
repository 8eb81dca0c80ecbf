"""Creators' accounts, transfers and reversals, by the real SDK against the stand-in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import requests

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.stripe.client import ConnectAccount, ConnectTransfer, StripeGateway, TransferReversal
from tests.billing.stripe_client.traffic import ACCOUNT_ID
from tests.fakestripe.process import wait_until

CAPABILITY = "v2.core.account[configuration.recipient].capability_status_updated"


def today() -> dict[str, datetime]:
    now = datetime.now(UTC)
    return {"created_from": now - timedelta(hours=1), "created_until": now + timedelta(hours=1)}


def open_account(gateway: StripeGateway, **changes: str) -> ConnectAccount:
    params = {
        "email": "creator@example.com",
        "country": "DE",
        "display_name": "Creator",
        "idempotency_key": "connect:1",
    }
    return gateway.create_creator_account(account_id=ACCOUNT_ID, **(params | changes))


def link(gateway: StripeGateway, account: ConnectAccount, key: str = "link:1") -> str:
    return gateway.create_account_link(
        connect_account_id=account.id,
        refresh_url="https://shop.example.com/connect/again",
        return_url="https://shop.example.com/connect/done",
        idempotency_key=key,
    )


def click(url: str, outcome: str) -> requests.Response:
    return requests.post(url, data={"outcome": outcome}, allow_redirects=False, timeout=10)


@pytest.fixture
def account(fake, gateway) -> ConnectAccount:
    """An account that may receive, and money to send it."""
    opened = open_account(gateway)
    fake.order(f"accounts/{opened.id}/onboard")
    fake.order("balance/move", amount=10_000)
    return opened


def transfer(gateway: StripeGateway, account: ConnectAccount, **changes) -> ConnectTransfer:
    params = {
        "amount_cents": 4_000,
        "destination": account.id,
        "transfer_group": "payout-1",
        "metadata": {"payout_id": "1"},
        "idempotency_key": "payout:1",
    }
    return gateway.create_transfer(**(params | changes))


def reverse(gateway: StripeGateway, sent: ConnectTransfer, amount_cents: int, key: str = "r:1"):
    return gateway.reverse_transfer(
        transfer_id=sent.id,
        amount_cents=amount_cents,
        metadata={"dispute": "1"},
        idempotency_key=key,
    )


def test_a_creator_is_onboarded_on_a_page(fake, gateway, receiver):
    opened = open_account(gateway)
    assert opened == ConnectAccount(
        id=opened.id,
        country="DE",
        transfers_status="restricted",
        requirements=opened.requirements,
        metadata={"account_id": str(ACCOUNT_ID)},
    )
    assert len(opened.requirements) == 3
    address = link(gateway, opened)
    page = requests.get(address, timeout=10)
    assert "Stand-in for Stripe: no money moves" in page.text
    assert "configuration.recipient.default_outbound_destination" in page.text
    assert "Creator" in page.text

    answer = click(address, "complete")

    assert answer.headers["Location"] == "https://shop.example.com/connect/done"
    ready = gateway.retrieve_creator_account(opened.id)
    assert (ready.transfers_status, ready.requirements) == ("active", ())
    # The link is used up.
    again = requests.get(address, allow_redirects=False, timeout=10)
    assert again.headers["Location"] == "https://shop.example.com/connect/again"


@pytest.mark.parametrize(
    ("outcome", "status", "count"),
    [("incomplete", "restricted", 1), ("wrong", "restricted", 1), ("review", "pending", 0)],
)
def test_who_gives_too_little_stays_restricted(fake, gateway, outcome, status, count):
    opened = open_account(gateway)
    click(link(gateway, opened), outcome)
    found = gateway.retrieve_creator_account(opened.id)
    assert (found.transfers_status, len(found.requirements)) == (status, count)

    fake.order("clock", advance_s=3_601)

    later = gateway.retrieve_creator_account(opened.id).transfers_status
    assert later == ("active" if outcome == "review" else status)


def test_a_link_expires_and_nonsense_changes_nothing(fake, gateway):
    opened = open_account(gateway)
    address = link(gateway, opened)
    assert click(address, "riches").headers["Location"].endswith("/again")
    assert click(f"{address}x", "complete").status_code == 404
    fake.order("clock", advance_s=601)

    assert click(address, "complete").headers["Location"].endswith("/again")
    assert gateway.retrieve_creator_account(opened.id).transfers_status == "restricted"


def test_some_countries_are_not_served(gateway):
    assert open_account(gateway, country="KP").transfers_status == "unsupported"
    with pytest.raises(StripeRefusedError):
        open_account(gateway, country="Germany", idempotency_key="connect:2")


def test_a_lost_answer_leaves_one_account_and_a_failure_is_tried_again(fake, gateway):
    fake.order("faults", kind="drop_after_effect", path="/v2/core/accounts", times=3)
    with pytest.raises(StripeUnavailableError):
        open_account(gateway)
    opened = open_account(gateway)
    assert fake.count("v2.core.account") == 1
    # API v2 keeps its keys for 30 days.
    fake.order("clock", advance_s=29 * 86_400)
    assert open_account(gateway).id == opened.id

    fake.order("faults", kind="error_after_effect", path="/v2/core/account_links")
    with pytest.raises(StripeUnavailableError):
        link(gateway, opened)
    assert link(gateway, opened).startswith(fake.url)


def test_thin_events_pass_the_guard_and_name_the_account(fake, gateway, receiver):
    opened = open_account(gateway)
    fake.order(f"accounts/{opened.id}/onboard")
    receiver.wait_for(3)
    events = [gateway.verify_webhook(item.payload, item.signature) for item in receiver.deliveries]
    found = {event.type: event for event in events}

    assert set(found) == {
        "v2.core.account.created",
        "v2.core.account[requirements].updated",
        CAPABILITY,
    }
    assert {event.object_id for event in events} == {opened.id}
    assert abs(found[CAPABILITY].created - datetime.now(UTC).timestamp()) < 60
    bodies = [json.loads(item.payload) for item in receiver.deliveries]
    assert not any("data" in body for body in bodies)


def test_a_transfer_draws_on_the_available_balance(fake, gateway, account):
    before = gateway.retrieve_balance().available_cents
    sent = transfer(gateway, account)
    [movement] = [
        row for row in gateway.list_balance_transactions(**today()) if row.type == "transfer"
    ]

    assert sent == ConnectTransfer(
        id=sent.id,
        amount=4_000,
        amount_reversed=0,
        destination=account.id,
        transfer_group="payout-1",
        metadata={"payout_id": "1"},
        balance_transaction_id=movement.id,
        created_at=sent.created_at,
    )
    assert (movement.amount, movement.fee, movement.source) == (-4_000, 0, sent.id)
    assert gateway.retrieve_balance().available_cents == before - 4_000
    assert fake.state()["connected_balances_cents"] == {account.id: 4_000}
    assert gateway.retrieve_transfer(sent.id) == sent
    assert gateway.list_transfers(**today()) == [sent]
    assert gateway.list_transfers(**today(), transfer_group="payout-1") == [sent]
    assert gateway.list_transfers(**today(), transfer_group="payout-2") == []


@pytest.mark.parametrize(("amount_cents", "is_enough"), [(10_000, True), (10_001, False)])
def test_no_more_is_transferred_than_is_available(fake, gateway, account, amount_cents, is_enough):
    if is_enough:
        assert transfer(gateway, account, amount_cents=amount_cents).amount == amount_cents
        return
    with pytest.raises(StripeRefusedError) as caught:
        transfer(gateway, account, amount_cents=amount_cents)

    assert caught.value.params["stripe_code"] == "balance_insufficient"
    assert fake.count("transfer") == 0


def test_who_may_not_receive_is_sent_nothing(fake, gateway, account):
    fake.order(f"accounts/{account.id}/capability", status="restricted", due="identity.individual")
    assert gateway.retrieve_creator_account(account.id).requirements == ("identity.individual",)
    with pytest.raises(StripeRefusedError) as caught:
        transfer(gateway, account)

    assert caught.value.params["stripe_code"] == "insufficient_capabilities_for_transfer"
    with pytest.raises(StripeRefusedError):
        transfer(gateway, account, destination="acct_nobody", idempotency_key="payout:2")
    assert fake.count("transfer") == 0


def test_a_lost_transfer_is_sent_once(fake, gateway, account):
    fake.order("faults", kind="drop_after_effect", path="/v1/transfers", times=3)
    with pytest.raises(StripeUnavailableError):
        transfer(gateway, account)

    assert [transfer(gateway, account)] == gateway.list_transfers(**today())
    assert fake.state()["connected_balances_cents"] == {account.id: 4_000}


def test_a_refused_transfer_stays_refused_under_its_key(fake, gateway, account):
    # Why every attempt of a payout needs a key of its own.
    with pytest.raises(StripeRefusedError):
        transfer(gateway, account, amount_cents=20_000)
    fake.order("balance/move", amount=50_000)
    with pytest.raises(StripeRefusedError):
        transfer(gateway, account, amount_cents=20_000)

    assert transfer(gateway, account, amount_cents=20_000, idempotency_key="payout:1:2").amount


def test_a_transfer_is_reversed_in_parts(fake, gateway, account):
    sent = transfer(gateway, account)
    first = reverse(gateway, sent, 1_500)
    assert first == TransferReversal(
        id=first.id,
        transfer_id=sent.id,
        amount=1_500,
        metadata={"dispute": "1"},
        balance_transaction_id=first.balance_transaction_id,
        created_at=first.created_at,
    )
    assert reverse(gateway, sent, 1_500) == first
    second = reverse(gateway, sent, 2_500, "r:2")
    movement = gateway.retrieve_balance_transaction(first.balance_transaction_id)

    assert gateway.list_reversals(sent.id) == [second, first]
    assert gateway.retrieve_transfer(sent.id).amount_reversed == 4_000
    assert (movement.type, movement.amount, movement.source) == ("transfer_refund", 1_500, first.id)
    assert gateway.retrieve_balance().available_cents == 10_000
    with pytest.raises(StripeRefusedError):
        reverse(gateway, sent, 1, "r:3")


def test_what_the_creator_has_spent_cannot_be_taken_back(fake, gateway, account):
    sent = transfer(gateway, account)
    fake.order(f"accounts/{account.id}/spend", amount=3_000)
    with pytest.raises(StripeRefusedError) as caught:
        reverse(gateway, sent, 1_001)
    assert caught.value.params["stripe_code"] == "balance_insufficient"
    assert fake.count("transfer_reversal") == 0

    assert reverse(gateway, sent, 1_000, "r:2").amount == 1_000


def test_webhooks_of_transfers_name_them(fake, gateway, account, receiver):
    sent = transfer(gateway, account)
    reverse(gateway, sent, 100)

    def seen() -> set[tuple[str, str]]:
        events = [gateway.verify_webhook(it.payload, it.signature) for it in receiver.deliveries]
        return {(event.type, event.object_id) for event in events}

    expected = {("transfer.created", sent.id), ("transfer.reversed", sent.id)}
    wait_until(lambda: expected <= seen())
