"""Do the work that the platform lists, one piece at a time, and hand its result in.

A benchmark beside another piece of work would measure both. A result that cannot be handed
in is kept and offered again, instead of being worked out a second time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from uuid import UUID

from inference.node import trial
from inference.node.control_plane import ControlPlane
from inference.node.errors import CancelledError, RefusedError, UnreachableError
from inference.node.log import event
from inference.node.replica import WorkOrder
from inference.node.trial import Result

logger = logging.getLogger("node.workbench")

# Times that a piece of work may be cut short by the server before it is given up.
ATTEMPTS_MAX = 3
RETRY_S = 2.0
# The platform needs a moment to stop listing work whose result it has.
HANDED_IN_FOR_S = 5.0
# Results of late are remembered, in case the platform lists their work once more.
REMEMBERED_MAX = 64


class Workbench:
    """Takes the work orders of each tick; runs at most one thread.

    Args:
        control_plane: Gets the results.
        run: Does a piece of work; `trial.run` with all but the order filled in.
    """

    def __init__(
        self,
        control_plane: ControlPlane,
        run: Callable[[WorkOrder, threading.Event], Result],
    ) -> None:
        self._control_plane = control_plane
        self._run = run
        self._results: dict[UUID, Result] = {}
        self._attempts: dict[UUID, int] = {}
        self._handed_in: dict[UUID, float] = {}
        self._not_before = 0.0
        self._cancelled = threading.Event()
        self._current: UUID | None = None
        self._thread: threading.Thread | None = None

    def tick(self, orders: list[WorkOrder]) -> None:
        """Begin with one of the orders if nothing is being done; called by one thread."""
        if self._thread is not None and self._thread.is_alive():
            if self._current not in {one.work.id for one in orders}:
                self._cancelled.set()
            return
        now = time.monotonic()
        due = [one for one in orders if now >= self._handed_in.get(one.work.id, 0.0)]
        if not due or now < self._not_before:
            return
        self._cancelled = threading.Event()
        self._current = due[0].work.id
        self._thread = threading.Thread(
            target=self._do, args=[due[0], self._cancelled], name="work", daemon=True
        )
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether something is being tested or measured."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self, *, timeout_s: float) -> None:
        """End what is being done."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _do(self, order: WorkOrder, cancelled: threading.Event) -> None:
        work_id = order.work.id
        self._not_before = time.monotonic() + RETRY_S
        try:
            result = self._results.get(work_id) or self._work(order, cancelled)
        except CancelledError:
            return
        except Exception:
            # A mistake of ours fails this work, not the thread's successors.
            logger.exception("work %s failed", work_id)
            result = Result(False, {"detail": "The node's agent failed."}, "unavailable")
        if result is not None:
            self._remember(work_id, result)
            self._hand_in(work_id, result)

    def _work(self, order: WorkOrder, cancelled: threading.Event) -> Result | None:
        work_id, begin = order.work.id, time.monotonic()
        try:
            result = self._run(order, cancelled)
        except trial.INFRASTRUCTURE_ERRORS as error:
            count = self._attempts[work_id] = self._attempts.get(work_id, 0) + 1
            event(logger, "work.interrupted", work=work_id, attempt=count, error=error)
            if count < ATTEMPTS_MAX:
                return None
            return Result(False, {"detail": error.detail}, "triton_unavailable")
        event(
            logger,
            "work.done",
            work=work_id,
            kind=order.work.kind,
            success=result.is_success,
            duration_s=round(time.monotonic() - begin, 1),
        )
        return result

    def _hand_in(self, work_id: UUID, result: Result) -> None:
        try:
            self._control_plane.post_work(work_id, result.to_json())
        except UnreachableError as error:
            event(logger, "work.not_handed_in", work=work_id, error=error)
        except RefusedError as error:
            event(logger, "work.refused", level=logging.WARNING, work=work_id, error=error)
        else:
            self._handed_in[work_id] = time.monotonic() + HANDED_IN_FOR_S
            # The next piece need not wait.
            self._not_before = 0.0

    def _remember(self, work_id: UUID, result: Result) -> None:
        self._results[work_id] = result
        self._attempts.pop(work_id, None)
        while len(self._results) > REMEMBERED_MAX:
            oldest = next(iter(self._results))
            del self._results[oldest]
            self._handed_in.pop(oldest, None)
