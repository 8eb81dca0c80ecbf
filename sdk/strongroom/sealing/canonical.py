"""One text for one value: what is signed or bound to a key must not have two spellings.

Canonical JSON is RFC 8785 (JCS) for values that both Python and JavaScript hold exactly:
null, booleans, texts, lists, objects with text keys, finite numbers, and integers whose
text stays the same as a double. Everything else is refused instead of rounded.

Source: RFC 8785; ECMA-262, Number::toString; RFC 4648 section 3.5 (canonical base64).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from decimal import Decimal
from typing import Any, NoReturn

from strongroom.sealing.errors import CanonicalError

# Deeper values than this are an attack on the parser's stack.
MAX_DEPTH = 64

# For texts Python's encoder does what JSON.stringify does: it escapes the quote, the
# backslash and control characters (short forms first), and nothing else.
_encode_text = json.JSONEncoder(ensure_ascii=False).encode


def canonicalize(value: Any) -> bytes:
    """The canonical JSON of a value, in UTF-8.

    Raises:
        CanonicalError: `not_canonical` for NaN, infinity, keys that are not text,
            integers that a double would round, half surrogate pairs, foreign types and
            values nested deeper than `MAX_DEPTH`.
    """
    try:
        return _write(value, 0).encode()
    except UnicodeEncodeError:
        _fail("A text holds half of a surrogate pair.")


def parse_canonical(raw: bytes) -> Any:
    """Decode JSON that must be canonical already, byte for byte.

    So there is no second text with the same meaning, and no member that one parser
    sees and another does not (repeated keys).

    Raises:
        CanonicalError: `not_json` or `not_canonical`.
    """
    try:
        value = json.loads(raw.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        # ValueError covers bad UTF-8, bad JSON and integers of thousands of digits.
        raise CanonicalError("not_json", "The text is not JSON in UTF-8.") from error
    if canonicalize(value) != raw:
        _fail("The JSON is not in its canonical form (RFC 8785).")
    return value


def encode_base64(data: bytes | bytearray) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


def decode_base64(text: Any, *, size_bytes: int | None = None) -> bytes:
    """Decode standard base64, in its one canonical spelling.

    Raises:
        CanonicalError: `base64_invalid`, also for another size than `size_bytes`.
    """
    if not isinstance(text, str):
        raise CanonicalError("base64_invalid", "Must be a text in base64.")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CanonicalError("base64_invalid", "Must be a text in base64.") from None
    if encode_base64(data) != text:
        raise CanonicalError("base64_invalid", "The base64 is not in its canonical form.")
    if size_bytes is not None and len(data) != size_bytes:
        detail = f"Must be {size_bytes} bytes in base64, not {len(data)}."
        raise CanonicalError("base64_invalid", detail)
    return data


def _fail(detail: str) -> NoReturn:
    raise CanonicalError("not_canonical", detail)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _write(value: Any, depth: int) -> str:
    if depth > MAX_DEPTH:
        _fail(f"The value is nested deeper than {MAX_DEPTH}.")
    kind = type(value)
    if kind is str:
        return _encode_text(value)
    if value is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if kind is int:
        return _write_integer(value)
    if kind is float:
        return _write_float(value)
    if kind is list or kind is tuple:
        return "[" + ",".join([_write(one, depth + 1) for one in value]) + "]"
    if kind is dict:
        return _write_object(value, depth)
    _fail(f"A {kind.__name__} has no canonical JSON.")


def _write_object(value: dict[Any, Any], depth: int) -> str:
    for name in value:
        if type(name) is not str:
            _fail("A key of an object is not a text.")
    # RFC 8785 sorts by UTF-16 code units, which differs from Python's order above U+FFFF.
    names = sorted(value, key=lambda name: name.encode("utf-16-be"))
    members = [f"{_encode_text(name)}:{_write(value[name], depth + 1)}" for name in names]
    return "{" + ",".join(members) + "}"


def _write_integer(value: int) -> str:
    if -(2**53) < value < 2**53:
        return str(value)
    try:
        as_float = float(value)
    except OverflowError:
        _fail("An integer is too large for a double.")
    text = _write_float(as_float)
    if Decimal(text) != value:
        _fail("An integer would be rounded to a double.")
    return text


def _write_float(value: float) -> str:
    """ECMAScript's Number::toString, from the shortest digits that Python's repr gives."""
    if not math.isfinite(value):
        _fail("NaN and infinity have no JSON.")
    if value == 0:
        return "0"
    sign, digit_tuple, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits = "".join(map(str, digit_tuple))
    point = len(digits) + int(exponent)  # The value is 0.digits times ten to this power.
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        text = f"{digits[0]}{fraction}e{point - 1:+d}"
    return "-" + text if sign else text
