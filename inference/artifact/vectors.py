"""Compare what a model answered with what its creator said it would answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeGuard

# A wrong tensor is wrong everywhere; the first few places are enough to understand it.
MAX_MISMATCHES = 20
DEFAULT_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One place where the answer differs; `pointer` is a JSON pointer into it."""

    pointer: str
    detail: str


def is_repeatable(row: Mapping[str, Any]) -> bool:
    """Whether a checked input has one answer: text that is drawn by chance has a seed.

    Graphs have no inputs of these names by convention; one that has them means the same.
    """
    temperature, seed = row.get("temperature"), row.get("seed")
    is_drawn = _is_number(temperature) and temperature > 0
    return not is_drawn or (_is_number(seed) and seed >= 0)


def compare(
    expected: Mapping[str, Any], actual: Mapping[str, Any], *, tolerance: float | None = None
) -> list[Mismatch]:
    """Find where an actual output differs from the expected one.

    Objects are compared by the keys that are expected: more may be answered. Lists must
    have the same length. Numbers may differ by `tolerance`, relative to the expected
    number where that is larger than one. Texts and truth values must be equal.

    Args:
        expected: Output of a test vector of the manifest.
        actual: Decoded output of the model.
        tolerance: None for the default.

    Returns:
        At most `MAX_MISMATCHES` places; empty where the output is as expected.
    """
    allowed = DEFAULT_TOLERANCE if tolerance is None else tolerance
    return list(islice(_differences("", expected, actual, allowed), MAX_MISMATCHES))


def _differences(pointer: str, expected: Any, actual: Any, tolerance: float) -> Iterator[Mismatch]:
    if isinstance(expected, Mapping):
        yield from _object_differences(pointer, expected, actual, tolerance)
    elif isinstance(expected, list):
        yield from _list_differences(pointer, expected, actual, tolerance)
    elif _is_number(expected) and _is_number(actual):
        if not _is_close(expected, actual, tolerance):
            yield Mismatch(pointer, f"Is {_show(actual)}, not {_show(expected)}.")
    elif type(expected) is not type(actual) or expected != actual:
        yield Mismatch(pointer, f"Is {_show(actual)}, not {_show(expected)}.")


def _object_differences(
    pointer: str, expected: Mapping[str, Any], actual: Any, tolerance: float
) -> Iterator[Mismatch]:
    if not isinstance(actual, Mapping):
        yield Mismatch(pointer, f"Is {_show(actual)}, not an object.")
        return
    for key, value in expected.items():
        place = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
        if key in actual:
            yield from _differences(place, value, actual[key], tolerance)
        else:
            yield Mismatch(place, "Is missing.")


def _list_differences(
    pointer: str, expected: list[Any], actual: Any, tolerance: float
) -> Iterator[Mismatch]:
    if not isinstance(actual, list):
        yield Mismatch(pointer, f"Is {_show(actual)}, not a list.")
    elif len(actual) != len(expected):
        yield Mismatch(pointer, f"Has {len(actual)} values, not {len(expected)}.")
    else:
        for index, (wanted, got) in enumerate(zip(expected, actual, strict=True)):
            yield from _differences(f"{pointer}/{index}", wanted, got, tolerance)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_close(expected: float, actual: float, tolerance: float) -> bool:
    if not (math.isfinite(expected) and math.isfinite(actual)):
        # NaN is never close; an infinity only to itself.
        return expected == actual
    return abs(actual - expected) <= tolerance * max(1.0, abs(expected))


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 64 else f"{text[:63]}…"
