"""Requests and answers as the protocols see them, free of the server underneath."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl
from uuid import UUID

import numpy as np
import orjson
from granian.rsgi import ProtocolClosed

from inference.gateway.config import (
    BODY_BYTES_PER_S_MIN,
    BODY_WAIT_S,
    JSON_DEPTH_MAX,
    LINGER_BYTES_MAX,
    LINGER_S,
    QUERY_FIELDS_MAX,
)
from inference.gateway.errors import BadJSONError, RequestTimeoutError
from inference.gateway.metrics import OK
from inference.gateway.time_limit import TimeLimit
from marketplace.core.clock import utc_now
from marketplace.core.errors import BadRequestError, PayloadTooLargeError
from marketplace.core.ids import new_id, to_public

if TYPE_CHECKING:
    from inference.gateway.auth import Caller
    from inference.gateway.catalog import Offer
    from inference.gateway.events import EventStream
    from inference.gateway.limits import Plan
    from inference.gateway.protocols.mcp_message import Message
    from inference.gateway.tracing import Trace

JSON = "application/json"
_PROTOCOLS = {
    "v1": "native",
    "v2": "oip",
    "openai": "openai",
    "mcp": "mcp",
    "node": "pull",
    "inference.GRPCInferenceService": "grpc",
}
# Possessive: a text without an end is passed once, and not tried again from every quote in it.
_TEXTS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
# Of every answer: they belong to one caller, and no cache between may keep them.
_COMMON = (("cache-control", "private, no-store"), ("vary", "Authorization"))
_NO_BRACKETS = bytes(octet for octet in range(256) if octet not in b"[]{}")


class Headers(Protocol):
    """What granian hands over: names in lower case, values by name."""

    def get(self, key: str, default: Any = None) -> Any:
        """The first value of a header; the default where it is absent or not readable."""

    def get_all(self, key: str) -> list[str]:
        """All values of a header that is sent several times."""

    def __contains__(self, key: str) -> bool:
        """Whether a header is present, readable or not."""


class Scope(Protocol):
    """The part of granian's scope that is asked for later, by a few requests only."""

    # Address and port of the peer; empty behind a unix socket.
    client: str


class RSGIProtocol(Protocol):
    """The part of granian's HTTP protocol that is used here."""

    async def __call__(self) -> bytes:
        """The whole body."""

    def __aiter__(self) -> Any:
        """The body in chunks."""

    async def client_disconnect(self) -> None:
        """Return when the client has closed the connection."""

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send the answer."""

    def response_stream(self, status: int, headers: list[tuple[str, str]]) -> RSGITransport:
        """Send the head of an answer that comes in parts."""


class RSGITransport(Protocol):
    """The part of granian's transport that is used here; it never waits for the client."""

    async def send_str(self, data: str) -> None:
        """Hand over a part; raises where the connection is closed."""


@dataclass(slots=True)
class Request:
    """One HTTP request. `id` names the request, and the prediction if it becomes one."""

    method: str
    path: str
    segments: list[str]
    query_string: str
    headers: Headers
    protocol: RSGIProtocol
    scope: Scope
    body_bytes_max: int
    # From the arrival of the request to the end of the model's work.
    deadline_s: float
    id: UUID = field(default_factory=new_id)
    created_at: datetime = field(default_factory=utc_now)
    started_s: float = field(default_factory=time.monotonic)
    # Set once the request is known to be about one prediction.
    prediction_id: UUID | None = None
    # Set once it is known which limits the request meets.
    limits: Plan | None = None
    body_is_unread: bool = False
    # What the caller calls its usage; empty for nothing.
    tag: str = ""
    # Set where the answer comes in events.
    events: EventStream | None = None
    _request_id: str = ""
    # For those who watch: what it came to on its way.
    caller: Caller | None = None
    offer: Offer | None = None
    trace: Trace | None = None
    is_replay: bool = False
    # A prediction that was paid for and whose answer nobody has kept: this one runs in its place.
    repeats: UUID | None = None
    # What it asks for, where it comes as a message of a protocol on top of HTTP.
    message: Message | None = None
    # What was charged although it ended with an error: the delivered part of a stream.
    broken_cost_nanos: int = 0
    code: str = OK
    # How long it waited for a version that slept; None where the version was loaded.
    cold_start_ms: int | None = None
    ended_s: float = 0.0

    @property
    def protocol_name(self) -> str:
        """Whose address was called."""
        return _PROTOCOLS.get(self.segments[0], "none")

    @property
    def request_id(self) -> str:
        """Under which the log knows this request; never the client's own text."""
        if not self._request_id:
            self._request_id = to_public(self.id)
        return self._request_id

    @property
    def common_headers(self) -> list[tuple[str, str]]:
        """Of every answer, whatever it is."""
        # A replay names the prediction that was booked before.
        named = self.prediction_id or self.id
        public_id = self.request_id if named == self.id else to_public(named)
        headers = [("x-request-id", self.request_id), ("inference-id", public_id), *_COMMON]
        if self.cold_start_ms is not None:
            headers.append(("x-cold-start-ms", str(self.cold_start_ms)))
        return headers

    @property
    def limit_headers(self) -> list[tuple[str, str]]:
        """What is left of the limits that the request meets."""
        if self.limits is None:
            return []
        return self.limits.render(is_openai=self.segments[0] == "openai")

    @property
    def query(self) -> dict[str, str]:
        """The query string; of a repeated name the last value counts.

        Raises:
            BadRequestError: It has too many fields.
        """
        try:
            fields = parse_qsl(
                self.query_string, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX
            )
        except ValueError:
            raise BadRequestError(
                f"A query string has at most {QUERY_FIELDS_MAX} fields."
            ) from None
        return dict(fields)

    async def read_body(self) -> bytes:
        """The body, if it is not too large. What is too large is not read.

        Raises:
            PayloadTooLargeError: By its announced length, or by what has come so far.
            RequestTimeoutError: It came too slowly, or not within the deadline.
            BadRequestError: It broke off, or its chunks are none.
        """
        announced = self.headers.get("content-length")
        is_announced = announced is not None and announced.isascii() and announced.isdigit()
        if is_announced and int(announced) > self.body_bytes_max:
            self._refuse_body()
        try:
            if not is_announced:
                return await self._read_chunks()
            with TimeLimit(self._allow_s(int(announced))):
                return await self.protocol()
        except TimeoutError:
            raise RequestTimeoutError from None
        except ProtocolClosed:
            raise BadRequestError("The body broke off.") from None

    async def _read_chunks(self) -> bytes:
        chunks, size_bytes = [], 0
        started_s = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(started_s + self._allow_s(0)) as limit:
            async for chunk in self.protocol:
                size_bytes += len(chunk)
                if size_bytes > self.body_bytes_max:
                    self._refuse_body()
                chunks.append(chunk)
                limit.reschedule(started_s + self._allow_s(size_bytes))
        return b"".join(chunks)

    def _allow_s(self, size_bytes: int) -> float:
        """How long a body of this size may take; one that trickles must not hold its place."""
        return min(self.deadline_s, BODY_WAIT_S + size_bytes / BODY_BYTES_PER_S_MIN)

    def _refuse_body(self) -> None:
        self.body_is_unread = True
        raise PayloadTooLargeError(
            f"A request has at most {self.body_bytes_max} bytes.", limit_bytes=self.body_bytes_max
        )

    async def discard_body(self) -> None:
        """Throw away, for a moment, what a refused client is still sending."""
        size_bytes = 0
        with suppress(TimeoutError, ProtocolClosed):
            async with asyncio.timeout(LINGER_S):
                async for chunk in self.protocol:
                    size_bytes += len(chunk)
                    if size_bytes > LINGER_BYTES_MAX:
                        return

    def fingerprint(self, body: bytes, *, mark: str = "") -> bytes:
        """SHA-256 over all that makes two requests the same one.

        Args:
            body: The whole body.
            mark: What else decides how the body is read.
        """
        head = f"{self.method} {self.path}?{self.query_string}\n{mark}".encode()
        digest = hashlib.sha256(head)
        digest.update(body)
        return digest.digest()


@dataclass(slots=True)
class Answer:
    """A status, a document and headers."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: list[tuple[str, str]] = field(default_factory=list)
    cost_nanos: int = 0
    # For those who watch: what HTTP would say, where a protocol tells of a failure with 200.
    outcome_status: int = 0


def json_answer(
    document: Mapping[str, Any] | Sequence[Any],
    *,
    status: int = 200,
    headers: list[tuple[str, str]] | None = None,
    cost_nanos: int = 0,
) -> Answer:
    """A document as JSON."""
    body = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return Answer(status, body, headers=headers or [], cost_nanos=cost_nanos)


def parse_json(body: bytes) -> Any:
    """Decode a body whose nesting is bounded.

    NaN, Infinity and 1e999, which JSON does not have and other encoders write, are let in:
    the model's interface says whether it takes them, and names the field if it does not.

    Raises:
        BadJSONError: No JSON, or nested too deeply.
    """
    if _count_nesting(body) > JSON_DEPTH_MAX:
        raise BadJSONError(f"The body is nested more than {JSON_DEPTH_MAX} levels deep.")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        detail = f"The body is not JSON: {error.msg}."
    try:
        # Integers of more than 64 bits become floats, as above: nothing could send them back.
        document = json.loads(body.decode(), parse_int=orjson.loads)
        # Half of a surrogate pair could not be sent back, nor stored.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise BadJSONError(detail) from None
    return document


def _count_nesting(body: bytes) -> int:
    """How deep lists and objects lie in each other; exact for what is JSON at all."""
    openings = body.count(b"[") + body.count(b"{")
    if openings <= JSON_DEPTH_MAX:
        return openings
    brackets = _TEXTS.sub(b"", body).translate(None, _NO_BRACKETS)
    if not brackets:
        return 0
    octets = np.frombuffer(brackets, dtype=np.uint8)
    # [ and { are 91 and 123, their partners two above.
    steps = np.where((octets == 91) | (octets == 123), 1, -1)
    return int(np.cumsum(steps).max())


@contextmanager
def telling(gone: asyncio.Future[Any], tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` once if a client leaves while the block runs.

    Args:
        gone: Done when it has left.
        tell: What to do then.
    """

    def hear(_: object) -> None:
        tell()

    gone.add_done_callback(hear)
    try:
        yield
    finally:
        gone.remove_done_callback(hear)
