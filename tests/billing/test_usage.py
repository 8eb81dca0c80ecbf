"""Usage: chosen by day, model, key and mode; summed; and exported without losing a nano-dollar."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client

from billing.models import Price, UsageEvent
from billing.selectors import usage as selector
from marketplace.core.ids import lowest_id, new_id, to_public
from marketplace.core.money import NANOS_PER_DOLLAR
from marketplace.core.tag import is_tag
from marketplace.models import APIKey, User
from tests.billing.conftest import PRICE_NANOS, Shop, hold, settle
from tests.factories import (
    AIModelFactory,
    APIKeyFactory,
    MembershipFactory,
    ModelVersionFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db
Fund = Callable[[int], None]


@pytest.fixture
def client(shop: Shop, owner: User) -> Client:
    MembershipFactory(account=shop.consumer, user=owner, role="viewer")
    client = Client()
    client.force_login(owner)
    return client


@pytest.fixture
def key(shop: Shop) -> APIKey:
    return APIKeyFactory(account=shop.consumer, name="batch jobs")


@pytest.fixture
def used(shop: Shop, fund: Fund, key: APIKey) -> dict[str, str]:
    """Predictions by name: two days, two keys (or none), two models, one of them a test."""
    fund(NANOS_PER_DOLLAR)
    other = AIModelFactory(account=shop.creator, name="other")
    version = ModelVersionFactory(model=other)
    price = Price.objects.create(
        model=other,
        nanos_per_prediction=7,
        creator_share_bps=8_000,
        valid_from=datetime(2026, 1, 1, tzinfo=UTC),
    )
    second = {"version_id": str(version.pk), "price_id": str(price.pk)}
    changes: dict[str, dict[str, Any]] = {
        "plain": {"units": 2},
        "keyed": {"api_key_id": str(key.pk), "tag": "nightly"},
        "foreign": {**second, "gross_nanos": 7, "tag": "team-7:x"},
        "test": {"mode": "test", "gross_nanos": 0, "api_key_id": str(key.pk), "tag": "nightly"},
    }
    found = {}
    for name, change in changes.items():
        one = hold(shop, 3 * PRICE_NANOS)
        item = shop.item(one, **change)
        assert settle(item) == ["settled"]
        found[name] = to_public(one)
    return found


def get(client: Client, path: str, **query: Any) -> Any:
    answer = client.get(f"{path}?{urlencode({'account': 'consumer', **query})}")
    assert answer.status_code == 200, answer.content
    return answer


def chosen(client: Client, **query: Any) -> set[str]:
    return {one["prediction"] for one in get(client, "/api/usage", **query).json()["results"]}


def read_csv(answer: Any) -> list[dict[str, str]]:
    text = b"".join(answer.streaming_content).decode()
    return list(csv.DictReader(io.StringIO(text)))


# Counted from the day of the test: tests may be collected on one day and run on the next.
TWO_DAYS_AGO, YESTERDAY, TOMORROW, IN_TWO_DAYS = -2, -1, 1, 2


def day(offset: int) -> date:
    """A day, counted from the one of now."""
    return datetime.now(UTC).date() + timedelta(days=offset)


# All characters that a tag may have.
EVERY_TAG = "".join(filter(is_tag, map(chr, range(sys.maxunicode + 1))))


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, {"plain", "keyed", "foreign", "test"}),
        ({"mode": "test"}, {"test"}),
        ({"mode": "live"}, {"plain", "keyed", "foreign"}),
        ({"model": "creator/other"}, {"foreign"}),
        ({"model": "creator/echo", "mode": "live"}, {"plain", "keyed"}),
        ({"model": "creator/nothing"}, set()),
        ({"tag": "nightly"}, {"keyed", "test"}),
        ({"tag": "nightly", "mode": "live"}, {"keyed"}),
        ({"tag": "team-7:x"}, {"foreign"}),
        ({"tag": "x" * 64}, set()),
        # The whole of it counts, and its case.
        ({"tag": "night"}, set()),
        ({"tag": "Nightly"}, set()),
        ({"since": YESTERDAY, "until": TOMORROW}, None),
        ({"until": TWO_DAYS_AGO}, set()),
        ({"since": IN_TWO_DAYS}, set()),
    ],
)
def test_each_way_to_choose(client, used, query, names):
    wanted = set(used.values()) if names is None else {used[one] for one in names}
    query = {name: day(one) if isinstance(one, int) else one for name, one in query.items()}

    assert chosen(client, **query) == wanted
    # List, sums, and both exports agree.
    sums = get(client, "/api/usage/sums", **query).json()["results"]
    assert sum(one["predictions"] for one in sums) == len(wanted)
    rows = read_csv(get(client, "/api/usage/export/csv", **query))
    assert {one["prediction"] for one in rows} == wanted
    events = json.loads(
        b"".join(get(client, "/api/usage/export/cloudevents", **query).streaming_content)
    )
    assert {one["id"] for one in events} == wanted
    page = get(client, "/console/usage", **query).content.decode()
    assert all((one in page) == (one in wanted) for one in used.values())


def test_a_key_is_chosen_by_its_id_and_only_ones_own(client, used, key):
    assert chosen(client, key=key.pk) == {used["keyed"], used["test"]}
    foreign = APIKeyFactory()
    for wrong in (foreign.pk, new_id(), "x"):
        answer = client.get(f"/api/usage?account=consumer&key={wrong}")
        assert (answer.status_code, answer.json()["code"]) == (422, "validation")
        assert client.get(f"/console/usage?account=consumer&key={wrong}").status_code == 422


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"since": "2026-02-30"}, "/since"),
        ({"since": "2026-02-02", "until": "2026-02-01"}, "/until"),
        ({"model": "echo"}, "/model"),
        ({"model": "a/b/c"}, "/model"),
        ({"model": "x" * 104}, "/model"),
        ({"mode": "free"}, "/mode"),
        ({"by": "colour"}, "/by"),
        ({"tag": "x" * 65}, "/tag"),
        ({"tag": "two words"}, "/tag"),
        ({"tag": "a/b"}, "/tag"),
    ],
)
def test_what_cannot_be_chosen_is_named(client, used, query, pointer):
    for path in ("/api/usage", "/api/usage/sums", "/api/usage/export/csv"):
        answer = client.get(f"{path}?{urlencode({'account': 'consumer', **query})}")
        assert answer.status_code == 422
        assert [one["pointer"] for one in answer.json()["errors"]] == [pointer]


def test_sums_by_day_model_key_and_tag(client, used, key):
    def sums(by: str) -> dict[str, tuple[int, int]]:
        results = get(client, "/api/usage/sums", by=by).json()["results"]
        return {one["name"]: (one["predictions"], one["gross_nanos"]) for one in results}

    # Midnight may come while they are made.
    days = {
        one.astimezone(UTC).date().isoformat()
        for one in UsageEvent.objects.values_list("occurred_at", flat=True)
    }
    assert sums("day").keys() == days
    assert [sum(column) for column in zip(*sums("day").values(), strict=True)] == [
        4,
        3 * PRICE_NANOS + 7,
    ]
    assert sums("model") == {"creator/echo": (3, 3 * PRICE_NANOS), "creator/other": (1, 7)}
    assert sums("key") == {
        "try-it form": (2, 2 * PRICE_NANOS + 7),
        f"batch jobs ({key.hint})": (2, PRICE_NANOS),
    }
    assert sums("tag") == {
        "no tag": (1, 2 * PRICE_NANOS),
        "nightly": (2, PRICE_NANOS),
        "team-7:x": (1, 7),
    }
    # The dearest first.
    assert list(sums("tag")) == ["no tag", "nightly", "team-7:x"]
    assert list(sums("model")) == ["creator/echo", "creator/other"]
    page = get(client, "/console/usage", by="model").content.decode()
    assert "creator/other" in page
    assert "$0.000000007" in page


def test_the_tag_is_shown_and_exported(client, used):
    wanted = {"plain": "", "keyed": "nightly", "foreign": "team-7:x", "test": "nightly"}
    wanted = {used[name]: tag for name, tag in wanted.items()}

    listed = get(client, "/api/usage").json()["results"]
    assert {one["prediction"]: one["tag"] for one in listed} == wanted
    rows = read_csv(get(client, "/api/usage/export/csv"))
    assert {one["prediction"]: one["tag"] for one in rows} == wanted
    answer = get(client, "/api/usage/export/cloudevents")
    events = json.loads(b"".join(answer.streaming_content))
    assert {one["id"]: one["data"]["tag"] for one in events} == wanted
    page = get(client, "/console/usage").content.decode()
    assert page.count("team-7:x") == 1
    page = get(client, "/console/usage", by="tag", tag="nightly").content.decode()
    assert "team-7:x" not in page
    assert "/api/usage/export/csv?account=consumer&amp;tag=nightly" in page


def test_a_tag_finds_ones_own_usage_only(client, used, shop):
    """The creator knows of the prediction, and not what its consumer calls it."""
    other = UserFactory()
    MembershipFactory(account=shop.creator, user=other, role="owner")
    creator = Client()
    creator.force_login(other)

    for path in ("/api/usage", "/api/usage/sums"):
        answer = creator.get(f"{path}?account=creator&tag=nightly&by=tag")
        assert (answer.status_code, answer.json()["results"]) == (200, [])
        assert creator.get(f"{path}?account=consumer&tag=nightly").status_code == 404
    assert b"nightly" not in creator.get("/dashboard/earnings?account=creator").content


def create_event(shop, prediction_id, moment: datetime) -> None:
    """A prediction that cost nothing, booked at that moment."""
    UsageEvent.objects.create(
        prediction_id=prediction_id,
        account=shop.consumer,
        creator=shop.creator,
        version=shop.version,
        price=shop.price,
        mode="test",
        units=1,
        gross_nanos=0,
        occurred_at=moment,
    )


def test_days_are_those_of_utc_to_the_microsecond(client, shop, fund):
    fund(NANOS_PER_DOLLAR)
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    found = {}
    for name, moment in (("before", midnight - timedelta(microseconds=1)), ("at", midnight)):
        prediction_id = lowest_id(moment - timedelta(seconds=1))
        create_event(shop, prediction_id, moment)
        found[name] = to_public(prediction_id)

    assert chosen(client, until="2026-02-28") == {found["before"]}
    assert chosen(client, since="2026-03-01", until="2026-03-01") == {found["at"]}


def test_a_run_over_midnight_belongs_to_the_day_it_was_booked_on(client, shop, fund):
    """Its id is of the day before; the index is asked for a little more."""
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    prediction_id = lowest_id(midnight - timedelta(hours=23))
    create_event(shop, prediction_id, midnight + timedelta(minutes=1))
    assert chosen(client, since="2026-03-01") == {to_public(prediction_id)}
    assert chosen(client, until="2026-02-28") == set()


def test_csv_has_every_nano_dollar_and_no_formula(client, used):
    rows = read_csv(get(client, "/api/usage/export/csv"))

    assert [one["prediction"] for one in rows] == sorted(
        used.values(), key=[one["prediction"] for one in rows].index
    )
    total = sum(Fraction(one["gross_usd"]) for one in rows)
    assert total == Fraction(3 * PRICE_NANOS + 7, NANOS_PER_DOLLAR)
    assert sum(int(one["gross_nanos"]) for one in rows) == 3 * PRICE_NANOS + 7
    # No cell is taken for a formula by a spreadsheet. Tags are the only words that people choose:
    # one may begin with a minus, but can neither call anything nor name another sheet.
    assert not set("()!|'\"=+@,;") & set(EVERY_TAG)
    assert not any(value[:1] in ("=", "+", "@", "-") for one in rows for value in one.values())


def test_cloudevents_have_what_the_standard_requires(client, used):
    answer = get(client, "/api/usage/export/cloudevents")
    assert answer["Content-Type"] == "application/cloudevents-batch+json"
    assert "strongroom-usage-consumer.json" in answer["Content-Disposition"]

    events = json.loads(b"".join(answer.streaming_content))

    assert len(events) == 4
    for one in events:
        assert {"specversion", "id", "source", "type"} <= one.keys()
        assert one["specversion"] == "1.0"
        assert datetime.fromisoformat(one["time"]).tzinfo is not None
        assert one["data"]["prediction"] == one["id"]
    assert sum(one["data"]["gross_nanos"] for one in events) == 3 * PRICE_NANOS + 7


def test_nothing_is_exported_as_an_empty_list(client, shop):
    assert (
        json.loads(b"".join(get(client, "/api/usage/export/cloudevents").streaming_content)) == []
    )
    assert read_csv(get(client, "/api/usage/export/csv")) == []


@pytest.mark.parametrize(("_limit", "_status"), [(4, 200), (3, 422)])
def test_an_export_has_a_limit(client, used, monkeypatch, _limit, _status):
    monkeypatch.setattr("billing.api.usage.ROWS_MAX", _limit)
    assert client.get("/api/usage/export/csv?account=consumer").status_code == _status


def test_another_kind_of_file_and_another_account_are_refused(client, used, outsider_client):
    assert client.get("/api/usage/export/xlsx?account=consumer").status_code == 404
    for path in ("/api/usage/export/csv", "/api/usage/sums"):
        assert outsider_client.get(f"{path}?account=consumer").status_code == 404


def test_sums_have_a_limit(client, used, monkeypatch):
    monkeypatch.setattr(selector, "SUMS_MAX", 1)
    results = get(client, "/api/usage/sums", by="model").json()["results"]
    assert [one["name"] for one in results] == ["creator/echo"]


def test_the_page_keeps_the_choice_in_its_exports(client, used):
    page = get(client, "/console/usage", mode="test", by="day", page=1).content.decode()
    assert "/api/usage/export/csv?account=consumer&amp;mode=test" in page
    empty = get(client, "/console/usage", model="creator/nothing").content.decode()
    assert "Nothing was used there" in empty
