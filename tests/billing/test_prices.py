"""Prices as creators set them: at once or after a notice, for all or for one account."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import DatabaseError, transaction
from django.test import Client
from django.utils import timezone

from billing.errors import NoComingPriceError, OfferDearerError
from billing.models import Price
from billing.selectors.price import find_floor_nanos, find_next_price, find_price, list_prices
from billing.services.creator_terms import set_creator_share
from billing.services.offer import OFFERS_MAX, end_offer, find_offer, list_offers, make_offer
from billing.services.price import (
    NANOS_PER_PREDICTION_MAX,
    RATE_NANOS_MAX,
    TIERS_MAX,
    PriceTerms,
    notice_period,
    set_price,
    withdraw_price,
)
from billing.services.price_notice import mail_price_rises
from billing.templatetags.prices import price_lines
from marketplace.core.errors import ForbiddenError, InvalidInputError, NotFoundError
from marketplace.models import Account, AuditEvent, Membership, NotificationPreference, User
from marketplace.selectors.access import Actor
from strongroom.rating import UNITS_MAX, rate
from tests.billing.conftest import PRICE_NANOS, Shop, hold, settle
from tests.billing.test_ledger import broken, record_answer
from tests.inboxes import list_told

pytestmark = pytest.mark.django_db

Fund = Callable[..., None]


@pytest.fixture
def actor(shop: Shop) -> Actor:
    user = User.objects.create_user("maker@x.example", "a good long password")
    Membership.objects.create(account=shop.creator, user=user, role="owner")
    return Actor(user=user)


@pytest.fixture
def used(shop: Shop, fund: Fund) -> Shop:
    """Somebody has paid for the model."""
    fund(10 * PRICE_NANOS)
    prediction_id = hold(shop)
    record_answer(shop, prediction_id)
    assert settle(shop.item(prediction_id)) == ["settled"]
    return shop


def test_a_rise_begins_after_its_notice_and_a_fall_at_once(used: Shop, actor: Actor) -> None:
    before = timezone.now()
    dearer = set_price(actor, used.model, nanos_per_prediction=PRICE_NANOS + 1)

    assert find_price(used.model) == used.price
    assert find_next_price(used.model) == dearer
    assert dearer.valid_from >= before + notice_period()
    cheaper = set_price(actor, used.model, nanos_per_prediction=PRICE_NANOS - 1)
    assert find_price(used.model) == cheaper
    # The newer one has taken its place.
    assert find_next_price(used.model) is None
    assert [one.pk for one in list_prices(used.model)] == [cheaper.pk, used.price.pk]
    assert AuditEvent.objects.filter(action="price.set").count() == 2


def test_nobody_is_owed_a_notice_where_nobody_has_paid(shop: Shop, actor: Actor) -> None:
    price = set_price(actor, shop.model, nanos_per_prediction=10 * PRICE_NANOS)
    assert find_price(shop.model) == price


def test_an_announced_price_is_taken_back(used: Shop, actor: Actor) -> None:
    dearer = set_price(actor, used.model, nanos_per_prediction=PRICE_NANOS + 1)
    # Setting it again, or the present one, changes nothing.
    assert set_price(actor, used.model, nanos_per_prediction=PRICE_NANOS + 1) == dearer

    assert withdraw_price(actor, used.model) == dearer

    used.price.refresh_from_db()
    assert (find_price(used.model), used.price.valid_until) == (used.price, None)
    assert find_next_price(used.model) is None
    with pytest.raises(NoComingPriceError):
        withdraw_price(actor, used.model)


def test_a_price_that_has_begun_cannot_be_taken_back_even_by_hand(shop: Shop, actor: Actor) -> None:
    set_price(actor, shop.model, nanos_per_prediction=5)
    for change in ({"valid_until": None}, {"valid_until": timezone.now() + timedelta(days=1)}):
        with pytest.raises(DatabaseError, match="can only be ended"), transaction.atomic():
            Price.objects.filter(pk=shop.price.pk).update(**change)
    for change in ({"rates": {"row": 1}}, {"free_units": 1}, {"tiers": [[1, 1]]}):
        with pytest.raises(DatabaseError, match="can only be ended"), transaction.atomic():
            Price.objects.filter(valid_until=None).update(**change)


BASE = PriceTerms(100, {"row": 50}, {"row": 5}, 10, 10, ((20, 8_000), (40, 5_000)))
DEARER: dict[str, PriceTerms] = {
    "flat": PriceTerms(101, BASE.rates, BASE.max_units, 10, 10, BASE.tiers),
    "rate": PriceTerms(100, {"row": 51}, BASE.max_units, 10, 10, BASE.tiers),
    "another rate": PriceTerms(100, {"row": 50, "pixel": 1}, {"row": 5}, 10, 10, BASE.tiers),
    "higher bound": PriceTerms(100, BASE.rates, {"row": 6}, 10, 10, BASE.tiers),
    "no bound": PriceTerms(100, BASE.rates, {}, 10, 10, BASE.tiers),
    "minimum": PriceTerms(100, BASE.rates, BASE.max_units, 11, 10, BASE.tiers),
    "fewer free": PriceTerms(100, BASE.rates, BASE.max_units, 10, 9, BASE.tiers),
    "smaller discount": PriceTerms(100, BASE.rates, {"row": 5}, 10, 10, ((20, 8_001), (40, 5_000))),
    "later discount": PriceTerms(100, BASE.rates, {"row": 5}, 10, 10, ((21, 8_000), (40, 5_000))),
    "no discount": PriceTerms(100, BASE.rates, BASE.max_units, 10, 10, ()),
}
NOT_DEARER = {
    "the same": BASE,
    "flat": PriceTerms(99, BASE.rates, BASE.max_units, 10, 10, BASE.tiers),
    "no rate": PriceTerms(100, {}, {}, 10, 10, BASE.tiers),
    "more free": PriceTerms(100, BASE.rates, BASE.max_units, 10, 15, BASE.tiers),
    "earlier discount": PriceTerms(100, BASE.rates, {"row": 5}, 10, 10, ((15, 8_000), (40, 5_000))),
    "one step": PriceTerms(100, BASE.rates, BASE.max_units, 10, 10, ((20, 5_000),)),
}


@pytest.mark.parametrize("name", DEARER)
def test_whatever_could_cost_more_is_a_rise(name: str) -> None:
    assert DEARER[name].is_rise_from(BASE)


@pytest.mark.parametrize("name", NOT_DEARER)
def test_what_costs_nowhere_more_is_none(name: str) -> None:
    assert not NOT_DEARER[name].is_rise_from(BASE)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "below zero": ({"nanos_per_prediction": -1}, "/nanos_per_prediction"),
    "too dear": ({"nanos_per_prediction": NANOS_PER_PREDICTION_MAX + 1}, "/nanos_per_prediction"),
    "a fraction": ({"nanos_per_prediction": 1.5}, "/nanos_per_prediction"),
    "NaN": ({"nanos_per_prediction": float("nan")}, "/nanos_per_prediction"),
    "truth": ({"nanos_per_prediction": True}, "/nanos_per_prediction"),
    "kind": ({"rates": {"joule": 1}}, "/rates/joule"),
    "rate below zero": ({"rates": {"row": -1}}, "/rates/row"),
    "rate": ({"rates": {"row": RATE_NANOS_MAX + 1}}, "/rates/row"),
    "rate of a fraction": ({"rates": {"row": 0.1}}, "/rates/row"),
    "bound": ({"max_units": {"row": UNITS_MAX + 1}}, "/max_units/row"),
    "no bound": ({"rates": {"input_token": 1}}, "/max_units/input_token"),
    "minimum": ({"minimum_nanos": NANOS_PER_PREDICTION_MAX + 1}, "/minimum_nanos"),
    "free": ({"free_units": UNITS_MAX + 1}, "/free_units"),
    "tiers out of order": ({"tiers": [[5, 1], [5, 1]]}, "/tiers/1"),
    "tier among the free": ({"free_units": 5, "tiers": [[4, 1]]}, "/tiers/0"),
    "tier above the whole": ({"tiers": [[5, 10_001]]}, "/tiers/0"),
    "tier of three": ({"tiers": [[5, 1, 1]]}, "/tiers/0"),
    "too many tiers": ({"tiers": [[one, 1] for one in range(TIERS_MAX + 1)]}, "/tiers"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_price_out_of_range_changes_nothing(shop: Shop, actor: Actor, name: str) -> None:
    terms, pointer = BAD[name]
    with pytest.raises(InvalidInputError) as caught:
        set_price(actor, shop.model, **terms)
    assert caught.value.errors[0]["pointer"] == pointer
    assert list(Price.objects.all()) == [shop.price]


def test_the_largest_of_everything_is_taken(shop: Shop, actor: Actor) -> None:
    price = set_price(
        actor,
        shop.model,
        nanos_per_prediction=NANOS_PER_PREDICTION_MAX,
        rates={"input_token": RATE_NANOS_MAX},
        max_units={"input_token": UNITS_MAX},
        minimum_nanos=NANOS_PER_PREDICTION_MAX,
        free_units=UNITS_MAX - TIERS_MAX,
        tiers=[[UNITS_MAX - TIERS_MAX + 1 + one, 10_000] for one in range(TIERS_MAX)],
    )
    assert price.terms.is_counted
    assert not price.is_plain


@pytest.mark.parametrize(
    "columns",
    [
        {"rates": {"joule": 1}},
        {"rates": {"row": 1.5}},
        {"rates": {"row": "1"}},
        {"rates": {"row": -1}},
        {"max_units": {"row": 10**12 + 1}},
        {"tiers": [[5, 1], [4, 1]]},
        {"tiers": [[5, 10_001]]},
        {"free_units": 5, "tiers": [[4, 1]]},
    ],
)
def test_the_database_takes_no_price_that_cannot_be_rated(
    shop: Shop, columns: dict[str, Any]
) -> None:
    with pytest.raises(DatabaseError), transaction.atomic():
        Price.objects.create(
            model=shop.model,
            account=shop.consumer,
            nanos_per_prediction=1,
            creator_share_bps=0,
            valid_from=timezone.now(),
            **columns,
        )


# --- Mail ---


def join(account: Account, email: str, role: str = "owner") -> None:
    user = User.objects.create_user(email, "a good long password")
    Membership.objects.create(account=account, user=user, role=role)


def test_who_used_it_lately_is_told_once_and_nobody_sees_the_others(
    used: Shop, actor: Actor
) -> None:
    join(used.consumer, "one@x.example")
    join(used.consumer, "two@x.example", "billing")
    join(used.consumer, "dev@x.example", "viewer")
    join(Account.objects.create(slug="idle", name="Idle"), "idle@x.example")
    set_price(actor, used.model, nanos_per_prediction=2_000)

    assert mail_price_rises() == 1
    assert mail_price_rises() == 0

    assert sorted(one.to for one in mail.outbox) == [["one@x.example"], ["two@x.example"]]
    assert "$0.000002 per prediction" in mail.outbox[0].body
    assert "creator/echo" in mail.outbox[0].subject
    title = "creator/echo will have another price"
    assert sorted(list_told("price")) == [("one@x.example", title), ("two@x.example", title)]


def test_who_turned_the_mail_off_is_told_in_the_inbox_alone(used: Shop, actor: Actor) -> None:
    join(used.consumer, "one@x.example")
    NotificationPreference.objects.create(
        person=User.objects.get(email="one@x.example"),
        account=used.consumer,
        kind="price",
        by_mail=False,
    )
    set_price(actor, used.model, nanos_per_prediction=2_000)

    mail_price_rises()

    assert mail.outbox == []
    assert len(list_told("price")) == 1


def test_a_price_that_was_taken_back_is_not_told(used: Shop, actor: Actor) -> None:
    join(used.consumer, "one@x.example")
    set_price(actor, used.model, nanos_per_prediction=2_000)
    withdraw_price(actor, used.model)
    assert (mail_price_rises(), mail.outbox) == (0, [])


# --- Offers ---


def test_an_offer_is_in_force_at_once_and_ends_after_the_notice(used: Shop, actor: Actor) -> None:
    offer = make_offer(actor, used.model, used.consumer, nanos_per_prediction=500)
    assert find_offer(used.model, used.consumer) == offer
    assert find_price(used.model) == used.price
    better = make_offer(actor, used.model, used.consumer, nanos_per_prediction=400)
    assert find_offer(used.model, used.consumer) == better

    ended = end_offer(actor, used.model, "consumer")

    assert ended.valid_until is not None
    assert ended.valid_until >= timezone.now() + notice_period() - timedelta(minutes=1)
    assert find_offer(used.model, used.consumer) == better
    with pytest.raises(NotFoundError):
        end_offer(actor, used.model, "creator")


def test_no_offer_is_dearer_than_what_an_account_pays(shop: Shop, actor: Actor) -> None:
    for terms in (
        {"nanos_per_prediction": PRICE_NANOS + 1},
        {"nanos_per_prediction": 1, "minimum_nanos": 1},
        {"rates": {"row": 1}},
    ):
        with pytest.raises(OfferDearerError):
            make_offer(actor, shop.model, shop.consumer, **terms)
    make_offer(actor, shop.model, shop.consumer, nanos_per_prediction=5)
    with pytest.raises(OfferDearerError):
        make_offer(actor, shop.model, shop.consumer, nanos_per_prediction=6)
    with pytest.raises(InvalidInputError):
        make_offer(actor, shop.model, shop.creator, nanos_per_prediction=1)


@pytest.mark.parametrize("days", [0, -1, 3661])
def test_an_offer_ends_in_the_next_ten_years(shop: Shop, actor: Actor, days: int) -> None:
    until = timezone.now() + timedelta(days=days)
    with pytest.raises(InvalidInputError):
        make_offer(actor, shop.model, shop.consumer, nanos_per_prediction=1, valid_until=until)


def test_the_last_offer_and_one_past_it(shop: Shop, actor: Actor) -> None:
    accounts = Account.objects.bulk_create(
        Account(slug=f"a{number}", name="A") for number in range(OFFERS_MAX + 1)
    )
    Price.objects.bulk_create(
        Price(
            model=shop.model,
            account=one,
            nanos_per_prediction=1,
            creator_share_bps=0,
            valid_from=timezone.now(),
        )
        for one in accounts[:-2]
    )
    make_offer(actor, shop.model, accounts[-2], nanos_per_prediction=1)
    assert list_offers(shop.model).count() == OFFERS_MAX
    with pytest.raises(InvalidInputError, match="at most"):
        make_offer(actor, shop.model, accounts[-1], nanos_per_prediction=1)


@pytest.mark.parametrize("off_bps", [1, 3_333, 9_999])
def test_a_part_off_is_nowhere_dearer_and_is_exact(off_bps: int) -> None:
    for terms in (BASE, PriceTerms(7), PriceTerms(10**9, tiers=((0, 9_000),))):
        lower = terms.take_off(off_bps)
        assert not lower.is_rise_from(terms)
        for position in (0, 9, 10, 19, 20, 100):
            metered = {"row": 1} if terms.rates else {}
            full = rate(terms.terms, 1, metered, position)
            less = rate(lower.terms, 1, metered, position)
            exact = full * (10_000 - off_bps) / 10_000
            assert exact - 1 <= less <= exact + 2 + full / 10_000


# --- Shares ---


def test_an_agreed_share_is_in_the_next_price(shop: Shop, actor: Actor) -> None:
    admin = Actor(user=User.objects.create_superuser("admin@x.example", "a good long password"))
    with pytest.raises(ForbiddenError):
        set_creator_share(actor, shop.creator, creator_share_bps=9_500, reason="no")
    with pytest.raises(InvalidInputError):
        set_creator_share(admin, shop.creator, creator_share_bps=10_001, reason="x")

    set_creator_share(admin, shop.creator, creator_share_bps=9_500, reason="an early creator")

    shop.price.refresh_from_db()
    assert shop.price.creator_share_bps == 8_000
    # The same price once more takes the new share, and costs nobody more.
    price = set_price(actor, shop.model, nanos_per_prediction=PRICE_NANOS)
    assert (find_price(shop.model), price.creator_share_bps) == (price, 9_500)
    assert AuditEvent.objects.get(action="creator.share").payload["reason"] == "an early creator"
    assert broken() == set()


# --- Floor ---


@pytest.mark.parametrize(
    ("certificate", "floor_nanos"),
    [
        ({"benchmark": {"points": [{"rows_per_s": 10.0}, {"rows_per_s": 40.5}]}}, 686),
        ({"benchmark": {"points": [{"rows_per_s": 0}]}}, None),
        ({"benchmark": {"points": [{"rows_per_s": "nan"}]}}, None),
        ({"benchmark": {"points": "x"}}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_floor_is_what_a_row_costs_to_compute(
    shop: Shop, settings: Any, certificate: Any, floor_nanos: int | None
) -> None:
    settings.MACHINE_HOUR_NANOS = 100_000_000
    shop.version.certificate = certificate
    shop.version.save()
    assert find_floor_nanos(shop.model) == floor_nanos


# --- In words, on pages and over the API ---


def test_a_price_in_words(shop: Shop) -> None:
    price = Price(
        nanos_per_prediction=0,
        rates={"input_token": 3_000_000_000, "compute_ms": 1},
        max_units={"input_token": 8_192},
        minimum_nanos=1_000,
        free_units=100,
        tiers=[[1_000, 7_550]],
    )
    assert price_lines(price) == [
        "$0.003 per 1,000 input tokens, at most 8,192 input tokens each",
        "$0.000000001 per million milliseconds",
        "at least $0.000001 for a prediction",
        "the first 100 predictions of a month are free",
        "from prediction 1,001 of a month on: 75.5 % of it",
    ]


@pytest.fixture
def page(actor: Actor) -> Client:
    client = Client()
    client.force_login(actor.user)
    return client


PATH = "/dashboard/models/creator/echo"
FORM = {
    "flat": "0.002",
    "rate_input_token": "0.0015",
    "most_input_token": "4000",
    "minimum": "0.0001",
    "free_units": "50",
    "tiers": "101: 80 %\n1,001: 62.5",
}


def test_the_page_previews_then_announces(used: Shop, page: Client) -> None:
    shown = page.post(f"{PATH}/price", FORM)
    assert shown.status_code == 200
    assert b"Announce this price" in shown.content
    assert list(Price.objects.all()) == [used.price]

    answer = page.post(f"{PATH}/price", FORM | {"confirmed": "yes"}, follow=True)

    assert b"It is announced" in answer.content
    price = find_next_price(used.model)
    assert price is not None
    assert (price.nanos_per_prediction, price.rates) == (2_000_000, {"input_token": 1_500_000_000})
    assert (price.max_units, price.minimum_nanos) == ({"input_token": 4_000}, 100_000)
    assert (price.free_units, price.tiers) == (50, [[100, 8_000], [1_000, 6_250]])
    assert b"Tokens" not in Client().get("/panels/price/creator/echo").content
    assert b"at least $0.0001" in Client().get("/panels/price/creator/echo").content
    page.post(f"{PATH}/price/withdraw")
    assert find_next_price(used.model) is None
    # What the page shows, it takes back as it is.
    set_price(Actor(), used.model, **PriceTerms.of(price).columns)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flat", "x"),
        ("flat", "-1"),
        ("rate_input_token", "0.0000000001"),
        ("most_input_token", ""),
        ("free_units", "-1"),
        ("tiers", "x"),
        ("tiers", "10: 10.001"),
        ("tiers", "101: 80\n50: 70"),
        ("tiers", "101: 101 %"),
    ],
)
def test_a_wrong_field_is_told(shop: Shop, page: Client, field: str, value: str) -> None:
    answer = page.post(f"{PATH}/price", FORM | {field: value, "confirmed": "yes"})
    assert answer.status_code == 422
    assert list(Price.objects.all()) == [shop.price]


def test_offers_and_coupons_on_the_page(shop: Shop, page: Client) -> None:
    assert page.post(f"{PATH}/offers", {"account": "nobody", "percent_off": "5"}).status_code == 422
    made = page.post(f"{PATH}/offers", {"account": "consumer", "percent_off": "25"}, follow=True)
    assert b"The offer is in force." in made.content
    offer = find_offer(shop.model, shop.consumer)
    assert offer is not None
    assert rate(offer.terms, 4, {}, 0) == -(-4 * PRICE_NANOS * 3 // 4)
    ended = page.post(f"{PATH}/offers", {"end": "consumer"}, follow=True)
    assert b"The offer ends on" in ended.content
    fields = {"code": "spring", "percent_off": "10", "days": "30", "uses_max": "5"}
    made = page.post(f"{PATH}/coupons", fields | {"until": "2099-01-01"}, follow=True)
    assert b"SPRING" in made.content
    assert page.post(f"{PATH}/coupons", fields | {"until": "2001-01-01"}).status_code == 422
    ended = page.post(f"{PATH}/coupons", {"end": "SPRING"}, follow=True)
    assert b"Nobody can use SPRING" in ended.content


def test_the_api_changes_what_is_given_and_shows_what_comes(used: Shop, page: Client) -> None:
    api = "/api/models/creator/echo"
    json = {"content_type": "application/json"}
    whole = {"nanos_per_prediction": 900, "free_units": 5, "tiers": [[10, 5_000]]}
    assert page.post(f"{api}/prices", whole, **json).status_code == 201
    changed = page.put(f"{api}/price", {"nanos_per_prediction": 950}, **json).json()
    assert (changed["free_units"], changed["tiers"]) == (5, [[10, 5_000]])

    shown = page.get(f"{api}/prices").json()
    assert shown["current"]["nanos_per_prediction"] == 900
    assert shown["next"]["id"] == changed["id"]
    assert shown["next"]["valid_from"] == changed["valid_from"]
    assert datetime.fromisoformat(changed["valid_from"]) > timezone.now() + timedelta(days=6)
    assert len(shown["history"]) == 3
    assert page.delete(f"{api}/prices/next").status_code == 204
    assert page.delete(f"{api}/prices/next").status_code == 404
    for body in ({}, {"tiers": [[1.5, 1]]}, {"rates": {"row": "1"}}, {"free_units": True}):
        assert page.put(f"{api}/price", body, **json).status_code == 422, body
    assert page.post(f"{api}/prices", {"free_units": 1}, **json).status_code == 422
    dear = page.post(
        f"{api}/offers", {"account": "consumer", "nanos_per_prediction": 10**6}, **json
    )
    assert (dear.status_code, dear.json()["code"]) == (422, "offer_dearer")
