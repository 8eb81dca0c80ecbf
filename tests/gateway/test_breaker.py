"""Replicas that fail, fall silent or are slow: where requests go, and who is refused early."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import time

import httpx
import pytest

from inference.gateway import breaker as breakers
from inference.gateway.breaker import Breaker
from inference.gateway.coalesce import Coalescer
from inference.gateway.config import (
    ALIVE_WAIT_S,
    BREAKER_FAILURES,
    BREAKER_OPEN_MAX_S,
    BREAKER_OPEN_S,
    BREAKER_TRIAL_S,
    PACE_OUTLIER_FACTOR,
    PACE_TTL_S,
    RETRY_AFTER_MAX_S,
    SILENCE_S,
)
from inference.gateway.errors import CapacityError
from inference.gateway.route import Routes
from inference.models import Prediction
from inference.triton.errors import QueueFullError, TritonUnavailableError
from marketplace.core.ids import new_id
from tests.gateway.conftest import (
    check_books,
    check_nothing_booked,
    make_node,
    predict,
    predict_many,
    problem_of,
)
from tests.gateway.processes import ToyTriton, eventually
from tests.gateway.test_coalesce import Replica, ask, row, turn
from tests.gateway.test_parts import FakeDatabase, replica_row

DEADLINE_MS = 4_000


class Clock:
    def __init__(self, monkeypatch) -> None:
        self.now_s = 1_000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """A clock that stands until it is moved."""
    return Clock(monkeypatch)


@pytest.fixture
def steady(monkeypatch):
    """Times that are not spread."""
    monkeypatch.setattr(breakers.random, "uniform", lambda *_: 1)


# --- The switch ---


def test_switch_opens_after_failures_in_a_row_and_not_before(clock, steady):
    switch = Breaker()
    for _ in range(BREAKER_FAILURES - 1):
        switch.fail()
    assert (switch.state, switch.wait_s(clock.now_s)) == ("closed", 0)
    switch.succeed()
    for _ in range(BREAKER_FAILURES - 1):
        switch.fail()
    assert switch.state == "closed"
    switch.fail()
    assert (switch.state, switch.wait_s(clock.now_s)) == ("open", BREAKER_OPEN_S)


def test_open_time_grows_to_its_limit_and_failures_together_count_once(clock, steady):
    switch, times = Breaker(), []
    for _ in range(BREAKER_FAILURES):
        switch.fail()
    for _ in range(8):
        switch.fail()  # Was under way with the others.
        times.append(switch.wait_s(clock.now_s))
        clock.now_s += times[-1]
        assert (switch.state, switch.wait_s(clock.now_s)) == ("half_open", 0)
        switch.take(clock.now_s)
        switch.fail()
    assert times[:3] == [BREAKER_OPEN_S, 2 * BREAKER_OPEN_S, 4 * BREAKER_OPEN_S]
    assert times[-1] == BREAKER_OPEN_MAX_S


def test_one_request_tries_and_its_success_closes(clock, steady):
    switch = Breaker()
    switch.fail(is_silent=True)
    assert switch.state == "open"
    clock.now_s += BREAKER_OPEN_S
    switch.take(clock.now_s)
    assert switch.wait_s(clock.now_s) == BREAKER_TRIAL_S
    # One whose end is never told does not keep it open for ever.
    assert switch.wait_s(clock.now_s + BREAKER_TRIAL_S) == 0
    switch.succeed()
    assert (switch.state, switch.wait_s(clock.now_s)) == ("closed", 0)
    switch.take(clock.now_s)
    assert switch.wait_s(clock.now_s) == 0


def test_open_times_are_spread(clock):
    waits = set()
    for _ in range(20):
        switch = Breaker()
        switch.fail(is_silent=True)
        waits.add(switch.wait_s(clock.now_s))
    assert len(waits) > 10
    assert all(0.75 * BREAKER_OPEN_S <= one <= 1.25 * BREAKER_OPEN_S for one in waits)


# --- The choice ---


def make_routes(count: int) -> tuple[Routes, object]:
    database, version_id = FakeDatabase(), new_id()
    database.rows = [replica_row(version_id) for _ in range(count)]
    database.gate.set()
    routes = Routes(database)
    routes.on_listening()
    return routes, version_id


def test_replica_that_is_expected_to_finish_first_is_chosen():
    async def run():
        routes, version_id = make_routes(2)
        await routes.pick(version_id)
        slow, fast = next(iter(routes._replicas.values()))
        slow.calls.pace_s, fast.calls.pace_s = 1.0, 0.1
        slow.calls._ended_s = fast.calls._ended_s = time.monotonic()
        assert await routes.pick(version_id) is fast
        fast.calls.coming = 8 * fast.calls.rows_max
        assert await routes.pick(version_id) is fast
        fast.calls.coming = 10 * fast.calls.rows_max
        assert await routes.pick(version_id) is slow
        # By load alone the slow one would have had the first request already.
        assert slow.calls.load == 0

    asyncio.run(run())


def test_pace_of_an_idle_replica_is_forgotten_after_a_while(clock):
    calls = Coalescer(1, calls_max=1)
    calls.pace_s, calls._ended_s = 5.0, clock.now_s
    clock.now_s += PACE_TTL_S
    assert calls.expect_s() == 5.0
    clock.now_s += 1
    assert calls.expect_s() == 0
    calls.running = 1
    assert calls.expect_s() == 10.0


def test_open_replicas_are_left_out_and_if_all_are_it_is_said_at_once(clock, steady):
    async def run():
        routes, version_id = make_routes(2)
        first = await routes.pick(version_id)
        first.breaker.fail(is_silent=True)
        second = await routes.pick(version_id)
        assert second is not first
        assert await routes.pick(version_id, besides=second) is second
        second.breaker.fail(is_silent=True)
        with pytest.raises(TritonUnavailableError) as caught:
            await routes.pick(version_id)
        assert caught.value.retry_after_s == 1
        assert [one.breaker.state for one in routes.list_replicas()] == ["open", "open"]
        # Each is tried by one request, and by no second one meanwhile.
        clock.now_s += BREAKER_OPEN_S
        tried = {(await routes.pick(version_id)).id for _ in range(2)}
        assert tried == {first.id, second.id}
        with pytest.raises(TritonUnavailableError):
            await routes.pick(version_id)

    asyncio.run(run())


# --- Early refusal ---


def test_idle_replica_refuses_nobody(clock):
    calls = Coalescer(1, calls_max=1)
    calls.pace_s, calls._ended_s = 1_000.0, clock.now_s
    calls.admit(clock.now_s + 0.001)
    assert calls.load == 1
    with pytest.raises(CapacityError):
        calls.admit(clock.now_s + 0.001)
    calls.arrive()
    assert calls.load == 0


def test_who_can_be_answered_in_time_is_let_in_and_the_next_one_is_not(clock):
    calls = Coalescer(4, calls_max=2)
    calls.pace_s, calls._ended_s = 1.0, clock.now_s
    # Two calls of four requests each before its own, which takes the last second.
    for _ in range(9):
        calls.admit(clock.now_s + 3)
    with pytest.raises(CapacityError) as caught:
        calls.admit(clock.now_s + 3)
    assert caught.value.retry_after_s == 1
    assert calls.load == 9


def test_advice_to_come_back_is_what_is_missing_and_has_a_limit(clock):
    calls = Coalescer(1, calls_max=1)
    calls.pace_s, calls._ended_s, calls.running = 10.0, clock.now_s, 1
    with pytest.raises(CapacityError) as caught:
        calls.admit(clock.now_s + 5)
    assert caught.value.retry_after_s == 15
    calls.pace_s = 1_000.0
    with pytest.raises(CapacityError) as caught:
        calls.admit(clock.now_s + 5)
    assert caught.value.retry_after_s == RETRY_AFTER_MAX_S


def test_who_comes_counts_for_the_length_of_the_line(clock):
    calls = Coalescer(1, calls_max=1, waiting_max=2)
    calls.admit(clock.now_s + 60)
    calls.admit(clock.now_s + 60)
    with pytest.raises(QueueFullError):
        calls.admit(clock.now_s + 60)


def test_pace_is_what_a_busy_replica_takes_between_two_ends(clock):
    async def run():
        calls, replica = Coalescer(1, calls_max=2), Replica()
        tasks = [ask(calls, replica, row(one)) for one in range(6)]
        await turn()
        for _ in tasks:
            clock.now_s += 0.5
            replica.gate.release()
            await turn()
        await asyncio.gather(*tasks)
        # Two are under way at a time, and one ends every half second.
        assert calls.pace_s == pytest.approx(0.5)

    asyncio.run(run())


def test_one_slow_call_does_not_spoil_the_pace(clock):
    calls = Coalescer(1, calls_max=1)
    for took_s in (*[1.0] * 5, 100.0):
        started_s = clock.now_s
        clock.now_s += took_s
        calls._measure(started_s)
    assert calls.pace_s == pytest.approx(1 + 0.2 * (PACE_OUTLIER_FACTOR - 1))
    for _ in range(20):
        started_s = clock.now_s
        clock.now_s += 100
        calls._measure(started_s)
    assert calls.pace_s > 90


@pytest.fixture
def pool():
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        yield pool


def forget_pace(shop, client) -> None:
    """A replica that has been away is a new one: what quick calls before measured is gone."""
    shop.replica.state = "loading"
    shop.replica.save(update_fields=["state"])
    eventually(lambda: check_status(client, 503))
    shop.replica.state = "ready"
    shop.replica.save(update_fields=["state"])
    eventually(lambda: check_status(client, 201))


def check_status(client, status: int) -> None:
    assert predict(client, wait_s=1.2).status_code == status


def rush(shop, pool, client) -> list[tuple[int, float, object]]:
    """64 requests at a model that does four in 1.2 s, with 4 s each: far more than it can do."""
    shop.fund(1_000_000)
    forget_pace(shop, client)
    for _ in range(3):
        assert predict(client, wait_s=1.2).status_code == 201

    def ask_one(_):
        started_s = time.monotonic()
        headers = {"X-Request-Timeout-Ms": str(DEADLINE_MS)}
        response = predict(client, headers=headers, wait_s=1.2)
        return response.status_code, time.monotonic() - started_s, response

    client.timeout = 60
    return list(pool.map(ask_one, range(64)))


@pytest.mark.django_db(transaction=True)
def test_who_cannot_be_answered_in_time_is_refused_at_once(shop, pool):
    limits = httpx.Limits(max_connections=64)
    headers = {"Authorization": f"Bearer {shop.key.text}"}
    with httpx.Client(base_url=shop.url, headers=headers, limits=limits, timeout=60) as client:
        answers = rush(shop, pool, client)
    accepted = [one for one in answers if one[0] == 201]
    refused = [one for one in answers if one[0] == 503]
    late = [one for one in answers if one[0] == 504]

    assert accepted
    assert refused
    assert len(accepted) + len(refused) + len(late) == len(answers)
    assert len(late) <= len(accepted) // 10
    for _, _, response in refused:
        assert problem_of(response) == (503, "capacity")
        assert 1 <= int(response.headers["retry-after"]) <= 60
    # Refusals hold no money, and leave no trace.
    failed = Prediction.objects.exclude(state="succeeded")
    eventually(lambda: check_count(failed, len(late)))
    # Without waiting: they came back while those accepted were still being worked on.
    refusals_s = sorted(took_s for _, took_s, _ in refused)
    assert refusals_s[len(refusals_s) // 2] < max(took_s for _, took_s, _ in accepted) / 2


# --- Servers that are frozen ---

FROZEN_ID = new_id()


@pytest.fixture
def frozen(shop, tmp_path, interface):
    """A second server, which takes connections and answers nothing."""
    server = ToyTriton(tmp_path, interface, [FROZEN_ID])
    process = server.server.process
    process.send_signal(signal.SIGSTOP)
    yield server
    process.send_signal(signal.SIGCONT)
    server.stop()


def serve_from(shop, server):
    shop.fund(1_000_000)
    shop.add_replica(FROZEN_ID, node=make_node("frozen", server.config.http_url))


@pytest.mark.django_db(transaction=True)
def test_frozen_server_is_given_up_and_another_one_answers(shop, client, frozen):
    serve_from(shop, frozen)
    answers, took_s = [], 0.0
    # Until the news of the second server is there, and some requests meet it.
    for _ in range(10):
        if took_s <= SILENCE_S:
            started_s = time.monotonic()
            answers += predict_many(client, 12, wait_s=0.2)
            took_s = time.monotonic() - started_s

    assert {one.status_code for one in answers} == {201}
    # They were answered by the other one long before their own time was over.
    assert SILENCE_S < took_s < 20
    # Now it is left alone.
    started_s = time.monotonic()
    answers += [predict(client) for _ in range(12)]
    assert time.monotonic() - started_s < took_s
    answered = [one.json()["id"] for one in answers]
    check_books(shop, answered)


@pytest.mark.django_db(transaction=True)
def test_only_server_frozen_is_told_in_time_and_then_at_once(shop, client, frozen):
    serve_from(shop, frozen)
    shop.replica.delete()
    first = predict(client)
    started_s = time.monotonic()
    second = predict(client)
    took_s = time.monotonic() - started_s

    assert problem_of(first) == problem_of(second) == (503, "triton_unavailable")
    assert int(second.headers["retry-after"]) >= 1
    assert took_s < SILENCE_S
    check_nothing_booked(shop)

    # It comes back to life, and so does the model, by one request that tries it.
    os.kill(frozen.server.process.pid, signal.SIGCONT)
    response = eventually(lambda: check_created(predict(client)), timeout_s=20)
    check_books(shop, [response.json()["id"]])


def check_created(response):
    assert response.status_code == 201
    return response


@pytest.mark.django_db(transaction=True)
def test_slow_model_of_a_live_server_is_waited_for(shop, client):
    """Longer than it takes to give a silent server up."""
    response = predict(client, wait_s=SILENCE_S + ALIVE_WAIT_S + 1)

    check_books(shop, [response.json()["id"]])


def check_count(rows, count):
    assert rows.count() == count
