"""Inputs to try a model with: its creator's own, or the plainest that fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from strongroom.interface import PLAIN_FILES, Input, Interface
from strongroom.sealing.manifest import Manifest

# An axis of free length, where nobody says how long it should be.
_FREE_LENGTH = 1
_TEXT = "The quick brown fox jumps over the lazy dog."


def make_rows(manifest: Manifest, interface: Interface) -> list[dict[str, Any]]:
    """Checked inputs: the test vectors', else one of examples, defaults and plain values.

    Raises:
        StrongroomError: A test vector's input does not fit the interface.
    """
    if manifest.test_vectors:
        return [interface.check_input(dict(one.input)) for one in manifest.test_vectors]
    return [{one.name: _find_value(one) for one in interface.inputs}]


def _find_value(one: Input) -> Any:
    for given in (one.example, one.default):
        if given is not None:
            return given
    if one.format:
        return PLAIN_FILES[one.format]
    if one.kind == "text":
        return _TEXT[: one.max_length]
    if one.kind == "choice":
        return one.choices[0]
    value = _find_number(one)
    if not one.shape:
        return value
    shape = [_FREE_LENGTH if length == -1 else length for length in one.shape]
    return np.full(shape, value).tolist()


def _find_number(one: Input) -> Any:
    if one.datatype == "BOOL":
        return False
    low = -math.inf if one.minimum is None else one.minimum
    high = math.inf if one.maximum is None else one.maximum
    return min(max(0, low), high)
