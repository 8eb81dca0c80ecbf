"""Bring what is loaded in line with what is wanted, one replica at a time.

`tick` looks at every replica and decides on the next step; steps that take time run in
threads of their own and come back with their outcome. So nothing here waits, and whatever
ends (a load, a lease, a loader, all of Triton) is seen at the next tick.

    waiting -> loading -> ready -> unloading -> gone
       ^          |         |          |
       +----------+---------+----------+-> failed

A failure that may pass is tried again here a few times before it is reported: the platform
takes a reported failure as final for this replica, and makes another one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

from inference.node import metrics
from inference.node.control_plane import Backoff
from inference.node.errors import CancelledError, ReplicaError
from inference.node.leases import Lease, LeaseKeeper
from inference.node.loading import Loaded, ReplicaLoader
from inference.node.log import event
from inference.node.replica import (
    STATES_BY_PHASE,
    CanaryOrder,
    Desired,
    Replica,
    Stage,
    WorkOrder,
)
from inference.triton import processes
from marketplace.core.errors import MarketplaceError
from marketplace.core.spans import find_spans

logger = logging.getLogger("node.reconcile")

# Tries of a load whose failure may pass, before it is reported as failed.
ATTEMPTS_MAX = 3
RETRY_FIRST_S = 1.0
# Loaders that die in service, within the window, before the replica is given up.
CRASHES_MAX = 3
CRASH_WINDOW_S = 300.0
# For a replica that stays wanted although it was reported as failed.
FAILED_RETRY_FIRST_S = 30.0
FAILED_RETRY_LIMIT_S = 600.0

Outcome = Callable[[Replica], None]


class Reconciler:
    """The replicas of this node.

    Args:
        loader: Takes the steps.
        leases: Told which leases are no longer needed.
        on_change: Called after each change worth a report.
    """

    def __init__(
        self,
        *,
        loader: ReplicaLoader,
        leases: LeaseKeeper,
        on_change: Callable[[], None],
    ) -> None:
        self._loader = loader
        self._leases = leases
        self._on_change = on_change
        self._lock = threading.RLock()
        self._wanted: dict[UUID, Desired] = {}
        self._replicas: dict[UUID, Replica] = {}
        self._failed_waits: dict[UUID, Backoff] = {}
        self._threads: set[threading.Thread] = set()
        self._is_draining = False

    def set_desired(self, desired: list[Desired]) -> None:
        """From now on this is wanted, and nothing else."""
        with self._lock:
            if not self._is_draining:
                self._wanted = {one.id: one for one in desired}

    def tick(self, *, is_triton_ready: bool) -> None:
        """Decide on the next step of every replica."""
        with self._lock:
            for replica_id, desired in self._wanted.items():
                if replica_id not in self._replicas:
                    self._replicas[replica_id] = Replica(desired)
                    self._on_change()
            for replica in list(self._replicas.values()):
                self._look_at(replica, is_triton_ready)

    def lose_triton(self) -> None:
        """All that was loaded is gone with its server; it is loaded anew."""
        detail = "The model server ended; the model is being loaded again."
        with self._lock:
            for replica in self._replicas.values():
                if replica.stage is Stage.READY:
                    self._release(replica)
                    replica.enter(Stage.WAITING, "assigned", detail=detail)
                    replica.retry_at = 0.0
                    replica.attempts = 0
            self._on_change()

    def list_leases(self) -> list[Lease]:
        """The leases of loaded replicas."""
        with self._lock:
            return [one.lease for one in self._replicas.values() if one.lease is not None]

    def list_versions(self) -> frozenset[UUID]:
        """Versions that are loaded here, or being loaded."""
        stages = (Stage.LOADING, Stage.READY, Stage.UNLOADING)
        with self._lock:
            return frozenset(
                one.desired.version_id for one in self._replicas.values() if one.stage in stages
            )

    def list_work(self) -> list[WorkOrder]:
        """Work whose replica is loaded."""
        with self._lock:
            return [
                WorkOrder(wanted.work, one.id, one.manifest, one.stub_pid, one.load_ms)
                for one in self._replicas.values()
                if one.stage is Stage.READY
                and one.manifest is not None
                and (wanted := self._wanted.get(one.id)) is not None
                and wanted.work is not None
            ]

    def find_served(self) -> dict[UUID, tuple[UUID, int]]:
        """By version: a replica in service, and the process that runs it."""
        with self._lock:
            return {
                one.desired.version_id: (one.id, one.stub_pid)
                for one in self._replicas.values()
                if one.stage is Stage.READY
                and one.state == "ready"
                and one.desired.purpose == "serve"
                and one.condemned is None
            }

    def list_canaries(self) -> list[CanaryOrder]:
        """Replicas in service."""
        with self._lock:
            return [
                CanaryOrder(one.id, one.manifest, one.stub_pid)
                for one in self._replicas.values()
                if one.stage is Stage.READY
                and one.state == "ready"
                and one.desired.purpose == "serve"
                and one.manifest is not None
                and one.condemned is None
            ]

    def is_loading(self) -> bool:
        """Whether a load runs, which wants the cores for itself."""
        with self._lock:
            return any(one.stage is Stage.LOADING for one in self._replicas.values())

    def note_canary(self, replica_id: UUID, found: dict[str, Any]) -> None:
        """Tell the platform how a replica answers."""
        with self._lock:
            replica = self._replicas.get(replica_id)
            if replica is not None:
                self._note_report(replica, "canary", found)

    def condemn(self, order: CanaryOrder, detail: str) -> None:
        """Take a replica out that answers wrongly; the platform places another."""
        with self._lock:
            replica = self._replicas.get(order.replica_id)
            # Loaded anew in between, it is another process with other memory.
            if replica is not None and replica.stub_pid == order.stub_pid:
                replica.condemned = ReplicaError("canary_mismatch", detail)

    def is_ready(self, replica_id: UUID) -> bool:
        """Whether the replica answers."""
        with self._lock:
            replica = self._replicas.get(replica_id)
            return replica is not None and replica.stage is Stage.READY

    def count_states(self) -> dict[str, int]:
        """How many replicas there are of each state."""
        with self._lock:
            return dict(Counter(one.state for one in self._replicas.values()))

    def describe(self) -> list[dict[str, Any]]:
        """The replicas, as the report has them."""
        with self._lock:
            return [one.describe() for one in self._replicas.values()]

    def note_reported(self, lines: list[dict[str, Any]]) -> None:
        """The platform has these lines: what is over need not be said again."""
        with self._lock:
            for line in lines:
                replica = self._replicas.get(UUID(line["id"]))
                if replica is None:
                    continue
                if line.get("report") == replica.report:
                    replica.is_report_sent = True
                if replica.stage is Stage.GONE and line["state"] == "unloaded":
                    self._forget(replica)

    def drain(self, *, timeout_s: float) -> list[Lease]:
        """End all loads and start no others; returns the leases that are still held."""
        with self._lock:
            self._is_draining = True
            self._wanted = {}
            for replica in self._replicas.values():
                if replica.stage is Stage.LOADING:
                    self._loader.abort(replica.cancelled)
            threads = list(self._threads)
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return self.list_leases()

    def _look_at(self, replica: Replica, is_triton_ready: bool) -> None:
        wanted = self._wanted.get(replica.id)
        is_wanted = wanted is not None and wanted.is_same_as == replica.desired.is_same_as
        match replica.stage:
            case Stage.WAITING:
                self._look_at_waiting(replica, is_wanted, is_triton_ready)
            case Stage.LOADING:
                if not is_wanted and not replica.cancelled.is_set():
                    event(logger, "replica.cancel", replica=replica.id)
                    self._loader.abort(replica.cancelled)
            case Stage.READY:
                self._look_at_ready(replica, is_wanted)
            case Stage.FAILED:
                self._look_at_failed(replica, is_wanted)
            case Stage.GONE:
                if is_wanted:
                    self._forget(replica)  # Wanted again: it begins anew at the next tick.
            case Stage.UNLOADING:
                pass

    def _look_at_waiting(self, replica: Replica, is_wanted: bool, is_triton_ready: bool) -> None:
        if not is_wanted:
            replica.enter(Stage.GONE, "unloaded")
            self._on_change()
        elif is_triton_ready and time.monotonic() >= replica.retry_at:
            self._begin_load(replica)

    def _look_at_ready(self, replica: Replica, is_wanted: bool) -> None:
        if not is_wanted:
            self._begin_unload(replica, lambda one: one.enter(Stage.GONE, "unloaded"))
            return
        loss = replica.condemned or (replica.lease.loss if replica.lease else None)
        if loss is not None:
            self._begin_unload(replica, lambda one: self._fail(one, loss))
        elif not processes.is_alive(replica.stub_pid):
            self._note_crash(replica)

    def _look_at_failed(self, replica: Replica, is_wanted: bool) -> None:
        if not is_wanted:
            self._forget(replica)
        elif replica.retry_at and time.monotonic() >= replica.retry_at:
            replica.enter(Stage.WAITING, "assigned")
            replica.attempts = 0
            self._on_change()

    def _note_crash(self, replica: Replica) -> None:
        now = time.monotonic()
        replica.crashes = [at for at in replica.crashes if now - at < CRASH_WINDOW_S] + [now]
        metrics.CRASHES.add()
        event(logger, "replica.stub_died", replica=replica.id, crashes=len(replica.crashes))
        if len(replica.crashes) >= CRASHES_MAX:
            detail = f"The model's process ended {CRASHES_MAX} times in {CRASH_WINDOW_S:g} s."
            error = ReplicaError("stub_died", detail)
            self._begin_unload(replica, lambda one: self._fail(one, error))
        else:
            detail = "The model's process ended; the model is being loaded again."
            self._begin_unload(
                replica, lambda one: one.enter(Stage.WAITING, "assigned", detail=detail)
            )

    def _begin_load(self, replica: Replica) -> None:
        replica.enter(Stage.LOADING, "fetching")
        replica.cancelled = threading.Event()
        event(logger, "replica.load", replica=replica.id, version=replica.desired.version_id)
        self._on_change()
        self._start(self._run_load, replica)

    def _run_load(self, replica: Replica) -> None:
        cancelled = replica.cancelled
        began_s = time.monotonic()
        ids = {"replica_id": replica.id, "version_id": replica.desired.version_id}
        try:
            with find_spans("strongroom-node").span("replica.load", **ids):
                loaded = self._loader.load(
                    replica.desired,
                    on_phase=lambda phase, share: self._note_phase(replica, phase, share),
                    on_validation=lambda found: self._note_report(replica, "validation", found),
                    cancelled=cancelled,
                )
        except CancelledError:
            metrics.LOADS.add(metrics.CANCELLED)
            self._end(replica, lambda one: one.enter(Stage.GONE, "unloaded"))
        except ReplicaError as error:
            failure = error
            metrics.LOADS.add(metrics.name_failure(error.reason_code))
            self._end(replica, lambda one: self._take_failure(one, failure))
        except Exception:
            # A mistake of ours must end this load, not the thread that all others need.
            logger.exception("load of %s failed", replica.id)
            failure = ReplicaError("unavailable", "The node's agent failed.")
            metrics.LOADS.add(failure.reason_code)
            self._end(replica, lambda one: self._take_failure(one, failure))
        else:
            metrics.LOADS.add(metrics.LOADED)
            metrics.LOAD_SECONDS.observe(time.monotonic() - began_s)
            self._end(replica, lambda one: self._take_load(one, loaded))

    def _take_load(self, replica: Replica, loaded: Loaded) -> None:
        replica.manifest, replica.lease = loaded.manifest, loaded.lease
        replica.stub_pid, replica.load_ms = loaded.stub_pid, loaded.load_ms
        replica.attempts = 0
        self._failed_waits.pop(replica.id, None)
        self._note_report(replica, "load", loaded.loaded)
        replica.enter(Stage.READY, "ready")
        event(logger, "replica.ready", replica=replica.id, load_ms=round(loaded.load_ms))

    def _take_failure(self, replica: Replica, error: ReplicaError) -> None:
        replica.attempts += 1
        if error.is_infrastructure and replica.attempts < ATTEMPTS_MAX:
            wait_s = RETRY_FIRST_S * 2 ** (replica.attempts - 1)
            event(logger, "replica.retry", replica=replica.id, reason=error, wait_s=wait_s)
            replica.enter(Stage.WAITING, "assigned", detail=f"Trying again: {error.detail}")
            replica.retry_at = time.monotonic() + wait_s
        else:
            self._fail(replica, error)

    def _fail(self, replica: Replica, error: ReplicaError) -> None:
        replica.fail(error)
        replica.retry_at = 0.0
        if error.is_infrastructure:
            backoff = self._failed_waits.setdefault(
                replica.id, Backoff(FAILED_RETRY_FIRST_S, FAILED_RETRY_LIMIT_S)
            )
            replica.retry_at = time.monotonic() + backoff.next_s()
        event(logger, "replica.failed", level=logging.WARNING, replica=replica.id, reason=error)

    def _begin_unload(self, replica: Replica, outcome: Outcome) -> None:
        replica.enter(Stage.UNLOADING, "unloading")
        event(logger, "replica.unload", replica=replica.id)
        self._on_change()
        self._start(self._run_unload, replica, outcome)

    def _run_unload(self, replica: Replica, outcome: Outcome) -> None:
        is_dead = not processes.is_alive(replica.stub_pid)
        try:
            self._loader.unload(replica.name, is_dead=is_dead)
        except (ReplicaError, MarketplaceError) as error:
            # It may still answer: stay in this stage's place and try again.
            event(logger, "replica.unload_failed", level=logging.WARNING, error=error)
            self._kill_busy(replica)
            self._end(replica, lambda one: one.enter(Stage.READY, "unloading"))
            return
        with self._lock:
            lease = replica.lease
        if lease is not None and lease.loss is None:
            self._leases.release(lease)
        self._end(replica, lambda one: self._take_unload(one, outcome))

    def _kill_busy(self, replica: Replica) -> None:
        """End the process of a model that does not stop: its plaintext has to go all the same."""
        if processes.kill_descendant(replica.stub_pid, os.getpid()):
            event(logger, "replica.kill", level=logging.WARNING, replica=replica.id)

    def _take_unload(self, replica: Replica, outcome: Outcome) -> None:
        replica.forget_load()
        outcome(replica)

    def _note_phase(self, replica: Replica, phase: str, share: float) -> None:
        with self._lock:
            if replica.stage is not Stage.LOADING:
                return
            state = STATES_BY_PHASE.get(phase, phase)
            is_new = state != replica.state
            replica.state, replica.progress = state, share
        if is_new:
            self._on_change()

    def _note_report(self, replica: Replica, member: str, found: dict[str, Any]) -> None:
        with self._lock:
            replica.report = {**replica.report, member: found}
            replica.is_report_sent = False

    def _end(self, replica: Replica, outcome: Outcome) -> None:
        """Take the outcome of a step that ran in a thread."""
        with self._lock:
            outcome(replica)
            self._threads.discard(threading.current_thread())
        self._on_change()

    def _release(self, replica: Replica) -> None:
        """Give a lease back without waiting for the broker; forget the load."""
        lease = replica.lease
        replica.forget_load()
        if lease is not None and lease.loss is None:
            self._start(self._run_release, lease)

    def _run_release(self, lease: Lease) -> None:
        self._leases.release(lease)
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _forget(self, replica: Replica) -> None:
        self._replicas.pop(replica.id, None)
        self._failed_waits.pop(replica.id, None)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name="step", daemon=True)
        self._threads.add(thread)
        thread.start()
