"""How requests are joined and split, with a runtime and a Triton of paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from inference.serving.errors import CancelledError, RequestError
from inference.serving.execution import Executor
from strongroom.interface import Interface

INTERFACE = Interface.parse(
    {
        "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [-1]}],
        "batch": {"max_size": 8, "leading_axis": True},
    }
)


class PaperError:
    INTERNAL, INVALID_ARG, CANCELLED = "internal", "invalid_arg", "cancelled"

    def __init__(self, message: str, code: str) -> None:
        self.message, self.code = message, code


@dataclass
class PaperTensor:
    name: str
    array: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.array


@dataclass
class PaperResponse:
    tensors: list[PaperTensor]
    error: PaperError | None = None


class Paper:
    """The part of triton_python_backend_utils that is used."""

    TritonError, Tensor, InferenceResponse = PaperError, PaperTensor, PaperResponse

    @staticmethod
    def get_input_tensor_by_name(request: Any, name: str) -> PaperTensor | None:
        return request.tensors.get(name)


@dataclass
class Request:
    tensors: dict[str, PaperTensor]
    is_gone: bool = False

    def is_cancelled(self) -> bool:
        return self.is_gone


def request(*rows: list[float], **more: Any) -> Request:
    return Request({"x": PaperTensor("x", np.array(rows, np.float32))}, **more)


@dataclass
class Doubling:
    """y = 2 x; a row that begins with -1 breaks the call it is in."""

    can_batch: bool = True
    can_be_cancelled: bool = False
    calls: list[int] = field(default_factory=list)
    failure: Exception = field(default_factory=lambda: ValueError("secret of a neighbour"))

    def run(self, inputs, is_cancelled):
        self.calls.append(len(inputs[0]))
        if self.can_be_cancelled and is_cancelled():
            raise CancelledError
        if (inputs[0][:, 0] == -1).any():
            raise self.failure
        with np.errstate(over="ignore"):
            return [2 * inputs[0]]


def execute(runtime: Doubling, *requests: Request) -> list[Any]:
    responses = Executor(runtime, INTERFACE, Paper).execute(requests)
    return [one.error.message if one.error else one.tensors[0].array.tolist() for one in responses]


def test_requests_that_fit_run_in_one_call_and_are_split_again():
    runtime = Doubling()

    answers = execute(runtime, request([1], [2]), request([3]), request([4], [5]))

    assert answers == [[[2], [4]], [[6]], [[8], [10]]]
    assert runtime.calls == [5]


def test_requests_of_other_shapes_run_by_themselves():
    runtime = Doubling()

    answers = execute(runtime, request([1]), request([1, 2]), request([3]))

    assert answers == [[[2]], [[2, 4]], [[6]]]
    assert sorted(runtime.calls) == [1, 2]


def test_model_that_does_not_batch_runs_each_request():
    runtime = Doubling(can_batch=False)

    assert execute(runtime, request([1]), request([2])) == [[[2]], [[4]]]
    assert runtime.calls == [1, 1]


def test_input_that_breaks_the_model_breaks_its_own_request():
    runtime = Doubling()

    answers = execute(runtime, request([1]), request([-1]), request([3]))

    assert answers == [[[2]], "model_failed: The model failed on this input (ValueError).", [[6]]]
    assert runtime.calls == [3, 1, 1, 1]


class Panic(BaseException):
    """What Rust's panics look like in Python."""


def test_panic_of_a_library_breaks_its_own_request_only():
    class Panicking(Doubling):
        def run(self, arrays, is_cancelled):
            if (arrays[0] < 0).any():
                raise Panic("quotes the input")
            return super().run(arrays, is_cancelled)

    answers = execute(Panicking(), request([1]), request([-1]), request([3]))

    assert answers == [[[2]], "model_failed: The model failed on this input (Panic).", [[6]]]


def test_value_that_is_not_finite_is_an_error_of_its_own_request():
    runtime = Doubling()
    large = 3e38

    answers = execute(runtime, request([1]), request([1], [large]), request([3]))

    assert answers[0] == [[2]]
    assert answers[1].startswith("output_not_finite: The output y ")
    assert answers[2] == [[6]]
    assert runtime.calls == [4]


def test_request_that_nobody_waits_for_is_cancelled_alone():
    runtime = Doubling(can_batch=False, can_be_cancelled=True)

    responses = Executor(runtime, INTERFACE, Paper).execute(
        [request([1], is_gone=True), request([2])]
    )

    assert (responses[0].error.code, responses[0].error.message) == (
        "cancelled",
        "cancelled: The request was cancelled.",
    )
    assert responses[1].tensors[0].array.tolist() == [[4]]


def test_joined_requests_go_on_while_anybody_waits():
    runtime = Doubling(can_be_cancelled=True)

    assert execute(runtime, request([1], is_gone=True), request([2])) == [[[2]], [[4]]]
    assert runtime.calls == [2]


def test_request_without_its_input_fails_alone():
    answers = execute(Doubling(), Request({}), request([2]))

    assert answers == ["input_invalid: An input is missing.", [[4]]]


@pytest.mark.parametrize(
    ("_failure", "_code", "_message"),
    [
        (
            RequestError("input_too_long", "Too long.", is_input_fault=True),
            "invalid_arg",
            "input_too_long: Too long.",
        ),
        (RequestError("output_invalid", "Odd."), "internal", "output_invalid: Odd."),
        (
            MemoryError(),
            "internal",
            "out_of_memory: The input needs more memory than there is.",
        ),
    ],
)
def test_kind_of_failure_reaches_triton(_failure, _code, _message):
    runtime = Doubling(failure=_failure)

    [response] = Executor(runtime, INTERFACE, Paper).execute([request([-1])])

    assert (response.error.code, response.error.message) == (_code, _message)


def test_text_of_an_unknown_failure_stays_inside():
    [answer] = execute(Doubling(), request([-1]))

    assert "secret" not in answer
