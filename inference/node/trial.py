"""Try a loaded replica: the creator's test vectors, and how fast it is.

Both go through Triton, as predictions do. The benchmark's result is the version's
certificate: one client that sends the next batch when it has the answer to the last.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from inference.artifact.examples import make_rows
from inference.artifact.vectors import Mismatch, compare
from inference.node.errors import CancelledError
from inference.node.replica import WorkOrder
from inference.triton import processes, tensors
from inference.triton.errors import (
    ModelNotReadyError,
    TensorError,
    TritonUnavailableError,
)
from inference.triton.repository import model_name
from inference.triton.tensors import Tensor
from marketplace.core.errors import MarketplaceError
from strongroom.errors import StrongroomError
from strongroom.interface import Interface
from strongroom.sealing.manifest import TestVector

# A generation of the longest text on a slow core.
CALL_TIMEOUT_S = 120.0
# Long enough to see past the jitter of a shared machine, short enough for eleven points.
POINT_S = 1.0
# The 95th percentile of fewer calls would be their maximum.
CALLS_MIN = 20
# A slow model gets fewer calls instead of minutes.
POINT_LIMIT_S = 20.0
CALLS_FLOOR = 3
BENCHMARK_LIMIT_S = 180.0
_WARM_UP_CALLS = 2
# The inputs of one call; the agent holds them several times over while it sends them.
BATCH_BYTES_MAX = 64 * 1024 * 1024
# Failures told of; the platform keeps a few kilobytes of a result.
FAILURES_MAX = 10
MISMATCHES_MAX = 5

# Not the model's doing: the work stays open and is tried again.
INFRASTRUCTURE_ERRORS = (TritonUnavailableError, ModelNotReadyError)


class Infer(Protocol):
    """`TritonControl.infer`."""

    def __call__(
        self, name: str, inputs: Sequence[Tensor], outputs: Sequence[str], /, *, timeout_s: float
    ) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True, slots=True)
class Result:
    """What is posted for a piece of work."""

    is_success: bool
    result: dict[str, Any]
    reason_code: str = ""

    def to_json(self) -> dict[str, Any]:
        state = "succeeded" if self.is_success else "failed"
        body: dict[str, Any] = {"state": state, "result": self.result}
        return body | ({"reason_code": self.reason_code} if self.reason_code else {})


def run(
    order: WorkOrder, infer: Infer, *, triton_version: str, cancelled: threading.Event
) -> Result:
    """Do a piece of work.

    Raises:
        TritonUnavailableError, ModelNotReadyError: Try again later.
        CancelledError: `cancelled` was set.
    """
    trial = _Trial(order, infer, cancelled)
    if order.work.kind == "test":
        return trial.test()
    if order.work.kind == "benchmark":
        return trial.benchmark(triton_version)
    detail = f"This node does not know the work {order.work.kind[:40]}."
    return Result(False, {"detail": detail}, "work_unknown")


def ask_vector(
    infer: Infer, name: str, interface: Interface, vector: TestVector, *, timeout_s: float
) -> list[Mismatch]:
    """Ask a model one test vector, as a prediction would be; returns where it is wrong.

    Raises:
        MarketplaceError, StrongroomError: It gave no answer, or one that does not fit.
    """
    row = interface.check_input(dict(vector.input))
    outputs = [one.name for one in interface.wire_outputs]
    answers = infer(name, tensors.encode(interface, [row]), outputs, timeout_s=timeout_s)
    [actual] = tensors.decode(interface, answers, include_hidden=True)
    return compare(vector.expected, actual, tolerance=vector.tolerance)


class _Trial:
    def __init__(self, order: WorkOrder, infer: Infer, cancelled: threading.Event) -> None:
        self._order = order
        self._infer = infer
        self._cancelled = cancelled
        self._name = model_name(order.replica_id)
        self._interface = order.manifest.parsed_interface
        self._outputs = [one.name for one in self._interface.wire_outputs]

    def test(self) -> Result:
        """Each vector alone, as a prediction would be."""
        vectors = self._order.manifest.test_vectors
        failures: list[dict[str, Any]] = []
        failed = 0
        for index, vector in enumerate(vectors):
            faults = self._try_vector(vector)
            failed += bool(faults)
            if faults and len(failures) < FAILURES_MAX:
                failures.append({"vector": index, "mismatches": faults[:MISMATCHES_MAX]})
        result: dict[str, Any] = {"vectors": len(vectors), "passed": len(vectors) - failed}
        if not failed:
            return Result(True, result)
        first = failures[0]
        fault = first["mismatches"][0]
        place = f"Test vector {first['vector']}, {fault['pointer'] or '/'}: {fault['detail']}"
        result |= {"failures": failures, "detail": place}
        return Result(False, result, "test_vector_mismatch")

    def benchmark(self, triton_version: str) -> Result:
        """Latency and throughput at batch sizes 1, 2, 4, … up to the model's largest."""
        rows = make_rows(self._order.manifest, self._interface)
        ends_at = time.monotonic() + BENCHMARK_LIMIT_S
        points: list[dict[str, Any]] = []
        try:
            for batch in self._list_batches(rows):
                points.append(self._measure(batch, rows))
                if time.monotonic() > ends_at:
                    break
        except INFRASTRUCTURE_ERRORS:
            raise
        except MarketplaceError as error:
            detail = f"The model failed in its benchmark: {error.detail}"
            return Result(False, {"detail": detail, "points": points}, "benchmark_failed")
        result = {
            "load_ms": round(self._order.load_ms, 1),
            "memory_bytes": processes.resident_bytes(self._order.stub_pid),
            "points": points,
            "triton_version": triton_version,
            "cpu_count": os.cpu_count() or 1,
        }
        return Result(True, result)

    def _try_vector(self, vector: TestVector) -> list[dict[str, str]]:
        if self._cancelled.is_set():
            raise CancelledError
        try:
            mismatches = ask_vector(
                self._infer, self._name, self._interface, vector, timeout_s=CALL_TIMEOUT_S
            )
        except INFRASTRUCTURE_ERRORS:
            raise
        except (MarketplaceError, StrongroomError) as error:
            return [{"pointer": "", "detail": error.detail[:500]}]
        return [{"pointer": one.pointer, "detail": one.detail} for one in mismatches]

    def _list_batches(self, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """The batch sizes to measure; none whose inputs would take too much of our memory."""
        row_bytes = sum(one.data.nbytes for one in self._encode(1, rows))
        fitting = BATCH_BYTES_MAX // max(row_bytes, 1)
        sizes = _batch_sizes(self._interface.batch.max_size)
        return [one for one in sizes if one == 1 or one <= fitting]

    def _measure(self, batch: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        inputs = self._encode(batch, rows)
        for _ in range(_WARM_UP_CALLS):
            self._call(inputs)
        times_s: list[float] = []
        begin = time.monotonic()
        while not _is_enough(len(times_s), time.monotonic() - begin):
            started = time.perf_counter()
            self._call(inputs)
            times_s.append(time.perf_counter() - started)
        elapsed_s = sum(times_s)
        return {
            "batch": batch,
            "p50_ms": round(_percentile(times_s, 0.50) * 1000, 3),
            "p95_ms": round(_percentile(times_s, 0.95) * 1000, 3),
            "rows_per_s": round(batch * len(times_s) / max(elapsed_s, 1e-9), 1),
        }

    def _encode(self, batch: int, rows: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        chosen = [rows[index % len(rows)] for index in range(batch)]
        try:
            return tensors.encode(self._interface, chosen)
        except TensorError:
            # Rows of different lengths do not fit into one batch: send one of them often.
            return tensors.encode(self._interface, [rows[0]] * batch)

    def _call(self, inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
        if self._cancelled.is_set():
            raise CancelledError
        return self._infer(self._name, inputs, self._outputs, timeout_s=CALL_TIMEOUT_S)


def _batch_sizes(max_size: int) -> list[int]:
    sizes = [2**power for power in range(max_size.bit_length()) if 2**power <= max_size]
    return sizes if sizes[-1] == max_size else [*sizes, max_size]


def _is_enough(calls: int, elapsed_s: float) -> bool:
    if elapsed_s >= POINT_LIMIT_S:
        return calls >= CALLS_FLOOR
    return elapsed_s >= POINT_S and calls >= CALLS_MIN


def _percentile(times_s: Sequence[float], share: float) -> float:
    """The smallest time that this share of the calls did not exceed (nearest rank)."""
    ordered = sorted(times_s)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
