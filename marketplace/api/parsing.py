"""Read JSON bodies that have a limit."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import IO, Any, ClassVar

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from marketplace.core.errors import InvalidInputError, PayloadTooLargeError


class BoundedJSONParser(JSONParser):
    """JSON of at most `body_bytes_max`, an object at the top; the framework's own has no limit."""

    # A model's card, of all that people write, is the longest.
    body_bytes_max: ClassVar[int] = 256 * 1024

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The object in the body."""
        body = stream.read(self.body_bytes_max + 1)
        if len(body) > self.body_bytes_max:
            raise PayloadTooLargeError(f"At most {self.body_bytes_max} bytes are allowed.")
        try:
            document = super().parse(io.BytesIO(body), media_type, parser_context)
        except RecursionError:
            raise ParseError("The JSON is nested too deep.") from None
        if not isinstance(document, dict):
            raise InvalidInputError("The body must be a JSON object.")
        return document
