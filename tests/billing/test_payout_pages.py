"""What creators see of earnings and payouts, what admins do, and what the API says."""

from __future__ import annotations

import pytest
from django.test import Client
from django.utils import timezone

from billing.api.payout import DAYS_MAX
from billing.models import CreatorReserve, LedgerAccount, PayoutItem, PayoutReversal, PayoutRun
from billing.services import payout
from billing.services.payout import start_due_run
from billing.views import earnings as earnings_views
from marketplace.celery import app
from marketplace.models import Account, ModelVersion, User
from tests.billing.conftest import Shop, hold, settle
from tests.billing.payouts import (
    PART_NANOS,
    Fund,
    book,
    connect,
    correct,
    earn,
    pay_and_take_back,
    shift_days,
    today,
)
from tests.factories import MembershipFactory

pytestmark = pytest.mark.django_db

PAYABLE = LedgerAccount.Kind.CREATOR_PAYABLE


@pytest.fixture
def creator_client(shop: Shop, teammate: User) -> Client:
    MembershipFactory(account=shop.creator, user=teammate, role="owner")
    client = Client()
    client.force_login(teammate)
    return client


def see(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, answer.content
    return " ".join(answer.content.decode().split())


def test_without_earnings_every_part_says_so(shop: Shop, creator_client: Client) -> None:
    page = see(creator_client, "/dashboard/earnings?account=creator")
    for said in ("Nothing earned yet", "Nothing waits", "Nothing paid out", "No statements yet"):
        assert said in page
    assert "Nothing paid out yet" in see(creator_client, "/dashboard/payouts?account=creator")


def test_the_page_shows_where_the_money_is(shop: Shop, fund: Fund, creator_client: Client) -> None:
    pay_and_take_back(shop)
    book(shop, fund, 2)

    page = see(creator_client, "/dashboard/earnings?account=creator")

    assert "$0.0000016" in page  # Two predictions, in reserve.
    assert "creator/echo:1" in page
    assert "$29.93" in page  # Paid, less what was taken back.
    assert "$0.07 taken back: Stolen cards." in page
    assert "$0.000000001" in page  # What was left of the payable.
    assert f"/api/statements/{today():%Y-%m}/pdf" in page
    assert f"/api/payouts/{PayoutItem.objects.get().pk}/document" in page


def test_earnings_are_chosen_by_month_and_summed(
    shop: Shop, fund: Fund, creator_client: Client
) -> None:
    book(shop, fund, 2)
    month = f"{today():%Y-%m}"
    url = "/dashboard/earnings?account=creator"

    for query in (f"&month={month}", f"&month={month}&by=model", "&by=version"):
        assert "creator/echo" in see(creator_client, f"{url}{query}")
    for wrong in ("&month=2020-01", "&month=x", "&by=colour"):
        assert creator_client.get(f"{url}{wrong}").status_code == 422


def test_a_page_shows_so_many_rows(
    shop: Shop, fund: Fund, creator_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    book(shop, fund)
    second = ModelVersion.objects.create(model=shop.model, number=2, state="approved")
    settle(shop.item(hold(shop), version_id=str(second.pk)))
    url = "/dashboard/earnings?account=creator"
    monkeypatch.setattr(earnings_views, "ROWS_MAX", 2)
    assert "more rows than a page shows" not in see(creator_client, url)
    monkeypatch.setattr(earnings_views, "ROWS_MAX", 1)
    assert "more rows than a page shows" in see(creator_client, url)


def test_what_is_carried_forward_is_shown(shop: Shop, creator_client: Client) -> None:
    connect(shop.creator)
    correct(shop, -(10**9), PAYABLE)

    for page in ("earnings", "payouts"):
        seen = see(creator_client, f"/dashboard/{page}?account=creator")
        assert "-$1.00" in seen
        assert "carried forward" in seen
        assert "new earnings make up for it first" in seen


def test_a_refused_payout_says_why(shop: Shop, creator_client: Client) -> None:
    earn(shop, 30 * 10**9)
    connect(shop.creator)
    run = start_due_run()
    assert run is not None
    payout._refuse(run.items.get(), "The bank's account is closed.")

    seen = see(creator_client, "/dashboard/payouts?account=creator")

    assert "The bank&#x27;s account is closed." in seen
    assert "Refused" in seen
    assert "The next weekly run pays what is payable" in seen


# --- The API -----------------------------------------------------------------------


def test_the_api_tells_balances_days_and_sums(
    shop: Shop, fund: Fund, creator_client: Client
) -> None:
    pay_and_take_back(shop)
    book(shop, fund, 2)

    answer = creator_client.get("/api/earnings?account=creator").json()

    assert answer["reserve_nanos"] == 2 * PART_NANOS
    assert (answer["payable_nanos"], answer["in_flight_nanos"]) == (1, 0)
    assert answer["paid_nanos"] == 2_993 * 10**7
    assert answer["waiting"][0]["amount_nanos"] == 2 * PART_NANOS
    (row,) = answer["results"]
    assert (row["model"], row["version"], row["predictions"]) == ("creator/echo", 1, 2)
    assert row["earned_nanos"] == 2 * PART_NANOS


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("since=2025-11-22&until=2026-11-22", 200),
        ("since=2025-11-21&until=2026-11-22", 422),
        ("since=2026-11-22&until=2026-11-21", 422),
        ("since=x", 422),
        ("by=colour", 422),
        ("by=model", 200),
    ],
)
def test_days_are_in_their_order_and_not_too_many(
    shop: Shop, creator_client: Client, query: str, status: int
) -> None:
    assert DAYS_MAX == 366
    assert creator_client.get(f"/api/earnings?account=creator&{query}").status_code == status


def test_payouts_come_in_pages(
    shop: Shop, creator_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.api.payout.PAYOUTS_PER_PAGE", 1)
    pay_and_take_back(shop)
    earn(shop, 30 * 10**9)
    PayoutRun.objects.update(payday=None)
    start_due_run()
    url = "/api/payouts?account=creator"

    first = creator_client.get(url).json()
    second = creator_client.get(f"{url}&cursor={first['next_cursor']}").json()

    assert [one["state"] for one in first["results"] + second["results"]] == ["waiting", "paid"]
    assert second["next_cursor"] is None
    assert first["obstacle"]["code"] == "payout_open"
    assert second["results"][0]["taken_back"] == [
        {"amount_cents": 7, "state": "done", "reason": "Stolen cards."}
    ]
    one = creator_client.get(f"/api/payouts/{second['results'][0]['id']}").json()
    assert one == second["results"][0]
    assert creator_client.get(f"{url}&cursor=x").status_code == 422


# --- The console -------------------------------------------------------------------


def test_an_admin_starts_a_run_after_a_second_look(shop: Shop, admin_client: Client) -> None:
    earn(shop, 30 * 10**9)
    connect(shop.creator)
    assert "Start a run now" in see(admin_client, "/admin/billing/payoutrun/")

    assert "not waiting for payday" in see(admin_client, "/admin/billing/payoutrun/start/")
    assert not PayoutRun.objects.exists()
    answer = admin_client.post("/admin/billing/payoutrun/start/", follow=True)

    assert b"begun with 1 payouts" in answer.content
    assert PayoutItem.objects.get().state == "waiting"


def test_an_admin_takes_back_with_a_reason(shop: Shop, admin_client: Client) -> None:
    item = pay_and_take_back(shop)
    url = f"/admin/billing/payoutitem/{item.pk}"
    assert "take-back" in see(admin_client, f"{url}/change/")
    assert "29.93" in see(admin_client, f"{url}/take-back/")
    for wrong in ({"amount_dollars": "1"}, {"reason": "x"}, {"amount_dollars": "0", "reason": "x"}):
        assert admin_client.post(f"{url}/take-back/", wrong).status_code == 422
    assert PayoutReversal.objects.count() == 1

    asked = {"amount_dollars": "29.94", "is_forfeited": "on", "reason": "x"}
    refused = admin_client.post(f"{url}/take-back/", asked, follow=True)
    assert b"From 1 to 2993 cents" in refused.content
    answer = admin_client.post(
        f"{url}/take-back/", asked | {"amount_dollars": "29.93"}, follow=True
    )

    assert b"are being taken back" in answer.content
    row = PayoutReversal.objects.get(state="sending")
    assert (row.amount_cents, row.is_forfeited, row.reason) == (2_993, True, "x")


def test_an_admin_sets_a_reserve_period(shop: Shop, admin_client: Client) -> None:
    url = "/admin/billing/creatorreserve/set/"
    assert "Set a reserve period" in see(admin_client, "/admin/billing/creatorreserve/")
    assert "Days that were released" in see(admin_client, url)
    for wrong in ({"creator": "nobody"}, {"days": "0"}, {"days": "181"}, {"reason": ""}):
        asked = {"creator": "creator", "days": "30", "reason": "x"} | wrong
        assert admin_client.post(url, asked).status_code == 422

    admin_client.post(url, {"creator": "creator", "days": "30", "reason": "x"})
    assert CreatorReserve.objects.get().days == 30
    admin_client.post(url, {"creator": "creator", "days": "", "reason": "x"})
    assert CreatorReserve.objects.get().days is None


def test_staff_without_the_right_does_nothing(shop: Shop, owner: User) -> None:
    User.objects.filter(pk=owner.pk).update(is_staff=True)
    client = Client()
    client.force_login(User.objects.get(pk=owner.pk))

    for url in ("payoutrun/start/", "creatorreserve/set/"):
        assert client.post(f"/admin/billing/{url}").status_code == 403
    assert not PayoutRun.objects.exists()
    assert Account.objects.filter(created_at__lt=timezone.now()).exists()


# --- By themselves -----------------------------------------------------------------


def test_the_schedule_releases_and_pays(shop: Shop, settings) -> None:
    """Each task by its name, as beat asks for it; Stripe is silent here."""
    names = {
        "billing.release_earnings",
        "billing.start_payouts",
        "billing.advance_payouts",
        "billing.poll_connect_accounts",
    }
    assert names <= {entry["task"] for entry in app.conf.beat_schedule.values()}
    correct(shop, 30 * 10**9)
    shift_days(80)
    connect(shop.creator)

    for name in ("billing.release_earnings", "billing.start_payouts", "billing.advance_payouts"):
        app.tasks[name]()
    app.tasks["billing.poll_connect_accounts"]()

    item = PayoutItem.objects.get()
    assert (item.state, item.amount_cents) == ("waiting", 3_000)
    assert item.checked_at is not None
