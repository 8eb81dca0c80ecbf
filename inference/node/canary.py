"""Ask replicas in service what is known, and take out one that answers otherwise.

Each replica gets one of its version's test vectors at every interval, in turn. The answer is
compared as at the load. One wrong answer is asked for again at once; two, and the replica
goes: the memory, the processor or the weights are not what they were, and nobody should pay
for such answers. A question that cannot be answered says nothing about the answer: it is
only counted.

These are not predictions. They go from the node to its own Triton, past the gateway, so
that nothing meters or charges them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from inference.artifact.vectors import Mismatch, is_repeatable
from inference.node import metrics
from inference.node.log import event
from inference.node.replica import CanaryOrder
from inference.node.trial import Infer, ask_vector
from inference.triton.errors import (
    INPUT_FAULT_MARK,
    ModelExecutionError,
    OutputError,
    TensorError,
)
from inference.triton.repository import model_name
from marketplace.core.clock import to_wire, utc_now
from marketplace.core.errors import MarketplaceError
from strongroom.errors import StrongroomError
from strongroom.sealing.manifest import Manifest

logger = logging.getLogger("node.canary")

INTERVAL_S_DEFAULT = 60
# Nodes must not ask in step, nor the replicas of one node.
_JITTER = (0.75, 1.25)
# A generation on a busy core; predictions wait no shorter because of it.
TIMEOUT_S = 60.0
# Questions without an answer, one after the other, before the replica is called unhealthy.
UNANSWERED_MAX = 5
# Failures of the model's own, by the code before the detail: it did answer, and wrongly.
# All others (out of memory, cancelled, a process that died) are no answer.
_WRONG_CODES = ("output_not_finite", "model_failed", "output_invalid", "input_")

NO_CANARY = "no canary"


class UnansweredError(Exception):
    """The vector could not be asked now."""


@dataclass(slots=True)
class Record:
    """How one replica has answered. `right_at` is when it was last right."""

    vectors: tuple[int, ...]
    due_at: float
    turn: int = 0
    asked: int = 0
    right: int = 0
    wrong: int = 0
    unanswered: int = 0
    unanswered_in_row: int = 0
    right_at: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The form in the replica's report."""
        if not self.vectors:
            return {"vectors": 0, "note": NO_CANARY}
        return {
            "vectors": len(self.vectors),
            "at": self.right_at,
            "asked": self.asked,
            "right": self.right,
            "wrong": self.wrong,
            "unanswered": self.unanswered,
            "healthy": self.unanswered_in_row < UNANSWERED_MAX,
        }


@dataclass(slots=True)
class Canaries:
    """Asks at most one replica at a time, in a thread of its own.

    Args:
        interval_s: Between two questions to one replica; 0 asks none.
        list_orders: The replicas in service.
        is_busy: Whether something is loaded, tested or measured; then nothing is asked.
        find_infer: How this replica is called.
        on_record: Given each record that changed.
        on_wrong: Given a replica that answered wrongly twice, and where.
    """

    interval_s: float
    list_orders: Callable[[], list[CanaryOrder]]
    is_busy: Callable[[], bool]
    find_infer: Callable[[CanaryOrder], Infer]
    on_record: Callable[[UUID, dict[str, Any]], None]
    on_wrong: Callable[[CanaryOrder, str], None]
    _records: dict[UUID, Record] = field(default_factory=dict)
    _thread: threading.Thread | None = None

    def tick(self) -> None:
        """Ask whoever is due; called by one thread."""
        if not self.interval_s or (self._thread is not None and self._thread.is_alive()):
            return
        orders = {one.replica_id: one for one in self.list_orders()}
        for replica_id in self._records.keys() - orders.keys():
            del self._records[replica_id]
        for order in orders.values():
            if order.replica_id not in self._records:
                self._begin(order)
        due = [
            (record.due_at, order)
            for replica_id, order in orders.items()
            if (record := self._records[replica_id]).vectors and record.due_at <= time.monotonic()
        ]
        if not due or self.is_busy():
            return
        _, order = min(due, key=lambda one: one[0])
        self._thread = threading.Thread(target=self._ask, args=[order], name="canary", daemon=True)
        self._thread.start()

    def _begin(self, order: CanaryOrder) -> None:
        record = Record(_list_repeatable(order.manifest), self._next_due())
        self._records[order.replica_id] = record
        self.on_record(order.replica_id, record.to_json())

    def _ask(self, order: CanaryOrder) -> None:
        record = self._records[order.replica_id]
        index = record.vectors[record.turn % len(record.vectors)]
        try:
            place = self._find_fault(order, record, index)
            # What is wrong once may be a mistake on the way; the answer decides.
            if place and (place := self._find_fault(order, record, index)):
                event(logger, "canary.wrong", level=logging.WARNING, replica=order.replica_id)
                self.on_wrong(order, place)
            record.turn += 1
        except UnansweredError as error:
            self._note_unanswered(order, record, error)
        except Exception:
            # A mistake of ours must not take a replica out, nor end the asking.
            logger.exception("canary of %s failed", order.replica_id)
        record.due_at = self._next_due()
        self.on_record(order.replica_id, record.to_json())

    def _find_fault(self, order: CanaryOrder, record: Record, index: int) -> str:
        """Where the answer is wrong; empty where it is right."""
        record.asked += 1
        mismatches = self._compare(order, index)
        record.unanswered_in_row = 0
        if not mismatches:
            record.right += 1
            metrics.CANARIES.add("right")
            record.right_at = to_wire(utc_now())
            return ""
        record.wrong += 1
        metrics.CANARIES.add("wrong")
        first = mismatches[0]
        return f"Test vector {index}, {first.pointer or '/'}: {first.detail}"

    def _compare(self, order: CanaryOrder, index: int) -> list[Mismatch]:
        vector = order.manifest.test_vectors[index]
        name = model_name(order.replica_id)
        interface = order.manifest.parsed_interface
        try:
            return ask_vector(self.find_infer(order), name, interface, vector, timeout_s=TIMEOUT_S)
        except (OutputError, TensorError, StrongroomError) as error:
            return [Mismatch("", error.detail[:500])]
        except ModelExecutionError as error:
            if error.detail.removeprefix(INPUT_FAULT_MARK).startswith(_WRONG_CODES):
                return [Mismatch("", error.detail[:500])]
            raise UnansweredError(error.detail) from error
        except MarketplaceError as error:
            raise UnansweredError(error.detail) from error

    def _note_unanswered(self, order: CanaryOrder, record: Record, error: Exception) -> None:
        record.unanswered += 1
        metrics.CANARIES.add("unanswered")
        record.unanswered_in_row += 1
        is_new = record.unanswered_in_row == UNANSWERED_MAX
        level = logging.WARNING if is_new else logging.INFO
        event(logger, "canary.unanswered", level=level, replica=order.replica_id, error=error)

    def _next_due(self) -> float:
        return time.monotonic() + self.interval_s * random.uniform(*_JITTER)  # noqa: S311 - no secret


def _list_repeatable(manifest: Manifest) -> tuple[int, ...]:
    """Vectors whose answer is the same each time: text drawn by chance is not compared."""
    interface = manifest.parsed_interface
    return tuple(
        index
        for index, vector in enumerate(manifest.test_vectors)
        if is_repeatable(interface.check_input(dict(vector.input)))
    )
