"""Calls to tritonserver: HTTP/1.1 over kept connections, tensors as plain octets.

One connection carries one call at a time. HTTP cannot cancel a call: one that runs out of
time is abandoned, and counts as running until its answer has come. Every failure is told
apart: of the server's side (another replica may do better) or of the request's.

Source: Open Inference Protocol; Triton, binary tensor data extension; server v2.51.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import orjson

from inference.gateway.config import ABANDONED_S, ALIVE_WAIT_S, SILENCE_S
from inference.triton.errors import (
    ModelExecutionError,
    ModelNotReadyError,
    OutputError,
    QueueFullError,
    TensorError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from inference.triton.tensors import ANSWER_BYTES_MAX, Tensor, unpack
from marketplace.core.errors import MarketplaceError

logger = logging.getLogger(__name__)

# Another replica may answer where one of these was met.
INFRASTRUCTURE_ERRORS = (TritonUnavailableError, ModelNotReadyError, QueueFullError)
# Idle connections per server that are kept; a burst's surplus is closed again.
_IDLE_MAX = 256
_CONNECT_TIMEOUT_S = 2.0
_HEAD_BYTES_MAX = 16 * 1024
_RETRY_S = 1
_LOGGED_CHARS = 300

# Called when a call is abandoned; returns what is called when it is over.
KeepSlot = Callable[[], Callable[[], None]]


class ServerSilentError(TritonUnavailableError):
    """A server that took calls does not even say that it lives."""


class Connection(asyncio.Protocol):
    """One connection; `exchange` sends a request and waits for its answer."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[tuple[int, int, memoryview]] | None = None
        self._parts: list[bytes] = []
        self._size_bytes = 0
        # Of the answer now being received: where its body begins, and its whole length.
        self._head_end = -1
        self._total_bytes = 0
        self._status = 0
        self._json_bytes = -1
        self._keeps_alive = True
        # Set while the answer to an abandoned call is awaited.
        self._on_end: Callable[[], None] | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._asked_s = 0.0
        self.on_lost: Callable[[Connection], None] | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether another call may be sent on it."""
        return (
            self._keeps_alive
            and self._waiter is None
            and self.transport is not None
            and not self.transport.is_closing()
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio calls it."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the call that waits; asyncio calls it."""
        self._fail("the connection to the model server broke")
        if self.on_lost is not None:
            self.on_lost(self)
        if self._end_timer is not None:
            self._end_timer.cancel()
        if self._on_end is not None:
            self._on_end()
            self._on_end = None

    async def exchange(
        self, head: bytes, parts: Sequence[bytes | memoryview], keep_slot: KeepSlot
    ) -> tuple[int, int, memoryview]:
        """Send a request and return status, length of the JSON part (-1: all) and body.

        Raises:
            TritonUnavailableError: The connection broke, or the answer is no HTTP.
        """
        assert self._waiter is None
        if self.transport is None or self.transport.is_closing():
            raise TritonUnavailableError(
                "The model server closed the connection.", retry_after_s=_RETRY_S
            )
        self._waiter = asyncio.get_running_loop().create_future()
        self._asked_s = time.monotonic()
        self.transport.writelines([head, *parts])
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self._abandon(keep_slot)
            raise
        finally:
            self._waiter = None

    def owes_since_s(self, heard_s: float) -> float:
        """Since when an answer is awaited, of a server last heard then; infinity if none is."""
        owes = self._waiter is not None or self._on_end is not None
        return max(self._asked_s, heard_s) if owes else math.inf

    def give_up(self) -> None:
        """Nothing will come any more."""
        self._fail("The model server does not answer.", ServerSilentError)

    def _abandon(self, keep_slot: KeepSlot) -> None:
        """Nobody waits for the answer any more, but Triton works on it."""
        self._keeps_alive = False
        if self.transport is None or self.transport.is_closing():
            return
        self._on_end = keep_slot()
        self._end_timer = asyncio.get_running_loop().call_later(ABANDONED_S, self.close)

    def close(self) -> None:
        """Give the connection up."""
        self._keeps_alive = False
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Collect the answer; asyncio calls it."""
        if self._on_end is None and (self._waiter is None or self._waiter.done()):
            # Nothing was asked, or it is answered: this would belong to nobody.
            self.close()
            return
        self._parts.append(data)
        self._size_bytes += len(data)
        if self._head_end < 0 and not self._read_head():
            return
        if self._size_bytes >= self._total_bytes:
            self._finish()

    def _read_head(self) -> bool:
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        data = self._parts[0]
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > _HEAD_BYTES_MAX:
                self._fail("the model server's answer has no end of its head")
            return False
        length = -1
        try:
            lines = data[:end].split(b"\r\n")
            self._status = int(lines[0][9:12])
            for line in lines[1:]:
                name, _, value = line.partition(b":")
                match name.lower():
                    case b"content-length":
                        length = int(value)
                    case b"inference-header-content-length":
                        self._json_bytes = int(value)
                    case b"connection":
                        self._keeps_alive = value.strip().lower() != b"close"
        except ValueError:
            length = -1
        if not 0 <= length <= ANSWER_BYTES_MAX or self._json_bytes > length:
            self._fail("the model server's answer is not understood")
            return False
        self._head_end = end + 4
        self._total_bytes = self._head_end + length
        return True

    def _finish(self) -> None:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        body = memoryview(data)[self._head_end : self._total_bytes]
        answer = (self._status, self._json_bytes, body)
        if self._size_bytes > self._total_bytes or self._on_end is not None:
            self.close()
        self._parts, self._size_bytes = [], 0
        self._head_end, self._total_bytes, self._json_bytes = -1, 0, -1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)

    def _fail(
        self, detail: str, kind: type[TritonUnavailableError] = TritonUnavailableError
    ) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(kind(detail, retry_after_s=_RETRY_S))
        self.close()


class TritonPool:
    """Idle connections by server, the one used last first."""

    def __init__(self) -> None:
        self._idle: dict[str, deque[Connection]] = {}
        # All connections that may owe an answer, and when their server has last given one.
        self._open: dict[str, set[Connection]] = {}
        self._heard_s: dict[str, float] = {}

    async def run(self) -> None:
        """Find out, for ever, servers that take calls and answer nothing, as frozen ones do."""
        while True:
            await asyncio.sleep(SILENCE_S / 2)
            await asyncio.gather(*map(self._check_alive, list(self._open)))

    async def _check_alive(self, base_url: str) -> None:
        """Give up the calls at a server that does not even say that it lives."""
        if not self._is_silent(base_url):
            return
        head = f"GET /v2/health/live HTTP/1.1\r\nHost: {urlsplit(base_url).netloc}\r\n\r\n"
        connection: Connection | None = None
        try:
            async with asyncio.timeout(ALIVE_WAIT_S):
                connection = await _connect(base_url)
                await connection.exchange(head.encode(), [], _keep_nothing)
            self._heard_s[base_url] = time.monotonic()
        except (TritonUnavailableError, TimeoutError):
            # It may have answered a call meanwhile.
            if self._is_silent(base_url):
                logger.error("the model server %s is silent; its calls are given up", base_url)
                for one in list(self._open.get(base_url, ())):
                    one.give_up()
        finally:
            if connection is not None:
                connection.close()

    def _is_silent(self, base_url: str) -> bool:
        heard_s = self._heard_s.get(base_url, 0.0)
        since_s = [one.owes_since_s(heard_s) for one in self._open.get(base_url, ())]
        return time.monotonic() - min(since_s, default=math.inf) > SILENCE_S

    async def infer(
        self,
        base_url: str,
        model: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        deadline_s: float,
        keep_slot: KeepSlot,
        traceparent: str = "",
    ) -> dict[str, np.ndarray]:
        """Run a model once.

        Args:
            base_url: Of the tritonserver.
            model: The model's name there.
            tensors: All inputs.
            outputs: Names of the outputs wanted.
            deadline_s: On the clock of `time.monotonic`.
            keep_slot: Called if time is up while the server works on the call; returns what
                is called when it has finished.
            traceparent: Of the span that this call is; empty where it is not traced.

        Raises:
            TritonUnavailableError, ModelNotReadyError: The server's side failed; the same
                call may do elsewhere.
            TritonDeadlineError: Time is up.
            TensorError: The server refused the tensors.
            ModelExecutionError: The model failed on them.
            OutputError: The answer is not what was asked for.
        """
        document, payload = _encode_request(tensors, outputs)
        head = _render_head(base_url, model, document, payload, traceparent)
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                answer = await self._exchange(base_url, head, [document, *payload], keep_slot)
        except TimeoutError:
            raise TritonDeadlineError from None
        return _read_answer(model, *answer)

    async def _exchange(
        self, base_url: str, head: bytes, parts: Sequence[bytes | memoryview], keep_slot: KeepSlot
    ) -> tuple[int, int, memoryview]:
        idle = self._idle.setdefault(base_url, deque())
        while idle:
            connection = idle.pop()
            if not connection.is_reusable:
                continue
            try:
                return await self._use(base_url, connection, idle, head, parts, keep_slot)
            except ServerSilentError:
                raise
            except TritonUnavailableError:
                # The server may have closed it while it was idle. A new connection tells
                # whether the server itself is gone.
                break
        return await self._use(base_url, await _connect(base_url), idle, head, parts, keep_slot)

    async def _use(
        self,
        base_url: str,
        connection: Connection,
        idle: deque[Connection],
        head: bytes,
        parts: Sequence[bytes | memoryview],
        keep_slot: KeepSlot,
    ) -> tuple[int, int, memoryview]:
        connections = self._open.setdefault(base_url, set())
        if connection not in connections:
            connections.add(connection)
            connection.on_lost = connections.discard
        answer = await connection.exchange(head, parts, keep_slot)
        self._heard_s[base_url] = time.monotonic()
        # The server may have been given up meanwhile, and its connections with it.
        is_known = self._idle.get(base_url) is idle
        if is_known and connection.is_reusable and len(idle) < _IDLE_MAX:
            idle.append(connection)
        else:
            connection.close()
        return answer

    def keep_only(self, base_urls: set[str]) -> None:
        """Close what leads to servers that are gone."""
        for base_url in self._idle.keys() - base_urls:
            for connection in self._idle.pop(base_url):
                connection.close()
        for base_url in self._open.keys() - base_urls:
            if not self._open[base_url]:
                del self._open[base_url]
                self._heard_s.pop(base_url, None)

    def close(self) -> None:
        """Close every idle connection."""
        self.keep_only(set())


def _keep_nothing() -> Callable[[], None]:
    """For a question that counts nowhere as a call."""
    return lambda: None


async def _connect(base_url: str) -> Connection:
    parts = urlsplit(base_url)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(
                Connection, parts.hostname or "", parts.port or 80
            )
    except (OSError, TimeoutError) as error:
        raise TritonUnavailableError(
            "The model server cannot be reached.", retry_after_s=_RETRY_S
        ) from error
    return connection


def _encode_request(
    tensors: Sequence[Tensor], outputs: Sequence[str]
) -> tuple[bytes, list[bytes | memoryview]]:
    payload = [one.to_bytes() for one in tensors]
    document = {
        "inputs": [
            {
                "name": one.name,
                "shape": one.shape,
                "datatype": one.datatype,
                "parameters": {"binary_data_size": len(data)},
            }
            for one, data in zip(tensors, payload, strict=True)
        ],
        "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
    }
    return orjson.dumps(document), payload


def _render_head(
    base_url: str,
    model: str,
    document: bytes,
    payload: Sequence[bytes | memoryview],
    traceparent: str = "",
) -> bytes:
    length = len(document) + sum(map(len, payload))
    traced = f"traceparent: {traceparent}\r\n" if traceparent else ""
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: {urlsplit(base_url).netloc}\r\n"
        f"Content-Type: application/octet-stream\r\n{traced}"
        f"Inference-Header-Content-Length: {len(document)}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def _read_answer(
    model: str, status: int, json_bytes: int, octets: memoryview
) -> dict[str, np.ndarray]:
    if status != 200:
        raise _make_error(model, status, bytes(octets))
    outputs: dict[str, np.ndarray] = {}
    at = len(octets) if json_bytes < 0 else json_bytes
    try:
        for one in orjson.loads(octets[:at])["outputs"]:
            size_bytes = one["parameters"]["binary_data_size"]
            if not 0 <= size_bytes <= len(octets) - at:
                raise ValueError("an output does not lie within the answer")
            data = octets[at : at + size_bytes]
            outputs[one["name"]] = unpack(one["datatype"], one["shape"], data)
            at += size_bytes
    except (ValueError, KeyError, TypeError, TensorError) as error:
        logger.error("model %s: its answer cannot be read: %r", model, error)
        raise OutputError from error
    return outputs


def _make_error(model: str, status: int, body: bytes) -> MarketplaceError:
    """What a refusal means. Triton's own text names paths and stays in our log."""
    text = _read_error(body)
    # What the model itself said comes behind, and may quote what it was given.
    shown = text.partition("message:")[0][:_LOGGED_CHARS]
    logger.warning("model %s: triton answered %d: %s", model, status, shown)
    if status == 404 or "is not ready" in text:
        return ModelNotReadyError("The model is not loaded there any more.", retry_after_s=_RETRY_S)
    if status == 503 or text.startswith("Stub process"):
        # The process that runs the model is gone; the node starts it anew.
        return TritonUnavailableError("The model's process ended.", retry_after_s=_RETRY_S)
    if 400 <= status < 500:
        return TensorError()
    return ModelExecutionError()


def _read_error(body: bytes) -> str:
    try:
        document: Any = orjson.loads(body)
        return str(document["error"])
    except (ValueError, KeyError, TypeError):
        return body[:_LOGGED_CHARS].decode(errors="replace")
