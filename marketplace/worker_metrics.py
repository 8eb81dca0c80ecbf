"""What a worker counts of its tasks, in the process that hands them to its children.

A child that is killed takes its own numbers with it; its parent knows all the same how each
task ended, for it waits for them.
"""

from __future__ import annotations

from typing import Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import Retry
from celery.worker.request import Request

from marketplace.core.exposition import WAIT_S, Registry
from marketplace.core.metrics_listener import MetricsListener

SETTING = "STRONGROOM_WORKER_METRICS_LISTEN"
# `lost`: the child died under it, and it is given out again.
OUTCOMES = ("success", "failure", "retry", "timeout", "lost", "expired")

REGISTRY = Registry("strongroom_worker_")
TASKS = REGISTRY.counter("tasks_total", "Tasks that have ended, and how.", ("task", "outcome"))
DURATION = REGISTRY.timer(
    "task_duration_seconds",
    "How long a task ran that came to its end.",
    ("task",),
    edges=(*WAIT_S, 120.0, 300.0, 600.0),
)
STARTED = REGISTRY.counter("tasks_started_total", "Tasks that a child has begun.", ("task",))


class CountedRequest(Request):
    """A task under way, as the worker's main process sees it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Count successes too.

        Celery makes a class of its own below this one for each kind of task, and its
        `on_success` does not call ours.
        """
        super().__init_subclass__(**kwargs)
        cls.on_success = _counting(cls.on_success)  # type: ignore[method-assign]

    def on_accepted(self, pid: Any, time_accepted: float) -> Any:
        """A child has begun it."""
        STARTED.add(self.name)
        return super().on_accepted(pid, time_accepted)

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        """It raised, took too long, or its child died."""
        TASKS.add(self.name, _name_failure(exc_info))
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def maybe_expire(self) -> Any:
        """Whether its time was over before it began."""
        is_expired = super().maybe_expire()
        if is_expired:
            TASKS.add(self.name, "expired")
        return is_expired


def _counting(on_success: Any) -> Any:
    def count(
        self: Request, failed__retval__runtime: tuple[bool, Any, float], **kwargs: Any
    ) -> Any:
        is_failed, _, runtime_s = failed__retval__runtime
        # Of a retry Celery does not say how long it took.
        if runtime_s is not None:
            DURATION.observe(float(runtime_s), self.name)
        if not is_failed:
            TASKS.add(self.name, "success")
        return on_success(self, failed__retval__runtime, **kwargs)

    return count


def declare(task_names: list[str]) -> None:
    """Have a series for each task before it ends for the first time."""
    TASKS.ensure((name, outcome) for name in task_names for outcome in OUTCOMES)
    STARTED.ensure((name,) for name in task_names)


def start(address: tuple[str, int] | None, token: str) -> MetricsListener | None:
    """Serve the numbers in the worker's main process; None without an address.

    Raises:
        SystemExit: The address cannot be had. Celery would log any other error and go on.
    """
    if address is None:
        return None
    try:
        listener = MetricsListener(address, REGISTRY.render, token=token)
    except OSError as error:
        raise SystemExit(f"{SETTING}: {error}") from error
    listener.start()
    return listener


def _name_failure(exc_info: Any) -> str:
    error = getattr(exc_info, "exception", None)
    if isinstance(error, ExceptionWithTraceback):
        error = error.exc
    if isinstance(error, Retry):
        return "retry"
    if isinstance(error, TimeLimitExceeded):
        return "timeout"
    return "lost" if isinstance(error, WorkerLostError | Terminated) else "failure"
