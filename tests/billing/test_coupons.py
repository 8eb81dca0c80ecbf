"""Codes: what they give, to how many, and that no race gives it to one more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from billing.errors import CouponRefusedError
from billing.models import Coupon, CouponRedemption, LedgerAccount, Transfer
from billing.selectors.coupon import promo_granted_nanos
from billing.services import coupon as coupons
from billing.services.coupon import (
    CREDIT_NANOS_MAX,
    DAYS_MAX,
    USES_MAX,
    end_coupon,
    make_credit_coupon,
    make_price_coupon,
    redeem_coupon,
)
from billing.services.offer import find_offer
from marketplace.core.errors import ForbiddenError, InvalidInputError, LimitExceededError
from marketplace.core.limits import COUPON_TRIES_PER_ACCOUNT_MAX
from marketplace.models import Account, AuditEvent, Membership, User
from marketplace.selectors.access import Actor
from strongroom.rating import rate
from tests.billing.conftest import PRICE_NANOS, Shop, balances
from tests.billing.test_ledger import broken

pytestmark = pytest.mark.django_db

CREDIT_NANOS = 5_000_000


@pytest.fixture(autouse=True)
def _no_tries_counted() -> None:
    cache.clear()


@pytest.fixture
def admin(db: None) -> Actor:
    return Actor(user=User.objects.create_superuser("admin@x.example", "a good long password"))


@pytest.fixture
def actor(shop: Shop) -> Actor:
    user = User.objects.create_user("buyer@x.example", "a good long password")
    Membership.objects.create(account=shop.consumer, user=user, role="owner")
    return Actor(user=user)


def make_credit(admin: Actor, **changes: Any) -> Coupon:
    terms = {
        "code": "WELCOME",
        "credit_nanos": CREDIT_NANOS,
        "uses_max": 3,
        "valid_until": timezone.now() + timedelta(days=1),
    }
    return make_credit_coupon(admin, **terms | changes)


def make_off(actor: Actor, shop: Shop, **changes: Any) -> Coupon:
    terms = {
        "code": "SPRING",
        "off_bps": 2_500,
        "days": 30,
        "uses_max": 3,
        "valid_until": timezone.now() + timedelta(days=1),
    }
    return make_price_coupon(actor, shop.model, **terms | changes)


def test_credit_comes_from_the_platform_and_is_known_as_given(
    shop: Shop, fund: Callable[..., None], admin: Actor, actor: Actor
) -> None:
    fund(1_000)
    make_credit(admin)

    redemption = redeem_coupon(actor, shop.consumer, " welcome ")

    assert balances()["wallet"] == (1_000 + CREDIT_NANOS, 0)
    assert balances()["promo_pool"] == (-CREDIT_NANOS, 0)
    assert redemption.transfer.kind == Transfer.Kind.PROMO
    assert promo_granted_nanos(shop.consumer) == CREDIT_NANOS
    assert promo_granted_nanos(shop.creator) == 0
    assert AuditEvent.objects.filter(action="coupon.redeem").count() == 1
    assert broken() == set()


def test_a_part_off_is_a_private_offer_until_its_end(shop: Shop, actor: Actor) -> None:
    make_off(actor, shop)

    redeem_coupon(actor, shop.consumer, "SPRING")

    offer = find_offer(shop.model, shop.consumer)
    assert offer is not None
    assert rate(offer.terms, 1, {}, 0) == -(-PRICE_NANOS * 3 // 4)
    assert offer.valid_until is not None
    assert timedelta(days=29) < offer.valid_until - timezone.now() < timedelta(days=31)
    assert promo_granted_nanos(shop.consumer) == 0


def refuse(actor: Actor, account: Account, code: str, words: str) -> None:
    before = CouponRedemption.objects.count()
    with pytest.raises(CouponRefusedError, match=words):
        redeem_coupon(actor, account, code)
    assert CouponRedemption.objects.count() == before


def test_a_code_is_refused_with_its_reason(shop: Shop, admin: Actor, actor: Actor) -> None:
    made = make_credit(admin, uses_max=1)
    refuse(actor, shop.consumer, "WELCOM", "no such code")
    redeem_coupon(actor, shop.consumer, "WELCOME")
    refuse(actor, shop.consumer, "WELCOME", "has used")
    refuse(actor, shop.creator, "WELCOME", "used up")
    ended = make_credit(admin, code="ENDED")
    end_coupon(admin, ended)
    end_coupon(admin, ended)
    refuse(actor, shop.consumer, "ENDED", "not valid")
    Coupon.objects.filter(pk=made.pk).update(valid_until=timezone.now(), uses_max=9)
    refuse(actor, shop.creator, "WELCOME", "not valid")
    make_off(actor, shop)
    refuse(actor, shop.creator, "SPRING", "nothing")
    assert balances()["wallet"] == (CREDIT_NANOS, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"code": "abc"},
        {"code": "A" * 33},
        {"code": "with blank"},
        {"code": "-ABC"},
        {"credit_nanos": 0},
        {"credit_nanos": -1},
        {"credit_nanos": CREDIT_NANOS_MAX + 1},
        {"credit_nanos": 1.5},
        {"uses_max": 0},
        {"uses_max": USES_MAX + 1},
        {"valid_until": timezone.now() - timedelta(days=1)},
    ],
)
def test_a_coupon_out_of_range_is_not_made(admin: Actor, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        make_credit(admin, **changes)
    assert not Coupon.objects.exists()


@pytest.mark.parametrize(
    "changes", [{"off_bps": 0}, {"off_bps": 10_000}, {"days": 0}, {"days": DAYS_MAX + 1}]
)
def test_a_part_off_out_of_range_is_not_made(
    shop: Shop, actor: Actor, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        make_off(actor, shop, **changes)


def test_the_largest_are_made_and_a_code_is_taken_once(
    shop: Shop, admin: Actor, actor: Actor
) -> None:
    make_credit(admin, code="A" * 32, credit_nanos=CREDIT_NANOS_MAX, uses_max=USES_MAX)
    make_off(actor, shop, off_bps=9_999, days=DAYS_MAX)
    with pytest.raises(InvalidInputError, match="taken"):
        make_credit(admin, code="spring")


def test_only_the_platform_gives_credit(actor: Actor) -> None:
    with pytest.raises(ForbiddenError):
        make_credit(actor)


def test_codes_cannot_be_guessed_for_long(shop: Shop, admin: Actor, actor: Actor) -> None:
    make_credit(admin)
    for number in range(COUPON_TRIES_PER_ACCOUNT_MAX - 1):
        refuse(actor, shop.consumer, f"GUESS-{number}", "no such code")
    redeem_coupon(actor, shop.consumer, "WELCOME")
    with pytest.raises(LimitExceededError):
        redeem_coupon(actor, shop.consumer, "GUESS")


# --- Races ---


def race(code: str, accounts: list[Account], times: int = 1) -> list[str]:
    """All at once; the outcomes."""
    barrier = threading.Barrier(len(accounts) * times)
    outcomes: list[str] = []

    def use(account: Account) -> None:
        try:
            barrier.wait(20)
            redeem_coupon(Actor(), account, code)
            outcomes.append("given")
        except CouponRefusedError as error:
            outcomes.append(error.detail)
        except Exception as error:  # noqa: BLE001 - the control breaks in its own way
            outcomes.append(type(error).__name__)
        finally:
            connections.close_all()

    threads = [
        threading.Thread(target=use, args=[account]) for account in accounts for _ in range(times)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.django_db(transaction=True)
def test_a_code_for_five_is_given_to_five_of_twenty(shop: Shop, admin: Actor) -> None:
    make_credit(admin, uses_max=5)
    accounts = [Account.objects.create(slug=f"a{number}", name="A") for number in range(20)]

    outcomes = race("WELCOME", accounts)

    assert sorted(outcomes) == ["The code is used up."] * 15 + ["given"] * 5
    check_given(5)


@pytest.mark.django_db(transaction=True)
def test_an_account_that_uses_it_ten_times_at_once_gets_it_once(shop: Shop, admin: Actor) -> None:
    make_credit(admin, uses_max=50)

    outcomes = race("WELCOME", [shop.consumer], times=10)

    assert outcomes.count("given") == 1
    check_given(1)


@pytest.mark.django_db(transaction=True)
def test_without_the_lock_the_constraint_stops_it(
    shop: Shop, admin: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: who counts without a lock counts wrongly, and the race above shows it."""
    make_credit(admin, uses_max=5)
    accounts = [Account.objects.create(slug=f"a{number}", name="A") for number in range(20)]
    manager = coupons.Coupon.objects
    monkeypatch.setattr(type(manager), "select_for_update", lambda self: self.all(), raising=False)

    outcomes = race("WELCOME", accounts)

    assert outcomes.count("given") > 5


def check_given(count: int) -> None:
    assert Coupon.objects.get().uses == CouponRedemption.objects.count() == count
    pool = LedgerAccount.objects.get(kind="promo_pool")
    assert pool.posted_nanos == -count * CREDIT_NANOS
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(posted_nanos) FROM billing_ledgeraccount")
        assert cursor.fetchone() == (0,)


# --- Pages ---


def test_a_code_is_used_on_its_page(shop: Shop, admin: Actor, actor: Actor) -> None:
    make_credit(admin)
    client = Client()
    client.force_login(actor.user)
    path = "/console/coupons?account=consumer"
    assert b"No code was used" in client.get(path).content
    assert client.post(path, {"code": "NONE"}).status_code == 422
    assert b"$0.005 of credit" in client.post(path, {"code": "welcome"}, follow=True).content
    body = {"account": "consumer", "code": "WELCOME"}
    answer = client.post("/api/coupons/redeem", body, content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (422, "coupon_refused")


def test_admins_make_and_end_coupons_and_agree_on_shares(shop: Shop, admin_client: Client) -> None:
    base = "/admin/billing/coupon"
    assert b"Make a coupon" in admin_client.get(f"{base}/").content
    assert admin_client.get(f"{base}/make/").status_code == 200
    fields = {"code": "GIFT", "credit_nanos": "12.50", "uses_max": "2", "until": "2099-12-31"}
    assert admin_client.post(f"{base}/make/", fields).status_code == 302
    assert Coupon.objects.get().credit_nanos == 12_500_000_000
    assert admin_client.post(f"{base}/make/", fields).status_code == 422
    assert admin_client.post(f"{base}/end/", {"code": "gift"}).status_code == 302
    assert Coupon.objects.get().ended_at is not None
    share = {"account": "creator", "percent": "92.5", "reason": "an early creator"}
    assert admin_client.post("/admin/billing/creatorterms/make/", share).status_code == 302
    assert shop.creator.creator_terms.creator_share_bps == 9_250


def test_who_is_no_superuser_makes_none(shop: Shop, actor: Actor) -> None:
    client = Client()
    User.objects.filter(pk=actor.user.pk).update(is_staff=True)
    client.force_login(actor.user)
    assert client.post("/admin/billing/coupon/make/", {"code": "GIFT"}).status_code == 403
