"""Joining parts until enough accounts are in them, baselines, windows, and alerts on drift."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
import time_machine

from inference.core import drift as core
from inference.models import (
    AlertEvent,
    AlertRule,
    DriftBaseline,
    DriftBlock,
    DriftPart,
    DriftWatch,
    MetricCursor,
)
from inference.selectors import drift as selectors
from inference.services import alert
from inference.services import drift as services
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.models import Account, AuditEvent, ModelVersion, User
from marketplace.selectors.access import Actor
from tests.factories import AccountFactory, AIModelFactory, ModelVersionFactory, UserFactory
from tests.inference.drifting import HOUR, INTERFACE, NOW, add_block, add_part

pytestmark = pytest.mark.django_db

NOON = NOW.replace(minute=0)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def clock():
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@pytest.fixture
def version(account: Account) -> ModelVersion:
    model = AIModelFactory(account=account, name="digits")
    DriftWatch.objects.create(model=model)
    return ModelVersionFactory(model=model, number=1, state="approved", interface=INTERFACE)


@pytest.fixture
def actor(owner: User) -> Actor:
    return Actor(user=owner)


def read(version: ModelVersion, window: str = "24h") -> selectors.Report:
    return selectors.read_report(version, window)


def states(report: selectors.Report) -> dict[str, str]:
    return {one.measure.key: one.comparison.state for one in report.lines}


# --- Enough predictions of enough accounts ----------------------------------------


@pytest.mark.parametrize(
    ("predictions", "accounts", "count"),
    [(50, 0b111, 1), (49, 0b111, 0), (50, 0b11, 0), (5_000, 0b11, 0), (50, 0b10110, 1)],
)
def test_a_block_has_enough_of_both(version, predictions: int, accounts: int, count: int) -> None:
    add_part(version, NOON - 3 * HOUR, predictions=predictions, accounts=accounts)

    assert services.seal_blocks() == count
    assert DriftBlock.objects.count() == count
    # What is in a block is nowhere else.
    assert DriftPart.objects.count() == 1 - count
    assert (read(version).baseline is not None) == bool(count)


def test_the_least_of_both_is_as_promised() -> None:
    """The model's page says these numbers to consumers."""
    assert (services.PREDICTIONS_MIN, services.ACCOUNTS_MIN) == (50, 3)


def test_few_are_joined_until_they_are_enough(version) -> None:
    for hours in (9, 8, 7, 6):
        add_part(version, NOON - hours * HOUR, predictions=20, accounts=1 << hours)

    assert services.seal_blocks() == 1
    (block,) = DriftBlock.objects.all()
    assert (block.starts_at, block.ends_at) == (NOON - 9 * HOUR, NOON - 6 * HOUR)
    assert block.predictions == 60
    assert block.sketch["input:mode:choice"] == {"0": 30, "1": 30}
    # The last hour waits for its like.
    assert DriftPart.objects.get().hour == NOON - 6 * HOUR
    assert services.seal_blocks() == 0


def test_the_same_account_does_not_count_twice(version) -> None:
    for hours in (9, 8, 7):
        add_part(version, NOON - hours * HOUR, accounts=0b1)
    assert services.seal_blocks() == 0
    add_part(version, NOON - 6 * HOUR, accounts=0b110)
    assert services.seal_blocks() == 1
    assert DriftBlock.objects.get().predictions == 240


def test_gateways_of_an_hour_are_joined_and_an_hour_is_not_split(version) -> None:
    for _ in range(3):
        add_part(version, NOON - 3 * HOUR)
    assert services.seal_blocks() == 1
    assert DriftBlock.objects.get().predictions == 180


def test_an_hour_that_runs_or_may_be_written_still_waits(version, clock) -> None:
    add_part(version, NOON)
    clock.move_to(NOON + HOUR + services.LATE)
    assert services.seal_blocks() == 0
    clock.move_to(NOON + HOUR + services.LATE + timedelta(seconds=1))
    assert services.seal_blocks() == 1


def test_versions_are_not_mixed(version) -> None:
    other = ModelVersionFactory(model=version.model, number=2, interface=INTERFACE)
    for one in (version, other):
        add_part(one, NOON - 3 * HOUR, predictions=30)
    assert services.seal_blocks() == 0


def test_another_scheme_is_left_alone(version) -> None:
    add_part(version, NOON - 3 * HOUR, scheme=core.SCHEME + 1)
    add_block(version, NOON - 3 * HOUR, scheme=core.SCHEME + 1)
    assert services.seal_blocks() == 0
    assert read(version).baseline is None


def test_joining_without_the_limits_is_noticed(version, monkeypatch) -> None:
    monkeypatch.setattr(services, "ACCOUNTS_MIN", 0)
    with pytest.raises(AssertionError):
        test_a_block_has_enough_of_both(version, 50, 0b11, 0)


def test_what_is_old_or_not_watched_is_forgotten(version) -> None:
    add_part(version, NOW - services.PART_KEPT - HOUR, predictions=1)
    kept = add_part(version, NOON - 3 * HOUR, predictions=1)
    other = ModelVersionFactory(number=1)
    add_part(other, NOON - 3 * HOUR, predictions=1)
    add_block(version, NOW - timedelta(days=35, seconds=1))
    fresh = add_block(version, NOW - timedelta(days=35))

    services.seal_blocks()

    assert list(DriftPart.objects.all()) == [kept]
    assert list(DriftBlock.objects.all()) == [fresh]


# --- Baselines and windows --------------------------------------------------------


def fill(version, *, now_fast: int = 50, days: int = 10) -> None:
    """Ten days of an hour each; the last one may differ."""
    for day in range(days, 0, -1):
        add_block(version, NOON - day * DAY, predictions=500)
    add_block(version, NOON - HOUR, fast=now_fast, predictions=1_000)


def test_the_first_days_are_the_baseline_and_the_last_are_compared(version) -> None:
    fill(version, now_fast=90)
    report = read(version)

    assert report.baseline.starts_at == NOON - 10 * DAY - HOUR
    assert report.baseline.ends_at <= NOON - 10 * DAY - HOUR + selectors.FIRST_DAYS
    assert report.baseline.predictions == 7 * 500
    assert report.current.predictions == 1_000
    found = states(report)
    assert found.pop("input:mode:choice") == core.SHIFTED
    assert set(found.values()) == {core.STABLE}
    # The worst stands first.
    assert report.lines[0].measure.key == "input:mode:choice"
    assert report.lines[0].shares == [("fast", 50, 90), ("good", 50, 10)]
    # Of a week, it is less.
    week = read(version, "7d")
    assert week.current.predictions > report.current.predictions
    assert week.lines[0].comparison.distance < report.lines[0].comparison.distance


def test_without_a_change_all_is_stable(version) -> None:
    fill(version)
    assert set(states(read(version)).values()) == {core.STABLE}


def test_a_version_of_today_is_not_compared_with_itself(version) -> None:
    add_block(version, NOON - HOUR)
    report = read(version)
    assert report.baseline is not None
    assert report.current is None
    assert set(states(report).values()) == {core.TOO_LITTLE}
    assert {one.distance for one in report.lines} == {"—"}


def test_the_first_days_are_kept_when_their_blocks_are_forgotten(version, clock) -> None:
    fill(version)
    add_part(version, NOON - 3 * HOUR)
    services.seal_blocks()
    baseline = DriftBaseline.objects.get()
    assert (baseline.kind, baseline.predictions) == ("first", 3_500)

    clock.move_to(NOW + timedelta(days=60))
    add_part(version, NOON + timedelta(days=60) - 3 * HOUR, fast=0)
    services.seal_blocks()

    report = read(version)
    assert report.baseline.predictions == 3_500
    assert report.current.predictions == 60
    assert states(report)["input:mode:choice"] == core.SHIFTED
    assert DriftBaseline.objects.count() == 1


def test_a_window_is_pinned_and_unpinned(version, actor) -> None:
    fill(version, now_fast=90)
    day = (NOON - 2 * DAY).date()
    services.pin_baseline(actor=actor, version=version, first=day, last=day)

    report = read(version)
    assert (report.baseline.is_pinned, report.baseline.predictions) == (True, 500)
    # Chosen again, the new one holds.
    services.pin_baseline(actor=actor, version=version, first=day - DAY, last=day)
    assert read(version).baseline.predictions == 1_000
    services.unpin_baseline(actor=actor, version=version)
    services.unpin_baseline(actor=actor, version=version)
    assert not read(version).baseline.is_pinned
    actions = AuditEvent.objects.filter(action__startswith="drift.").values_list(
        "action", flat=True
    )
    assert sorted(actions) == ["drift.pin", "drift.pin", "drift.unpin"]


@pytest.mark.parametrize(
    ("first", "last", "pointer"),
    [(0, -1, "/last"), (-400, -399, "/first"), (5, 6, "/first"), (-400, 400, "")],
)
def test_a_window_without_blocks_is_refused(version, actor, first, last, pointer) -> None:
    fill(version)
    days = [NOON.date() + timedelta(days=one) for one in (first, last)]
    if not pointer:
        services.pin_baseline(actor=actor, version=version, first=days[0], last=days[1])
        return
    with pytest.raises(InvalidInputError) as caught:
        services.pin_baseline(actor=actor, version=version, first=days[0], last=days[1])
    assert caught.value.errors[0]["pointer"] == pointer
    assert not DriftBaseline.objects.exists()


def test_a_block_that_a_window_cuts_is_not_in_it(version, actor) -> None:
    """Else two windows would tell of less than a block."""
    midnight = NOON.replace(hour=0)
    add_block(version, midnight + HOUR, starts_at=midnight - HOUR)
    day: date = midnight.date()
    with pytest.raises(InvalidInputError):
        services.pin_baseline(actor=actor, version=version, first=day, last=day)
    services.pin_baseline(actor=actor, version=version, first=day - DAY, last=day)


def test_whoever_ceases_to_watch_leaves_nothing(version, actor) -> None:
    fill(version)
    add_part(version, NOON)
    services.pin_baseline(
        actor=actor, version=version, first=NOON.date() - DAY, last=NOON.date() - DAY
    )
    services.unwatch(actor=actor, model=version.model)
    services.unwatch(actor=actor, model=version.model)

    for table in (DriftWatch, DriftPart, DriftBlock, DriftBaseline):
        assert not table.objects.exists(), table
    services.watch(actor=actor, model=version.model)
    services.watch(actor=actor, model=version.model)
    assert AuditEvent.objects.filter(action="drift.watch").count() == 1


def test_strangers_change_nothing(version) -> None:
    stranger = Actor(user=UserFactory())
    AccountFactory()
    days = {"first": NOON.date(), "last": NOON.date()}
    for change in (
        lambda: services.watch(actor=stranger, model=version.model),
        lambda: services.unwatch(actor=stranger, model=version.model),
        lambda: services.pin_baseline(actor=stranger, version=version, **days),
        lambda: services.unpin_baseline(actor=stranger, version=version),
    ):
        with pytest.raises(ForbiddenError):
            change()
    assert DriftWatch.objects.count() == 1


# --- Alerts -----------------------------------------------------------------------


def add_rule(version, actor, **fields) -> AlertRule:
    fields = {"kind": "drift", "threshold": 25, "window_s": 86_400, **fields}
    return alert.add_rule(actor=actor, model=version.model, **fields)


@pytest.mark.parametrize(("fast", "is_fired"), [(50, False), (90, True)])
def test_an_alert_tells_of_drift(version, actor, fast: int, is_fired: bool) -> None:
    MetricCursor.objects.create(name="fresh", reached_at=NOW)
    fill(version, now_fast=fast)
    rule = add_rule(version, actor)
    alert.evaluate_rules()

    rule.refresh_from_db()
    assert rule.measured is not None
    assert AlertEvent.objects.exists() == is_fired
    assert (rule.measured >= 25) == is_fired


def test_too_little_says_nothing(version, actor) -> None:
    assert alert.measure(add_rule(version, actor), NOW) is None
    fill(version, now_fast=90)
    assert alert.measure(add_rule(version, actor, threshold=30, count_min=1_001), NOW) is None
    assert alert.measure(add_rule(version, actor, threshold=31, count_min=1_000), NOW) > 25


@pytest.mark.parametrize(
    "fields", [{"window_s": 3_600}, {"threshold": 9}, {"threshold": 1_001}, {"window_s": 1}]
)
def test_rules_outside_of_their_limits_are_refused(version, actor, fields) -> None:
    with pytest.raises(InvalidInputError):
        add_rule(version, actor, **fields)
    assert not AlertRule.objects.exists()


@pytest.mark.parametrize("threshold", [10, 1_000])
def test_rules_at_their_limits_are_taken(version, actor, threshold: int) -> None:
    assert add_rule(version, actor, threshold=threshold).pk
