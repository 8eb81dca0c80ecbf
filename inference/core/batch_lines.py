"""The lines of a batch: JSON text per line, read as it comes, each with what is wrong with it.

A line is `{"custom_id": "...", "input": {...}}`; `custom_id` may be left out. A bad line is that
line's fault alone. Only what makes the whole file useless raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

# Of one batch: what a dozen nodes run in a day at ten seconds each.
LINES_MAX = 100_000
# Four data URLs of the largest size, and what stands around them.
LINE_BYTES_MAX = 1024 * 1024
# 100,000 lines of 2 kB.
FILE_BYTES_MAX = 200 * 1024 * 1024
# What a person names a line; it goes into an index.
CUSTOM_ID_LENGTH_MAX = 64
_MEMBERS = frozenset({"custom_id", "input"})
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or what is wrong with it.

    Args:
        number: In the file, from 1; empty lines count.
        custom_id: Its name; empty for none.
        input: As JSON text; None where the line is bad.
        code: What is wrong; empty for nothing.
        detail: In words.
    """

    number: int
    custom_id: str = ""
    input: str | None = None
    code: str = ""
    detail: str = ""


class TooManyLinesError(ValueError):
    """A file has more lines than a batch may."""


class FileTooLargeError(ValueError):
    """A file has more bytes than a batch may."""


def read_lines(
    chunks: Iterable[bytes],
    *,
    lines_max: int = LINES_MAX,
    line_bytes_max: int = LINE_BYTES_MAX,
    file_bytes_max: int = FILE_BYTES_MAX,
) -> Iterator[Line]:
    """The lines of a file, in their order. Empty lines are passed over.

    Args:
        chunks: The file, in pieces of any size; no more than one line of it is held.
        lines_max: As above.
        line_bytes_max: Of one line, without its end.
        file_bytes_max: Of all.

    Raises:
        TooManyLinesError: After `lines_max` lines there is another one.
        FileTooLargeError: There is more.
    """
    seen: set[str] = set()
    count = 0
    for number, text in _split(chunks, line_bytes_max, file_bytes_max):
        if text is not None and not text.strip():
            continue
        count += 1
        if count > lines_max:
            raise TooManyLinesError
        if text is None:
            yield Line(number, code="line_too_long", detail=f"Longer than {line_bytes_max} bytes.")
            continue
        line = _read(number, text)
        if line.custom_id:
            if line.custom_id in seen:
                detail = "An earlier line has the same custom_id."
                line = Line(number, line.custom_id, None, "duplicate_custom_id", detail)
            seen.add(line.custom_id)
        yield line


def _split(
    chunks: Iterable[bytes], line_bytes_max: int, file_bytes_max: int
) -> Iterator[tuple[int, bytes | None]]:
    """Number and bytes of each line; None in place of one that is too long."""
    number, size_bytes = 1, 0
    held = bytearray()
    is_too_long = False
    for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > file_bytes_max:
            raise FileTooLargeError
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            # One more is the CR of a line that ends with CR LF.
            if len(held) + len(part) <= line_bytes_max + 1:
                held += part
            else:
                is_too_long = True
            yield number, None if is_too_long else _trim(held, number, line_bytes_max)
            number, is_too_long = number + 1, False
            held.clear()
        if len(held) + len(rest) <= line_bytes_max + 1:
            held += rest
        else:
            is_too_long = True
            held.clear()
    if held or is_too_long:
        yield number, None if is_too_long else _trim(held, number, line_bytes_max)


def _trim(held: bytearray, number: int, line_bytes_max: int) -> bytes | None:
    text = bytes(held).removesuffix(b"\r")
    if len(text) > line_bytes_max:
        return None
    return text.removeprefix(_BOM) if number == 1 else text


def _read(number: int, text: bytes) -> Line:
    try:
        document: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return Line(number, code="bad_json", detail=f"Not JSON: {str(error)[:200]}.")
    if not isinstance(document, dict):
        return Line(number, code="bad_line", detail="Not an object with the member input.")
    custom_id = document.get("custom_id", "")
    if not _is_name(custom_id):
        detail = f"custom_id is a printable text of up to {CUSTOM_ID_LENGTH_MAX} characters."
        return Line(number, code="bad_line", detail=detail)
    if unknown := [str(one)[:64] for one in document if one not in _MEMBERS]:
        detail = f"The member {_show(unknown[0])} is not known here."
        return Line(number, custom_id, None, "bad_line", detail)
    given = document.get("input")
    if not isinstance(given, dict):
        detail = "input is an object with the model's inputs."
        return Line(number, custom_id, None, "bad_line", detail)
    try:
        kept = orjson.dumps(given).decode()
    except TypeError:
        return Line(number, custom_id, None, "bad_json", "Nested too deeply.")
    if _has_nul(given):
        detail = "A text has the character NUL, which no model takes."
        return Line(number, custom_id, None, "bad_json", detail)
    return Line(number, custom_id, kept)


def _is_name(value: Any) -> bool:
    # An empty one is none.
    return isinstance(value, str) and len(value) <= CUSTOM_ID_LENGTH_MAX and value.isprintable()


def _show(name: str) -> str:
    return json.dumps(name)


def _has_nul(value: Any) -> bool:
    match value:
        case str():
            return "\x00" in value
        case dict():
            return any(_has_nul(one) for pair in value.items() for one in pair)
        case list():
            return any(map(_has_nul, value))
    return False
