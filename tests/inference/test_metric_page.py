"""The Monitoring page: its states, its numbers, its files, and what it costs to show."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from inference.models import ConsumerMetric, Metric, MetricCursor, Replica
from inference.selectors import metric
from inference.selectors.metric import make_pseudonym
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel
from marketplace.selectors.access import Actor
from tests.factories import AIModelFactory, ModelVersionFactory

pytestmark = pytest.mark.django_db

PAGE = "/dashboard/models/acme/digits/monitoring"
# The whole page with everything on it, the person's session among it; however much was asked.
QUERIES_MAX = 32


@pytest.fixture
def model(account: Account) -> AIModel:
    return AIModelFactory(account=account, name="digits", visibility="public")


@pytest.fixture
def rolled_up() -> None:
    now = utc_now()
    MetricCursor.objects.create(name="fresh", reached_at=now)


def add(model: AIModel, number: int = 1, *, minutes_ago: int = 5, **fields) -> Metric:
    version = model.versions.filter(number=number).first() or ModelVersionFactory(
        model=model, number=number, state="approved"
    )
    at = utc_now().replace(second=0, microsecond=0) - timedelta(minutes=minutes_ago)
    return Metric.objects.create(
        model_id=model.pk,
        version_id=version.pk,
        resolution="minute",
        starts_at=at,
        **{"predictions": 10, "succeeded": 10, "gross_nanos": 5_000, **fields},
    )


def test_no_data_says_so_and_what_to_do(owner_client: Client, model: AIModel) -> None:
    text = owner_client.get(PAGE).content.decode()

    assert "The first roll-up has not run yet" in text
    assert "Nobody asked in this time" in text
    assert "no node of this model reports a GPU" in text
    assert "UTC" in text


def test_little_data_is_called_so(owner_client: Client, model: AIModel, rolled_up) -> None:
    add(model, latency_buckets=[50], latency_counts=[10])
    assert "say little" in owner_client.get(PAGE).content.decode()

    add(model, minutes_ago=6, latency_buckets=[50], latency_counts=[10])
    text = owner_client.get(PAGE).content.decode()
    assert "say little" not in text
    assert "20 succeeded" in text
    # 10,000 nano-dollars for 20 of them.
    assert "$0.0000005" in text


def test_a_late_roll_up_is_told(owner_client: Client, model: AIModel, rolled_up) -> None:
    assert "roll-up is behind" not in owner_client.get(PAGE).content.decode()
    MetricCursor.objects.update(reached_at=utc_now() - timedelta(minutes=4))
    assert "roll-up is behind" in owner_client.get(PAGE).content.decode()


@pytest.mark.parametrize("name", metric.RANGES)
def test_each_range_has_its_points_and_ends_now(model: AIModel, rolled_up, name: str) -> None:
    found = metric.RANGES[name]
    window = metric.read_window(model, found)

    assert len(window.points) == len(window.times) <= metric.POINTS_MAX
    assert window.times[-1] <= utc_now().timestamp() < window.times[-1] + found.step_s
    assert found.length >= timedelta(hours=1)


def test_sums_and_percentiles_are_those_of_all_versions(model: AIModel, rolled_up) -> None:
    add(model, 1, latency_buckets=[10, 20], latency_counts=[9, 1], creator_nanos=4_000)
    add(model, 2, latency_buckets=[20], latency_counts=[10], failed_model=3)

    window = metric.read_window(model, metric.RANGES["1h"])

    assert window.total.predictions == 20
    assert window.total.creator_nanos == 4_000
    assert window.total.nanos_per_prediction == 500
    assert window.total.histograms["latency"] == {10: 9, 20: 11}
    assert window.total.error_share == 3 / 23
    alone = metric.read_window(model, metric.RANGES["1h"], numbers=[2])
    assert list(alone.by_version) == [2]
    assert alone.total.predictions == 10


def test_versions_are_compared_side_by_side(owner_client: Client, model, rolled_up) -> None:
    add(model, 1)
    add(model, 2)

    text = owner_client.get(f"{PAGE}?range=1h&version=1&version=2").content.decode()

    assert ">version 1 <" in text
    assert ">version 2 <" in text


@pytest.mark.parametrize(
    "query",
    [
        "range=2h",
        "version=x",
        "version=-1",
        "version=1&version=2&version=3&version=4&version=5",
        "version=%F0%9F%98%80",
        "version=" + "9" * 10,
    ],
)
def test_bad_questions_are_refused(owner_client: Client, model: AIModel, query: str) -> None:
    assert owner_client.get(f"{PAGE}?{query}").status_code == 422


def test_four_versions_are_the_most(model: AIModel) -> None:
    assert metric.read_numbers(["1", "2", "3", "4"]) == [1, 2, 3, 4]
    with pytest.raises(InvalidInputError):
        metric.read_numbers(["1"] * 5)


def test_a_version_of_another_model_is_not_shown(model: AIModel, rolled_up) -> None:
    other = AIModelFactory(account=model.account, name="other")
    add(other, 7)

    window = metric.read_window(model, metric.RANGES["1h"], numbers=[7])

    assert window.by_version == {}
    assert window.is_empty


def test_releases_and_prices_are_marked(owner_client: Client, model, rolled_up, owner) -> None:
    from billing.services.price import set_price
    from marketplace.services.catalog import publish_version

    version = ModelVersionFactory(model=model, number=3, state="approved")
    actor = Actor(user=owner)
    publish_version(actor=actor, version=version, channel="prod")
    set_price(actor, model, nanos_per_prediction=7)
    set_price(actor, AIModelFactory(account=model.account, name="x"), nanos_per_prediction=7)

    window = metric.read_window(model, metric.RANGES["1h"])

    assert [one.label for one in window.events] == ["Version 3 in prod", "Price set"]


def test_cold_starts_are_the_copies_that_were_asked_for(model: AIModel, rolled_up) -> None:
    from inference.models import Node

    version = ModelVersionFactory(model=model, state="approved")
    node = Node.objects.create(name="n", token_digest=b"1")
    for purpose in ("serve", "serve", "scan"):
        Replica.objects.create(version=version, node=node, purpose=purpose)

    window = metric.read_window(model, metric.RANGES["1h"])

    assert window.cold_starts[-1] == sum(window.cold_starts) == 2


# --- Consumers --------------------------------------------------------------------


def test_a_pseudonym_is_stable_in_a_month_and_says_nothing() -> None:
    creator, other, consumer = new_id(), new_id(), new_id()
    november, december = utc_now().replace(2026, 11, 2), utc_now().replace(2026, 12, 2)
    name = make_pseudonym(creator, consumer, november)

    assert name == make_pseudonym(creator, consumer, november.replace(day=28))
    assert name != make_pseudonym(creator, consumer, december)
    assert name != make_pseudonym(other, consumer, november)
    assert name != make_pseudonym(creator, new_id(), november)
    assert consumer.hex[:6] not in name


def test_a_pseudonym_cannot_be_undone_by_trying_all_accounts(settings) -> None:
    creator, consumer, now = new_id(), new_id(), utc_now()
    name = make_pseudonym(creator, consumer, now)

    # With every id at hand, but without the platform's secret.
    settings.SECRET_KEY = "a guess"

    assert make_pseudonym(creator, consumer, now) != name


def test_a_page_names_no_consumer(owner_client: Client, model, rolled_up, outsider) -> None:
    row = add(model)
    elsewhere = outsider.accounts.get()
    for account_id in (elsewhere.pk, model.account_id):
        ConsumerMetric.objects.create(
            model_id=model.pk,
            account_id=account_id,
            resolution="minute",
            starts_at=row.starts_at,
            predictions=5,
        )

    text = owner_client.get(PAGE).content.decode()

    assert make_pseudonym(model.account_id, elsewhere.pk, row.starts_at) in text
    assert "elsewhere" not in text
    assert str(elsewhere.pk) not in text
    assert text.count("your own account") == 1


# --- Files ------------------------------------------------------------------------


def test_exports_agree(owner_client: Client, model: AIModel, rolled_up) -> None:
    add(model, 1, latency_buckets=[50], latency_counts=[10])
    add(model, 2, minutes_ago=7)

    answer = owner_client.get(f"{PAGE}/export?range=1h&format=csv")
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    document = json.loads(owner_client.get(f"{PAGE}/export?range=1h&format=json").content)

    assert answer["Content-Disposition"] == 'attachment; filename="acme-digits-1h.csv"'
    assert [row["version"] for row in rows] == ["2", "1"]
    assert [str(row["predictions"]) for row in document["rows"]] == ["10", "10"]
    assert (rows[0]["p95_ms"], document["rows"][0]["p95_ms"]) == ("", None)
    assert float(rows[1]["p95_ms"]) == document["rows"][1]["p95_ms"] > 0
    assert document["time_zone"] == "UTC"
    assert owner_client.get(f"{PAGE}/export?format=pdf").status_code == 422


# --- Who may ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/export", "/alerts", "/slo"])
def test_only_members_and_admins_look(
    owner_client, teammate_client, outsider_client, admin_client, model, path: str
) -> None:
    assert owner_client.get(PAGE + path).status_code == 200
    assert teammate_client.get(PAGE + path).status_code == 200
    assert admin_client.get(PAGE + path).status_code == 200
    # It sees the model in the catalogue; a private one is not there at all.
    assert outsider_client.get(PAGE + path).status_code == 403
    assert Client().get(PAGE + path).status_code == 302
    AIModel.objects.update(visibility="private")
    assert outsider_client.get(PAGE + path).status_code == 404


# --- A busy account ---------------------------------------------------------------


def test_a_busy_page_costs_as_much_as_a_quiet_one(owner_client: Client, account) -> None:
    call_command("seed_monitoring", "acme", "--models=20", "--predictions=500000", verbosity=0)
    paths = [f"/dashboard/models/acme/busy-001/monitoring?range={name}" for name in metric.RANGES]
    owner_client.get(paths[0])
    for path in paths:
        with CaptureQueriesContext(connection) as asked:
            answer = owner_client.get(path)
        assert answer.status_code == 200
        assert "Nobody asked" not in answer.content.decode()
        assert len(asked) <= QUERIES_MAX, path
        # Never the predictions, nor what they cost.
        text = " ".join(one["sql"] for one in asked)
        assert "inference_prediction" not in text
        assert "billing_usageevent" not in text


def test_rows_read_are_bounded_by_points_and_not_by_traffic(account, django_assert_max_num_queries):
    call_command("seed_monitoring", "acme", "--models=2", "--predictions=1000000", verbosity=0)
    model = AIModel.objects.get(name="busy-001")
    parameters = metric._Span(
        model.pk, metric.RANGES["24h"], utc_now() - timedelta(hours=24), utc_now()
    ).parameters

    rows = metric._query(metric._READ_SUMS, parameters)
    histograms = metric._query(metric._READ_HISTOGRAMS, parameters)

    assert len(rows) <= 2 * (metric.POINTS_MAX + 1)
    assert len(histograms) <= 3 * 2 * (metric.POINTS_MAX + 1)


def test_numbers_are_made_up_in_development_only(account: Account, settings) -> None:
    settings.DEVELOPMENT = False
    with pytest.raises(CommandError):
        call_command("seed_monitoring", "acme")
    assert not Metric.objects.exists()


def test_made_up_numbers_add_up(account: Account) -> None:
    # Right after midnight, the day that has only begun may well have none.
    with time_machine.travel(utc_now().replace(hour=15)):
        call_command("seed_monitoring", "acme", "--models=5", "--predictions=100000", verbosity=0)

    days = Metric.objects.filter(resolution="day")
    total = sum(days.values_list("predictions", flat=True))
    assert total == pytest.approx(100_000, rel=0.1)
    assert days.values("starts_at").distinct().count() == 90
