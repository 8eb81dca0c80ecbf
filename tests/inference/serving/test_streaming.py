"""Answers in pieces, with a runtime and a Triton of paper: the end is always told."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from inference.serving.errors import CancelledError, RequestError
from inference.serving.streaming import StreamExecutor
from inference.triton.errors import INPUT_FAULT_MARK
from strongroom.interface import Interface
from tests.inference.serving.test_execution import Paper, PaperTensor

INTERFACE = Interface.parse(
    {
        "inputs": [{"name": "prompt", "kind": "text"}],
        "outputs": [
            {"name": "text", "kind": "text", "stream": True},
            {"name": "tokens_out", "kind": "integer"},
        ],
    }
)


class StreamPaper(Paper):
    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


@dataclass
class Sender:
    sent: list[tuple[Any, int]] = field(default_factory=list)
    is_gone: bool = False

    def send(self, response=None, flags=0):
        self.sent.append((response, flags))

    def is_cancelled(self):
        return self.is_gone


@dataclass
class Request:
    sender: Sender
    given: str = "{}"
    tensors: dict[str, PaperTensor] = field(
        default_factory=lambda: {"prompt": PaperTensor("prompt", np.array([[b"a"]], dtype=object))}
    )

    def get_response_sender(self):
        return self.sender

    def parameters(self):
        return self.given


@dataclass
class Telling:
    """Two pieces and the counters, or a failure after the first piece."""

    failure: BaseException | None = None

    def run(self, inputs, is_cancelled):
        if self.failure is not None:
            raise self.failure
        return [np.array([[b"ab"]], dtype=object), np.array([[2]])]

    def stream(self, inputs, is_cancelled):
        yield {"text": np.array([[b"a"]], dtype=object)}
        if self.failure is not None:
            raise self.failure
        yield {"text": np.array([[b"b"]], dtype=object)}
        yield {"text": np.array([[b""]], dtype=object), "tokens_out": np.array([[2]])}


def execute(runtime, *requests):
    assert StreamExecutor(runtime, INTERFACE, StreamPaper).execute(requests) is None
    for one in requests:
        assert one.sender.sent.pop() == (None, 1)
        assert {flags for _, flags in one.sender.sent} == {0}
    return [[response for response, _ in one.sender.sent] for one in requests]


def names(response):
    return [one.name for one in response.tensors]


PIECES = json.dumps({"stream": True})


def test_request_for_pieces_gets_each():
    [responses] = execute(Telling(), Request(Sender(), PIECES))

    assert [names(one) for one in responses] == [["text"], ["text"], ["text", "tokens_out"]]
    assert [one.tensors[0].array[0, 0] for one in responses] == [b"a", b"b", b""]


@pytest.mark.parametrize("_given", ["{}", "", '{"stream": false}', '{"stream": 1}', "[", "[]"])
def test_other_requests_get_one_answer(_given):
    [responses] = execute(Telling(), Request(Sender(), _given))

    assert [names(one) for one in responses] == [["text", "tokens_out"]]


@pytest.mark.parametrize("_given", ["{}", PIECES])
@pytest.mark.parametrize(
    ("_failure", "_message", "_code"),
    [
        (
            RequestError("input_too_long", "It has 9.", is_input_fault=True),
            f"{INPUT_FAULT_MARK}input_too_long: It has 9.",
            "internal",
        ),
        (CancelledError(), "cancelled: The request was cancelled.", "cancelled"),
        (MemoryError(), "out_of_memory: The input needs more memory than there is.", "internal"),
        (
            ValueError("secret of an input"),
            "model_failed: The model failed on this input (ValueError).",
            "internal",
        ),
        (
            KeyboardInterrupt(),
            "model_failed: The model failed on this input (KeyboardInterrupt).",
            "internal",
        ),
    ],
)
def test_failure_is_told_last(_given, _failure, _message, _code):
    [responses] = execute(Telling(_failure), Request(Sender(), _given))

    assert (responses[-1].error.message, responses[-1].error.code) == (_message, _code)
    # What was made before it has gone out.
    assert [names(one) for one in responses[:-1]] == ([["text"]] if _given == PIECES else [])


def test_missing_input_fails_its_own_request_only():
    broken = Request(Sender(), PIECES, {})

    [failed, answered] = execute(Telling(), broken, Request(Sender(), PIECES))

    assert failed[-1].error.message.startswith(f"{INPUT_FAULT_MARK}input_invalid")
    assert len(answered) == 3
