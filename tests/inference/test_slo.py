"""Error budgets, with exact values."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import IntegrityError

from inference.core import histogram
from inference.models import SLO, Metric
from inference.selectors import slo as selectors
from inference.selectors.slo import Count
from inference.services import slo as services
from marketplace.core.clock import utc_now
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, AuditEvent
from marketplace.selectors.access import Actor
from tests.factories import AIModelFactory

pytestmark = pytest.mark.django_db
PAGE = "/dashboard/models/acme/digits/monitoring"


@pytest.fixture
def model(account: Account) -> AIModel:
    return AIModelFactory(account=account, name="digits")


def add(model: AIModel, resolution: str, age: timedelta, **fields) -> None:
    Metric.objects.create(
        model_id=model.pk,
        version_id=new_id(),
        resolution=resolution,
        starts_at=utc_now() - age,
        **fields,
    )


@pytest.mark.parametrize(
    ("good", "bad", "target", "burn", "left"),
    [
        # 99.9 % of 10,000 allows 10 failures.
        (9_990, 10, 99_900, 1.0, 0.0),
        (9_995, 5, 99_900, 0.5, 0.5),
        (9_980, 20, 99_900, 2.0, -1.0),
        (10_000, 0, 99_900, 0.0, 1.0),
        (0, 1, 99_000, 100.0, -99.0),
        (0, 0, 99_900, None, None),
    ],
)
def test_budget_and_burn_rate(good, bad, target, burn, left) -> None:
    count = Count(good=good, bad=bad)

    assert count.find_burn(target) == burn
    assert count.find_left(target) == left


def test_what_counts_against_it(model: AIModel) -> None:
    add(
        model,
        "hour",
        timedelta(hours=2),
        succeeded=990,
        canceled=50,
        failed_input=40,
        refused_limit=30,
        refused_input=20,
        refused_credit=10,
        failed_model=1,
        failed_timeout=2,
        failed_capacity=3,
        failed_platform=3,
        refused_capacity=1,
    )
    slo = SLO.objects.create(model=model, availability_target=99_000, window_days=28)

    state = selectors.read_state(slo)

    assert state.count == Count(good=990, bad=10)
    assert state.allowed == 10.0
    assert state.left == 0.0
    assert state.availability_text == "99.000 %"


def test_windows_take_only_what_is_in_them(model: AIModel) -> None:
    slo = SLO.objects.create(model=model, availability_target=99_000, window_days=7)
    add(model, "minute", timedelta(minutes=3), succeeded=90, failed_model=10)
    add(model, "minute", timedelta(minutes=20), succeeded=100)
    add(model, "minute", timedelta(hours=3), succeeded=200)
    add(model, "hour", timedelta(hours=30), succeeded=600)
    add(model, "hour", timedelta(days=6), succeeded=1_000, failed_timeout=20)
    add(model, "hour", timedelta(days=8), failed_timeout=1_000)
    add(model, "day", timedelta(days=2), failed_timeout=1_000)

    state = selectors.read_state(slo)

    rates = {one.label: one.rate for one in state.burns}
    assert rates["5 min"] == 10.0
    assert rates["30 min"] == rates["1 h"] == 5.0
    assert rates["6 h"] == 2.5
    assert rates["1 d"] is None
    assert rates["3 d"] == 0.0
    assert state.count == Count(good=1_600, bad=20)


def test_an_alarm_needs_the_long_and_the_short_window() -> None:
    quiet = dict.fromkeys((minutes for _, minutes in selectors.WINDOWS), 0.0)

    assert selectors.list_alarms(quiet) == []
    # It was bad, and is over: nobody is woken.
    assert selectors.list_alarms(quiet | {60: 20.0}) == []
    assert selectors.list_alarms(quiet | {5: 20.0}) == []
    (alarm,) = selectors.list_alarms(quiet | {60: 14.4, 5: 14.4})
    assert (alarm.long, alarm.short, alarm.rate) == ("1 h", "5 min", 14.4)
    assert selectors.list_alarms(quiet | {60: 14.39, 5: 20.0}) == []
    assert [one.long for one in selectors.list_alarms(dict.fromkeys(quiet, 30.0))] == [
        "1 h",
        "6 h",
        "3 d",
    ]


def test_latency_counts_what_was_surely_in_time(model: AIModel) -> None:
    fast, slow = histogram.find_bucket(50_000), histogram.find_bucket(500_000)
    add(
        model,
        "hour",
        timedelta(hours=1),
        succeeded=100,
        latency_buckets=[fast, slow],
        latency_counts=[97, 3],
    )
    slo = SLO.objects.create(
        model=model, availability_target=99_000, latency_ms=100, latency_target=95_000
    )

    state = selectors.read_state(slo)

    assert state.latency == Count(good=97, bad=3)
    assert state.latency_left == pytest.approx(0.4)


def test_a_share_is_never_rounded_up() -> None:
    assert selectors._percent(0.99999999) == "99.999 %"
    assert selectors._percent(1.0) == "100.000 %"
    assert selectors._percent(None) == "—"


# --- Setting it -------------------------------------------------------------------

FIELDS = {
    "availability_target": "99.95",
    "window_days": "28",
    "latency_ms": "200",
    "latency_target": "95",
}


def test_the_page_sets_shows_and_removes_it(teammate_client, account, model) -> None:
    assert teammate_client.post(f"{PAGE}/slo", FIELDS).status_code == 302
    slo = SLO.objects.get(model=model)
    assert (slo.availability_target, slo.latency_ms, slo.latency_target) == (99_950, 200, 95_000)
    assert 'value="99.95' in teammate_client.get(f"{PAGE}/slo").content.decode()
    assert "the whole budget is left" in teammate_client.get(PAGE).content.decode()

    teammate_client.post(f"{PAGE}/slo", {"remove": "1"})

    assert not SLO.objects.exists()
    assert set(AuditEvent.objects.values_list("action", flat=True)) >= {"slo.set", "slo.remove"}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("availability_target", "99.999", "100"),
        ("availability_target", "50", "49.999"),
        ("window_days", "1", "0"),
        ("window_days", "90", "91"),
        ("latency_ms", "600000", "600001"),
        ("latency_target", "99.999", "99.9999"),
    ],
)
def test_limits_of_the_form(owner_client, model, name: str, good: str, bad: str) -> None:
    assert owner_client.post(f"{PAGE}/slo", FIELDS | {name: bad}).status_code == 422
    assert not SLO.objects.exists()
    assert owner_client.post(f"{PAGE}/slo", FIELDS | {name: good}).status_code == 302


def test_the_database_has_the_same_limits(model: AIModel) -> None:
    with pytest.raises(IntegrityError):
        SLO.objects.create(model=model, availability_target=100_000)


def test_only_who_may_push_promises(owner, outsider, model, outsider_client, admin_client) -> None:
    numbers = {
        "availability_target": 99_000,
        "window_days": 7,
        "latency_ms": None,
        "latency_target": 95_000,
    }
    with pytest.raises(ForbiddenError):
        services.set_slo(actor=Actor(user=outsider), model=model, **numbers)
    with pytest.raises(InvalidInputError):
        services.set_slo(
            actor=Actor(user=owner), model=model, **(numbers | {"availability_target": 1 << 40})
        )
    assert outsider_client.post(f"{PAGE}/slo", FIELDS).status_code in (403, 404)
    assert admin_client.post(f"{PAGE}/slo", FIELDS).status_code in (403, 404)
    assert not SLO.objects.exists()
