"""Calls of `inference.GRPCInferenceService` with stubs alone, and what came back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from inference.triton.tensors import NUMPY_TYPES

MODEL = "maker/echo"
X = np.array([[1, 2.5, 3, 4]], np.float32)
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # A connection of its own for each client, as for other processes.
    ("grpc.use_local_subchannel_pool", 1),
]


class Caller:
    """A stub, and the metadata with a key that its calls have."""

    def __init__(self, channel: grpc.Channel, key: str) -> None:
        self.channel = channel
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.metadata = bearer(key)

    def infer(self, message: Any = None, **how: Any) -> tuple[Any, dict[str, str]]:
        """The response to a request, and the metadata that came behind it."""
        message = make_request() if message is None else message
        how = {"metadata": self.metadata, "timeout": 60} | how
        response, call = self.stub.ModelInfer.with_call(message, **how)
        return response, dict(call.trailing_metadata())

    def stream(self, *messages: Any, **how: Any) -> Any:
        """The responses of a stream."""
        how = {"metadata": self.metadata, "timeout": 60} | how
        return self.stub.ModelStreamInfer(iter(messages), **how)


@contextmanager
def calling(address: str, key: str) -> Iterator[Caller]:
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        yield Caller(channel, key)


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def make_request(*tensors: dict[str, Any], model: str = MODEL, **members: Any) -> Any:
    """A request; a tensor's `raw` becomes its raw contents, and `x` is there if nothing is."""
    given = [dict(one) for one in tensors or (raw("x", X),)]
    contents = [one.pop("raw") for one in given if "raw" in one]
    members = {"raw_input_contents": contents} | members
    return service_pb2.ModelInferRequest(model_name=model, inputs=given, **members)


def raw(name: str, array: np.ndarray, datatype: str = "FP32", **members: Any) -> dict[str, Any]:
    shape = members.pop("shape", array.shape)
    return {"name": name, "datatype": datatype, "shape": shape, "raw": array.tobytes()} | members


def raw_texts(name: str, *texts: str) -> dict[str, Any]:
    octets = [one.encode() for one in texts]
    packed = b"".join(len(one).to_bytes(4, "little") + one for one in octets)
    return {"name": name, "datatype": "BYTES", "shape": [len(texts), 1], "raw": packed}


def typed(name: str, datatype: str, shape: list[int], **contents: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "contents": contents}


def wait(seconds: float) -> dict[str, Any]:
    """An input that makes the toy model take its time."""
    return raw("wait_s", np.array([[seconds]], np.float32))


def refusal(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Status and stable code, after a look at the rest."""
    metadata = dict(error.trailing_metadata())
    assert metadata["x-cost-nano-usd"] == "0"
    assert metadata["x-request-id"]
    assert error.details()
    return error.code(), metadata["error-code"]


def read(response: Any) -> dict[str, Any]:
    """The outputs of a response by name, texts as lists."""
    outputs = {}
    for one, data in zip(response.outputs, response.raw_output_contents, strict=True):
        if one.datatype == "BYTES":
            outputs[one.name] = _read_texts(data)
        else:
            array = np.frombuffer(data, NUMPY_TYPES[one.datatype])
            outputs[one.name] = array.reshape(one.shape).tolist()
    return outputs


def _read_texts(data: bytes) -> list[str]:
    texts, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        texts.append(data[at + 4 : end].decode())
        at = end
    return texts
