"""Messages of the Model Context Protocol: JSON-RPC, one in a request, under one of two rules.

Revisions before 2026-07-28 begin with a handshake (`initialize`) and name the version in a header
from then on. The newest has no handshake: each request names version and client itself, and
repeats in headers what a proxy may want to know. Either way nothing is kept between two requests.

The revision 2025-03-26 is not offered, since it wants batches to be taken.

Source: Model Context Protocol 2025-06-18, 2025-11-25 and 2026-07-28, "Base protocol" and
"Transports"; JSON-RPC 2.0.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.gateway.config import MESSAGE_ID_LENGTH_MAX
from inference.gateway.errors import BadJSONError
from inference.gateway.http import Headers, parse_json
from marketplace.core.errors import BadRequestError

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022
# Ours, of those that the protocol leaves to servers: refused before anything was asked of a tool.
REFUSED = -32010

HANDSHAKE_VERSIONS = ("2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)
VERSIONS = (*HANDSHAKE_VERSIONS, *MODERN_VERSIONS)

VERSION_HEADER, METHOD_HEADER, NAME_HEADER = "mcp-protocol-version", "mcp-method", "mcp-name"
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
SERVER_KEY = "io.modelcontextprotocol/serverInfo"
TOOL_CALL = "tools/call"
# A method's name; ours are all shorter.
_METHOD_LENGTH_MAX = 128
_ENCODED = re.compile(r"=\?base64\?(?P<octets>.*)\?=")


class RPCError(BadRequestError):
    """A message that is refused as such, in the words of JSON-RPC.

    Args:
        rpc_code: Of JSON-RPC.
        detail: One sentence.
        data: What else a program can make use of.
        status: Of HTTP.
    """

    def __init__(self, rpc_code: int, detail: str, *, data: Any = None, status: int = 400) -> None:
        super().__init__(detail)
        self.rpc_code = rpc_code
        self.data = data
        self.status = status


@dataclass(slots=True)
class Message:
    """A request, or a notification, which has no id and is not answered."""

    method: str
    params: Mapping[str, Any]
    id: str | int | None
    is_notification: bool
    version: str = HANDSHAKE_VERSIONS[0]

    @property
    def is_modern(self) -> bool:
        """Whether it stands by itself, without a handshake before it."""
        return self.version in MODERN_VERSIONS

    @property
    def is_tool_call(self) -> bool:
        """Whether its failures are for the model to read."""
        return self.method == TOOL_CALL and not self.is_notification

    @property
    def meta(self) -> Mapping[str, Any]:
        """What is said about the message."""
        meta = self.params.get("_meta")
        return meta if isinstance(meta, dict) else {}

    @property
    def progress_token(self) -> str | int | None:
        """What progress of it shall be told with; None for not at all.

        Raises:
            RPCError: It is no token.
        """
        token = self.meta.get("progressToken")
        if token is not None and not _is_id(token):
            raise RPCError(INVALID_PARAMS, "progressToken is a text or a whole number.")
        return token


def read_message(body: bytes) -> Message:
    """The one message of a body.

    Raises:
        RPCError: It is none, several, or an answer to nothing that was asked.
    """
    try:
        document = parse_json(body)
    except BadJSONError as error:
        raise RPCError(PARSE_ERROR, error.detail) from error
    if isinstance(document, list):
        raise RPCError(INVALID_REQUEST, "A request has one message: batches are not taken.")
    if not isinstance(document, dict) or document.get("jsonrpc") != "2.0":
        raise RPCError(INVALID_REQUEST, 'A message is an object with "jsonrpc": "2.0".')
    method, params = document.get("method"), document.get("params", {})
    if not isinstance(method, str) or not 0 < len(method) <= _METHOD_LENGTH_MAX:
        raise RPCError(INVALID_REQUEST, "A message has a method: nothing is asked of clients here.")
    is_notification = "id" not in document
    if not is_notification and not _is_id(document["id"]):
        raise RPCError(
            INVALID_REQUEST,
            f"id is a whole number, or a text of at most {MESSAGE_ID_LENGTH_MAX} characters.",
        )
    message = Message(method, {}, document.get("id"), is_notification)
    if not isinstance(params, dict):
        raise RPCError(INVALID_REQUEST, "params is an object.")
    message.params = params
    return message


def check_version(headers: Headers, message: Message) -> None:
    """Note the revision that a message is written in.

    Raises:
        RPCError: It is not one of ours, or headers and message do not say the same.
    """
    header = headers.get(VERSION_HEADER)
    if message.is_notification:
        # Nothing else is asked of one, and nothing is done about it.
        if VERSION_HEADER in headers:
            message.version = _require_known(header)
        return
    if VERSION_KEY not in message.meta and header not in MODERN_VERSIONS:
        if VERSION_HEADER in headers and message.method != "initialize":
            message.version = _require_known(header)
        return
    _check_envelope(headers, message)
    message.version = _require_known(header, MODERN_VERSIONS)


def negotiate(params: Mapping[str, Any]) -> str:
    """The revision of a handshake: the client's if it is offered, and else our newest with one.

    Raises:
        RPCError: The client names none.
    """
    wanted = params.get("protocolVersion")
    if not isinstance(wanted, str):
        raise RPCError(INVALID_PARAMS, "protocolVersion is a text.")
    return wanted if wanted in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1]


def _check_envelope(headers: Headers, message: Message) -> None:
    meta = message.meta
    missing = [name for name in (VERSION_KEY, CAPABILITIES_KEY) if name not in meta]
    if missing:
        raise RPCError(INVALID_PARAMS, f"params._meta lacks {' and '.join(missing)}.")
    for name in (VERSION_HEADER, METHOD_HEADER, NAME_HEADER):
        # Who reads the first copy and who reads the last would disagree.
        if len(headers.get_all(name)) > 1:
            raise RPCError(HEADER_MISMATCH, f"The header {name} is there more than once.")
    expected = {VERSION_HEADER: meta[VERSION_KEY], METHOD_HEADER: message.method}
    if message.is_tool_call and "name" in message.params:
        expected[NAME_HEADER] = message.params["name"]
    for name, value in expected.items():
        if not isinstance(value, str) or _decode(headers.get(name)) != value:
            raise RPCError(HEADER_MISMATCH, f"The header {name} is not what the message says.")


def _require_known(version: str | None, known: tuple[str, ...] = VERSIONS) -> str:
    if version not in known:
        raise RPCError(
            UNSUPPORTED_VERSION,
            "This version of the protocol is not spoken here.",
            data={"supported": list(VERSIONS), "requested": version or ""},
        )
    return version


def _decode(header: str | None) -> str | None:
    """What a header says; what could not stand in one as it is comes as base64."""
    found = _ENCODED.fullmatch(header) if header is not None else None
    if found is None:
        return header
    try:
        return base64.b64decode(found["octets"], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MESSAGE_ID_LENGTH_MAX
    return type(value) is int
