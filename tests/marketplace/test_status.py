"""What is counted of each part, what the public page makes of it, and the feeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Thread

import pytest
import time_machine
from django.db import IntegrityError, connections
from django.test import Client

from marketplace.core.errors import UnavailableError
from marketplace.models import Part, StatusDay
from marketplace.selectors import status as selectors
from marketplace.services import status as services

pytestmark = pytest.mark.django_db

State = StatusDay.State
NOON = datetime(2026, 11, 22, 12, 0, 30, tzinfo=UTC)
TODAY = NOON.date()
# A state for each part, one of each kind.
MIXED = dict(
    zip(Part, (State.UP, State.DEGRADED, State.DOWN, State.UNKNOWN, State.UP), strict=True)
)


@pytest.fixture
def clock() -> Iterator[time_machine.Coordinates]:
    with time_machine.travel(NOON, tick=False) as moved:
        yield moved


@pytest.fixture
def found(monkeypatch) -> dict[Part, StatusDay.State]:
    """What the probes find; a test changes it."""
    states = dict(MIXED)
    probes = {part: (lambda part=part: states[part]) for part in Part}
    monkeypatch.setattr(services, "_probes", probes)
    return states


def counts(part: Part, day: date = TODAY) -> tuple[int, int, int, int]:
    row = StatusDay.objects.get(part=part, day=day)
    return row.up, row.degraded, row.down, row.unknown


def find_wrong_counts() -> list[Part]:
    """Parts of which one look at `MIXED` was not counted as what it was."""
    services.sample_status()
    right = {
        State.UP: (1, 0, 0, 0),
        State.DEGRADED: (0, 1, 0, 0),
        State.DOWN: (0, 0, 1, 0),
        State.UNKNOWN: (0, 0, 0, 1),
    }
    return [part for part in Part if counts(part) != right[MIXED[part]]]


# --- What is counted ----------------------------------------------------------------


def test_each_part_is_counted_as_what_it_was(clock, found) -> None:
    assert find_wrong_counts() == []


def test_counting_the_unknown_as_up_would_be_noticed(clock, found, monkeypatch) -> None:
    monkeypatch.setattr(services, "COLUMNS", {**services.COLUMNS, State.UNKNOWN: "up"})

    assert find_wrong_counts() == [Part.ONBOARDING]


def test_a_minute_is_counted_once(clock, found) -> None:
    services.sample_status()
    found[Part.SITE] = State.DOWN
    clock.move_to(NOON + timedelta(seconds=29))
    services.sample_status()

    assert counts(Part.SITE) == (1, 0, 0, 0)

    clock.move_to(NOON + timedelta(seconds=30))
    services.sample_status()
    assert counts(Part.SITE) == (1, 0, 1, 0)


def test_without_its_guard_a_minute_would_count_twice(clock, found, monkeypatch) -> None:
    unguarded = services._COUNT.replace("WHERE s.sampled_at < EXCLUDED.sampled_at", "")
    monkeypatch.setattr(services, "_COUNT", unguarded)
    services.sample_status()
    services.sample_status()

    assert counts(Part.SITE) == (2, 0, 0, 0)


def test_a_worker_that_is_late_counts_nothing_of_the_past(clock, found) -> None:
    services.sample_status()
    clock.move_to(NOON - timedelta(minutes=5))
    services.sample_status()

    row = StatusDay.objects.get(part=Part.SITE)
    assert (row.up, row.sampled_at) == (1, NOON.replace(second=0))


@pytest.mark.django_db(transaction=True)
def test_two_workers_in_one_minute_count_it_once(found, monkeypatch) -> None:
    start = Barrier(2)

    def work() -> None:
        start.wait(timeout=30)
        services.sample_status()
        connections.close_all()

    monkeypatch.setattr(services, "utc_now", lambda: NOON)
    threads = [Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert counts(Part.SITE) == (1, 0, 0, 0)


def test_a_day_begins_at_midnight_utc(clock, found) -> None:
    clock.move_to(datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC))
    services.sample_status()
    clock.move_to(datetime(2026, 11, 23, 0, 0, 0, tzinfo=UTC))
    services.sample_status()

    assert counts(Part.SITE) == (1, 0, 0, 0)
    assert counts(Part.SITE, date(2026, 11, 23)) == (1, 0, 0, 0)


def test_a_day_has_no_more_than_its_minutes(db) -> None:
    row = {"part": Part.SITE, "day": TODAY, "sampled_at": NOON, "state": State.UP}
    StatusDay.objects.create(**row, up=1_438, degraded=1, down=1)

    with pytest.raises(IntegrityError, match="marketplace_status_day_minutes"):
        StatusDay.objects.update(unknown=1)


def test_what_nobody_can_tell_is_unknown(clock, found, monkeypatch) -> None:
    def fail() -> StatusDay.State:
        raise UnavailableError

    del services._probes[Part.SITE]
    services._probes[Part.GATEWAY] = fail

    states = services.sample_status()

    assert (states[Part.SITE], states[Part.GATEWAY]) == (State.UNKNOWN, State.UNKNOWN)
    assert counts(Part.SITE) == counts(Part.GATEWAY) == (0, 0, 0, 1)


def test_every_part_has_a_probe_of_its_own() -> None:
    assert set(services._probes) == set(Part)


@pytest.mark.parametrize(("days", "is_kept"), [(400, True), (401, False)])
def test_days_are_kept_as_long_as_other_days(clock, found, settings, days, is_kept) -> None:
    settings.METRIC_DAY_DAYS = 400
    day = TODAY - timedelta(days=days)
    StatusDay.objects.create(part=Part.SITE, day=day, up=1, sampled_at=NOON, state=State.UP)

    services.sample_status()

    assert StatusDay.objects.filter(day=day).exists() is is_kept


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """Makes addresses that answer with a status."""
    servers = []

    def serve(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, State.UP), (302, State.DOWN), (404, State.DOWN), (500, State.DOWN), (503, State.DOWN)],
)
def test_an_address_is_up_when_it_answers_well(answering, settings, status, state) -> None:
    settings.WEB_URL = answering(status)

    assert services.probe_site() is state


def test_where_nothing_listens_it_is_down(settings) -> None:
    settings.WEB_URL = "http://127.0.0.1:9"

    assert services.probe_site() is State.DOWN


# --- What is read -------------------------------------------------------------------


def test_the_state_now_is_that_of_the_last_look(clock, found) -> None:
    services.sample_status()

    parts = {one.part: one for one in selectors.list_parts()}

    assert {part: one.state for part, one in parts.items()} == MIXED
    assert parts[Part.SITE].share == 100_000
    assert parts[Part.SERVING].share == 0
    # Nothing is known of it, which is neither.
    assert parts[Part.ONBOARDING].share is None
    assert parts[Part.ONBOARDING].days[-1].state == "none"


@pytest.mark.parametrize(("age_s", "state"), [(239, State.UP), (240, State.UNKNOWN)])
def test_what_was_not_looked_at_lately_is_unknown(clock, age_s, state) -> None:
    at = NOON - timedelta(seconds=age_s)
    StatusDay.objects.create(part=Part.SITE, day=TODAY, up=1, sampled_at=at, state=State.UP)

    assert selectors.list_parts()[0].state is state


def test_an_old_day_says_nothing_of_now(clock) -> None:
    day = TODAY - timedelta(days=1)
    StatusDay.objects.create(
        part=Part.SITE, day=day, up=1, sampled_at=NOON - timedelta(days=1), state=State.UP
    )

    part = selectors.list_parts()[0]

    assert part.state is State.UNKNOWN
    assert [one.state for one in part.days[-2:]] == ["full", "none"]


def test_ninety_days_are_shown(clock) -> None:
    for back in (89, 90):
        StatusDay.objects.create(
            part=Part.SITE,
            day=TODAY - timedelta(days=back),
            down=1,
            sampled_at=NOON,
            state=State.DOWN,
        )

    part = selectors.list_parts()[0]

    assert sum(one.bad for one in part.days) == 1


@pytest.mark.parametrize(
    ("_case", "states", "state", "text"),
    [
        ("all well", [State.UP] * 5, State.UP, "All parts are up."),
        ("all unknown", [State.UNKNOWN] * 5, State.UNKNOWN, "Nothing is measured now."),
        (
            "one unknown",
            [State.UNKNOWN, *[State.UP] * 4],
            State.UNKNOWN,
            "What is measured is up. One part is not measured now.",
        ),
        (
            "down is worse than degraded",
            [State.DOWN, State.DEGRADED, *[State.UP] * 3],
            State.DOWN,
            "One part is down.",
        ),
        (
            "degraded and unknown",
            [State.DEGRADED, State.DEGRADED, State.UNKNOWN, State.UP, State.UP],
            State.DEGRADED,
            "2 parts are degraded. One part is not measured now.",
        ),
    ],
)
def test_all_parts_in_a_sentence(clock, found, _case, states, state, text) -> None:
    found.update(zip(Part, states, strict=True))
    services.sample_status()

    summary = selectors.summarize(selectors.list_parts())

    assert (summary.state, summary.text) == (state, text)


# --- Pages and feeds ----------------------------------------------------------------


def test_the_page_needs_no_sign_in_and_says_what_is_known(client: Client, clock, found) -> None:
    services.sample_status()

    text = client.get("/status").content.decode()

    assert "One part is down. One part is not measured now." in text
    assert text.count('class="status-part"') == len(Part)
    # 90 cells each, and as many rows of a table.
    assert text.count("<title>22 Nov 2026: 100.00 %, no trouble</title>") == 2
    assert text.count('<th scope="row">2026-11-22</th>') == len(Part)
    assert text.count("<rect") == len(Part) * 90 + 5


def test_the_page_without_any_data(client: Client) -> None:
    answer = client.get("/status")

    assert answer.status_code == 200
    assert "Nothing is measured now." in answer.content.decode()


def test_the_page_asks_as_often_for_many_days(
    client, clock, django_assert_num_queries, django_assert_max_num_queries
) -> None:
    client.get("/status")
    # What is kept of banners depends on the tests before.
    with django_assert_max_num_queries(6) as few:
        client.get("/status")
    for back in range(90):
        for part in Part:
            StatusDay.objects.create(
                part=part,
                day=TODAY - timedelta(days=back),
                up=1_440,
                sampled_at=NOON,
                state=State.UP,
            )

    with django_assert_num_queries(len(few.captured_queries)):
        client.get("/status")


def test_programs_get_the_same(client: Client, clock, found) -> None:
    services.sample_status()

    answer = client.get("/status.json")
    document = json.loads(answer.content)

    assert document["state"] == "down"
    assert {one["name"]: one["state"] for one in document["parts"]} == {
        part.value: state.value for part, state in MIXED.items()
    }
    assert document["parts"][0]["days"] == [
        {
            "day": "2026-11-22",
            "uptime": 100.0,
            "up_minutes": 1,
            "degraded_minutes": 0,
            "down_minutes": 0,
        }
    ]
    assert document["parts"][3] == {
        "name": "onboarding",
        "label": "Onboarding of versions",
        "state": "unknown",
        "measured_at": "2026-11-22T12:00:00+00:00",
        "uptime": None,
        "days": [],
    }


@pytest.mark.parametrize("url", ["/status.json", "/status/feed.xml"])
def test_who_has_it_already_gets_nothing(client: Client, clock, found, url) -> None:
    first = client.get(url)
    again = client.get(url, HTTP_IF_NONE_MATCH=first["ETag"])

    assert first.status_code == 200
    assert first["Cache-Control"] == "public, max-age=30"
    assert (again.status_code, again.content) == (304, b"")

    services.sample_status()
    changed = client.get(url, HTTP_IF_NONE_MATCH=first["ETag"])
    assert changed.status_code == (200 if url == "/status.json" else 304)


def test_the_feeds_are_the_same_for_everybody(client, owner_client, clock, found) -> None:
    for url in ("/status.json", "/status/feed.xml"):
        assert client.get(url).content == owner_client.get(url).content


def test_no_probe_is_asked_by_a_reader(client: Client, found, monkeypatch) -> None:
    def fail() -> StatusDay.State:
        raise AssertionError("a reader made the platform ask itself")

    monkeypatch.setattr(services, "_probes", dict.fromkeys(Part, fail))

    assert client.get("/status").status_code == 200
    assert client.get("/status.json").status_code == 200
