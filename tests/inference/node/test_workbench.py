from __future__ import annotations

import threading

import pytest

from inference.node import workbench
from inference.node.errors import CancelledError, RefusedError, UnreachableError
from inference.node.replica import Work, WorkOrder
from inference.node.trial import Result
from inference.node.workbench import ATTEMPTS_MAX, Workbench
from inference.triton.errors import TritonUnavailableError
from marketplace.core.ids import new_id
from tests.inference.node.platform import wait_for


class ControlPlane:
    def __init__(self):
        self.posted = []
        self.failures = []

    def post_work(self, work_id, body):
        if self.failures:
            raise self.failures.pop(0)
        self.posted.append((work_id, body["state"], body.get("reason_code")))


class Runner:
    def __init__(self):
        self.orders = []
        self.failures = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, order, cancelled):
        self.orders.append(order)
        while not self.go.wait(0.01):
            if cancelled.is_set():
                raise CancelledError
        if self.failures:
            raise self.failures.pop(0)
        return Result(True, {"passed": 1})


@pytest.fixture
def control_plane():
    return ControlPlane()


@pytest.fixture
def runner():
    return Runner()


@pytest.fixture
def bench(control_plane, runner, monkeypatch):
    monkeypatch.setattr(workbench, "RETRY_S", 0.02)
    return Workbench(control_plane, runner)


def make_order():
    return WorkOrder(Work(new_id(), "test"), new_id(), "manifest", 0, 0.0)


def tick_until(bench, orders, look):
    def once():
        bench.tick(orders)
        return look()

    wait_for(once, timeout_s=5)


def test_work_is_done_once_and_handed_in(bench, control_plane, runner):
    one, two = make_order(), make_order()

    tick_until(bench, [one, two], lambda: len(control_plane.posted) == 2)

    # Still listed for a moment, and not done again.
    for _ in range(20):
        bench.tick([one, two])
    assert runner.orders == [one, two]
    assert control_plane.posted == [
        (one.work.id, "succeeded", None),
        (two.work.id, "succeeded", None),
    ]


def test_a_result_that_did_not_arrive_is_offered_again_not_worked_out_again(
    bench, control_plane, runner
):
    control_plane.failures = [UnreachableError("away"), RefusedError(404, "not_found", "")]
    one = make_order()

    tick_until(bench, [one], lambda: control_plane.posted)

    assert runner.orders == [one]


def test_work_that_the_server_cut_short_is_tried_again_and_then_given_up(
    bench, control_plane, runner
):
    runner.failures = [TritonUnavailableError()]
    one = make_order()
    tick_until(bench, [one], lambda: control_plane.posted)
    assert control_plane.posted == [(one.work.id, "succeeded", None)]

    runner.failures = [TritonUnavailableError() for _ in range(ATTEMPTS_MAX)]
    two = make_order()
    tick_until(bench, [two], lambda: len(control_plane.posted) == 2)
    assert control_plane.posted[1] == (two.work.id, "failed", "triton_unavailable")
    assert runner.orders.count(two) == ATTEMPTS_MAX


def test_a_mistake_of_ours_fails_the_work(bench, control_plane, runner):
    runner.failures = [ZeroDivisionError()]
    one = make_order()

    tick_until(bench, [one], lambda: control_plane.posted)

    assert control_plane.posted == [(one.work.id, "failed", "unavailable")]


def test_one_at_a_time(bench, control_plane, runner):
    runner.go.clear()
    one, two = make_order(), make_order()
    bench.tick([one, two])
    wait_for(lambda: runner.orders)

    for _ in range(10):
        bench.tick([one, two])

    assert runner.orders == [one]
    runner.go.set()
    tick_until(bench, [one, two], lambda: len(control_plane.posted) == 2)


def test_work_that_is_not_listed_any_more_ends(bench, control_plane, runner):
    runner.go.clear()
    one, two = make_order(), make_order()
    bench.tick([one])
    wait_for(lambda: runner.orders)

    bench.tick([two])
    wait_for(lambda: not bench._thread.is_alive())
    runner.go.set()

    tick_until(bench, [two], lambda: control_plane.posted)
    assert [work_id for work_id, *_ in control_plane.posted] == [two.work.id]
