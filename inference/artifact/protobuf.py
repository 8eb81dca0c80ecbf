"""The wire format of Protocol Buffers, read without building objects.

A protobuf library turns two bytes of input into a hundred bytes of objects, and merges
repeated fields by rules that another library may know differently. Here a message is
walked in place: nothing is copied, a budget ends the walk of a file made of crumbs, and
the caller says which fields may stand once only.

Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, "int | memoryview"]


class WireError(Exception):
    """The bytes are not a message, or have more fields than the budget allows."""


class Budget:
    """How many fields may still be read, over all messages of one file."""

    def __init__(self, fields: int) -> None:
        self._left = fields

    def spend(self) -> None:
        """Count one field.

        Raises:
            WireError: When there are more than allowed.
        """
        self._left -= 1
        if self._left < 0:
            raise WireError("has too many fields")


def read_fields(message: memoryview, budget: Budget) -> Iterator[Field]:
    """Yield (number, wire type, value) of every field, in order.

    Varints and fixed-width values are numbers or raw octets; embedded messages, texts
    and packed lists are views of `message`.

    Raises:
        WireError: At the first byte that breaks the format.
    """
    position, end = 0, len(message)
    while position < end:
        budget.spend()
        tag, position = read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise WireError("has an impossible field number")
        if wire_type == VARINT:
            value, position = read_varint(message, position)
            yield number, wire_type, value
            continue
        if wire_type == BYTES:
            size, position = read_varint(message, position)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        else:
            # Groups are long deprecated and a second way to nest.
            raise WireError("has a field of an unknown wire type")
        if size > end - position:
            raise WireError("is cut off")
        yield number, wire_type, message[position : position + size]
        position += size


def read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return an unsigned number of at most 64 bits, and the position behind it.

    Raises:
        WireError: When it is cut off or too long.
    """
    value = shift = 0
    end = len(message)
    while position < end:
        octet = message[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            if value >= 1 << 64:
                raise WireError("has a number of more than 64 bits")
            return value, position
        shift += 7
        if shift > 63:
            raise WireError("has a number of more than 64 bits")
    raise WireError("is cut off")


def read_packed(values: memoryview, budget: Budget) -> list[int]:
    """The numbers of a packed repeated field; each counts against the budget.

    Raises:
        WireError: Like `read_varint`.
    """
    numbers: list[int] = []
    position = 0
    while position < len(values):
        budget.spend()
        number, position = read_varint(values, position)
        numbers.append(number)
    return numbers


def signed(value: int) -> int:
    """An int64 that was read as an unsigned varint."""
    return value - (1 << 64) if value >= 1 << 63 else value
