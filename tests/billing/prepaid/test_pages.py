"""The pages of cards, refunds and cases, and the API that mirrors them."""

from __future__ import annotations

import json

import pytest
from django.test import Client

from billing.models import AutoTopup, BalanceAlert, ReviewCase, ReviewSignal, SavedCard, TopupRefund
from billing.services.fraud import raise_signal
from marketplace.core.ids import new_id
from marketplace.models import Account, AuditEvent, User
from tests.billing.prepaid.flows import GOOD, OTHER_GOOD, Flows
from tests.factories import APIKeyFactory

pytestmark = pytest.mark.django_db

AUTO = {"threshold": "10", "amount": "25", "monthly_limit": "100"}
AUTO_CENTS = {"threshold_cents": 1_000, "amount_cents": 2_500, "monthly_limit_cents": 10_000}


@pytest.fixture
def api(flows: Flows, owner: User):
    key = APIKeyFactory(account=flows.account, created_by=owner, mode="token")
    client = Client(headers={"Authorization": f"Bearer {key.text}"})

    def call(method: str, path: str, body: dict | None = None):
        return client.generic(
            method, f"/api/{path}", json.dumps(body), content_type="application/json"
        )

    return call


# --- Cards and low credit ---


def test_the_page_without_and_with_cards(flows: Flows, owner_client: Client) -> None:
    empty = owner_client.get("/console/cards?account=acme")
    assert b"No card is saved" in empty.content
    flows.save_card(GOOD)
    flows.save_card(OTHER_GOOD)

    page = owner_client.get("/console/cards?account=acme").content

    assert b"4242" in page
    assert b"4444" in page
    assert page.count(b"Make default") == 1


def test_who_comes_back_from_stripe_sees_the_card(flows: Flows, owner_client: Client) -> None:
    answer = owner_client.post("/console/cards/new?account=acme")
    assert answer.status_code == 302
    session = flows.objects("checkout.session")[-1]
    assert answer.url == session["url"]
    flows.fake.order(f"checkout/{session['id']}/pay", card_number=GOOD)

    page = owner_client.get("/console/cards?account=acme&saved=1")

    assert b"4242" in page.content


def test_a_card_is_removed_after_a_question(flows: Flows, owner_client: Client) -> None:
    row = flows.save_card()
    owner_client.post("/console/auto-topup?account=acme", AUTO)

    page = owner_client.get(f"/console/cards/{row.pk}/remove")
    assert b"automatic top-ups end with it" in page.content
    assert SavedCard.objects.get().removed_at is None
    assert owner_client.post(f"/console/cards/{row.pk}/remove").status_code == 302

    assert SavedCard.objects.get().removed_at is not None
    assert owner_client.get(f"/console/cards/{row.pk}/remove").status_code == 404
    page = owner_client.get("/console/cards?account=acme")
    assert b"there was no card left" in page.content


def test_automatic_topups_are_switched_on_changed_and_off(
    flows: Flows, owner_client: Client
) -> None:
    flows.save_card()

    owner_client.post("/console/auto-topup?account=acme", AUTO)
    order = AutoTopup.objects.get()
    assert (order.is_enabled, order.threshold_cents, order.monthly_limit_cents) == (
        True,
        1_000,
        10_000,
    )
    assert b"Below $10.00 it buys $25.00" in owner_client.get("/console/cards").content
    owner_client.post("/console/auto-topup/stop?account=acme")

    assert not AutoTopup.objects.get().is_enabled


@pytest.mark.parametrize(
    "changes", [{"amount": "4.99"}, {"amount": "x"}, {"monthly_limit": "24.99"}, {"threshold": ""}]
)
def test_a_form_that_does_not_fit_is_shown_again(
    flows: Flows, owner_client: Client, changes: dict
) -> None:
    flows.save_card()

    answer = owner_client.post("/console/auto-topup?account=acme", AUTO | changes)

    assert answer.status_code == 422
    assert b"errorlist" in answer.content
    assert not AutoTopup.objects.exists()


def test_the_alert_is_set(flows: Flows, owner_client: Client) -> None:
    assert owner_client.post("/console/balance-alert", {"threshold": "7.50"}).status_code == 302
    assert BalanceAlert.objects.get().threshold_cents == 750
    assert owner_client.post("/console/balance-alert", {"threshold": "-1"}).status_code == 422


def test_a_developer_looks_and_changes_nothing(
    flows: Flows, teammate_client: Client, account: Account
) -> None:
    row = flows.save_card()

    page = teammate_client.get("/console/cards?account=acme")

    assert b"4242" in page.content
    assert b"Switch on" not in page.content
    for path, body in (
        ("/console/cards/new?account=acme", {}),
        (f"/console/cards/{row.pk}/remove", {}),
        (f"/console/cards/{row.pk}/default", {}),
        ("/console/auto-topup?account=acme", AUTO),
        ("/console/auto-topup/stop?account=acme", {}),
        ("/console/balance-alert?account=acme", {"threshold": "1"}),
        ("/console/refund?account=acme", {"request_id": str(new_id())}),
    ):
        assert teammate_client.post(path, body).status_code == 403, path
    assert not AutoTopup.objects.exists()


def test_a_card_is_kept_with_a_payment_if_the_box_is_ticked(
    flows: Flows, owner_client: Client
) -> None:
    owner_client.post("/console/wallet?account=acme", {"amount_dollars": "25"})
    owner_client.post("/console/wallet?account=acme", {"amount_dollars": "25", "saves_card": "on"})

    asked = [one["setup_future_usage"] for one in pages_of(flows)]
    assert sorted(asked, key=str) == [None, "off_session"]


def pages_of(flows: Flows) -> list[dict]:
    for page in flows.objects("checkout.session"):
        flows.fake.order(f"checkout/{page['id']}/pay", card_number=GOOD)
    return flows.objects("payment_intent")


# --- Refunds ---


def test_the_refund_page_pays_back_and_shows_it(flows: Flows, owner_client: Client) -> None:
    assert b"Nothing was paid back yet" in owner_client.get("/console/refund").content
    flows.buy(2_500)
    page = owner_client.get("/console/refund?account=acme").content
    assert b"$25.00" in page
    request_id = str(new_id())

    for _ in range(2):
        body = {"amount": "10", "request_id": request_id}
        assert owner_client.post("/console/refund?account=acme", body).status_code == 302

    assert TopupRefund.objects.get().net_cents == 1_000
    page = owner_client.get("/console/refund?account=acme").content
    assert b"Paid back" in page
    assert b"$15.00" in page


@pytest.mark.parametrize("amount", ["25.01", "0", "x"])
def test_a_refund_that_cannot_be_is_explained(
    flows: Flows, owner_client: Client, amount: str
) -> None:
    flows.buy(2_500)

    body = {"amount": amount, "request_id": str(new_id())}
    answer = owner_client.post("/console/refund?account=acme", body)

    assert answer.status_code == 422
    assert b"errorlist" in answer.content
    assert not TopupRefund.objects.exists()


def test_an_admin_pays_back_with_a_reason(flows: Flows, admin_client: Client) -> None:
    flows.buy(2_500)
    url = "/review/accounts/acme/refund"
    body = {"amount": "", "request_id": str(new_id()), "reason": ""}
    assert admin_client.post(url, body).status_code == 422

    assert admin_client.post(url, body | {"reason": "They asked us."}).status_code == 302

    row = TopupRefund.objects.get()
    assert (row.net_cents, row.reason) == (2_500, "They asked us.")
    event = AuditEvent.objects.get(action="refund.request")
    assert (event.actor, event.payload["reason"]) == ("user:admin@example.com", "They asked us.")
    assert admin_client.get(url).status_code == 200


# --- Cases ---


@pytest.fixture
def case(flows: Flows) -> ReviewCase:
    evidence = {"reason": "fraudulent", "amount_cents": 2_500, "gross_nanos": 1_500_000_000}
    raise_signal(flows.account.pk, ReviewSignal.Kind.DISPUTE, "dispute:x", evidence, freezes=True)
    return ReviewCase.objects.get()


def test_the_queue_and_a_decision(flows: Flows, case: ReviewCase, admin_client: Client) -> None:
    queue = admin_client.get("/review/cases").content
    assert b"acme" in queue
    page = admin_client.get(f"/review/cases/{case.pk}").content
    for text in (b"fraudulent", b"$25.00", b"$1.50", b"Frozen"):
        assert text in page, text
    body = {"decision": "clear", "reason": "It was them."}
    assert admin_client.post(f"/review/cases/{case.pk}", body | {"reason": ""}).status_code == 422

    assert admin_client.post(f"/review/cases/{case.pk}", body).status_code == 302

    assert b"No case is open" in admin_client.get("/review/cases").content
    assert b"acme" in admin_client.get("/review/cases?state=decided").content
    page = admin_client.get(f"/review/cases/{case.pk}").content
    assert b"It was them." in page
    assert b'value="clear"' not in page
    # One that is cleared stays so.
    assert admin_client.post(f"/review/cases/{case.pk}", body).status_code == 409


def test_the_queue_is_for_admins_only(
    flows: Flows, case: ReviewCase, owner_client: Client, client: Client
) -> None:
    body = {"decision": "clear", "reason": "It is me."}
    for path in ("/review/cases", f"/review/cases/{case.pk}", "/review/accounts/acme/refund"):
        assert owner_client.get(path).status_code == 404, path
        assert client.get(path).status_code == 302, path
    assert owner_client.post(f"/review/cases/{case.pk}", body).status_code == 404
    refund = {"reason": "Mine.", "request_id": str(new_id())}
    assert owner_client.post("/review/accounts/acme/refund", refund).status_code == 404
    case.refresh_from_db()
    assert case.state == "open"


def test_the_account_reads_that_it_is_frozen_and_not_why(
    case: ReviewCase, owner_client: Client
) -> None:
    for path in ("/console/wallet", "/console/cards", "/console/refund"):
        page = owner_client.get(path).content
        assert b"This account is frozen" in page, path
        assert b"fraudulent" not in page, path
    events = AuditEvent.objects.filter(account_id=case.account_id)
    assert [event.payload for event in events if event.action == "account.freeze"] == [{}]


# --- The API ---


def test_cards_over_the_api(flows: Flows, api) -> None:
    first, second = flows.save_card(GOOD), flows.save_card(OTHER_GOOD)

    listed = api("GET", "cards?account=acme").json()["results"]
    assert [(one["last4"], one["is_default"]) for one in listed] == [
        ("4242", True),
        ("4444", False),
    ]
    assert api("PUT", f"cards/{second.pk}").json()["is_default"] is True
    assert api("DELETE", f"cards/{first.pk}").status_code == 204

    assert [one["last4"] for one in api("GET", "cards?account=acme").json()["results"]] == ["4444"]
    made = api("POST", "cards", {"account": "acme"})
    assert made.status_code == 201
    assert made.json()["url"].startswith(flows.fake.url)


def test_automatic_topups_over_the_api(flows: Flows, api) -> None:
    refused = api("PUT", "auto-topup?account=acme", AUTO_CENTS)
    assert (refused.status_code, refused.json()["code"]) == (409, "no_saved_card")
    flows.save_card()

    assert api("GET", "auto-topup?account=acme").json()["is_enabled"] is False
    assert api("PUT", "auto-topup?account=acme", AUTO_CENTS).json() == {
        "is_enabled": True,
        "off_reason": None,
        **AUTO_CENTS,
    }
    too_much = api("PUT", "auto-topup?account=acme", AUTO_CENTS | {"amount_cents": 499})
    assert (too_much.status_code, too_much.json()["code"]) == (422, "validation")
    assert too_much.json()["errors"][0]["pointer"] == "/amount_cents"
    assert api("DELETE", "auto-topup?account=acme").status_code == 204
    assert api("GET", "auto-topup?account=acme").json()["is_enabled"] is False


def test_the_alert_over_the_api(flows: Flows, api) -> None:
    assert api("PUT", "balance-alert?account=acme", {"threshold_cents": 700}).status_code == 200
    assert api("GET", "balance-alert?account=acme").json() == {"threshold_cents": 700}


def test_refunds_over_the_api(flows: Flows, api) -> None:
    none = api("POST", "refunds", {"account": "acme"})
    assert (none.status_code, none.json()["code"]) == (409, "nothing_to_refund")
    flows.buy(2_500)

    more = api("POST", "refunds", {"account": "acme", "amount_cents": 2_501})
    assert (more.status_code, more.json()["code"]) == (409, "refund_too_large")
    assert more.json()["refundable_cents"] == 2_500
    body = {"account": "acme", "amount_cents": 1_000, "request_id": str(new_id())}
    first, again = api("POST", "refunds", body), api("POST", "refunds", body)

    assert first.status_code == again.status_code == 201
    assert first.json()["results"][0]["id"] == again.json()["results"][0]["id"]
    listed = api("GET", "refunds?account=acme").json()
    assert listed["refundable_cents"] == 1_500
    assert [one["net_cents"] for one in listed["results"]] == [1_000]


def test_a_frozen_account_over_the_api(flows: Flows, case: ReviewCase, api) -> None:
    for method, path, body in (
        ("POST", "topups", {"account": "acme", "amount_cents": 2_500}),
        ("POST", "cards", {"account": "acme"}),
        ("POST", "refunds", {"account": "acme"}),
        ("PUT", "auto-topup?account=acme", AUTO_CENTS),
    ):
        answer = api(method, path, body)
        assert (answer.status_code, answer.json()["code"]) == (403, "account_frozen"), path
