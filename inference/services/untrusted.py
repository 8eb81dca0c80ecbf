"""Make what a node says fit to be stored and shown.

A node is trusted to run models, not to write into our pages: what it sends is cut to size
and to the kinds of values that the database and a browser take.
"""

from __future__ import annotations

import math
import re
from typing import Any

from marketplace.core.errors import InvalidInputError

# The largest real report is a benchmark with a dozen batch sizes: some kilobytes.
DEPTH_MAX = 8
ITEMS_MAX = 4096
KEY_LENGTH_MAX = 64
TEXT_LENGTH_MAX = 2000

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
# Control characters, and halves of surrogate pairs, which Postgres and UTF-8 refuse.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_INTEGER_MAX = 2**53


def clean_text(value: Any, length_max: int = TEXT_LENGTH_MAX) -> str:
    """A text without control characters, cut to a length; empty for anything else."""
    if not isinstance(value, str):
        return ""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value[:length_max])


def clean_code(value: Any, default: str = "") -> str:
    """A reason code in its form; `default` for anything else."""
    return value if isinstance(value, str) and _CODE.fullmatch(value) else default


def clean_fraction(value: Any) -> float:
    """A number from 0 to 1; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return min(1.0, max(0.0, float(value)))


def clean_object(value: Any) -> dict[str, Any]:
    """A JSON object that can be stored.

    Raises:
        InvalidInputError: Not an object, too deep, or too many values.
    """
    if not isinstance(value, dict):
        raise InvalidInputError("An object was expected.")
    budget = [ITEMS_MAX]
    return _clean_dict(value, 0, budget)


def _clean_dict(value: dict[Any, Any], depth: int, budget: list[int]) -> dict[str, Any]:
    return {
        clean_text(key, KEY_LENGTH_MAX): _clean(one, depth + 1, budget)
        for key, one in value.items()
    }


def _clean(value: Any, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if depth > DEPTH_MAX or budget[0] < 0:
        raise InvalidInputError(f"At most {ITEMS_MAX} values, nested {DEPTH_MAX} deep.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return max(-_INTEGER_MAX, min(_INTEGER_MAX, value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_clean(one, depth + 1, budget) for one in value]
    return _clean_dict(value, depth, budget)
