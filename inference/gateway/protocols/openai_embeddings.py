"""`/openai/v1/embeddings`: texts in, one vector each out.

Source: OpenAI API, "Create embeddings".
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inference.gateway.catalog import Offer
from inference.gateway.config import EMBEDDING_TEXTS_MAX
from inference.gateway.errors import ParameterError
from inference.gateway.protocols.openai_parameters import (
    Head,
    Plan,
    check_row,
    count_tokens,
    drop_idle,
    find_only,
    require_task,
)
from strongroom.interface import Interface, Output

TASK = "feature-extraction"
_KNOWN = frozenset({"model", "input", "encoding_format", "dimensions"})
_FORMATS = ("float", "base64")


def plan(document: Mapping[str, Any], offer: Offer) -> Plan:
    """One row for each text.

    Raises:
        ParameterError: What cannot be honoured, by name.
    """
    wanted = drop_idle(document, _KNOWN)
    require_task(offer, TASK)
    interface = offer.interface
    spoken = [one for one in interface.inputs if one.kind == "text" and not one.format]
    text = find_only(spoken, offer)
    vector = find_only(_list_vectors(interface), offer)
    (shape,) = (one.shape for one in interface.outputs if one.name == vector)
    is_base64 = _read_format(wanted.get("encoding_format", "float"))
    if "dimensions" in wanted and not _is_length(wanted["dimensions"], shape[0]):
        raise ParameterError("dimensions", f"The vectors of {offer.model} have {shape[0]} numbers.")
    texts = _read_texts(wanted.get("input"))
    rows = [
        check_row(interface, {text: one}, {text: "input"}, f"[{index}]")
        for index, one in enumerate(texts)
    ]

    def render(decoded: Sequence[Mapping[str, Any]], head: Head) -> dict[str, Any]:
        vectors = [row[vector] for row in decoded]
        # A client reads the member always; 0 says that the model does not count.
        tokens = count_tokens(decoded, "tokens_in") or 0
        return {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _to_base64(one) if is_base64 else one,
                }
                for index, one in enumerate(vectors)
            ],
            "model": head.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    return Plan(rows, render)


def _list_vectors(interface: Interface) -> list[Output]:
    return [
        one
        for one in interface.visible_outputs
        if one.kind == "tensor" and one.datatype == "FP32" and len(one.shape) == 1
    ]


def _read_format(value: Any) -> bool:
    if value not in _FORMATS:
        raise ParameterError("encoding_format", "Must be float or base64.")
    return bool(value == "base64")


def _is_length(value: Any, length: int) -> bool:
    return type(value) is int and value == length


def _read_texts(value: Any) -> list[Any]:
    texts = value if isinstance(value, list) else [value]
    if not 1 <= len(texts) <= EMBEDDING_TEXTS_MAX:
        raise ParameterError("input", f"Must have 1 to {EMBEDDING_TEXTS_MAX} texts.")
    if any(not isinstance(one, str) for one in texts):
        raise ParameterError("input", "Must be a text or a list of texts; tokens are not taken.")
    return texts


def _to_base64(vector: Sequence[float]) -> str:
    return base64.b64encode(np.array(vector, dtype="<f4").tobytes()).decode()
