"""Credit that nobody paid for stays that: also when it was spent or held, and came back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.models import LedgerAccount, Transfer, UsageEvent
from billing.selectors import refund as selectors
from billing.selectors.refund import find_bought_nanos
from billing.services import ledger
from billing.services.coupon import make_credit_coupon, redeem_coupon
from billing.services.reversal import reverse_usage
from marketplace.core import ids
from marketplace.core.ids import new_id
from marketplace.models import User
from marketplace.selectors.access import Actor
from tests.billing.conftest import PRICE_NANOS, Shop, asked, query, reserve, settle

pytestmark = pytest.mark.django_db

Fund = Callable[..., None]
# What one unit costs.
P = PRICE_NANOS
Kind = LedgerAccount.Kind


@pytest.fixture
def admin(platform_admin: User) -> Actor:
    return Actor(user=platform_admin)


def give(shop: Shop, nanos: int) -> None:
    pool_id = ledger.get_ledger_account_id(Kind.PROMO_POOL)
    move(shop, Transfer.Kind.PROMO, {pool_id: -nanos, shop.wallet_id: nanos})


def move(shop: Shop, kind: Transfer.Kind, amounts_nanos: dict, reference: str = "") -> None:
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=kind,
        idempotency_key=f"test:{new_id()}",
        amounts_nanos=amounts_nanos,
        reference=reference,
    )


def dispute(shop: Shop, name: str, nanos: int) -> None:
    """Take credit for a dispute, or give it back (below zero)."""
    hold_id = ledger.get_ledger_account_id(Kind.DISPUTE_HOLD, holder_id=shop.consumer.pk)
    kind = Transfer.Kind.DISPUTE if nanos > 0 else Transfer.Kind.DISPUTE_WON
    move(shop, kind, {shop.wallet_id: -nanos, hold_id: nanos}, reference=name)


def use(shop: Shop, *prices_nanos: int) -> list[str]:
    """Predictions that are booked in one transfer; their public ids."""
    held = reserve(*(asked(shop.consumer.pk, nanos) for nanos in prices_nanos))
    assert {outcome for _, _, outcome in held} == {"held"}
    items = [
        shop.item(hold_id, units=nanos // P, gross_nanos=nanos)
        for (hold_id, _, _), nanos in zip(held, prices_nanos, strict=True)
    ]
    assert set(settle(*items)) == {"settled"}
    return [ids.to_public(hold_id) for hold_id, _, _ in held]


def bought(shop: Shop) -> int:
    return find_bought_nanos(shop.consumer)


def test_what_a_dispute_took_comes_back_as_it_was(shop: Shop, fund: Fund) -> None:
    fund(20 * P)
    give(shop, 10 * P)
    assert bought(shop) == 20 * P

    dispute(shop, "du_1", 15 * P)
    assert bought(shop) == 15 * P
    dispute(shop, "du_1", -15 * P)

    assert bought(shop) == 20 * P


def test_what_was_given_is_given_again_when_its_prediction_goes_back(
    shop: Shop, fund: Fund, admin: Actor
) -> None:
    give(shop, 10 * P)
    fund(20 * P)
    (paid_by_gift,) = use(shop, 10 * P)
    (paid_by_money,) = use(shop, 5 * P)
    assert bought(shop) == 15 * P

    reverse_usage(admin, paid_by_gift, reason="Wrong.")
    assert bought(shop) == 15 * P
    reverse_usage(admin, paid_by_money, reason="Wrong.")

    assert bought(shop) == 20 * P


def test_a_part_that_goes_back_is_given_credit_first(shop: Shop, fund: Fund, admin: Actor) -> None:
    give(shop, 4 * P)
    fund(20 * P)
    (one,) = use(shop, 10 * P)
    assert bought(shop) == 14 * P

    reverse_usage(admin, one, reason="Half of it.", gross_nanos=5 * P)

    # Four were given, and one of it was bought.
    assert bought(shop) == 15 * P


def test_a_transfer_of_several_predictions_returns_what_it_took(
    shop: Shop, fund: Fund, admin: Actor
) -> None:
    give(shop, 3 * P)
    fund(20 * P)
    first, second = use(shop, 2 * P, 2 * P)
    assert UsageEvent.objects.values("transfer").distinct().count() == 1

    reverse_usage(admin, first, reason="Wrong.")
    assert bought(shop) == 19 * P
    reverse_usage(admin, second, reason="Wrong.")

    assert bought(shop) == 20 * P


def test_a_coupon_is_never_paid_back(shop: Shop, fund: Fund, admin: Actor) -> None:
    until = timezone.now() + timedelta(days=1)
    make_credit_coupon(admin, code="WELCOME", credit_nanos=9 * P, uses_max=1, valid_until=until)
    redeem_coupon(Actor(), shop.consumer, "WELCOME")
    fund(1 * P)

    (one,) = use(shop, 9 * P)
    reverse_usage(admin, one, reason="Wrong.")

    assert bought(shop) == 1 * P


def forget_what_came_back(wallet: LedgerAccount) -> int:
    """The rule without it: what comes back counts as bought."""
    left = 0
    for nanos, is_given, _ in selectors._list_steps(wallet):
        left = left + nanos if is_given else max(0, left + min(0, nanos))
    return left


@pytest.mark.parametrize("way", ["dispute", "reversal"])
def test_control_what_came_back_would_count_as_bought(
    shop: Shop, fund: Fund, admin: Actor, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(selectors, "_find_given_nanos", forget_what_came_back)
    fund(20 * P)
    give(shop, 10 * P)

    if way == "dispute":
        dispute(shop, "du_1", 10 * P)
        dispute(shop, "du_1", -10 * P)
    else:
        (one,) = use(shop, 10 * P)
        reverse_usage(admin, one, reason="Wrong.")

    assert bought(shop) == 30 * P


MOVES = st.tuples(
    st.sampled_from(["buy", "give", "use", "reverse", "take", "return", "refund"]),
    st.integers(1, 9),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(moves=st.lists(MOVES, max_size=14))
def test_any_history_against_a_plain_model(shop, admin, moves) -> None:
    """Every unit of the wallet is known by what it was; given ones go first, and come back."""
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT begin")
    have = {"given": 0, "bought": 0}
    charges: list[tuple[str, dict[str, int]]] = []
    taken: list[tuple[str, dict[str, int]]] = []
    clearing_id = ledger.get_ledger_account_id(Kind.STRIPE_CLEARING)
    for what, size in moves:
        nanos = size * P
        if what == "buy":
            move(shop, Transfer.Kind.TOP_UP, {clearing_id: -nanos, shop.wallet_id: nanos})
            have["bought"] += nanos
        elif what == "give":
            give(shop, nanos)
            have["given"] += nanos
        elif what == "refund" and nanos <= have["bought"]:
            move(shop, Transfer.Kind.REFUND, {shop.wallet_id: -nanos, clearing_id: nanos})
            have["bought"] -= nanos
        elif what in ("use", "take") and nanos <= sum(have.values()):
            gone = {"given": min(nanos, have["given"])}
            gone["bought"] = nanos - gone["given"]
            for kind, part in gone.items():
                have[kind] -= part
            if what == "use":
                charges.append((use(shop, nanos)[0], gone))
            else:
                taken.append((f"du_{len(taken)}{new_id().hex}", gone))
                dispute(shop, taken[-1][0], nanos)
        elif what == "reverse" and charges:
            public_id, gone = charges.pop(size % len(charges))
            reverse_usage(admin, public_id, reason="Wrong.")
            have = {kind: have[kind] + gone[kind] for kind in have}
        elif what == "return" and taken:
            name, gone = taken.pop(size % len(taken))
            dispute(shop, name, -sum(gone.values()))
            have = {kind: have[kind] + gone[kind] for kind in have}
    try:
        assert bought(shop) == have["bought"]
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("ROLLBACK TO SAVEPOINT begin")


def test_a_long_history_is_a_few_rows(shop: Shop, fund: Fund, admin: Actor) -> None:
    give(shop, 1 * P)
    fund(300 * P)
    public_ids = [use(shop, 1 * P)[0] for _ in range(60)]
    reverse_usage(admin, public_ids[30], reason="Wrong.")
    wallet = LedgerAccount.objects.get(pk=shop.wallet_id)

    assert len(selectors._list_steps(wallet)) == 5
    ((count,),) = query(
        "SELECT count(*) FROM billing_transferentry WHERE ledger_account_id = %s", shop.wallet_id
    )
    assert count == 63
    assert bought(shop) == 242 * P
