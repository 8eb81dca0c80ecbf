"""Replies of `/mcp`: one message of JSON-RPC, in the form of the request's own revision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference.gateway.protocols.mcp_message import SERVER_KEY, Message

SERVER = {"name": "strongroom", "title": "Strongroom", "version": "1"}
_MODERN = {"resultType": "complete", "_meta": {SERVER_KEY: SERVER}}


def reply(message: Message, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a request."""
    # Clients of earlier revisions refuse members that they do not know.
    whole = {**_MODERN, **result} if message.is_modern else result
    return {"jsonrpc": "2.0", "id": message.id, "result": whole}


def refusal(message: Message | None, code: int, detail: str, data: Any) -> dict[str, Any]:
    """That there is none, and why; without an id where none could be read."""
    error: dict[str, Any] = {"code": code, "message": detail}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": message and message.id, "error": error}
