"""JSON of a creator, read so that only one reading of it is possible.

Two parsers that disagree about a document are how a check is walked around: this one
refuses repeated keys, NaN, and nesting that only serves to exhaust a stack.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from inference.artifact.errors import ArtifactError

# Real configurations nest three or four levels deep.
MAX_DEPTH = 32


class _RepeatedKeyError(Exception):
    """Raised by the hook, since the decoder itself keeps the last value silently."""


def parse_object(
    data: bytes | memoryview, *, what: str, max_size_bytes: int, reason_prefix: str
) -> dict[str, Any]:
    """Decode one JSON object; see `parse_any`.

    Raises:
        ArtifactError: Also for a document that is something else than an object.
    """
    document = parse_any(
        data, what=what, max_size_bytes=max_size_bytes, reason_prefix=reason_prefix
    )
    if not isinstance(document, dict):
        raise ArtifactError(f"{reason_prefix}_malformed", f"{what} is not a JSON object.")
    return document


def parse_any(
    data: bytes | memoryview, *, what: str, max_size_bytes: int, reason_prefix: str
) -> Any:
    """Decode one JSON document.

    Args:
        data: UTF-8 without a byte order mark; white space may surround it.
        what: How messages name the document.
        max_size_bytes: Checked before anything is decoded.
        reason_prefix: Codes are `<prefix>_too_large`, `_malformed` and `_duplicate_key`.

    Raises:
        ArtifactError: With one of those codes.
    """
    if len(data) > max_size_bytes:
        detail = f"{what} has {len(data)} bytes; {max_size_bytes} are allowed."
        raise ArtifactError(f"{reason_prefix}_too_large", detail)
    try:
        document = json.loads(
            bytes(data).decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
        )
    except _RepeatedKeyError as error:
        detail = f"{what} repeats the key {error}."
        raise ArtifactError(f"{reason_prefix}_duplicate_key", detail) from None
    except (ValueError, RecursionError):
        # The decoder's message quotes nothing, but its position says little either.
        detail = f"{what} is not valid JSON."
        raise ArtifactError(f"{reason_prefix}_malformed", detail) from None
    if not _is_shallow(document):
        detail = f"{what} is nested deeper than {MAX_DEPTH} levels."
        raise ArtifactError(f"{reason_prefix}_malformed", detail)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKeyError(ascii(key[:64]))
            seen.add(key)
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _is_shallow(document: Any) -> bool:
    level = [[document]]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [one for one in value.values() if isinstance(one, dict | list)]
            else:
                below += [one for one in value if isinstance(one, dict | list)]
        if not below:
            return True
        level = below
    return False
