"""Calls to models that stream: gRPC, one stream for each request, ended when nobody listens.

Unlike HTTP this can take a call back. A stream that is left, whether by a client that has gone
or by its deadline, is cancelled, and the model stops before its next token.

Source: Triton, decoupled models; server v2.51.0, grpc/stream_infer_handler.cc.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence

import grpc
import numpy as np
from grpc import aio
from tritonclient.grpc import service_pb2

from inference.triton import streams
from inference.triton.errors import OutputError, TritonDeadlineError, TritonUnavailableError
from inference.triton.tensors import Tensor
from marketplace.core.errors import MarketplaceError

logger = logging.getLogger(__name__)

Part = dict[str, np.ndarray]

_RETRY_S = 1
_LOGGED_CHARS = 300


class TritonStreams:
    """A channel to each server, opened by the first call; many streams share it."""

    def __init__(self) -> None:
        self._channels: dict[str, aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def infer(
        self,
        address: str,
        model: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        deadline_s: float,
        traceparent: str = "",
    ) -> Part:
        """Run a model that could stream, and have its answer at once.

        Raises:
            MarketplaceError: As from `TritonPool.infer`.
        """
        parts = self.stream(
            address,
            model,
            tensors,
            outputs,
            deadline_s=deadline_s,
            in_pieces=False,
            traceparent=traceparent,
        )
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                found = [part async for part in parts]
        except TimeoutError:
            raise TritonDeadlineError from None
        if len(found) != 1:
            raise OutputError(f"the model answered {len(found)} times")
        return found[0]

    async def stream(
        self,
        address: str,
        model: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        deadline_s: float,
        in_pieces: bool = True,
        traceparent: str = "",
    ) -> AsyncGenerator[Part, None]:
        """The parts of an answer, as they come; close it early to stop the model.

        Args:
            address: Host and port of the server's gRPC.
            model: The model's name there.
            tensors: All inputs.
            outputs: Names of the outputs wanted.
            deadline_s: On the clock of `time.monotonic`; told to the server. The caller
                keeps it himself.
            in_pieces: Whether the model shall stream.
            traceparent: Of the span that this call is; empty where it is not traced.

        Raises:
            TritonUnavailableError, ModelNotReadyError: The server's side failed.
            TritonDeadlineError: Time is up.
            TensorError, ModelExecutionError, OutputError: As from `TritonPool.infer`.
        """
        request = streams.make_request(model, tensors, outputs, in_pieces=in_pieces)
        call = self._open(address)(
            timeout=max(0.0, deadline_s - time.monotonic()),
            metadata=(("traceparent", traceparent),) if traceparent else None,
        )
        try:
            await call.write(request)
            await call.done_writing()
            failure: MarketplaceError | None = None
            while (response := await call.read()) is not aio.EOF:
                if response.error_message:
                    failure = failure or _read_error(model, response.error_message)
                # The last response may be an empty one, that only says that it is the last.
                elif response.infer_response.outputs and failure is None:
                    yield streams.read_response(response)
            if failure is not None:
                # Read to the end first: a call that is cancelled between its error and its end
                # is never forgotten by Triton, which then does not let the model go.
                raise failure
            status = await call.code()
            if status is not grpc.StatusCode.OK:
                raise _translate(model, status, await call.details())
        except aio.AioRpcError as error:
            raise _translate(model, error.code(), error.details()) from error
        finally:
            # Does nothing where it has ended.
            call.cancel()

    def keep_only(self, addresses: set[str]) -> None:
        """Close what leads to servers that are gone; what still runs there may end."""
        for address in self._channels.keys() - addresses:
            channel = self._channels.pop(address)
            task = asyncio.ensure_future(channel.close(grace=None))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every channel."""
        self.keep_only(set())
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _open(self, address: str) -> aio.StreamStreamMultiCallable:
        channel = self._channels.get(address)
        if channel is None:
            channel = aio.insecure_channel(address, options=list(streams.CHANNEL_OPTIONS))
            self._channels[address] = channel
        return channel.stream_stream(
            streams.METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )


def _read_error(model: str, text: str) -> MarketplaceError:
    logger.warning("model %s: triton answered: %s", model, text[:_LOGGED_CHARS])
    return streams.make_error(text)


def _translate(model: str, status: grpc.StatusCode, details: str | None) -> MarketplaceError:
    text = (details or "")[:_LOGGED_CHARS]
    logger.warning("model %s: the stream ended with %s: %s", model, status.name, text)
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TritonDeadlineError()
    return TritonUnavailableError("The model server does not answer.", retry_after_s=_RETRY_S)
