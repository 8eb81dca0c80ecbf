"""The arguments of a tool, each checked as its schema says.

A fault is the tool's own answer and not the protocol's: the language model that made it reads
which argument is wrong, and corrects it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from inference.gateway.config import SEARCH_OFFSET_MAX
from inference.gateway.protocols.mcp_tools import TOOLS
from marketplace.core.errors import FieldError, InvalidInputError
from marketplace.core.money import parse_dollars

_CURSOR = re.compile(r"o([0-9]{1,6})")
_FAULTS_MAX = 16
_NAME_LENGTH_MAX = 64
# Longer than any amount with all of its places.
_AMOUNT_LENGTH_MAX = 32


class Arguments:
    """What a call has given.

    Args:
        tool: Its name.
        given: By name.

    Raises:
        InvalidInputError: One is not known, or one that is required is missing.
    """

    def __init__(self, tool: str, given: Mapping[str, Any]) -> None:
        schema = TOOLS[tool]["inputSchema"]
        self._schemas: Mapping[str, Any] = schema["properties"]
        self._given = given
        faults = [
            FieldError(pointer=f"/{name[:_NAME_LENGTH_MAX]}", detail="Is not known here.")
            for name in given
            if name not in self._schemas
        ]
        faults += [
            FieldError(pointer=f"/{name}", detail="Is required.")
            for name in schema.get("required", ())
            if name not in given
        ]
        if faults:
            raise InvalidInputError(errors=faults[:_FAULTS_MAX])

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def text(self, name: str) -> str:
        """A text within its length; empty where it was not given."""
        value, most = self._given.get(name, ""), self._schemas[name].get("maxLength")
        if not isinstance(value, str) or "\0" in value:
            raise invalid(name, "Must be a text.")
        if most is not None and len(value) > most:
            raise invalid(name, f"Has at most {most} characters.")
        return value

    def count(self, name: str) -> int:
        """A whole number within its bounds; its default where it was not given."""
        schema = self._schemas[name]
        value = self._given.get(name, schema["default"])
        if type(value) is not int or not schema["minimum"] <= value <= schema["maximum"]:
            bounds = f"{schema['minimum']} to {schema['maximum']}"
            raise invalid(name, f"A whole number from {bounds}.")
        return value

    def offset(self, name: str) -> int:
        """Where the page begins that a cursor of ours names."""
        text = self.text(name)
        found = _CURSOR.fullmatch(text)
        if text and (found is None or int(found[1]) > SEARCH_OFFSET_MAX):
            raise invalid(name, "Is not one of ours.")
        return int(found[1]) if found else 0

    def seconds(self, name: str) -> float | None:
        """A time above zero; None where it was not given."""
        if name not in self:
            return None
        value = self._given[name]
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise invalid(name, "A number of seconds above 0.")
        return float(value)

    def dollars(self, name: str) -> int | None:
        """An amount in nano-dollars; None where it was not given.

        A number of JSON is taken by its shortest decimal form, which is what was written.
        """
        if name not in self:
            return None
        value = self._given[name]
        if type(value) not in (int, float, str) or len(str(value)) > _AMOUNT_LENGTH_MAX:
            raise invalid(name, "An amount in dollars.")
        try:
            return parse_dollars(str(value))
        except ValueError as error:
            raise invalid(name, f"An amount in dollars: {error}.") from None

    def pick(self, *names: str) -> dict[str, Any]:
        """Those of these that were given, as they are."""
        return {name: self._given[name] for name in names if name in self._given}


def render_cursor(offset: int | None) -> str | None:
    """Of the page that begins there."""
    return None if offset is None else f"o{offset}"


def invalid(name: str, detail: str) -> InvalidInputError:
    """A fault of one argument."""
    return InvalidInputError(
        f"{name}: {detail}", errors=[FieldError(pointer=f"/{name}", detail=detail)]
    )
