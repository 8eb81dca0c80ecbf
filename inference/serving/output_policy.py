"""Show of an output what its creator lets out, before it leaves the process that computed it.

Exact scores are what makes a model cheap to copy: an answer says little more to its reader
when it is rounded and cut to the likeliest classes, and much less to somebody who trains on it.

`limit` puts the rules around a runtime, so that nobody behind it (requests, streams, the canary)
gets to see anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from inference.serving.errors import LoadError
from inference.serving.runtimes.base import Arrays, IsCancelled, Runtime
from strongroom.interface import Interface
from strongroom.sealing.policy import FLOATS, OutputRule

Show = Callable[[np.ndarray], np.ndarray]


class OutputPolicy:
    """What is done to the outputs of one version.

    Args:
        rules: By the name of an output, as the manifest has them.
        interface: Whose outputs they are.

    Raises:
        LoadError: `output_policy_invalid`.
    """

    def __init__(self, rules: Mapping[str, OutputRule], interface: Interface) -> None:
        self._names = [one.name for one in interface.wire_outputs]
        outputs = {one.name: one for one in interface.wire_outputs}
        for name in rules:
            output = outputs.get(name)
            # What comes in pieces is text; a rule that cannot be kept must not look kept.
            if output is None or output.stream or output.datatype not in FLOATS:
                detail = f"There is a rule for {name[:64]}, which is no output of plain floats."
                raise LoadError("output_policy_invalid", detail)
        self._rules = dict(rules)

    @property
    def is_empty(self) -> bool:
        """Whether every output leaves as it is."""
        return not self._rules

    def show_all(self, arrays: Arrays) -> Arrays:
        """All outputs, in the interface's order, as they may leave."""
        named = zip(self._names, arrays, strict=True)
        return [self._show_one(name, array) for name, array in named]

    def show_some(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Some outputs, by name, as they may leave."""
        return {name: self._show_one(name, array) for name, array in arrays.items()}

    def _show_one(self, name: str, array: np.ndarray) -> np.ndarray:
        rule = self._rules.get(name)
        return array if rule is None else show(array, rule)


class _LimitedRuntime:
    """A runtime whose answers are those that may leave."""

    def __init__(self, runtime: Runtime, policy: OutputPolicy) -> None:
        self._runtime: Any = runtime
        self._policy = policy
        self.can_batch = runtime.can_batch

    def run(self, inputs: Arrays, is_cancelled: IsCancelled) -> Arrays:
        return self._policy.show_all(self._runtime.run(inputs, is_cancelled))

    def stream(self, inputs: Arrays, is_cancelled: IsCancelled) -> Iterator[dict[str, np.ndarray]]:
        for part in self._runtime.stream(inputs, is_cancelled):
            yield self._policy.show_some(part)


def limit(runtime: Runtime, policy: OutputPolicy) -> Any:
    """A built runtime as everybody who answers with it sees it."""
    return runtime if policy.is_empty else _LimitedRuntime(runtime, policy)


def show(array: np.ndarray, rule: OutputRule) -> np.ndarray:
    """Apply a rule to the last axis: first its form, then the largest, then the rounding.

    A line of values that are not all finite becomes NaN as a whole, so that it is refused
    behind this like without a rule: cutting must not turn a fault into an answer.
    """
    if array.shape[-1] == 0:
        return array
    is_finite = np.isfinite(array).all(axis=-1, keepdims=True)
    with np.errstate(all="ignore"):
        shown = array
        if rule.shown_as is not None:
            shown = _FORMS[rule.shown_as](shown)
        if rule.top_k is not None:
            shown = _keep_largest(shown, rule.top_k)
        if rule.decimals is not None:
            shown = _round(shown, rule.decimals)
    return shown if is_finite.all() else np.where(is_finite, shown, shown.dtype.type(np.nan))


def _to_probabilities(array: np.ndarray) -> np.ndarray:
    # Half precision has no room for the sum of a thousand exponentials.
    wide = array.astype(np.float32) if array.dtype.itemsize < 4 else array
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers.astype(array.dtype, copy=False)


def _to_label(array: np.ndarray) -> np.ndarray:
    shown = np.zeros_like(array)
    np.put_along_axis(shown, array.argmax(axis=-1)[..., np.newaxis], 1, axis=-1)
    return shown


_FORMS: Mapping[str, Show] = {"probabilities": _to_probabilities, "label": _to_label}


def _keep_largest(array: np.ndarray, count: int) -> np.ndarray:
    """Exactly `count` values of each line stay, of equal ones those that come first."""
    length = array.shape[-1]
    if count >= length:
        return array
    at = length - count
    least = np.partition(array, at, axis=-1)[..., at : at + 1]
    is_kept = array >= least
    # Most often no value stands on both sides of the line.
    if is_kept.sum() != array.size // length * count:
        is_above, is_equal = array > least, array == least
        room = count - is_above.sum(axis=-1, keepdims=True)
        is_kept = is_above | (is_equal & (is_equal.cumsum(axis=-1) <= room))
    return np.where(is_kept, array, array.dtype.type(0))


def _round(array: np.ndarray, decimals: int) -> np.ndarray:
    # In double precision: the nearest short number, whatever the output's own type.
    wide = np.round(array.astype(np.float64), decimals)
    # The largest doubles overflow while they are shifted; they have no decimals anyway.
    whole = np.where(np.isfinite(wide), wide, array)
    # Adding zero takes the sign off a negative zero, which would tell what was rounded.
    return (whole + 0.0).astype(array.dtype, copy=False)
