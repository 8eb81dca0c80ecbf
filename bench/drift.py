"""What it costs a prediction to be counted for drift, and what it costs the process.

    .venv/bin/python -m bench.drift

In one process, without network and Postgres, on one core; each figure is the best of five
rounds. "No-op" is a method that does nothing with the same arguments. "Read" is to parse the
request's JSON and to check it against the interface, which each prediction pays in any case.
"Taken" lies between booking and answer, and "counted" comes afterwards, both of at most 20
predictions a second and version; the others are "not looked at". "Mean" is of all three, at 1,000
predictions a second.
"""

from __future__ import annotations

import asyncio
import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson

from inference.core import drift
from inference.gateway.config import DRIFT_PER_VERSION_S
from inference.gateway.drift import DriftCounter
from inference.triton.tensors import Tensor, encode
from strongroom.interface import Interface
from tests.gateway.limiting import make_caller, make_offer

ROUNDS, NUMBER = 5, 2_000
# Predictions a second of a version, of which the mean is taken.
PER_S = 1_000
LABEL = [
    {"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [3], "hidden": True},
    {"name": "kind", "kind": "label", "source": "scores", "labels": ["a", "b", "c"]},
]
SCORES = {"scores": np.array([[0.1, 0.7, 0.2]], dtype=np.float32)}


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of model, and one input of it."""

    name: str
    inputs: list[dict[str, Any]]
    value: dict[str, Any]


CASES = (
    Case(
        "three numbers and a choice",
        [
            *({"name": name, "kind": "number"} for name in ("a", "b", "c")),
            {"name": "mode", "kind": "choice", "choices": ["fast", "good"]},
        ],
        {"a": 1.5, "b": -3, "c": 1e6, "mode": "good"},
    ),
    Case("a text of 2 kB", [{"name": "text", "kind": "text"}], {"text": "some words " * 186}),
    Case(
        "a text of 2 kB, not Latin",
        [{"name": "text", "kind": "text"}],
        {"text": "несколько слов " * 73},
    ),
    Case(
        "a picture, 3 x 224 x 224",
        [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [3, 224, 224]}],
        {"x": [0.5] * (3 * 224 * 224)},
    ),
)


class Nothing:
    """A counter that counts nothing."""

    def note(self, *_: object) -> None:
        """Do nothing."""


def main() -> None:
    """Print a row for each kind of model."""
    columns = ("no-op", "not watched", "not looked at", "taken", "counted", "mean", "of no-op")
    print(f"| µs | {' | '.join(columns)} | read |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        asyncio.run(measure(case))


async def measure(case: Case) -> None:
    """Measure one kind, in microseconds."""
    interface = Interface.parse({"inputs": case.inputs, "outputs": LABEL})
    tensors: list[Tensor] = encode(interface, [interface.check_input(case.value)])
    offer = replace(make_offer(), interface=interface, watches_drift=True)
    prediction = SimpleNamespace(offer=offer, caller=make_caller())
    unwatched = SimpleNamespace(offer=replace(offer, watches_drift=False), caller=prediction.caller)
    given = ([tensors], [SCORES])
    idle = LooksAtNone()
    busy = LooksAtAll(None, secret="s" * 32)  # type: ignore[arg-type]

    def take() -> None:
        busy.note(prediction, *given)  # type: ignore[arg-type]
        busy.forget()

    plan = drift.Plan(interface)
    clips = plan.clip({one.name: one.data for one in tensors}, SCORES, 0)
    document = orjson.dumps({"input": case.value})
    nothing, sketch = Nothing(), {}
    figures = [
        best(lambda: nothing.note(prediction, *given)),
        best(lambda: idle.note(unwatched, *given)),  # type: ignore[arg-type]
        best(lambda: idle.note(prediction, *given)),  # type: ignore[arg-type]
        best(take),
        best(lambda: drift.count(sketch, plan.read(clips))),
        best(lambda: interface.check_input(orjson.loads(document)["input"]), number=NUMBER // 20),
    ]
    no_op, _, passed, taken, counted, _ = figures
    mean = passed + (taken + counted) * DRIFT_PER_VERSION_S / PER_S
    figures[5:5] = [mean, mean / no_op]
    cells = [f"{one:.2f}" if one < 10 else f"{one:,.0f}" for one in figures]
    print(f"| {case.name} | {' | '.join(cells)} |", flush=True)


class LooksAtAll(DriftCounter):
    """Takes each prediction, and forgets it."""

    def _is_due(self, _: object) -> bool:
        return True

    def forget(self) -> None:
        """Make room for the next one."""
        self._waiting.clear()
        self._waiting_bytes = 0


class LooksAtNone(DriftCounter):
    """Has looked at enough in this second."""

    def __init__(self) -> None:
        super().__init__(None, secret="s" * 32)  # type: ignore[arg-type]
        self._next_of_all_s = float("inf")


def best(job: Callable[[], object], *, number: int = NUMBER) -> float:
    """Microseconds of one call, the best of some rounds."""
    return min(timeit.repeat(job, number=number, repeat=ROUNDS)) / number * 1e6


if __name__ == "__main__":
    main()
