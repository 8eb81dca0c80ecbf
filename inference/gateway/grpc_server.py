"""The gateway's gRPC front: calls, and the messages of streams, become requests like HTTP's.

It runs in the same process and event loop as the HTTP front, on an address of its own, and is
imported only where one is set. A call's message is read when its key is known to be good, not
before: until then no more of it is taken than HTTP/2's window lets in. Encryption is the
business of the proxy in front.

A client that cancels, or whose deadline is over, is told to those who ask for it; its work is
not torn down in the middle, where it may be about to be booked.

Source: gRPC, "gRPC over HTTP2", core's channel arguments; grpc.aio.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import grpc
from grpc import aio
from tritonclient.grpc import service_pb2

from inference.gateway.config import (
    GRPC_CALLS_PER_CONNECTION_MAX,
    GRPC_CONNECTION_AGE_S,
    GRPC_CONNECTION_GRACE_S,
    GRPC_CONNECTION_IDLE_S,
    GRPC_CONNECTIONS_MAX,
    GRPC_HANDSHAKE_S,
    GRPC_KEEPALIVE_S,
    GRPC_KEEPALIVE_WAIT_S,
    GRPC_METADATA_BYTES_MAX,
    GRPC_PING_INTERVAL_MIN_S,
    GRPC_STREAM_IDLE_S,
    GRPC_STREAMS_MAX,
)
from inference.gateway.errors import (
    BookingUnknownError,
    CapacityError,
    ClientGoneError,
    RequestTimeoutError,
    StreamKeyedError,
)
from inference.gateway.http import Answer, Request, RSGIProtocol, telling
from inference.gateway.protocols.oip_grpc import STREAM, GRPCProtocol
from inference.gateway.tag import read_tag
from inference.gateway.time_limit import TimeLimit
from marketplace.core.errors import (
    AuthenticationError,
    BadRequestError,
    MarketplaceError,
)
from marketplace.core.ids import to_public

if TYPE_CHECKING:
    from inference.gateway.app import Gateway

SERVICE = "inference.GRPCInferenceService"
_UNKNOWN = "unknown"
_METHODS = tuple(
    method.name
    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
)
# By what HTTP would have said. Where a client repeats a call by itself, as many do after
# UNAVAILABLE, that must be safe: see `_choose_code`.
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    402: grpc.StatusCode.RESOURCE_EXHAUSTED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    410: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class GRPCServer:
    """Listens, and hands each call to the gateway.

    Args:
        gateway: Answers requests.
        streams_max: Open at the same time.
        stream_idle_s: How long a stream may say nothing, or read nothing.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        streams_max: int = GRPC_STREAMS_MAX,
        stream_idle_s: float = GRPC_STREAM_IDLE_S,
    ) -> None:
        self.gateway = gateway
        self.config = gateway.config
        self.protocol = GRPCProtocol(gateway)
        self.streams_max = streams_max
        self.stream_idle_s = stream_idle_s
        self.streams_open = 0
        self._server: aio.Server | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            RuntimeError: Somebody else does, there.
        """
        self._server = aio.server(options=self._make_options())
        self._server.add_generic_rpc_handlers((_Router(self),))
        self._server.add_insecure_port(self.config.grpc_listen)
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no new calls, end idle streams, and wait for what is on its way; then cut it."""
        self._stopping.set()
        if self._server is not None:
            await self._server.stop(grace_s)

    async def answer_call(self, method: str, _messages: Any, context: Any) -> bytes:
        """A call of one message and one answer."""
        call = _Call(context, self.config.deadline_s)
        request = self._make_request(method, call)
        answer = await call.finish(self.gateway.answer_call(request, self.protocol))
        metadata = _render_metadata(request, answer)
        if answer.status >= 400:
            await context.abort(_choose_code(request, answer), answer.body.decode(), metadata)
        context.set_trailing_metadata(metadata)
        return answer.body

    async def answer_stream(self, _messages: Any, context: Any) -> None:
        """A call of many requests, which are answered in their order.

        Most are answered by one message. The pieces of an answer that is streamed go out while
        it is made, before its last message.
        """
        call = _Call(context, self.config.deadline_s)
        opening = self._make_request(STREAM, call)
        try:
            with self._open_stream():
                await self._admit(opening)
                while (message := await self._read_next(call)) is not None:
                    await self._write(context, await self._answer_message(call, message))
        except MarketplaceError as error:
            # Counted as a request that was refused.
            answer = await self.gateway.answer_call(opening, _Refusal(self.protocol, error))
            metadata = _render_metadata(opening, answer)
            await context.abort(_choose_code(opening, answer), error.detail, metadata)

    @contextmanager
    def _open_stream(self) -> Iterator[None]:
        if self.streams_open >= self.streams_max:
            raise CapacityError(retry_after_s=1)
        self.streams_open += 1
        try:
            yield
        finally:
            self.streams_open -= 1

    async def _admit(self, opening: Request) -> None:
        """Look at what holds for the whole stream."""
        await self.protocol.authenticate(opening)
        if "idempotency-key" in opening.headers:
            raise StreamKeyedError("A stream takes no idempotency key: use ModelInfer.")
        read_tag(opening.headers)

    async def _read_next(self, call: _Call) -> bytes | None:
        """The next request of a stream; None after the last one.

        Raises:
            RequestTimeoutError: The stream is silent.
            CapacityError: The gateway is being stopped.
        """
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            return await call.read(self.stream_idle_s, until=stopping)
        finally:
            stopping.cancel()

    async def _answer_message(self, call: _Call, message: bytes) -> bytes:
        """What is wrong with one request is told in its answer, and the stream goes on.

        Raises:
            AuthenticationError: The key was good when the stream was opened, and is not now.
        """
        request = self._make_request(STREAM, call, message)
        answer = await call.finish(self.gateway.answer_call(request, self.protocol))
        if answer.status == AuthenticationError.http_status:
            raise AuthenticationError
        return answer.body

    async def _write(self, context: Any, message: bytes) -> None:
        """Send an answer in a stream.

        Raises:
            RequestTimeoutError: The client has not read what came before it.
        """
        try:
            with TimeLimit(self.stream_idle_s):
                await context.write(message)
        except TimeoutError:
            raise RequestTimeoutError("The answers were not read in time.") from None

    def _make_request(self, method: str, call: _Call, message: bytes | None = None) -> Request:
        return Request(
            method="POST",
            path=f"/{SERVICE}/{method}",
            segments=[SERVICE, method],
            query_string="",
            headers=call.metadata,
            scope=call.scope,
            # Nothing here sends by it: the answer goes back through the call.
            protocol=cast("RSGIProtocol", _Body(call, message)),
            body_bytes_max=self.config.body_bytes_max,
            deadline_s=call.limit_s(),
        )

    def _make_options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", self.config.body_bytes_max),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", GRPC_METADATA_BYTES_MAX),
            ("grpc.absolute_max_metadata_size", GRPC_METADATA_BYTES_MAX),
            ("grpc.max_allowed_incoming_connections", GRPC_CONNECTIONS_MAX),
            ("grpc.max_concurrent_streams", GRPC_CALLS_PER_CONNECTION_MAX),
            ("grpc.server_handshake_timeout_ms", round(GRPC_HANDSHAKE_S * 1000)),
            ("grpc.max_connection_idle_ms", round(GRPC_CONNECTION_IDLE_S * 1000)),
            ("grpc.max_connection_age_ms", round(GRPC_CONNECTION_AGE_S * 1000)),
            ("grpc.max_connection_age_grace_ms", round(GRPC_CONNECTION_GRACE_S * 1000)),
            ("grpc.keepalive_time_ms", round(GRPC_KEEPALIVE_S * 1000)),
            ("grpc.keepalive_timeout_ms", round(GRPC_KEEPALIVE_WAIT_S * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            (
                "grpc.http2.min_recv_ping_interval_without_data_ms",
                round(GRPC_PING_INTERVAL_MIN_S * 1000),
            ),
            # A port that somebody else has is an error, not one that is shared.
            ("grpc.so_reuseport", 0),
        ]


class _Router(grpc.GenericRpcHandler):
    """Finds who answers a call, by its path."""

    def __init__(self, server: GRPCServer) -> None:
        # To the wire a call of one message is a stream of one; so it can be read when we like.
        self._handlers = {
            f"/{SERVICE}/{name}": grpc.stream_unary_rpc_method_handler(
                functools.partial(server.answer_call, name)
            )
            for name in (*_METHODS, _UNKNOWN)
        }
        self._handlers[f"/{SERVICE}/{STREAM}"] = grpc.stream_stream_rpc_method_handler(
            server.answer_stream
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Whoever answers; what is not known is refused like what is not offered."""
        found = self._handlers.get(handler_call_details.method)
        return found or self._handlers[f"/{SERVICE}/{_UNKNOWN}"]


class _Refusal:
    """A family that answers everything with one error."""

    def __init__(self, protocol: GRPCProtocol, error: MarketplaceError) -> None:
        self.error = error
        self.render_error = protocol.render_error

    async def answer(self, request: Request) -> Answer:
        raise self.error


class _Metadata:
    """What came with a call, as headers: of a repeated name the first value counts."""

    def __init__(self, pairs: Sequence[tuple[str, str | bytes]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if isinstance(value, str):
                self._values.setdefault(name, []).append(value)

    def get(self, key: str, default: Any = None) -> Any:
        values = self._values.get(key)
        return values[0] if values else default

    def get_all(self, key: str) -> list[str]:
        return self._values.get(key, [])

    def __contains__(self, key: str) -> bool:
        return key in self._values


@dataclass(slots=True)
class _Scope:
    """Where a call comes from, as HTTP's would have it."""

    client: str

    @classmethod
    def of_peer(cls, peer: str) -> _Scope:
        """Of what gRPC calls a peer: family, address and port, with quoted brackets."""
        family, _, address = peer.partition(":")
        return cls(unquote(address) if family in ("ipv4", "ipv6") else "")


class _Call:
    """One call: its metadata, its time, its messages, and word of the client's leaving."""

    def __init__(self, context: Any, limit_s: float) -> None:
        self._context = context
        self._limit_s = limit_s
        self._gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.metadata = _Metadata(context.invocation_metadata())
        self.scope = _Scope.of_peer(context.peer())

    def limit_s(self) -> float:
        """How long a request may take from now: the client's deadline, or ours."""
        left_s = self._context.time_remaining()
        return self._limit_s if left_s is None else min(self._limit_s, left_s)

    async def read(
        self, timeout_s: float, until: asyncio.Future[Any] | None = None
    ) -> bytes | None:
        """The next message; None after the last one.

        Raises:
            RequestTimeoutError: It did not come in time.
            CapacityError: It did not come before `until` was done.
        """
        # Not cancelled when time is up: gRPC's core would still write into what it was given.
        reading = asyncio.ensure_future(self._context.read())
        awaited = {reading} if until is None else {reading, until}
        await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            reading.add_done_callback(_forget)
            if until is not None and until.done():
                raise CapacityError("The gateway is being stopped.", retry_after_s=1)
            raise RequestTimeoutError("No message came in time.")
        message = reading.result()
        return None if message is aio.EOF else message

    async def wait_gone(self) -> None:
        """Return when the client has cancelled, or its deadline is over."""
        await asyncio.shield(self._gone)

    def on_gone(self, tell: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `tell` once if that happens while the block runs."""
        return telling(self._gone, tell)

    async def send(self, message: bytes) -> None:
        """Send a message; waits as long as the client takes no more.

        Raises:
            ClientGoneError: Nobody is there.
        """
        if self._gone.done():
            raise ClientGoneError
        try:
            await self._context.write(message)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # That is how a call says that it is over.
            raise ClientGoneError from None

    async def finish(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Do some work to its end, whatever becomes of the call."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not self._gone.done():
                self._gone.set_result(None)
            await asyncio.wait({task})
            raise


class _Body:
    """What a request has of its call: its body, and the way to its client.

    Args:
        call: Told of the client's leaving; its next message is the body if none is given.
        message: The body.
    """

    def __init__(self, call: _Call, message: bytes | None) -> None:
        self._call = call
        self._message = message
        self.on_gone = call.on_gone
        self.send = call.send

    async def __call__(self) -> bytes:
        if self._message is None:
            self._message = await self._call.read(self._call.limit_s())
        if self._message is None:
            raise BadRequestError("The call has no message.")
        return self._message

    async def client_disconnect(self) -> None:
        await self._call.wait_gone()


def _forget(reading: asyncio.Future[Any]) -> None:
    """Take note of how it ended, so that nobody is told that nobody did."""
    if not reading.cancelled():
        reading.exception()


def _choose_code(request: Request, answer: Answer) -> grpc.StatusCode:
    if request.code == BookingUnknownError.code:
        # Not UNAVAILABLE: clients repeat that, and it may have been charged.
        return grpc.StatusCode.UNKNOWN
    fallback = grpc.StatusCode.INTERNAL if answer.status >= 500 else grpc.StatusCode.ABORTED
    return _CODES.get(answer.status, fallback)


def _render_metadata(request: Request, answer: Answer) -> tuple[tuple[str, str], ...]:
    metadata = [
        ("x-request-id", request.request_id),
        # A replay names the prediction that was booked before.
        ("inference-id", to_public(request.prediction_id or request.id)),
        ("x-cost-nano-usd", str(answer.cost_nanos)),
        *answer.headers,
        *request.limit_headers,
    ]
    if answer.status >= 400:
        metadata.append(("error-code", request.code))
    return tuple(metadata)
