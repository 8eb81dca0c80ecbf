"""The admin console: money is looked at, and not touched by hand, not even by a superuser."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection, models
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing.models import (
    AccountFreeze,
    AutoTopup,
    BalanceAlert,
    BudgetAlert,
    Coupon,
    CouponRedemption,
    CreatorTerms,
    Dispute,
    Invoice,
    KeySpend,
    MeterReport,
    MeterSeal,
    PaymentDecline,
    PaymentMail,
    PayoutHold,
    PostpaidTerms,
    ReceiptBatch,
    ReceiptKey,
    ReconcileDifference,
    ReconcileRun,
    ReviewCase,
    ReviewSignal,
    Royalty,
    RoyaltyShare,
    SavedCard,
    StripeCall,
    StripeEvent,
    TaxDetails,
    Topup,
    TopupRefund,
    Transfer,
    UsageCounter,
)
from billing.services import adjustment, reversal
from marketplace.admin.readonly import ReadOnlyMixin
from marketplace.core.ids import new_id, to_public
from marketplace.models import User
from marketplace.selectors.access import Actor
from tests.billing.conftest import PRICE_NANOS, Shop, asked, reserve, settle
from tests.billing.payouts import pay_and_take_back
from tests.billing.test_ledger import promise_some
from tests.factories import APIKeyFactory, UserFactory

pytestmark = pytest.mark.django_db

CHECKOUT_URL = "https://checkout.example.com/who-holds-it-can-pay"

# What is changed by hand in vain: a form that would be valid if there were one.
FORMS: dict[str, dict[str, Any]] = {
    "adjustment": {"state": "posted", "amount_nanos": 1, "needs_two": ""},
    "connectaccount": {"country": "DE", "transfers_status": "active", "requirements": "[]"},
    "creatorreserve": {"days": 1, "read_until_entry": 0},
    "payoutitem": {"amount_cents": 1, "state": "waiting"},
    "payoutreversal": {"amount_cents": 1, "state": "done", "reason": "x"},
    "payoutrun": {"payday": "2026-11-23"},
    "release": {"amount_nanos": 1, "entries": 1, "day": "2026-11-23"},
    "accountfreeze": {"key": "x"},
    "autotopup": {"is_enabled": "on", "threshold_cents": 1, "amount_cents": 1},
    "balancealert": {"threshold_cents": 1},
    "dispute": {"dispute_id": "x", "amount_cents": 1, "state": "won", "status": "won"},
    "paymentdecline": {"charge_id": "x"},
    "paymentmail": {"kind": "confirm"},
    "payouthold": {"reason": "dispute"},
    "reviewcase": {"state": "cleared"},
    "reviewsignal": {"kind": "dispute", "key": "x", "evidence": "{}"},
    "savedcard": {"brand": "x", "last4": "0000"},
    "topuprefund": {"net_cents": 1, "state": "failed"},
    "budgetalert": {"period": "day", "starts_on": "2026-11-21", "percent": 1},
    "coupon": {"code": "FREE", "credit_nanos": 1, "uses_max": 9, "uses": 0},
    "couponredemption": {"redeemed_by": "x"},
    "creatorterms": {"creator_share_bps": 10_000},
    "hold": {"amount_nanos": 1, "posted_nanos": 1, "state": "voided"},
    "keyspend": {"spent_nanos": 0, "held_nanos": 0, "period": "day", "starts_on": "2026-11-21"},
    "ledgeraccount": {"posted_nanos": 10**12, "held_nanos": 0, "min_available_nanos": -(10**12)},
    "invoice": {"state": "paid", "total_cents": 0, "check_state": "agrees"},
    "meterreport": {"value_micro": 0, "usage_nanos": 1, "state": "ok", "identifier": "x"},
    "meterseal": {"barrier_transaction": 0, "mark_transaction": 0},
    "postpaidterms": {"state": "active", "credit_limit_nanos": 10**12, "due_days": 60},
    "price": {"nanos_per_prediction": 0, "creator_share_bps": 10_000},
    "receiptbatch": {"size": 1, "root": "x", "hash": "x", "previous": "x", "signature": "x"},
    "receiptkey": {"public_key": "x", "signature": "x"},
    "royalty": {"bps": 10_000},
    "royaltyshare": {"amount_nanos": 1},
    "reconciledifference": {"explanation": "by_hand", "mark_reason": "x"},
    "reconcilerun": {"state": "clean", "unexplained_count": 0},
    "stripecall": {"state": "ok", "response_id": "x"},
    "stripeevent": {"state": "applied", "attempts": 0},
    "taxdetails": {"name": "x", "country": "XX"},
    "topup": {"amount_cents": 1_000_000, "state": "credited"},
    "transfer": {"kind": "top_up", "reference": "x", "idempotency_key": "x"},
    "usagecounter": {"units": 0, "starts_on": "2026-11-01"},
    "usageevent": {"units": 0, "gross_nanos": 0, "mode": "test"},
    "usagereversal": {"gross_nanos": 1, "creator_nanos": 0, "reason": "x"},
}
# Seen on the page of the row that they belong to; and one that is nobody's page.
INLINES = {"payoutitem", "payoutreversal", "transferentry", "invoicenotice"}
UNSEEN = {"stripecustomer", "receiptleaf", "meteredtransfer"}
# Of which a platform admin decides, each time with a reason that is kept.
DECIDED = {
    "invoice": {"accept", "write_off"},
    "postpaidterms": {"approve", "change", "refuse", "close"},
}


@pytest.fixture
def rows(shop: Shop, fund) -> None:
    """At least one row of everything."""
    pay_and_take_back(shop)
    fund(5_000)
    key_id = new_id()
    ((hold_id, _, _),) = reserve(asked(shop.consumer.pk, PRICE_NANOS, api_key_id=key_id))
    settle(shop.item(hold_id, api_key_id=str(key_id)))
    promise_some(shop)
    RoyaltyShare.objects.create(
        prediction_id=hold_id, royalty=Royalty.objects.get(), amount_nanos=1
    )
    actor = Actor(user=UserFactory(is_staff=True))
    adjustment.propose_credit(actor, shop.consumer, amount_nanos=1, reason="x")
    reversal.reverse_usage(actor, to_public(hold_id), reason="x")
    now = timezone.now()
    run = ReconcileRun.objects.create(since=now - timedelta(days=1), until=now)
    ReconcileDifference.objects.create(
        kind="topup", fault="amount", our_id="x", happened_at=now, first_run=run, last_run=run
    )
    topup = Topup.objects.create(account=shop.consumer, amount_cents=500, checkout_url=CHECKOUT_URL)
    make_prepaid(shop, topup)
    StripeEvent.objects.create(id="evt_1", type="x", payload={}, created_at=timezone.now())
    api_key = APIKeyFactory(account=shop.consumer)
    spend = {"period": "day", "starts_on": "2026-11-21", "spent_nanos": 9}
    KeySpend.objects.create(api_key_id=api_key.pk, **spend)
    BudgetAlert.objects.create(api_key=api_key, percent=80, budget_nanos=10, **spend)
    key = ReceiptKey.objects.create(kid="k", public_key="p", created_at=timezone.now())
    ReceiptBatch.objects.create(
        seq=1, size=1, sealed_at=timezone.now(), key=key, mark_transaction=1, mark_id=new_id()
    )
    coupon = Coupon.objects.create(
        code="WELCOME", credit_nanos=1, uses_max=1, valid_until=timezone.now()
    )
    CouponRedemption.objects.create(coupon=coupon, account=shop.consumer, redeemed_by="x")
    CreatorTerms.objects.create(account=shop.creator, creator_share_bps=9_000)
    UsageCounter.objects.create(
        account=shop.consumer, model=shop.model, starts_on="2026-11-01", units=1
    )
    now = timezone.now()
    PostpaidTerms.objects.create(account=shop.consumer, state="applied")
    TaxDetails.objects.create(account=shop.consumer, name="x", country="US")
    MeterSeal.objects.create(hour=now, barrier_transaction=1)
    MeterReport.objects.create(
        account=shop.consumer,
        hour=now,
        seq=1,
        number=1,
        counted_at=now,
        usage_nanos=1_001,
        total_nanos=1_001,
        value_micro=1,
        residual_nanos=1,
        predictions=1,
        identifier="pd:1",
    )
    Invoice.objects.create(
        account=shop.consumer,
        stripe_id="in_1",
        state="open",
        currency="usd",
        subtotal_cents=1,
        tax_cents=0,
        total_cents=1,
        period_start=now,
        period_end=now,
        created_at=now,
    )
    StripeCall.objects.create(idempotency_key="k", endpoint="customers", params_sha256="0")


def make_prepaid(shop: Shop, topup: Topup) -> None:
    account = shop.consumer
    amounts = {"threshold_cents": 1, "amount_cents": 500, "monthly_limit_cents": 500}
    AutoTopup.objects.create(account=account, **amounts)
    BalanceAlert.objects.create(account=account, threshold_cents=1)
    PaymentMail.objects.create(account=account, kind="confirm", topup=topup)
    SavedCard.objects.create(
        account=account, payment_method_id="pm", brand="visa", last4="1", exp_month=1, exp_year=2034
    )
    TopupRefund.objects.create(account=account, topup=topup, request_key="k", net_cents=5)
    Dispute.objects.create(
        account=account, topup=topup, dispute_id="du", amount_cents=5, created_at=timezone.now()
    )
    case = ReviewCase.objects.create(account=account)
    ReviewSignal.objects.create(case=case, kind="dispute", key="k")
    AccountFreeze.objects.create(account=account, case=case, key="k")
    PayoutHold.objects.create(account=shop.creator, case=case, reason="dispute")
    PaymentDecline.objects.create(account=account, charge_id="ch", created_at=timezone.now())


def table(name: str) -> type[models.Model]:
    return apps.get_model("billing", name)


def state() -> dict[str, list[tuple]]:
    """Every row of every table of billing."""
    found = apps.get_app_config("billing").get_models()
    return {one._meta.label: list(one._base_manager.order_by("pk").values_list()) for one in found}


def touch(client: Client, name: str) -> dict[str, int]:
    """Try by hand to add, change and delete, one row and many; the answers' statuses."""
    base, row = f"/admin/billing/{name}", table(name)._base_manager.first()
    selected = {"_selected_action": str(row.pk), "post": "yes"}
    bodies = {
        f"{base}/add/": FORMS[name],
        f"{base}/{row.pk}/change/": FORMS[name],
        f"{base}/{row.pk}/delete/": {"post": "yes"},
        f"{base}/": {"action": "delete_selected", **selected},
    }
    return {
        url.removeprefix(base).strip("/").rpartition("/")[2]: client.post(url, body).status_code
        for url, body in bodies.items()
    }


def test_the_tables_above_name_every_model_of_billing() -> None:
    registered = {
        one._meta.model_name for one in admin.site._registry if one._meta.app_label == "billing"
    }
    inlines = {
        inline.model._meta.model_name
        for name in registered
        for inline in admin.site.get_model_admin(table(name)).inlines
    }
    known = {one._meta.model_name for one in apps.get_app_config("billing").get_models()}

    assert registered == set(FORMS)
    assert inlines == INLINES
    assert known == registered | INLINES | UNSEEN


@pytest.mark.parametrize("name", FORMS)
def test_it_can_be_looked_at(rows: None, admin_client: Client, name: str) -> None:
    row = table(name)._base_manager.first()
    listed = admin_client.get(f"/admin/billing/{name}/")
    page = admin_client.get(f"/admin/billing/{name}/{row.pk}/change/")

    assert (listed.status_code, page.status_code) == (200, 200)
    assert b'name="_save"' not in page.content
    assert (b'name="action"' in listed.content) == (name in DECIDED)
    assert f"/admin/billing/{name}/add/".encode() not in listed.content


@pytest.mark.parametrize("name", FORMS)
def test_it_cannot_be_touched(rows: None, admin_client: Client, name: str) -> None:
    before = state()

    statuses = touch(admin_client, name)

    # The list takes no action, and shows itself again.
    assert {one: statuses[one] for one in ("add", "change", "delete")} == {
        "add": 403,
        "change": 403,
        "delete": 403,
    }
    assert statuses[""] in (200, 302)
    assert state() == before


@pytest.mark.parametrize("name", FORMS)
def test_nobody_has_the_right_to(platform_admin: User, name: str) -> None:
    request = RequestFactory().get("/")
    request.user = platform_admin
    table_admin = admin.site.get_model_admin(table(name))
    inlines = [inline(table(name), admin.site) for inline in table_admin.inlines]

    assert platform_admin.is_superuser
    assert set(table_admin.get_actions(request)) == DECIDED.get(name, set())
    for one in (table_admin, *inlines):
        assert one.has_view_permission(request)
        assert not one.has_add_permission(request, None)
        assert not one.has_change_permission(request)
        assert not one.has_delete_permission(request)


def test_without_the_mixin_a_row_could_be_deleted(
    rows: None, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the checks above see what a superuser may do otherwise."""
    for right in ("has_add_permission", "has_change_permission", "has_delete_permission"):
        monkeypatch.setattr(ReadOnlyMixin, right, lambda *args: True)
    before = state()

    statuses = touch(admin_client, "stripeevent")

    assert 403 not in statuses.values()
    assert state()["billing.StripeEvent"] != before["billing.StripeEvent"]
    assert b'name="action"' in admin_client.get("/admin/billing/topup/").content


def test_no_page_shows_where_a_topup_is_paid(rows: None, admin_client: Client) -> None:
    row = Topup.objects.get()

    pages = [f"/admin/billing/topup/{row.pk}/change/", "/admin/billing/topup/?q=consumer"]

    for page in pages:
        answer = admin_client.get(page)
        assert b"500" in answer.content or b"$5.00" in answer.content
        assert CHECKOUT_URL.encode() not in answer.content


def test_a_list_of_transfers_asks_no_more_for_more(
    rows: None, admin_client: Client, django_assert_num_queries: Any
) -> None:
    """One query for the entries of all, not one for each."""
    url = "/admin/billing/transfer/"
    with CaptureQueriesContext(connection) as few:
        admin_client.get(url)
    for number in range(4):
        Transfer.objects.create(
            pk=new_id(), kind="usage", idempotency_key=f"more-{number}", created_at=timezone.now()
        )

    with django_assert_num_queries(len(few)):
        admin_client.get(url)
