"""What a tool gives: a document, the same as text, and images and sounds as such.

A model answers an image or a sound as a text that is a `data:` URL. Clients show those only as
content of their own kind, and a language model should not read their octets as words.

Source: Model Context Protocol, "Tool result"; RFC 2397.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from inference.gateway.http import Request
from inference.gateway.protocols.mcp_remedies import REMEDIES
from marketplace.core.errors import MarketplaceError
from marketplace.core.money import format_nanos

# No SVG: it can hold a script, and a client may show it as a page.
_DATA_URL = re.compile(
    r"data:(?P<type>image/(?:png|jpeg|webp|gif)|audio/(?:wav|x-wav|mpeg|ogg|flac|mp4|webm))"
    r";base64,(?P<octets>[A-Za-z0-9+/]+={0,2})"
)


@dataclass(slots=True)
class ToolAnswer:
    """What a tool gives, and what it has cost."""

    document: dict[str, Any]
    media: list[dict[str, Any]] = field(default_factory=list)
    cost_nanos: int = 0


def render_answer(answer: ToolAnswer) -> dict[str, Any]:
    """The result of a call that succeeded."""
    return _render(answer.document, answer.media) | {"isError": False}


def render_failure(request: Request, error: MarketplaceError) -> dict[str, Any]:
    """The result of a call that failed: for the model, which can do something about it."""
    return _render({"error": describe_error(request, error)}, []) | {"isError": True}


def describe_error(request: Request, error: MarketplaceError) -> dict[str, Any]:
    """All about a failure that its caller may know."""
    document: dict[str, Any] = {
        "code": error.code,
        "status": error.http_status,
        "title": error.title,
        "detail": error.detail,
        "remedy": REMEDIES.get(error.code, REMEDIES["internal"]),
        "is_retryable": error.retryable,
        "request_id": request.request_id,
        **describe_cost(request.broken_cost_nanos),
    }
    if error.errors:
        document["errors"] = error.errors
    if error.retry_after_s is not None:
        document["retry_after_s"] = error.retry_after_s
    return document


def describe_cost(nanos: int) -> dict[str, Any]:
    """An amount as a number and in dollars."""
    return {"cost_nano_usd": nanos, "cost_usd": to_dollars(nanos)}


def to_dollars(nanos: int) -> str:
    """An amount in dollars, as a number that every program can read."""
    return format_nanos(nanos).replace("$", "").replace(",", "")


def split_media(output: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An output without its images and sounds, and these as content, in their order."""
    kept, media = dict(output), []
    for name, value in output.items():
        found = _DATA_URL.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            continue
        try:
            size_bytes = len(base64.b64decode(found["octets"], validate=True))
        except binascii.Error:
            continue
        mime_type = found["type"]
        kind = mime_type.partition("/")[0]
        kept[name] = {"content": kind, "mime_type": mime_type, "size_bytes": size_bytes}
        media.append({"type": kind, "data": found["octets"], "mimeType": mime_type})
    return kept, media


def _render(document: Mapping[str, Any], media: list[dict[str, Any]]) -> dict[str, Any]:
    # Clients that know no structured content read the text.
    content = [{"type": "text", "text": orjson.dumps(document).decode()}, *media]
    return {"content": content, "structuredContent": document}
