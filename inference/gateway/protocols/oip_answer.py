"""The answer of the Open Inference Protocol: JSON, and outputs as octets where asked for.

What is answered as octets goes from Triton's answer to ours as octets; it is looked at for
NaN and infinity, which no answer of ours carries, and is never a list of Python numbers.

Source: Triton, binary tensor data extension.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from inference.gateway.http import Answer, json_answer
from inference.gateway.protocols.oip_request import LENGTH_HEADER, WantedOutput
from inference.triton import tensors
from inference.triton.errors import OutputError
from strongroom.interface import Interface

_OCTETS = "application/octet-stream"


@dataclass(slots=True)
class InferAnswer:
    """The JSON part, and one item for each output that it gives a `binary_data_size`."""

    document: dict[str, Any]
    octets: list[bytes | memoryview] = field(default_factory=list)

    def to_http(self, *, cost_nanos: int, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """As it is sent."""
        if not self.octets:
            return json_answer(self.document, headers=list(headers), cost_nanos=cost_nanos)
        part = orjson.dumps(self.document)
        return Answer(
            200,
            b"".join([part, *self.octets]),
            content_type=_OCTETS,
            headers=[(LENGTH_HEADER, str(len(part))), *headers],
            cost_nanos=cost_nanos,
        )

    def to_stored(self) -> dict[str, Any]:
        """As JSON, for the retry of a keyed request: octets are base64 in `data`.

        They come back to the bit. As numbers they would not: Postgres' JSON knows no -0.0.
        """
        octets = iter(self.octets)
        outputs = [
            one | {"data": b64encode(next(octets)).decode()} if _is_binary(one) else one
            for one in self.document["outputs"]
        ]
        return self.document | {"outputs": outputs}

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> InferAnswer:
        """The inverse of `to_stored`."""
        outputs: list[Any] = []
        octets: list[bytes | memoryview] = []
        for one in stored["outputs"]:
            if _is_binary(one):
                octets.append(b64decode(one["data"]))
                outputs.append({name: one[name] for name in one if name != "data"})
            else:
                outputs.append(one)
        return cls({**stored, "outputs": outputs}, octets)


def render_answer(
    interface: Interface,
    head: Mapping[str, Any],
    wanted: Sequence[WantedOutput],
    outputs: Mapping[str, np.ndarray],
    *,
    rows: int,
) -> InferAnswer:
    """The answer to a request for some outputs, made of what the model answered.

    Raises:
        OutputError: The model did not answer what its interface promises.
    """
    arrays = tensors.check_outputs(interface, outputs)
    count = len(next(iter(arrays.values())))
    if count != rows:
        raise OutputError(f"the model answered {count} rows, not {rows}")
    answer = InferAnswer({**head, "outputs": []})
    for one in wanted:
        array = arrays[one.output.name]
        rendered: dict[str, Any] = {
            "name": one.output.name,
            "datatype": one.output.datatype,
            "shape": list(array.shape),
        }
        if one.is_binary:
            data = tensors.pack_output(one.output, array)
            rendered["parameters"] = {"binary_data_size": len(data)}
            answer.octets.append(data)
        else:
            rendered["data"] = tensors.list_elements(one.output, array)
        answer.document["outputs"].append(rendered)
    return answer


def _is_binary(output: Mapping[str, Any]) -> bool:
    return "parameters" in output
