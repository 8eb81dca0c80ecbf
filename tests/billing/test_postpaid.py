"""Credit: who gets it, how far it reaches, and how it ends."""

from __future__ import annotations

import random
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connections, transaction

from billing.errors import StripeRefusedError
from billing.models import (
    Hold,
    Invoice,
    LedgerAccount,
    PostpaidTerms,
    StripeCall,
    UsageEvent,
)
from billing.selectors.meter import read_clock
from billing.services import invoice as invoices
from billing.services import ledger, meter
from billing.services import postpaid as service
from billing.services.postpaid import (
    DUE_DAYS_MAX,
    LIMIT_NANOS_MAX,
    LIMIT_NANOS_MIN,
    advance_postpaid,
    set_credit,
)
from marketplace.core.errors import ConflictError, ForbiddenError, InvalidInputError
from marketplace.core.ids import new_id
from marketplace.models import AuditEvent, User
from marketplace.selectors.access import Actor
from tests.billing.conftest import (
    PRICE_NANOS,
    Shop,
    asked,
    balances,
    give_back,
    hold,
    query,
    reserve,
    settle,
)
from tests.billing.metered_stripe import MeteredStripe
from tests.billing.postpaid import (
    LIMIT_NANOS,
    age,
    agree,
    begin_earlier,
    broken,
    buy,
    receivable,
)
from tests.billing.postpaid import stripe as stripe  # noqa: PLC0414 - a fixture
from tests.factories import APIKeyFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


@pytest.fixture
def admin(shop: Shop, platform_admin: User) -> Actor:
    return Actor(user=platform_admin)


def limited(shop: Shop, limit_nanos: int) -> None:
    """Credit of any size, without the terms about it."""
    set_credit(shop.consumer.pk, limit_nanos)


# --- Reserving ---


def test_an_account_with_a_limit_owes_and_its_wallet_stays(shop, fund):
    fund(5_000)
    limited(shop, 3 * PRICE_NANOS)

    buy(shop, 2)

    assert balances()["wallet"] == (5_000, 0)
    assert balances()["receivable"] == (-2 * PRICE_NANOS, 0)
    assert balances()["creator_reserve"] == (1_600, 0)
    assert broken() == set()


def test_the_last_nano_of_the_limit_and_one_past_it(shop):
    limited(shop, 2 * PRICE_NANOS)

    buy(shop)
    hold(shop)
    ((_, nanos, outcome),) = reserve(asked(shop.consumer.pk, 1))

    assert (nanos, outcome) == (0, "insufficient_credit")
    assert receivable(shop).available_nanos == 0


def test_a_limit_of_nothing_means_the_wallet(shop, fund):
    fund(PRICE_NANOS)
    limited(shop, 0)

    buy(shop)

    assert balances()["wallet"] == (0, 0)
    assert balances()["receivable"] == (0, 0)


def test_slices_come_out_of_the_credit(shop):
    limited(shop, 1_600 * PRICE_NANOS)

    ((_, nanos, outcome),) = reserve(asked(shop.consumer.pk, PRICE_NANOS, 10**12))

    assert (nanos, outcome) == (100 * PRICE_NANOS, "held")


def test_who_is_refused_hears_that_others_hold_the_credit(shop):
    limited(shop, PRICE_NANOS)
    hold(shop)

    ((may_return,),) = query(
        "SELECT may_return FROM billing_reserve(jsonb_build_array(jsonb_build_object('hold_id',"
        " uuidv7(), 'account_id', %s::text, 'least_nanos', 5, 'most_nanos', 5)), 60)",
        str(shop.consumer.pk),
    )

    assert may_return


def test_a_lowered_limit_stops_new_predictions_and_no_others(shop):
    limited(shop, 10 * PRICE_NANOS)
    buy(shop, 3)
    running = hold(shop)

    limited(shop, 2 * PRICE_NANOS)

    assert reserve(asked(shop.consumer.pk, 1))[0][2] == "insufficient_credit"
    assert settle(shop.item(running)) == ["settled"]
    # The floor is where it had to be; what is given back is no new credit.
    assert receivable(shop).min_available_nanos == -4 * PRICE_NANOS
    assert reserve(asked(shop.consumer.pk, 1))[0][2] == "insufficient_credit"
    assert broken() == set()


def test_what_is_given_back_below_a_lowered_limit_is_no_new_credit(shop):
    limited(shop, 10 * PRICE_NANOS)
    first, second = hold(shop, 2 * PRICE_NANOS), hold(shop, 5 * PRICE_NANOS)
    limited(shop, PRICE_NANOS)

    give_back(first)
    assert reserve(asked(shop.consumer.pk, 1))[0][2] == "insufficient_credit"
    give_back(second)
    assert reserve(asked(shop.consumer.pk, PRICE_NANOS))[0][2] == "held"
    limited(shop, PRICE_NANOS)

    assert receivable(shop).min_available_nanos == -PRICE_NANOS


def test_the_database_refuses_more_than_the_limit_and_a_limit_of_a_wallet(shop):
    limited(shop, PRICE_NANOS)

    for changes in (
        {"posted_nanos": -PRICE_NANOS - 1},
        {"held_nanos": PRICE_NANOS + 1},
        {"credit_limit_nanos": -1},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            LedgerAccount.objects.filter(kind="receivable").update(**changes)
    with pytest.raises(IntegrityError), transaction.atomic():
        LedgerAccount.objects.filter(kind="wallet").update(credit_limit_nanos=1)
    with pytest.raises(DatabaseError) as caught, transaction.atomic():
        limited(shop, -1)
    assert caught.value.__cause__.sqlstate == "SR422"


def fight(shop: Shop, threads_count: int, each: int) -> list[str]:
    outcomes: list[str] = []
    barrier = threading.Barrier(threads_count)

    def take() -> None:
        try:
            barrier.wait()
            for _ in range(each):
                ((hold_id, _, outcome),) = reserve(asked(shop.consumer.pk, PRICE_NANOS))
                outcomes.extend(settle(shop.item(hold_id)) if outcome == "held" else [outcome])
        except DatabaseError as error:
            outcomes.append(str(error))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=take) for _ in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_a_limit_that_many_fight_over_is_never_exceeded(shop):
    affordable = 17
    limited(shop, affordable * PRICE_NANOS + PRICE_NANOS - 1)

    outcomes = fight(shop, 8, 5)

    assert (
        sorted(outcomes) == ["insufficient_credit"] * (40 - affordable) + ["settled"] * affordable
    )
    assert receivable(shop).owed_nanos == affordable * PRICE_NANOS
    assert broken() == set()


def test_a_limit_that_is_only_looked_at_would_be_exceeded(shop):
    """The control: check, then act. The floor stops what the check let through."""
    limited(shop, PRICE_NANOS)
    barrier = threading.Barrier(2)
    refused: list[str] = []

    def reserve_naively() -> None:
        try:
            row = receivable(shop)
            barrier.wait()
            if row.available_nanos >= PRICE_NANOS:
                query(
                    "UPDATE billing_ledgeraccount SET held_nanos = held_nanos + %s"
                    " WHERE id = %s RETURNING 1",
                    PRICE_NANOS,
                    row.pk,
                )
        except IntegrityError:
            refused.append("floor")
        finally:
            connections.close_all()

    threads = [threading.Thread(target=reserve_naively) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert refused == ["floor"]


def test_switching_under_load_loses_and_doubles_nothing(shop, fund):
    fund(500_000 * PRICE_NANOS)
    errors: list[str] = []
    booked: list[int] = []
    until_s = time.monotonic() + 5
    keys = [new_id() for _ in range(2)]

    def run(seed: int) -> None:
        rand, count = random.Random(seed), 0
        try:
            while time.monotonic() < until_s:
                key = rand.choice(keys)
                items = [
                    asked(shop.consumer.pk, PRICE_NANOS, 8 * PRICE_NANOS, api_key_id=key)
                    for _ in range(rand.randint(1, 3))
                ]
                holds = [row[0] for row in reserve(*items) if row[2] == "held"]
                found = settle(
                    *(shop.item(new_id(), hold_id=str(one), api_key_id=str(key)) for one in holds)
                )
                count += found.count("settled")
                give_back(*holds)
        except DatabaseError as error:
            errors.append(f"{error.__cause__.sqlstate}: {error}")
        finally:
            booked.append(count)
            connections.close_all()

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    limits = [500_000 * PRICE_NANOS, None]
    while time.monotonic() < until_s:
        set_credit(shop.consumer.pk, limits[0])
        limits.reverse()
        time.sleep(0.02)
    for thread in threads:
        thread.join()

    assert errors == []
    spent = [account.posted_nanos for account in LedgerAccount.objects.order_by("kind")]
    assert receivable(shop).owed_nanos > 0
    assert balances()["wallet"][0] < 500_000 * PRICE_NANOS
    assert sum(booked) == UsageEvent.objects.count() > 50
    owed = receivable(shop).owed_nanos + 500_000 * PRICE_NANOS - balances()["wallet"][0]
    assert owed == sum(booked) * PRICE_NANOS
    assert sum(spent) == 0
    assert not LedgerAccount.objects.exclude(held_nanos=0).exists()
    assert broken() == set()


def spend_while_switching(shop: Shop, key: Any, run_s: float) -> int:
    """Many predictions of a key while its account pays now by credit and now from its wallet."""
    until_s = time.monotonic() + run_s

    def run() -> None:
        try:
            while time.monotonic() < until_s:
                ask = asked(shop.consumer.pk, PRICE_NANOS, api_key_id=key.pk)
                ((hold_id, _, outcome),) = reserve(ask)
                if outcome == "held":
                    item = shop.item(new_id(), hold_id=str(hold_id), api_key_id=str(key.pk))
                    settle(item)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    limits: list[int | None] = [10_000 * PRICE_NANOS, None]
    while time.monotonic() < until_s:
        set_credit(shop.consumer.pk, limits[0])
        limits.reverse()
    for thread in threads:
        thread.join()
    return UsageEvent.objects.filter(api_key_id=key.pk).count()


def test_a_budget_is_one_for_the_wallet_and_the_credit(shop, fund):
    fund(10_000 * PRICE_NANOS)
    key = APIKeyFactory(account=shop.consumer, budget_total_nanos=40 * PRICE_NANOS)

    assert spend_while_switching(shop, key, 3) == 40


# --- Terms ---


def test_who_applies_and_is_approved_has_credit(shop, stripe, platform_admin):
    terms = agree(shop, platform_admin)

    assert (terms.state, terms.meter_id, terms.subscription_id) == ("active", "mtr_test", "sub_1")
    buy(shop)
    assert receivable(shop).owed_nanos == PRICE_NANOS
    assert set(StripeCall.objects.values_list("endpoint", "state")) == {
        ("customers.create", "ok"),
        ("subscriptions.create", "ok"),
    }
    actions = AuditEvent.objects.order_by("seq").values_list("action", flat=True)
    assert list(actions) == ["postpaid.apply", "postpaid.approve", "postpaid.activate"]
    assert AuditEvent.objects.get(action="postpaid.approve").payload == {
        "credit_limit_nanos": LIMIT_NANOS,
        "due_days": 14,
        "reason": "a good customer",
    }


def test_what_is_offered_is_accepted_or_declined(shop, stripe, admin):
    offered = {"limit_nanos": LIMIT_NANOS, "due_days": 30, "reason": "stay"}
    service.offer_terms(admin, shop.consumer, **offered)
    assert service.decline_terms(Actor(), shop.consumer).state == "refused"
    assert not LedgerAccount.objects.filter(kind="receivable").exists()

    service.offer_terms(admin, shop.consumer, **offered)
    assert service.accept_terms(Actor(), shop.consumer).state == "active"
    assert receivable(shop).credit_limit_nanos == LIMIT_NANOS


def test_refused_terms_give_nothing_and_can_be_asked_for_again(shop, stripe, admin):
    terms = service.apply_for_terms(Actor(), shop.consumer, wanted_limit_nanos=LIMIT_NANOS)
    service.refuse_terms(admin, terms, reason="too new")

    with pytest.raises(ConflictError):
        service.approve_terms(admin, terms, limit_nanos=LIMIT_NANOS, due_days=1, reason="x")
    again = service.apply_for_terms(Actor(), shop.consumer, wanted_limit_nanos=LIMIT_NANOS)

    assert again.pk == terms.pk
    with pytest.raises(ConflictError):
        service.apply_for_terms(Actor(), shop.consumer, wanted_limit_nanos=LIMIT_NANOS)


def test_only_platform_admins_give_credit(shop, stripe, owner):
    terms = service.apply_for_terms(Actor(), shop.consumer, wanted_limit_nanos=LIMIT_NANOS)
    fields = {"limit_nanos": LIMIT_NANOS, "due_days": 1, "reason": "x"}

    for actor in (Actor(), Actor(user=owner)):
        for refused in (service.approve_terms, service.change_terms):
            with pytest.raises(ForbiddenError):
                refused(actor, terms, **fields)
        with pytest.raises(ForbiddenError):
            service.offer_terms(actor, shop.creator, **fields)
        with pytest.raises(ForbiddenError):
            service.refuse_terms(actor, terms, reason="x")

    assert PostpaidTerms.objects.get().state == "applied"


@pytest.mark.parametrize(
    ("limit_nanos", "due_days", "reason", "is_possible"),
    [
        (LIMIT_NANOS_MIN, 0, "x", True),
        (LIMIT_NANOS_MAX, DUE_DAYS_MAX, "x" * 2_000, True),
        (LIMIT_NANOS_MIN - 1, 1, "x", False),
        (LIMIT_NANOS_MAX + 1, 1, "x", False),
        (LIMIT_NANOS, -1, "x", False),
        (LIMIT_NANOS, DUE_DAYS_MAX + 1, "x", False),
        (LIMIT_NANOS, 1, " ", False),
        (LIMIT_NANOS, 1, "x" * 2_001, False),
    ],
)
def test_bounds_of_terms(shop, stripe, admin, limit_nanos, due_days, reason, is_possible):
    terms = service.apply_for_terms(Actor(), shop.consumer, wanted_limit_nanos=LIMIT_NANOS)
    fields = {"limit_nanos": limit_nanos, "due_days": due_days, "reason": reason}

    if is_possible:
        assert service.approve_terms(admin, terms, **fields).state == "active"
        return
    with pytest.raises(InvalidInputError):
        service.approve_terms(admin, terms, **fields)
    assert PostpaidTerms.objects.get().state == "applied"


def test_a_wanted_limit_out_of_bounds_is_refused(shop, stripe):
    with pytest.raises(InvalidInputError):
        service.apply_for_terms(Actor(), shop.consumer, wanted_limit_nanos=LIMIT_NANOS_MAX + 1)
    assert not PostpaidTerms.objects.exists()


def test_a_changed_limit_is_valid_at_once_and_written_down(shop, stripe, admin, platform_admin):
    terms = agree(shop, platform_admin)

    service.change_terms(
        admin, terms, limit_nanos=2 * LIMIT_NANOS, due_days=7, reason="they pay well"
    )

    assert receivable(shop).credit_limit_nanos == 2 * LIMIT_NANOS
    assert AuditEvent.objects.get(action="postpaid.change").payload == {
        "credit_limit_nanos": 2 * LIMIT_NANOS,
        "due_days": 7,
        "reason": "they pay well",
        "before": {"credit_limit_nanos": LIMIT_NANOS, "due_days": 14},
    }


# --- Stripe does not answer ---


@pytest.mark.parametrize("lost", ["lost_before", "lost_after"])
def test_a_lost_answer_makes_no_second_subscription(shop, stripe, platform_admin, lost):
    getattr(stripe, lost)["create_subscription"] = 1

    terms = agree(shop, platform_admin)

    # No credit before there is something to report it to.
    assert terms.state == "approved"
    assert not LedgerAccount.objects.filter(kind="receivable").exists()
    advance_postpaid()
    advance_postpaid()
    assert PostpaidTerms.objects.get().state == "active"
    assert len(stripe.subscriptions) == 1


def test_a_subscription_whose_answer_was_lost_for_a_day_is_searched_for(
    shop, stripe, platform_admin
):
    stripe.lost_after["create_subscription"] = 1
    agree(shop, platform_admin)
    StripeCall.objects.update(first_sent_at=read_clock() - timedelta(hours=21))
    stripe.replays.clear()  # Stripe forgets keys.

    advance_postpaid()

    assert len(stripe.subscriptions) == 1
    assert PostpaidTerms.objects.get().subscription_id == "sub_1"


def test_a_subscription_that_is_not_searched_for_is_made_twice(
    shop, stripe, platform_admin, monkeypatch
):
    """The control of the test above."""
    monkeypatch.setattr(service, "BLIND_RETRY_MAX", timedelta(days=9))
    stripe.lost_after["create_subscription"] = 1
    agree(shop, platform_admin)
    StripeCall.objects.update(first_sent_at=read_clock() - timedelta(hours=21))
    stripe.replays.clear()

    advance_postpaid()

    assert len(stripe.subscriptions) == 2


def test_a_refusal_is_told_and_does_not_stop_the_others(shop, stripe, platform_admin, monkeypatch):
    def refuse(*_args: Any, **_values: Any) -> Any:
        raise StripeRefusedError("no")

    monkeypatch.setattr(stripe, "create_subscription", refuse)
    with pytest.raises(StripeRefusedError):
        agree(shop, platform_admin)

    assert advance_postpaid() == 0
    assert PostpaidTerms.objects.get().state == "approved"


# --- The end ---


def run_out(shop: Shop, stripe: MeteredStripe) -> Invoice:
    """All that was used on credit is on a final invoice."""
    age(2)
    meter.seal_hours(wait=timedelta(0))
    meter.send_reports()
    stripe.now = read_clock()
    advance_postpaid()
    (draft,) = [one for one in stripe.invoices.values() if one.status == "draft"]
    stripe.finalize(draft.id, read_clock())
    found = invoices.mirror_invoice(draft.id)
    assert found is not None
    return found


def test_closed_terms_pay_from_the_wallet_at_once_and_end_with_the_last_payment(
    shop, fund, stripe, admin, platform_admin
):
    fund(5 * PRICE_NANOS)
    terms = agree(shop, platform_admin)
    begin_earlier(terms, stripe, 4)
    buy(shop, 3)
    running = hold(shop)

    service.close_terms(admin, terms, reason="they asked")

    buy(shop)
    assert balances()["wallet"] == (4 * PRICE_NANOS, 0)
    assert advance_postpaid() == 0
    assert settle(shop.item(running)) == ["settled"]
    invoice = run_out(shop, stripe)
    assert (PostpaidTerms.objects.get().state, invoice.state) == ("closing", "paid")
    # 4,004 nano-dollars are no cent: Stripe rounds them away, and what is less than a
    # millionth is on no invoice.
    assert receivable(shop).owed_nanos == 4
    assert advance_postpaid() == 1
    terms.refresh_from_db()
    assert terms.state == "closed"
    assert (receivable(shop).owed_nanos, receivable(shop).min_available_nanos) == (0, 0)
    assert balances()["rounding"] == (-4_004, 0)
    assert broken() == set()


def test_closing_waits_for_the_last_payment(shop, stripe, admin, platform_admin):
    terms = agree(shop, platform_admin)
    begin_earlier(terms, stripe, 4)
    for _ in range(2):
        ((hold_id, _, _),) = reserve(asked(shop.consumer.pk, 500_000 * PRICE_NANOS))
        units = {"units": 500_000, "gross_nanos": 500_000 * PRICE_NANOS}
        assert settle(shop.item(hold_id, **units)) == ["settled"]
    service.close_terms(admin, terms)
    invoice = run_out(shop, stripe)
    assert (invoice.state, invoice.total_cents) == ("open", 100)

    assert advance_postpaid() == 0
    stripe.pay(invoice.stripe_id, read_clock())
    invoices.mirror_invoice(invoice.stripe_id)

    assert advance_postpaid() == 1
    assert receivable(shop).posted_nanos == 0
    assert broken() == set()


def test_closed_terms_can_begin_anew_with_another_subscription(shop, stripe, admin, platform_admin):
    terms = agree(shop, platform_admin)
    begin_earlier(terms, stripe, 4)
    buy(shop)
    service.close_terms(admin, terms)
    run_out(shop, stripe)
    advance_postpaid()

    again = agree(shop, platform_admin)

    assert (again.state, again.round, again.subscription_id) == ("active", 2, "sub_2")
    buy(shop)
    assert receivable(shop).owed_nanos == PRICE_NANOS


def test_the_sweep_releases_credit_of_gateways_that_died(shop):
    limited(shop, 10 * PRICE_NANOS)
    hold(shop)
    Hold.objects.update(expires_at="2020-01-01T00:00:00Z")

    assert ledger.expire_holds() == 1
    assert balances()["receivable"] == (0, 0)
