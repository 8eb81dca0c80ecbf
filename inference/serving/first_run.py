"""The first run of a model: everything gets into place, and the answer is the right one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from inference.artifact.examples import make_rows
from inference.artifact.vectors import compare
from inference.serving.errors import CancelledError, LoadError, RequestError
from inference.serving.runtimes.base import Arrays, Runtime
from inference.triton import tensors
from strongroom.interface import Interface
from strongroom.sealing.manifest import Manifest, TestVector

# The first token runs over the whole prompt, the second over one: two kinds of call.
_WARM_UP_STEPS = 2
# Seconds of a load that may go into comparing test vectors. One that runs is not cut short.
CANARY_BUDGET_S = 20.0


def warm_up(runtime: Runtime, manifest: Manifest, interface: Interface) -> None:
    """Run once, so that the first request finds everything in place.

    A generation is ended after its first steps, as a consumer would end it. An input that
    we made up may be one that the model rightly refuses; the creator's own may not.

    Raises:
        RequestError: The creator's own example cannot be answered.
    """
    accepted = CancelledError if manifest.test_vectors else RequestError
    steps_left = itertools.count(_WARM_UP_STEPS, -1)
    with suppress(accepted):
        row = make_rows(manifest, interface)[0]
        runtime.run(_encode(interface, row), lambda: next(steps_left) <= 0)


def check_canaries(runtime: Runtime, manifest: Manifest, interface: Interface) -> int:
    """Answer the test vectors whole, as they were answered when the version was tested.

    Another answer means that something here differs from there: the processor, a library,
    the memory. Nobody should pay for such answers. The first vector is always asked; the
    others as long as there is time. Those that are left over the node asks in service.

    Returns:
        How many were compared; 0 without test vectors.

    Raises:
        LoadError: `canary_mismatch`.
        RequestError, MarketplaceError: A vector cannot be answered, or its answer is
            not what the interface says.
    """
    ends_at = time.monotonic() + CANARY_BUDGET_S
    for index, vector in enumerate(manifest.test_vectors):
        if index and time.monotonic() >= ends_at:
            return index
        _check_canary(runtime, interface, vector, index)
    return len(manifest.test_vectors)


def _check_canary(runtime: Runtime, interface: Interface, vector: TestVector, index: int) -> None:
    row = interface.check_input(dict(vector.input))
    arrays = runtime.run(_encode(interface, row), lambda: False)
    names = [one.name for one in interface.wire_outputs]
    outputs = dict(zip(names, arrays, strict=True))
    [actual] = tensors.decode(interface, outputs, include_hidden=True)
    mismatches = compare(vector.expected, actual, tolerance=vector.tolerance)
    if mismatches:
        first = mismatches[0]
        raise LoadError("canary_mismatch", f"Test vector {index}, {first.pointer}: {first.detail}")


def _encode(interface: Interface, row: Mapping[str, Any]) -> Arrays:
    """One row for every input, in the interface's order and the wire's form."""
    return [one.data for one in tensors.encode(interface, [row])]
