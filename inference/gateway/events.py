"""An answer that comes in events while it is made.

Its head leaves with the first event, so that what fails before that is answered with a status
of its own. From then on the status is said, and a failure is one more event, the last.

The server underneath takes all that it is given, at once: an event counts as delivered when it
was handed over while the client was connected.

Source: WHATWG HTML, "Server-sent events"; granian, RSGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Self

import orjson

from inference.gateway.config import KEEP_ALIVE_S, STREAM_BYTES_MAX
from inference.gateway.errors import ClientGoneError
from inference.gateway.http import Answer, Request, RSGITransport, telling
from inference.triton.errors import OutputError
from marketplace.core.errors import MarketplaceError

CONTENT_TYPE = "text/event-stream"
_KEEP_ALIVE = ": keep-alive\n\n"
# Some readers of lines take these for the end of one, unlike the standard.
_LINE_ENDS = {ord(one): f"\\u{ord(one):04x}" for one in "\x85\u2028\u2029"}


def streamed(*, cost_nanos: int) -> Answer:
    """What a protocol returns whose answer has left in events already."""
    return Answer(200, b"", CONTENT_TYPE, cost_nanos=cost_nanos)


def render_data(document: Mapping[str, Any]) -> str:
    """An event of one line of JSON."""
    text = orjson.dumps(document).decode()
    if not text.isascii():
        text = text.translate(_LINE_ENDS)
    return f"data: {text}\n\n"


class EventStream:
    """The events of one answer. As a context it keeps the connection open, and watches it.

    Args:
        request: What is answered.
        render_error: Makes the event that tells of a failure.
        keep_alive_s: After how long without an event a comment is sent.
        bytes_max: Of all events together.
    """

    def __init__(
        self,
        request: Request,
        render_error: Callable[[MarketplaceError], str],
        *,
        keep_alive_s: float = KEEP_ALIVE_S,
        bytes_max: int = STREAM_BYTES_MAX,
    ) -> None:
        self.request = request
        self._render_error = render_error
        self._keep_alive_s = keep_alive_s
        self._bytes_left = bytes_max
        # Whether the head of the answer is out.
        self.has_begun = False
        self._transport: RSGITransport | None = None
        self._sent_s = 0.0
        self._gone: asyncio.Future[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    @property
    def is_gone(self) -> bool:
        """Whether the client has closed its connection."""
        watch = self._gone
        return watch is not None and watch.done() and not watch.cancelled()

    async def __aenter__(self) -> Self:
        self.request.events = self
        self._sent_s = asyncio.get_running_loop().time()
        self._gone = asyncio.ensure_future(self.request.protocol.client_disconnect())
        self._keeping = asyncio.create_task(self._keep_alive())
        return self

    async def __aexit__(self, *_: object) -> None:
        for job in (self._gone, self._keeping):
            if job is not None:
                job.cancel()

    def on_gone(self, tell: Callable[[], None]) -> AbstractContextManager[None]:
        """Call `tell` once if the client leaves while the block runs."""
        assert self._gone is not None
        return telling(self._gone, tell)

    async def send(self, text: str) -> None:
        """Send one event, or several that belong together.

        Raises:
            ClientGoneError: Nobody is there.
            OutputError: The stream has become too large.
        """
        self._bytes_left -= len(text) if text.isascii() else len(text.encode())
        if self._bytes_left < 0:
            raise OutputError("The model's answer is larger than a stream may be.")
        await self._send(text)

    async def finish(self, text: str) -> None:
        """Send the last event; it is small, and finds room even in a stream that is full.

        Raises:
            ClientGoneError: Nobody is there.
        """
        await self._send(text)

    async def fail(self, error: MarketplaceError) -> None:
        """Tell of a failure, as the last event; before the first one an answer says it better."""
        if not self.has_begun or isinstance(error, ClientGoneError):
            return
        try:
            await self._send(self._render_error(error))
        except ClientGoneError:
            return

    def close(self) -> None:
        """End the answer: the server underneath ends it when nobody holds its transport."""
        self._transport = None

    async def _send(self, text: str) -> None:
        if self.is_gone:
            raise ClientGoneError
        try:
            if self._transport is None:
                self.has_begun = True
                self._transport = self.request.protocol.response_stream(
                    200,
                    [
                        ("content-type", CONTENT_TYPE),
                        # What stands between must hand on each event as it comes.
                        ("x-accel-buffering", "no"),
                        *self.request.common_headers,
                        *self.request.limit_headers,
                    ],
                )
            await self._transport.send_str(text)
        # granian's error for a closed connection; here its module is not known.
        except RuntimeError as error:
            raise ClientGoneError from error
        self._sent_s = asyncio.get_running_loop().time()

    async def _keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            left_s = self._sent_s + self._keep_alive_s - loop.time()
            if left_s > 0:
                await asyncio.sleep(left_s)
                continue
            try:
                await self._send(_KEEP_ALIVE)
            except ClientGoneError:
                return
