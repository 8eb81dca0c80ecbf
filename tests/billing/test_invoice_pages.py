"""Where people see invoices and credit, and decide about them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing.models import Invoice, PostpaidTerms, TaxDetails
from billing.selectors.meter import read_clock
from billing.services import invoice as service
from billing.services import meter
from billing.services.postpaid import offer_terms
from marketplace.models import Account, Membership, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import PRICE_NANOS, Shop
from tests.billing.metered_stripe import MeteredStripe
from tests.billing.postpaid import LIMIT_NANOS, age, agree, begin_earlier, buy, this_hour
from tests.billing.postpaid import stripe as stripe  # noqa: PLC0414 - a fixture
from tests.factories import APIKeyFactory

pytestmark = pytest.mark.django_db(transaction=True)

TAX = {
    "name": "Acme Inc",
    "line1": "1 Main St",
    "line2": "",
    "city": "Springfield",
    "postal_code": "12345",
    "state": "",
    "country": "us",
    "tax_id_type": "us_ein",
    "tax_id": "12-3456789",
}


@pytest.fixture
def shop(transactional_db: None, shop: Shop, owner: User) -> Shop:
    Membership.objects.create(account=shop.consumer, user=owner, role="owner")
    return shop


@pytest.fixture
def client(shop: Shop, owner: User) -> Client:
    client = Client()
    client.force_login(owner)
    return client


@pytest.fixture
def invoice(shop: Shop, stripe: MeteredStripe, platform_admin: User) -> Invoice:
    begin_earlier(agree(shop, platform_admin), stripe, 6)
    buy(shop, 3)
    age(1)
    meter.seal_hours(wait=timedelta(0))
    meter.send_reports()
    invoice_id = stripe.end_period("sub_1", this_hour())
    stripe.finalize(invoice_id, read_clock())
    found = service.mirror_invoice(invoice_id)
    assert found is not None
    return found


def show(client: Client, path: str = "/console/invoices?account=consumer") -> str:
    answer = client.get(path)
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


def token(account: Account, user: User, *scopes: str) -> Any:
    return APIKeyFactory(account=account, created_by=user, mode="token", scopes=list(scopes))


# --- Pages ---


def test_without_anything_the_page_says_what_to_do(client: Client, shop: Shop) -> None:
    page = show(client)

    assert "No invoices yet" in page
    assert "Ask for credit" in page


def test_who_asks_sees_that_it_is_looked_at_and_can_take_it_back(client, shop):
    answer = client.post("/console/invoices?account=consumer", {"limit_dollars": "50", "note": "x"})
    assert answer.status_code == 302
    assert PostpaidTerms.objects.get().wanted_limit_nanos == 50_000_000_000

    page = show(client)
    assert "You asked for a credit limit of $50.00" in page
    client.post("/console/postpaid/decline?account=consumer")
    assert "Ask for credit" in show(client)


@pytest.mark.parametrize("dollars", ["9", "100001", "", "x", "1.5"])
def test_a_limit_out_of_bounds_is_told(client, shop, dollars):
    answer = client.post("/console/invoices?account=consumer", {"limit_dollars": dollars})

    assert answer.status_code == 422
    assert not PostpaidTerms.objects.exists()


def test_an_offer_is_seen_and_accepted(client, shop, stripe, platform_admin):
    offer_terms(
        Actor(user=platform_admin), shop.consumer, limit_nanos=LIMIT_NANOS, due_days=30, reason="x"
    )
    assert "a credit limit of <strong>$20.00</strong>, paid by invoice within 30 days" in show(
        client
    )

    assert client.post("/console/postpaid/accept?account=consumer").status_code == 302

    page = show(client)
    assert "Credit limit" in page
    assert "End credit" in page
    assert PostpaidTerms.objects.get().state == "active"


def test_invoices_are_listed_with_their_links(client, invoice):
    page = show(client)

    assert f"/console/invoices/{invoice.pk}" in page
    assert invoice.number in page
    assert invoice.hosted_url in page
    assert invoice.pdf_url in page


def test_an_invoice_shows_what_it_is_for(client, invoice):
    page = show(client, f"/console/invoices/{invoice.pk}")

    assert "creator/echo" in page
    assert "$0.000003003" in page
    assert f"strongroom invoice fetch {invoice.pk}" in page


def test_the_usage_behind_it_is_a_file(client, invoice):
    answer = client.get(f"/console/invoices/{invoice.pk}/usage.csv")

    lines = b"".join(answer.streaming_content).decode().splitlines()
    rows = list(csv.DictReader(lines))
    assert [row["gross_nanos"] for row in rows] == [str(PRICE_NANOS)] * 3


def test_the_wallet_says_who_pays_and_what_is_owed(client, invoice):
    page = show(client, "/console/wallet?account=consumer")

    assert "by invoice" in page
    assert "Credit limit" in page


def test_paused_keys_are_told(client, invoice):
    PostpaidTerms.objects.update(paused_at=timezone.now())

    assert "The keys of this account are paused." in show(client)


def test_ended_credit_is_told(client, invoice, shop):
    assert client.post("/console/postpaid/close?account=consumer").status_code == 302

    assert "Credit has ended." in show(client)
    assert PostpaidTerms.objects.get().state == "closing"


def test_address_and_tax_id_are_kept(client, shop):
    assert client.post("/console/tax-details?account=consumer", TAX).status_code == 302

    details = TaxDetails.objects.get()
    assert (details.name, details.country, details.tax_id) == ("Acme Inc", "US", "12-3456789")
    assert "1 Main St" in show(client, "/console/tax-details?account=consumer")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"country": "USA"},
        {"country": "1"},
        {"tax_id": ""},
        {"tax_id_type": ""},
        {"tax_id_type": "Not one"},
        {"city": "x" * 101},
    ],
)
def test_an_address_that_is_none_is_refused(client, shop, changes):
    answer = client.post("/console/tax-details?account=consumer", TAX | changes)

    assert answer.status_code == 422
    assert not TaxDetails.objects.exists()


def test_a_viewer_decides_nothing(shop, client, owner):
    Membership.objects.filter(user=owner, account=shop.consumer).update(role="viewer")

    assert "Ask for credit" not in show(client)
    for path in ("invoices", "tax-details", "postpaid/accept", "postpaid/close"):
        assert client.post(f"/console/{path}?account=consumer", TAX).status_code == 403


# --- API ---


@pytest.fixture
def call(shop: Shop, owner: User) -> Callable[..., Any]:
    secret = token(shop.consumer, owner, "read", "billing").text

    def send(method: str, path: str, body: Any = None) -> Any:
        return getattr(Client(), method)(
            f"/api/{path}",
            body,
            content_type="application/json",
            headers={"Authorization": f"Bearer {secret}"},
        )

    return send


def test_the_api_lists_and_shows_invoices(call, invoice):
    listed = call("get", "invoices?account=consumer").json()
    assert [one["id"] for one in listed["results"]] == [str(invoice.pk)]
    assert listed["next_cursor"] is None

    shown = call("get", f"invoices/{invoice.pk}").json()

    assert (shown["state"], shown["total_cents"]) == ("paid", 0)
    assert shown["lines"][0]["predictions"] == 3
    assert call("get", "invoices?account=consumer&cursor=x").status_code == 422


def test_the_api_asks_for_terms_and_ends_them(call, shop, stripe, platform_admin):
    assert call("get", "postpaid?account=consumer").status_code == 404
    body = {"account": "consumer", "wanted_limit_nanos": LIMIT_NANOS}
    assert call("post", "postpaid", body).status_code == 201
    assert call("post", "postpaid", body).status_code == 409
    assert call("post", "postpaid", body | {"wanted_limit_nanos": 1}).status_code == 422
    assert call("post", "postpaid/decline", {"account": "consumer"}).json()["state"] == "refused"
    agree(shop, platform_admin)

    terms = call("get", "postpaid?account=consumer").json()
    assert (terms["state"], terms["left_nanos"]) == ("active", LIMIT_NANOS)
    assert call("get", "wallet?account=consumer").json()["postpaid"] == terms
    assert call("post", "postpaid/close", {"account": "consumer"}).json()["state"] == "closing"
    assert call("post", "postpaid/close", {"account": "consumer"}).status_code == 409


def test_the_api_keeps_tax_details(call, shop):
    assert call("get", "tax-details?account=consumer").status_code == 404

    assert call("put", "tax-details?account=consumer", TAX).status_code == 200

    assert call("get", "tax-details?account=consumer").json() == TAX | {"country": "US"}
    answer = call("put", "tax-details?account=consumer", TAX | {"name": ""})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/name")


# --- Admin ---


ADMIN = "/admin/billing/postpaidterms/"
ANSWERS = {"limit_dollars": "30", "due_days": "7", "reason": "they pay"}


def decide(admin_client: Client, action: str, **answers: str) -> Any:
    terms = PostpaidTerms.objects.get()
    body = {"action": action, "_selected_action": str(terms.pk)} | answers
    return admin_client.post(ADMIN, body)


def test_an_admin_approves_changes_and_ends(admin_client, client, shop, stripe):
    client.post("/console/invoices?account=consumer", {"limit_dollars": "50"})
    assert b"Give credit" in decide(admin_client, "approve").content
    assert PostpaidTerms.objects.get().state == "applied"

    decide(admin_client, "approve", confirmed="yes", **ANSWERS)
    assert PostpaidTerms.objects.get().credit_limit_nanos == 30_000_000_000
    decide(admin_client, "change", confirmed="yes", **ANSWERS | {"limit_dollars": "40"})
    assert PostpaidTerms.objects.get().credit_limit_nanos == 40_000_000_000
    assert decide(admin_client, "change", confirmed="yes", reason="").status_code == 422
    decide(admin_client, "close", confirmed="yes", reason="they asked")
    assert PostpaidTerms.objects.get().state == "closing"


def test_an_admin_refuses(admin_client, client, shop):
    client.post("/console/invoices?account=consumer", {"limit_dollars": "50"})

    decide(admin_client, "refuse", confirmed="yes", reason="too new")

    assert PostpaidTerms.objects.get().state == "refused"
    assert "too new" in show(client)


def test_an_admin_offers(admin_client, shop):
    assert admin_client.get(f"{ADMIN}offer/").status_code == 200
    assert f'href="{ADMIN}offer/"' in admin_client.get(ADMIN).content.decode()
    assert admin_client.post(f"{ADMIN}offer/", ANSWERS | {"account": "none"}).status_code == 422

    assert admin_client.post(f"{ADMIN}offer/", ANSWERS | {"account": "consumer"}).status_code == 302
    again = admin_client.post(f"{ADMIN}offer/", ANSWERS | {"account": "consumer"})

    assert PostpaidTerms.objects.get().state == "offered"
    assert (again.status_code, "are offered" in again.content.decode()) == (422, True)


def test_nobody_else_offers(client, shop):
    assert client.post(f"{ADMIN}offer/", ANSWERS | {"account": "consumer"}).status_code == 302
    assert not PostpaidTerms.objects.exists()
