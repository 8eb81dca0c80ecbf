"""Messages of Triton's gRPC stream, the one way to a model that may answer in pieces.

One request to a stream and one stream to a request: a stream is ended as a whole. Responses
carry an error as text, without a code, so the text is all there is to tell one from another.

Source: Triton, `grpc_service.proto`; server v2.51.0, grpc/stream_infer_handler.cc.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

from inference.triton.errors import (
    INPUT_FAULT_MARK,
    ModelExecutionError,
    ModelNotReadyError,
    OutputError,
    TensorError,
    TritonUnavailableError,
)
from inference.triton.tensors import ANSWER_BYTES_MAX, STREAM_PARAMETER, Tensor, unpack
from marketplace.core.errors import MarketplaceError

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
# A ping every so often finds a machine that is gone; `inference.triton.server` allows them.
PING_S = 20
_PING_TIMEOUT_S = 10
CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
    ("grpc.keepalive_time_ms", PING_S * 1000),
    ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_S * 1000),
    ("grpc.http2.max_pings_without_data", 0),
    # Triton is reached directly: a proxy of the environment is for other ways.
    ("grpc.enable_http_proxy", 0),
)
_NOT_LOADED = re.compile(r"unknown model|is not ready|is not found|no available versions")
# The process that runs the model has ended; the node starts it anew.
_STUB_ENDED = re.compile(r"Stub process|stub process")


def make_request(
    name: str, tensors: Sequence[Tensor], outputs: Sequence[str], *, in_pieces: bool
) -> Any:
    """The one message of a stream.

    Args:
        name: Of the model in Triton.
        tensors: All inputs.
        outputs: Names of the outputs wanted.
        in_pieces: Whether a model that streams shall do so, or answer all at once.
    """
    request = service_pb2.ModelInferRequest(model_name=name)
    for one in tensors:
        given = request.inputs.add()
        given.name, given.datatype = one.name, one.datatype
        given.shape.extend(one.shape)
        request.raw_input_contents.append(bytes(one.to_bytes()))
    for wanted in outputs:
        request.outputs.add().name = wanted
    if in_pieces:
        request.parameters[STREAM_PARAMETER].bool_param = True
    return request


def read_response(response: Any) -> dict[str, np.ndarray]:
    """The outputs of one response, as far as it has them; texts are bytes.

    Raises:
        MarketplaceError: What the response says went wrong.
        OutputError: It cannot be read.
    """
    if response.error_message:
        raise make_error(response.error_message)
    found = response.infer_response
    try:
        return {
            one.name: unpack(one.datatype, one.shape, data)
            for one, data in zip(found.outputs, found.raw_output_contents, strict=True)
        }
    except (ValueError, TensorError) as error:
        raise OutputError("The model's answer cannot be read.") from error


def make_error(text: str) -> MarketplaceError:
    """What a text of Triton's means; it names paths, and is not passed on."""
    if _NOT_LOADED.search(text):
        return ModelNotReadyError("The model is not loaded there any more.", retry_after_s=1)
    if _STUB_ENDED.search(text):
        return TritonUnavailableError("The model's process ended.", retry_after_s=1)
    if INPUT_FAULT_MARK in text:
        return TensorError()
    return ModelExecutionError()
