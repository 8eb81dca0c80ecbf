"""The decisions alone: the loader is a stand-in that ends when the test says so."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from inference.node import reconcile
from inference.node.errors import CancelledError, ReplicaError
from inference.node.leases import Lease
from inference.node.loading import Loaded
from inference.node.reconcile import ATTEMPTS_MAX, CRASHES_MAX, Reconciler
from inference.node.replica import Desired, Work, parse_desired
from inference.triton.repository import model_name
from marketplace.core.ids import new_id
from tests.inference.node.platform import wait_for


class Loader:
    def __init__(self):
        self.loads = []
        self.unloads = []
        self.outcome = None  # An exception, or None for a load that works.
        self.unload_outcome = None
        self.go = threading.Event()
        self.go.set()
        self.stub_pid = os.getpid()

    def load(self, desired, *, on_phase, on_validation, cancelled):
        self.loads.append(desired.id)
        on_phase("decrypting", 0.5)
        on_validation({"nodes": 1})
        while not self.go.wait(0.01):
            if cancelled.is_set():
                raise CancelledError
        if self.outcome is not None:
            raise self.outcome
        lease = Lease(str(new_id()), desired.id, time.monotonic() + 600, time.monotonic() + 200)
        return Loaded("manifest", lease, self.stub_pid, 12.0, {"threads": 1})

    def unload(self, name, *, is_dead=False):
        self.unloads.append(name)
        if self.unload_outcome is not None:
            raise self.unload_outcome

    def abort(self, cancelled):
        cancelled.set()


@pytest.fixture
def loader():
    return Loader()


@pytest.fixture
def released():
    return []


@pytest.fixture
def reconciler(loader, released, monkeypatch):
    monkeypatch.setattr(reconcile, "FAILED_RETRY_FIRST_S", 0.6)
    leases = SimpleNamespace(release=lambda lease: released.append(lease.lease_id))
    return Reconciler(loader=loader, leases=leases, on_change=lambda: None)


def desire(reconciler, *desired):
    reconciler.set_desired(list(desired))


def make_desired(**members):
    return Desired(new_id(), new_id(), "serve", **members)


def state_of(reconciler, desired):
    lines = {one["id"]: one for one in reconciler.describe()}
    return lines.get(str(desired.id), {}).get("state")


def line_of(reconciler, desired):
    return next(one for one in reconciler.describe() if one["id"] == str(desired.id))


def settle(reconciler, desired, state, *, ready=True):
    def look():
        reconciler.tick(is_triton_ready=ready)
        return state_of(reconciler, desired) == state

    wait_for(look, timeout_s=8, explain=lambda: str(reconciler.describe()))


def test_what_is_wanted_is_loaded_and_what_is_not_is_unloaded(reconciler, loader, released):
    one = make_desired()
    desire(reconciler, one)
    settle(reconciler, one, "ready")
    (lease,) = reconciler.list_leases()
    assert loader.loads == [one.id]

    desire(reconciler)
    settle(reconciler, one, "unloaded")

    assert loader.unloads == [model_name(one.id)]
    assert released == [lease.lease_id]
    assert reconciler.list_leases() == []
    reconciler.note_reported(reconciler.describe())
    assert reconciler.describe() == []


def test_nothing_is_loaded_before_triton_is_ready(reconciler, loader):
    one = make_desired()
    desire(reconciler, one)

    settle(reconciler, one, "assigned", ready=False)

    assert loader.loads == []


def test_the_loaders_word_is_said_until_it_is_heard(reconciler):
    one = make_desired()
    desire(reconciler, one)
    settle(reconciler, one, "ready")
    line = line_of(reconciler, one)
    assert line["report"] == {"validation": {"nodes": 1}, "load": {"threads": 1}}
    assert line["progress"] == 1.0

    # An older report arrived, without the last word.
    reconciler.note_reported([{**line, "report": {"validation": {"nodes": 1}}}])
    assert "report" in line_of(reconciler, one)
    reconciler.note_reported([line])
    assert "report" not in line_of(reconciler, one)


def test_a_final_failure_is_reported_and_not_tried_again(reconciler, loader):
    loader.outcome = ReplicaError("onnx_malformed", "Broken.")
    one = make_desired()
    desire(reconciler, one)

    settle(reconciler, one, "failed")

    line = line_of(reconciler, one)
    assert (line["reason_code"], line["detail"]) == ("onnx_malformed", "Broken.")
    assert line["report"] == {"validation": {"nodes": 1}}
    for _ in range(20):
        reconciler.tick(is_triton_ready=True)
        time.sleep(0.02)
    assert loader.loads == [one.id]
    # It is forgotten when it is no longer wanted; wanted anew, it is tried anew.
    desire(reconciler)
    reconciler.tick(is_triton_ready=True)
    assert reconciler.describe() == []
    loader.outcome = None
    desire(reconciler, one)
    settle(reconciler, one, "ready")


def test_a_failure_that_may_pass_is_tried_again_before_it_is_reported(
    reconciler, loader, monkeypatch
):
    monkeypatch.setattr(reconcile, "RETRY_FIRST_S", 0.05)
    loader.outcome = ReplicaError("keybroker_unavailable", "Away.")
    one = make_desired()
    desire(reconciler, one)

    settle(reconciler, one, "failed")

    assert len(loader.loads) == ATTEMPTS_MAX
    assert line_of(reconciler, one)["reason_code"] == "keybroker_unavailable"
    # Still wanted although it failed: after a while it is tried once more.
    loader.outcome = None
    settle(reconciler, one, "ready")


def test_a_load_that_is_no_longer_wanted_ends(reconciler, loader):
    loader.go.clear()
    one = make_desired()
    desire(reconciler, one)
    settle(reconciler, one, "decrypting")

    desire(reconciler)

    settle(reconciler, one, "unloaded")
    assert loader.unloads == []


def test_a_lost_lease_takes_the_replica_down(reconciler, loader, released):
    one = make_desired()
    desire(reconciler, one)
    settle(reconciler, one, "ready")
    (lease,) = reconciler.list_leases()

    lease.loss = ReplicaError("lease_lost", "Gone.")

    settle(reconciler, one, "failed")
    assert line_of(reconciler, one)["reason_code"] == "lease_lost"
    assert loader.unloads == [model_name(one.id)]
    # It is the broker's no longer, so there is nothing to give back.
    assert released == []


def unload_in_vain(reconciler, loader):
    """A replica that was ready and is not wanted any more, but stays."""
    one = make_desired()
    desire(reconciler, one)
    settle(reconciler, one, "ready")
    loader.unload_outcome = ReplicaError("deadline", "It stays.")
    desire(reconciler)
    reconciler.tick(is_triton_ready=True)
    return one


def test_an_unload_that_fails_is_tried_again(reconciler, loader):
    one = unload_in_vain(reconciler, loader)
    wait_for(lambda: len(loader.unloads) == 1)
    assert state_of(reconciler, one) == "unloading"

    loader.unload_outcome = None

    settle(reconciler, one, "unloaded")
    assert len(loader.unloads) >= 2


def test_a_model_that_does_not_stop_is_killed(reconciler, loader):
    with subprocess.Popen(["/bin/sleep", "60"]) as busy:
        loader.stub_pid = busy.pid
        one = unload_in_vain(reconciler, loader)

        assert busy.wait(5) == -signal.SIGKILL
    loader.unload_outcome = None
    settle(reconciler, one, "unloaded")


def test_a_lost_server_means_loading_again(reconciler, loader, released):
    one, two = make_desired(), make_desired()
    desire(reconciler, one, two)
    settle(reconciler, one, "ready")
    settle(reconciler, two, "ready")
    leases = {lease.lease_id for lease in reconciler.list_leases()}

    reconciler.lose_triton()

    assert {state_of(reconciler, one), state_of(reconciler, two)} == {"assigned"}
    wait_for(lambda: set(released) == leases)
    settle(reconciler, one, "ready")
    settle(reconciler, two, "ready")
    assert len(loader.loads) == 4


def test_a_dead_loader_is_replaced_but_not_for_ever(reconciler, loader):
    dead = subprocess.Popen(["true"])
    dead.wait()
    loader.stub_pid = dead.pid
    one = make_desired()
    desire(reconciler, one)

    settle(reconciler, one, "failed")

    assert len(loader.loads) == CRASHES_MAX
    assert line_of(reconciler, one)["reason_code"] == "stub_died"


def test_a_mistake_of_ours_fails_the_replica_and_nothing_else(reconciler, loader, monkeypatch):
    monkeypatch.setattr(reconcile, "ATTEMPTS_MAX", 1)
    loader.outcome = ZeroDivisionError()
    one = make_desired()
    desire(reconciler, one)

    settle(reconciler, one, "failed")

    assert line_of(reconciler, one)["reason_code"] == "unavailable"


def test_work_is_listed_once_its_replica_is_loaded(reconciler):
    work = Work(new_id(), "test")
    one = make_desired(work=work)
    desire(reconciler, one)
    assert reconciler.list_work() == []

    settle(reconciler, one, "ready")

    (order,) = reconciler.list_work()
    assert (order.work, order.replica_id, order.load_ms) == (work, one.id, 12.0)


def test_a_draining_node_takes_no_orders(reconciler, loader):
    loader.go.clear()
    one = make_desired()
    desire(reconciler, one)
    settle(reconciler, one, "decrypting")

    assert reconciler.drain(timeout_s=5) == []

    desire(reconciler, one)
    reconciler.tick(is_triton_ready=True)
    assert loader.loads == [one.id]


def test_lines_that_are_not_in_their_form_are_left_out():
    good = {
        "id": str(replica_id := new_id()),
        "version_id": str(new_id()),
        "purpose": "scan",
        "triton_name": model_name(replica_id),
        "work": {"id": str(new_id()), "kind": "test"},
    }
    bad = [
        None,
        {},
        good | {"id": "x"},
        good | {"triton_name": "../../etc"},
        good | {"triton_name": model_name(new_id())},
        good | {"purpose": "other"},
        good | {"work": {"id": "x"}},
    ]

    parsed = parse_desired({"replicas": [*bad, good]})

    assert [one.id for one in parsed] == [replica_id]


@pytest.mark.parametrize("document", [{}, {"replicas": None}, {"replicas": {}}])
def test_a_desired_state_that_is_none_unloads_nothing(document):
    with pytest.raises(ValueError, match="no list of replicas"):
        parse_desired(document)


def condemn(reconciler):
    [order] = reconciler.list_canaries()
    reconciler.condemn(order, "Test vector 0, /y: Is 1, not 2.")
    return order


def test_a_replica_that_answers_wrongly_is_failed_and_unloaded(reconciler, loader, released):
    one = make_desired()
    desire(reconciler, one)
    settle(reconciler, one, "ready")
    (lease,) = reconciler.list_leases()

    condemn(reconciler)
    assert reconciler.list_canaries() == []
    settle(reconciler, one, "failed")

    line = line_of(reconciler, one)
    assert line["reason_code"] == "canary_mismatch"
    assert line["detail"] == "Test vector 0, /y: Is 1, not 2."
    assert loader.unloads == [model_name(one.id)]
    assert released == [lease.lease_id]
    # Final here: the platform places another, elsewhere if it can.
    for _ in range(3):
        reconciler.tick(is_triton_ready=True)
    assert state_of(reconciler, one) == "failed"
    assert loader.loads == [one.id]


def test_one_that_does_not_leave_is_killed_and_stays_condemned(reconciler, loader):
    """Its process ends, but not as a crash after which it would be loaded again."""
    stub = subprocess.Popen(["/bin/sleep", "60"])
    loader.stub_pid = stub.pid
    one = make_desired()
    desire(reconciler, one)
    settle(reconciler, one, "ready")
    loader.unload_outcome = ReplicaError("deadline", "The model does not leave.")

    condemn(reconciler)
    wait_for(lambda: reconciler.tick(is_triton_ready=True) or stub.poll() is not None)
    loader.unload_outcome = None
    settle(reconciler, one, "failed")

    assert stub.returncode == -signal.SIGKILL
    assert line_of(reconciler, one)["reason_code"] == "canary_mismatch"
    assert loader.loads == [one.id]


def test_a_replica_that_was_loaded_anew_is_not_blamed_for_the_one_before(reconciler, loader):
    one = make_desired()
    desire(reconciler, one)
    settle(reconciler, one, "ready")
    [order] = reconciler.list_canaries()
    reconciler.lose_triton()
    loader.stub_pid = os.getppid()
    settle(reconciler, one, "ready")

    reconciler.condemn(order, "Late.")
    reconciler.tick(is_triton_ready=True)

    assert state_of(reconciler, one) == "ready"


def test_only_replicas_in_service_are_asked(reconciler, loader):
    scan = Desired(new_id(), new_id(), "scan")
    loader.go.clear()
    one = make_desired()
    desire(reconciler, one, scan)
    settle(reconciler, one, "decrypting")
    assert reconciler.is_loading()
    assert reconciler.list_canaries() == []

    loader.go.set()
    settle(reconciler, one, "ready")
    settle(reconciler, scan, "ready")

    assert [order.replica_id for order in reconciler.list_canaries()] == [one.id]
    assert not reconciler.is_loading()
