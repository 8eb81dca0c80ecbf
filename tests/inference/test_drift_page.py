"""The Drift page: its states, what it changes, its files, and what consumers are told."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from inference.models import AlertRule, DriftBaseline, DriftBlock, DriftWatch
from marketplace.models import Account, AIModel, ModelVersion
from tests.factories import AIModelFactory, ChannelFactory, ModelVersionFactory
from tests.inference.drifting import HOUR, INTERFACE, add_block, add_part

pytestmark = pytest.mark.django_db

PAGE = "/dashboard/models/acme/digits/monitoring/drift"
DAY = timedelta(days=1)
QUERIES_MAX = 32


@pytest.fixture
def model(account: Account) -> AIModel:
    return AIModelFactory(account=account, name="digits", visibility="public")


@pytest.fixture
def version(model: AIModel) -> ModelVersion:
    version = ModelVersionFactory(model=model, number=1, state="approved", interface=INTERFACE)
    ChannelFactory(model=model, name="prod", version=version)
    return version


@pytest.fixture
def watched(model: AIModel) -> DriftWatch:
    return DriftWatch.objects.create(model=model)


def fill(version: ModelVersion, *, days: int = 10, fast: int = 90) -> None:
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    for day in range(days, 0, -1):
        add_block(version, now - day * DAY, predictions=500)
    add_block(version, now - HOUR, fast=fast)


def read(client: Client, path: str = PAGE) -> str:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def test_nothing_is_counted_until_somebody_wants_it(owner_client, version) -> None:
    assert "Nothing is counted" in read(owner_client)
    assert not DriftWatch.objects.exists()

    assert owner_client.post(PAGE, {"watch": "1"}).status_code == 302

    assert "Not enough data yet" in read(owner_client)
    assert DriftWatch.objects.get().model == version.model


def test_a_model_without_a_version_says_so(owner_client, watched) -> None:
    assert "No version yet" in read(owner_client)
    assert owner_client.get(f"{PAGE}/export").status_code == 404


def test_what_too_few_sent_is_not_shown(owner_client, version, watched) -> None:
    add_part(version, timezone.now() - 3 * HOUR, predictions=49)
    text = read(owner_client)
    assert "Not enough data yet" in text
    # Among the words: a form's token or a time of day may have these digits, too.
    assert "49" not in re.sub(r"<[^>]*>", " ", text).split()


def test_drift_is_shown_in_words(owner_client, version, watched) -> None:
    fill(version)
    text = read(owner_client)

    assert ">Shifted<" in text
    assert ">Stable<" in text
    assert text.index(">Shifted<") < text.index(">Stable<")
    assert "mode choice, baseline. 2 bars" in text
    assert "the first 7 days" in text
    fresh = ModelVersionFactory(model=version.model, number=2, state="approved")
    assert "Not enough data yet" in read(owner_client, f"{PAGE}?version={fresh.number}")


def test_only_a_baseline_says_what_is_missing(owner_client, version, watched) -> None:
    fill(version, days=0)
    text = read(owner_client)
    assert "Nothing in this window can be shown" in text
    assert ">Not enough data<" in text


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("window=24h", 200),
        ("window=7d&version=1", 200),
        ("window=8d", 422),
        ("window=%00", 400),
        ("version=2", 404),
        ("version=x", 404),
        ("version=" + "9" * 400, 404),
    ],
)
def test_bad_questions_are_refused(owner_client, version, watched, query, status) -> None:
    assert owner_client.get(f"{PAGE}?{query}").status_code == status
    assert owner_client.get(f"{PAGE}/export?{query}").status_code == status


def test_days_are_pinned_and_unpinned(owner_client, version, watched) -> None:
    fill(version)
    day = (timezone.now() - 3 * DAY).date().isoformat()
    fields = {"version": "1", "pin": "1", "first": day, "last": day}

    assert owner_client.post(PAGE, fields).status_code == 302
    assert "(pinned)" in read(owner_client)

    assert owner_client.post(PAGE, {"version": "1", "unpin": "1"}).status_code == 302
    assert "(pinned)" not in read(owner_client)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"first": ""}, 422),
        ({"first": "yesterday"}, 422),
        ({"last": "1999-01-01"}, 422),
        ({"first": "1999-01-01", "last": "1999-01-02"}, 422),
        ({"version": "2"}, 404),
        ({"version": ""}, 404),
    ],
)
def test_days_that_cannot_be_are_refused(owner_client, version, watched, change, status) -> None:
    fill(version)
    day = timezone.now().date().isoformat()
    fields = {"version": "1", "pin": "1", "first": day, "last": day} | change

    assert owner_client.post(PAGE, fields).status_code == status
    assert not DriftBaseline.objects.exists()


def test_to_cease_deletes_everything(owner_client, version, watched) -> None:
    fill(version)
    assert owner_client.post(PAGE, {"unwatch": "1"}).status_code == 302
    assert "Nothing is counted" in read(owner_client)
    assert not DriftBlock.objects.exists()


def test_exports_agree_and_are_whole_percents(owner_client, version, watched) -> None:
    fill(version)
    answer = owner_client.get(f"{PAGE}/export?format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    document = json.loads(owner_client.get(f"{PAGE}/export?format=json").content)

    name = 'attachment; filename="acme-digits-1-drift-24h.csv"'
    assert answer["Content-Disposition"] == name
    assert len(rows) == len(document["rows"])
    first = document["rows"][0]
    assert (first["field"], first["measure"], first["state"]) == ("mode", "choice", "shifted")
    assert (first["group"], first["baseline_percent"], first["current_percent"]) == ("fast", 50, 90)
    assert {row["baseline_percent"].isdecimal() for row in rows} == {True}
    assert document["baseline"]["predictions"] == 3_500
    assert owner_client.get(f"{PAGE}/export?format=pdf").status_code == 422


@pytest.mark.parametrize("path", ["", "/export"])
def test_only_members_and_admins_look(
    owner_client, teammate_client, outsider_client, admin_client, version, watched, path: str
) -> None:
    assert owner_client.get(PAGE + path).status_code == 200
    assert teammate_client.get(PAGE + path).status_code == 200
    assert admin_client.get(PAGE + path).status_code == 200
    assert outsider_client.get(PAGE + path).status_code == 403
    assert Client().get(PAGE + path).status_code == 302
    AIModel.objects.update(visibility="private")
    assert outsider_client.get(PAGE + path).status_code == 404


@pytest.mark.parametrize("fields", [{"watch": "1"}, {"unwatch": "1"}, {"unpin": "1"}])
def test_only_who_may_push_changes_it(outsider_client, admin_client, version, fields) -> None:
    for client in (outsider_client, admin_client):
        assert client.post(PAGE, fields | {"version": "1"}).status_code in (403, 404)
    assert not DriftWatch.objects.exists()


def test_consumers_are_told(version) -> None:
    page = "/acme/digits"
    assert "<strong>Counted</strong>" not in read(Client(), page)
    DriftWatch.objects.create(model=version.model)
    text = read(Client(), page)
    assert "<strong>Counted</strong>" in text
    assert "fewer than 50 predictions or 3 accounts" in text


def test_a_busy_page_costs_as_much_as_a_quiet_one(owner_client, version, watched) -> None:
    fill(version)
    read(owner_client)
    with CaptureQueriesContext(connection) as quiet:
        read(owner_client, f"{PAGE}?window=7d")
    now = timezone.now()
    for hour in range(100):
        add_block(version, now - hour * HOUR)
    with CaptureQueriesContext(connection) as busy:
        read(owner_client, f"{PAGE}?window=7d")
    assert len(quiet) == len(busy) <= QUERIES_MAX
    # Neither the parts that nobody may see, nor predictions.
    text = " ".join(one["sql"] for one in busy)
    assert "inference_driftpart" not in text
    assert "inference_prediction" not in text


def test_a_rule_is_added_and_described(owner_client, version, watched) -> None:
    fields = {"kind": "drift", "window_s": "86400", "threshold": "0.25", "count_min": "20"}
    form = {f"rule-{name}": value for name, value in fields.items()} | {"rule-cool_down_s": "900"}
    alerts = PAGE.replace("/drift", "/alerts")

    assert owner_client.post(alerts, form | {"rule-window_s": "900"}).status_code == 422
    assert owner_client.post(alerts, form).status_code == 302

    assert AlertRule.objects.get().threshold == 25
    assert "is 0.25 or more from its baseline over 24 hours" in read(owner_client, alerts)
