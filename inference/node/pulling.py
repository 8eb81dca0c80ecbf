"""Pull jobs from the platform, one at a time for each slot, and run them in Triton.

A slot asks for work only while it is free, so that nothing waits on a node: what waits, waits in
the queue, where any node may take it. Each job is a lease that heartbeats keep; whoever loses it,
because the platform could not be reached or gave it away, stops its run and says nothing more.

Three ends of a run: its outputs, a fault of the model (told once, never tried again), or a fault
of ours, for which the job goes back into the queue and to another node.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import numpy as np

from inference.node import metrics
from inference.node.answer import Answer, Appender
from inference.node.errors import RefusedError, UnreachableError
from inference.node.log import event
from inference.triton import frames
from inference.triton.control import TritonControl
from inference.triton.errors import (
    ModelNotReadyError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from inference.triton.tensors import Tensor
from marketplace.core.errors import MarketplaceError

logger = logging.getLogger("node.pulling")

CLAIM_WAIT_S = 20.0
# After a call that came to nothing.
TROUBLE_WAIT_S = 1.0
TROUBLE_WAIT_MAX_S = 15.0
HEARTBEAT_S = 10.0
# While nothing is loaded there is nothing to ask for.
EMPTY_WAIT_S = 0.5
# A run that is told to stop and does not has so long before its process is ended.
IGNORED_S = 20.0
# How long a result is offered that could not be handed in; by then the lease is over anyway.
HAND_IN_S = 60.0


class Run(Protocol):
    """Runs a job's tensors; ends early, with an error, when `cancelled` is set."""

    def __call__(self, job: Job, /) -> dict[str, np.ndarray]: ...


@dataclass(slots=True, eq=False)
class Job:
    """A lease, as the node knows it."""

    id: UUID
    epoch: int
    version_id: UUID
    tensors: Sequence[Tensor]
    output_names: Sequence[str]
    run_max_s: float
    lease_s: float
    # What it has said so far, where its model streams.
    answer: Answer | None = None
    # Of the monotonic clock: when the lease was last heard of.
    heard_s: float = field(default_factory=time.monotonic)
    is_running: bool = False
    # Why it was stopped: canceled, or lost (nobody waits for its end any more).
    stopped: str = ""
    cancelled: threading.Event = field(default_factory=threading.Event)

    def stop(self, why: str) -> None:
        """End its run; the first reason counts."""
        self.stopped = self.stopped or why
        self.cancelled.set()


class Jobs(Protocol):
    """`control_plane.JobQueue`."""

    def start(self) -> None: ...

    def claim(self, slot: int, version_ids: Sequence[UUID], wait_s: float) -> bytes: ...

    def heartbeat(self, beats: Sequence[Mapping[str, Any]]) -> dict[str, Any]: ...

    def append(self, job_id: UUID, epoch: int, number: int, chunks: Sequence[str], /) -> str: ...

    def finish(self, job_id: UUID, frame: bytes) -> str: ...

    def hand_back(self, job_id: UUID, epoch: int, code: str, detail: str) -> str: ...


class Puller:
    """The slots of a node.

    Args:
        jobs: The platform's queue.
        slot_count: How many jobs run at once.
        list_versions: The versions that can be run now.
        run: Runs a job.
        kill: Ends the process of a version whose run does not stop.
    """

    def __init__(
        self,
        jobs: Jobs,
        *,
        slot_count: int,
        list_versions: Callable[[], list[UUID]],
        run: Run,
        kill: Callable[[UUID], None],
    ) -> None:
        self._jobs = jobs
        self._list_versions = list_versions
        self._run = run
        self._kill = kill
        self._lock = threading.Lock()
        self._running: dict[UUID, Job] = {}
        self._stopping = threading.Event()
        self._is_draining = False
        self._threads = [
            threading.Thread(target=self._work, args=[slot], name=f"slot-{slot}", daemon=True)
            for slot in range(slot_count)
        ]
        self._threads.append(
            threading.Thread(target=self._keep_leases, name="job-leases", daemon=True)
        )

    def start(self) -> None:
        """Begin to ask for work."""
        for thread in self._threads:
            thread.start()

    @property
    def running_count(self) -> int:
        """How many jobs run."""
        return len(self._running)

    @property
    def is_busy(self) -> bool:
        """Whether a job runs."""
        return bool(self._running)

    def stop(self, *, timeout_s: float) -> None:
        """Take nothing more, finish what ends in time, and hand the rest back."""
        self._is_draining = True
        deadline_s = time.monotonic() + timeout_s
        while self._running and time.monotonic() < deadline_s:
            time.sleep(0.05)
        with self._lock:
            left = list(self._running.values())
        for job in left:
            job.stop("drained")
        self._stopping.set()
        for thread in self._threads:
            thread.join(2.0)

    def _work(self, slot: int) -> None:
        wait_s = TROUBLE_WAIT_S
        is_known = slot != 0
        while not self._stopping.is_set() and not self._is_draining:
            try:
                if not is_known:
                    # What an earlier life of this node held goes back at once.
                    self._jobs.start()
                    is_known = True
                version_ids = self._list_versions()
                if not version_ids:
                    self._stopping.wait(EMPTY_WAIT_S)
                    continue
                octets = self._jobs.claim(slot, version_ids, CLAIM_WAIT_S)
                wait_s = TROUBLE_WAIT_S
                if octets:
                    self._take(_read_job(octets))
            except (UnreachableError, RefusedError, MarketplaceError) as error:
                event(logger, "jobs.trouble", level=logging.WARNING, error=error)
                self._stopping.wait(wait_s)
                wait_s = min(wait_s * 2, TROUBLE_WAIT_MAX_S)
            except Exception:
                # A mistake of ours must not take the slot with it.
                logger.exception("slot %d", slot)
                self._stopping.wait(TROUBLE_WAIT_MAX_S)

    def _take(self, job: Job) -> None:
        event(logger, "job.begin", job=job.id, epoch=job.epoch)
        with self._lock:
            self._running[job.id] = job
        try:
            self._do(job)
        finally:
            with self._lock:
                del self._running[job.id]

    def _do(self, job: Job) -> None:
        job.is_running = True
        began_s = time.monotonic()
        watch = threading.Thread(target=self._watch, args=[job], daemon=True)
        watch.start()
        outputs: dict[str, np.ndarray] = {}
        error, is_ours, detail = "", False, ""
        appender = self._make_appender(job)
        try:
            outputs = self._run(job)
        except (TritonUnavailableError, ModelNotReadyError) as fault:
            error, is_ours, detail = fault.code, True, fault.detail
        except TritonDeadlineError:
            error = "deadline_exceeded"
        except MarketplaceError as fault:
            error = fault.code
        finally:
            took_us = round((time.monotonic() - began_s) * 1e6)
            if appender is not None:
                appender.close()
            job.is_running = False
            is_stopped = job.cancelled.is_set()
            job.cancelled.set()
        _count(job, error, is_stopped=is_stopped, is_ours=is_ours)
        event(logger, "job.end", job=job.id, error=error, stopped=job.stopped, took_us=took_us)
        if job.stopped == "lost":
            return
        is_whole = bool(outputs) and (job.answer is None or job.answer.is_whole)
        if is_stopped and not is_whole:
            if job.stopped == "drained":
                self._hand_back(job, "node_drained", "")
                return
            error, is_ours = "canceled", False
            # What it has said until now was asked for.
            outputs = {} if job.answer is None else job.answer.outputs
        if is_ours:
            self._hand_back(job, error, detail)
        else:
            self._finish(job, outputs, error, took_us)

    def _make_appender(self, job: Job) -> Appender | None:
        if job.answer is None:
            return None
        appender = Appender(self._jobs.append, job.id, job.epoch, job.answer, job.stop)
        appender.start()
        return appender

    def _watch(self, job: Job) -> None:
        """End the process of a run that does not stop when it is told to."""
        job.cancelled.wait()
        if job.is_running and job.stopped:
            deadline_s = time.monotonic() + IGNORED_S
            while job.is_running and time.monotonic() < deadline_s:
                time.sleep(0.1)
            if job.is_running:
                event(logger, "job.kill", level=logging.WARNING, job=job.id)
                self._kill(job.version_id)

    def _finish(
        self, job: Job, outputs: Mapping[str, np.ndarray], error: str, took_us: int
    ) -> None:
        document = {
            "epoch": job.epoch,
            "error": error,
            "predict_time_us": took_us,
            "piece_count": 0 if job.answer is None else job.answer.piece_count,
        }
        frame = frames.dump(document, frames.to_tensors(outputs))
        self._say(job, lambda: self._jobs.finish(job.id, frame))

    def _hand_back(self, job: Job, code: str, detail: str) -> None:
        self._say(job, lambda: self._jobs.hand_back(job.id, job.epoch, code, detail))

    def _say(self, job: Job, say: Callable[[], str]) -> None:
        """Tell the platform, again until it has heard or cannot care any more."""
        deadline_s, wait_s = time.monotonic() + HAND_IN_S, 0.2
        while True:
            try:
                outcome = say()
            except RefusedError as error:
                event(logger, "job.refused", level=logging.WARNING, job=job.id, error=error)
                return
            except UnreachableError as error:
                if time.monotonic() >= deadline_s or self._stopping.is_set():
                    event(logger, "job.not_handed_in", level=logging.WARNING, job=job.id)
                    return
                event(logger, "job.trouble", job=job.id, error=error)
                time.sleep(wait_s)
                wait_s = min(wait_s * 2, 5.0)
            else:
                event(logger, "job.told", job=job.id, outcome=outcome)
                return

    def _keep_leases(self) -> None:
        while not self._stopping.wait(HEARTBEAT_S / 5):
            with self._lock:
                held = list(self._running.values())
            now_s = time.monotonic()
            due = [one for one in held if now_s - one.heard_s >= HEARTBEAT_S / 5]
            if due:
                self._beat(due)
            for job in held:
                if time.monotonic() - job.heard_s > job.lease_s:
                    # Whoever has it now must not find it done by two.
                    job.stop("lost")

    def _beat(self, held: list[Job]) -> None:
        beats = [
            {"id": str(one.id), "epoch": one.epoch, "is_running": one.is_running} for one in held
        ]
        sent_s = time.monotonic()
        try:
            answer = self._jobs.heartbeat(beats)
        except (UnreachableError, RefusedError) as error:
            event(logger, "jobs.not_heard", level=logging.WARNING, error=error)
            return
        for job in held:
            word = answer["words"].get(str(job.id))
            if word == "stale":
                job.stop("lost")
            elif word is not None:
                job.heard_s = sent_s
                if word == "cancel":
                    job.stop("canceled")


def run_job(control: TritonControl, model: str, job: Job) -> dict[str, np.ndarray]:
    """Run a job in Triton: in pieces, where its model streams.

    Args:
        control: Of the server.
        model: Its name there.
        job: The job.

    Returns:
        The outputs; of one that was stopped, what there was until then.

    Raises:
        MarketplaceError: As from `TritonControl.infer`.
    """
    how: Any = {"timeout_s": job.run_max_s, "cancelled": job.cancelled}
    answer = job.answer
    if answer is None:
        return control.infer_until(model, job.tensors, job.output_names, **how)
    answer.is_whole = control.stream_until(
        model, job.tensors, job.output_names, on_part=answer.take, **how
    )
    return answer.outputs


def _count(job: Job, error: str, *, is_stopped: bool, is_ours: bool) -> None:
    if is_stopped or job.stopped:
        metrics.JOBS.add("stopped")
    elif is_ours:
        metrics.JOBS.add("handed_back")
    else:
        metrics.JOBS.add("error" if error else "ok")


def _read_job(octets: bytes) -> Job:
    document, tensors = frames.load(octets)
    streamed = document.get("streamed_output")
    return Job(
        id=UUID(document["id"]),
        epoch=document["epoch"],
        version_id=UUID(document["version_id"]),
        tensors=tensors,
        output_names=document["output_names"],
        run_max_s=document["run_max_s"],
        lease_s=document["lease_s"],
        answer=Answer(streamed) if streamed else None,
    )
