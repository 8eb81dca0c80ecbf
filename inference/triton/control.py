"""Load and unload models in a tritonserver, and call them, over gRPC.

Every call has a deadline, and every failure becomes one of our errors with Triton's reason
in it, freed of paths and tracebacks. `load` answers once the model is ready or has failed;
`unload` returns only when the model is gone, which Triton's own call does not wait for.

Source: Triton, model repository extension; server v2.51.0, grpc/grpc_utils.cc.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
import numpy as np
from tritonclient.grpc import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    service_pb2,
)
from tritonclient.utils import InferenceServerException

from inference.triton import streams
from inference.triton.errors import (
    ModelExecutionError,
    ModelLoadError,
    ModelNotReadyError,
    ModelUnloadError,
    OutputError,
    TensorError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from inference.triton.server import GRPC_SECRET_HEADER
from inference.triton.tensors import ANSWER_BYTES_MAX, Tensor
from marketplace.core.errors import MarketplaceError

READY = "READY"
UNAVAILABLE = "UNAVAILABLE"
# Answers to questions about state; they never wait for a model.
_QUICK_TIMEOUT_S = 5.0
_POLL_S = 0.05
_REASON_LENGTH_MAX = 500
# A server that was restarted is found again at once, not after gRPC's back-off of minutes.
_RECONNECT_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    # It is on this machine: a proxy of the environment is for other ways.
    ("grpc.enable_http_proxy", 0),
]
_PREFIX = re.compile(
    r"^(?:\[request id: [^]]*\] )?"
    r"(?:load failed for model '[^']*': )?"
    r"(?:version \d+ is at UNAVAILABLE state: )?"
    r"(?:Internal: )?"
    r"(?:Failed to process the request\(s\) for model '[^']*', message: )?"
)


@dataclass(frozen=True, slots=True)
class ModelState:
    """One line of Triton's index. `reason` says why a model is not ready."""

    name: str
    state: str
    reason: str


class TritonControl:
    """A client of one tritonserver; safe to use from several threads.

    Args:
        grpc_url: Host and port.
        secret: The value that the server was started with.
    """

    def __init__(self, grpc_url: str, secret: str) -> None:
        self._client = InferenceServerClient(grpc_url, channel_args=_RECONNECT_OPTIONS)
        self._channel = grpc.insecure_channel(grpc_url, options=list(streams.CHANNEL_OPTIONS))
        self._headers = {GRPC_SECRET_HEADER: secret}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections."""
        self._client.close()
        self._channel.close()

    def is_server_ready(self) -> bool:
        """Whether the server answers that it is ready."""
        try:
            return bool(self._client.is_server_ready(client_timeout=_QUICK_TIMEOUT_S))
        except InferenceServerException:
            return False

    def server_version(self) -> str:
        """Triton's version, such as 2.51.0."""
        try:
            return str(self._client.get_server_metadata(client_timeout=_QUICK_TIMEOUT_S).version)
        except InferenceServerException as error:
            raise _translate(error) from error

    def is_model_ready(self, name: str) -> bool:
        """Whether the model takes requests; false too where the server is away."""
        try:
            return bool(self._client.is_model_ready(name, client_timeout=_QUICK_TIMEOUT_S))
        except InferenceServerException:
            return False

    def list_models(self) -> list[ModelState]:
        """Every model folder that Triton has looked at since it started."""
        try:
            index = self._client.get_model_repository_index(
                headers=self._headers, client_timeout=_QUICK_TIMEOUT_S
            )
        except InferenceServerException as error:
            raise _translate(error) from error
        return [ModelState(one.name, one.state, clean_reason(one.reason)) for one in index.models]

    def find_model(self, name: str) -> ModelState | None:
        """The state of one model, None if Triton does not know it."""
        return next((one for one in self.list_models() if one.name == name), None)

    def load(self, name: str, *, timeout_s: float) -> None:
        """Load a model and wait until it is ready.

        Raises:
            ModelLoadError: The loader refused or failed; `detail` is its reason.
            TritonDeadlineError: It is still loading. Kill its stub to end that.
        """
        try:
            self._client.load_model(name, headers=self._headers, client_timeout=timeout_s)
        except InferenceServerException as error:
            if _status(error) in ("INVALID_ARGUMENT", "INTERNAL", "NOT_FOUND"):
                raise ModelLoadError(clean_reason(error.message())) from error
            raise _translate(error) from error

    def unload(self, name: str, *, timeout_s: float) -> None:
        """Unload a model and wait until it is gone; its running requests finish first.

        A model that is not loaded is gone already.

        Raises:
            ModelUnloadError: It is still there after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._client.unload_model(name, headers=self._headers, client_timeout=timeout_s)
        except InferenceServerException as error:
            if _status(error) not in ("INVALID_ARGUMENT", "NOT_FOUND"):
                raise _translate(error) from error
        while True:
            found = self.find_model(name)
            # An empty state belongs to a folder that was never loaded.
            if found is None or found.state in (UNAVAILABLE, ""):
                return
            if time.monotonic() >= deadline:
                detail = f"{name} is {found.state} after {timeout_s:g} s"
                raise ModelUnloadError(detail)
            time.sleep(_POLL_S)

    def infer(
        self,
        name: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        timeout_s: float,
    ) -> dict[str, np.ndarray]:
        """Run a model once and return its outputs by name; texts are bytes.

        Raises:
            ModelNotReadyError: It is not loaded.
            TensorError: A tensor does not fit the model's configuration.
            ModelExecutionError: The model failed.
            TritonDeadlineError: It took longer than `timeout_s`.
        """
        inputs = []
        for tensor in tensors:
            one = InferInput(tensor.name, list(tensor.shape), tensor.datatype)
            one.set_data_from_numpy(tensor.data)
            inputs.append(one)
        try:
            result = self._client.infer(
                name,
                inputs,
                outputs=[InferRequestedOutput(output) for output in outputs],
                client_timeout=timeout_s,
            )
        except InferenceServerException as error:
            raise _translate(error) from error
        answers = {output: result.as_numpy(output) for output in outputs}
        return {output: array for output, array in answers.items() if array is not None}

    def infer_streaming(
        self,
        name: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        timeout_s: float,
    ) -> dict[str, np.ndarray]:
        """The same for a model that could stream; it answers at once here, too.

        Raises:
            MarketplaceError: As from `infer`.
        """
        return _read_stream(self._send(name, tensors, outputs, timeout_s))

    def infer_until(
        self,
        name: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        cancelled: threading.Event,
    ) -> dict[str, np.ndarray]:
        """The same for any model; ends early, without outputs, when `cancelled` is set.

        The caller sets it in the end in any case: a thread waits for it.

        Raises:
            MarketplaceError: As from `infer`.
        """
        call = self._send(name, tensors, outputs, timeout_s)
        _cancel_when(call, cancelled)
        try:
            return _read_stream(call)
        except TritonUnavailableError:
            if cancelled.is_set():
                return {}
            raise

    def stream_until(
        self,
        name: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        *,
        timeout_s: float,
        cancelled: threading.Event,
        on_part: Callable[[dict[str, np.ndarray]], None],
    ) -> bool:
        """Run a model that streams, and hand on each part of its answer as it comes.

        The caller sets `cancelled` in the end in any case: a thread waits for it.

        Returns:
            Whether it came to its end; false where `cancelled` was set before.

        Raises:
            MarketplaceError: As from `infer`, or what `on_part` raised.
        """
        call = self._send(name, tensors, outputs, timeout_s, in_pieces=True)
        _cancel_when(call, cancelled)
        failure: MarketplaceError | None = None
        try:
            for response in call:
                if response.error_message:
                    # Read to the end first: a call that is cancelled between its error and its
                    # end is never forgotten by Triton.
                    failure = failure or streams.make_error(response.error_message)
                elif response.infer_response.outputs and failure is None:
                    on_part(streams.read_response(response))
        except grpc.RpcError as error:
            if cancelled.is_set():
                return False
            raise _translate_rpc(error) from error
        finally:
            # Does nothing where it has ended.
            call.cancel()
        if failure is not None and cancelled.is_set():
            return False
        if failure is not None:
            raise failure
        return True

    def _send(
        self,
        name: str,
        tensors: Sequence[Tensor],
        outputs: Sequence[str],
        timeout_s: float,
        *,
        in_pieces: bool = False,
    ) -> Any:
        request = streams.make_request(name, tensors, outputs, in_pieces=in_pieces)
        send = self._channel.stream_stream(
            streams.METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )
        return send(iter([request]), timeout=timeout_s)


def _read_stream(call: Any) -> dict[str, np.ndarray]:
    try:
        responses = list(call)
    except grpc.RpcError as error:
        raise _translate_rpc(error) from error
    parts = [part for part in map(streams.read_response, responses) if part]
    if len(parts) != 1:
        raise OutputError(f"the model answered {len(parts)} times")
    return parts[0]


def _cancel_when(call: Any, cancelled: threading.Event) -> None:
    def end() -> None:
        cancelled.wait()
        call.cancel()

    threading.Thread(target=end, name="infer-until", daemon=True).start()


def _translate_rpc(error: Any) -> MarketplaceError:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TritonDeadlineError("the model server did not answer in time")
    return TritonUnavailableError(str(error.details()))


def clean_reason(text: str) -> str:
    """Triton's reason without its wrapping, the traceback and the paths in it."""
    reason = _PREFIX.sub("", text.strip()).split("\n\nAt:")[0].strip()
    reason = reason.removesuffix(";").strip()
    return " ".join(reason.split())[:_REASON_LENGTH_MAX]


def _translate(error: InferenceServerException) -> MarketplaceError:
    status, message = _status(error), error.message() or ""
    if status == "DEADLINE_EXCEEDED":
        return TritonDeadlineError("the model server did not answer in time")
    if status == "NOT_FOUND":
        return ModelNotReadyError()
    if status == "UNAVAILABLE":
        if "is not ready" in message:
            return ModelNotReadyError()
        return TritonUnavailableError(clean_reason(message))
    if status == "INVALID_ARGUMENT":
        return TensorError(clean_reason(message))
    if status == "INTERNAL":
        return ModelExecutionError(clean_reason(message))
    return TritonUnavailableError(f"{status}: {clean_reason(message)}")


def _status(error: InferenceServerException) -> str:
    """The name of the gRPC status: "NOT_FOUND" of "StatusCode.NOT_FOUND"."""
    status: Any = error.status()
    name = status.name if isinstance(status, grpc.StatusCode) else str(status)
    return name.rpartition(".")[2]
