"""The first run of a model: everything gets into place, and the answer is the right one."""

from __future__ import annotations

import itertools
from contextlib import suppress

from inference.artifact.examples import make_rows
from inference.artifact.vectors import compare
from inference.serving.errors import CancelledError, LoadError, RequestError
from inference.serving.runtimes.base import Arrays, Runtime
from inference.triton import tensors
from strongroom.interface import Interface
from strongroom.sealing.manifest import Manifest

# The first token runs over the whole prompt, the second over one: two kinds of call.
_WARM_UP_STEPS = 2


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
        runtime.run(_make_arrays(manifest, interface), lambda: next(steps_left) <= 0)


def check_canary(runtime: Runtime, manifest: Manifest, interface: Interface) -> None:
    """Answer the first test vector whole, as it was answered when the version was tested.

    Another answer means that something here differs from there: the processor, a library,
    the memory. Nobody should pay for such answers.

    The manifest has at least one test vector.

    Raises:
        LoadError: `canary_mismatch`.
        RequestError, MarketplaceError: The vector cannot be answered, or its answer is
            not what the interface says.
    """
    vector = manifest.test_vectors[0]
    arrays = runtime.run(_make_arrays(manifest, interface), lambda: False)
    names = [one.name for one in interface.wire_outputs]
    outputs = dict(zip(names, arrays, strict=True))
    [actual] = tensors.decode(interface, outputs, include_hidden=True)
    mismatches = compare(vector.expected, actual, tolerance=vector.tolerance)
    if mismatches:
        first = mismatches[0]
        raise LoadError("canary_mismatch", f"Test vector 0, {first.pointer}: {first.detail}")


def _make_arrays(manifest: Manifest, interface: Interface) -> Arrays:
    """One row for every input, in the interface's order and the wire's form."""
    row = make_rows(manifest, interface)[0]
    return [one.data for one in tensors.encode(interface, [row])]
