"""The tag of a request: a word of the caller's own, by which its usage is found and summed.

It changes nothing else: not what runs, not what it costs, not who may spend it. A retry with
the same idempotency key may have another one, and gets what was booked with the first.
"""

from __future__ import annotations

from inference.gateway.errors import TagInvalidError
from inference.gateway.http import Headers
from marketplace.core.tag import TAG_RULE, is_tag

_HEADER = "strongroom-tag"


def read_tag(headers: Headers) -> str:
    """The tag of a `Strongroom-Tag` header; empty without one.

    Raises:
        TagInvalidError: It is none. Were it overlooked, its cost would be nobody's.
    """
    if _HEADER not in headers:
        return ""
    tag = headers.get(_HEADER) or ""
    if not is_tag(tag):
        raise TagInvalidError(f"A tag has {TAG_RULE}.")
    return str(tag)
