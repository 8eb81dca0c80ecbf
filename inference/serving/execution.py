"""Answer a batch of requests, each by itself where it matters.

Requests that fit together run in one call. If that call fails, each runs alone, so that
an input which breaks the model breaks its own request only. An answer that is not a
finite number is an error of the request it belongs to: nobody should pay for a NaN.

This runs for every prediction, so the usual case, one group without faults, is short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference.serving.errors import CancelledError, RequestError
from inference.serving.runtimes.base import Arrays, Runtime
from strongroom.interface import Interface


@dataclass(slots=True)
class _Call:
    """One request on its way through."""

    request: Any
    arrays: Arrays
    response: Any = None

    @property
    def rows(self) -> int:
        return len(self.arrays[0])

    @property
    def fit(self) -> tuple[tuple[int, ...], ...]:
        """Requests with the same value can be joined along the first axis."""
        return tuple(array.shape[1:] for array in self.arrays)


class Executor:
    """Runs requests of Triton's on a runtime.

    Args:
        runtime: The built model.
        interface: Names of inputs and outputs, in the runtime's order.
        pb_utils: Triton's module, which only exists inside the stub.
    """

    def __init__(self, runtime: Runtime, interface: Interface, pb_utils: Any) -> None:
        self._runtime = runtime
        self._pb = pb_utils
        self._input_names = [one.name for one in interface.inputs]
        self._outputs = interface.wire_outputs
        self._float_outputs = [
            index for index, one in enumerate(self._outputs) if one.datatype in ("FP32", "FP64")
        ]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request, in order; never raises."""
        calls = [self._read(request) for request in requests]
        groups: dict[Any, list[_Call]] = {}
        for call in calls:
            if call.response is None:
                groups.setdefault(call.fit, []).append(call)
        for group in groups.values():
            if self._runtime.can_batch and len(group) > 1:
                self._run_joined(group)
            else:
                for call in group:
                    self._run_alone(call)
        return [call.response for call in calls]

    def _read(self, request: Any) -> _Call:
        # Whether it was cancelled is not asked here: Triton answers that through another
        # process, which takes longer than a small model does.
        try:
            get = self._pb.get_input_tensor_by_name
            arrays = [get(request, name).as_numpy() for name in self._input_names]
        except BaseException:  # noqa: BLE001 - one unreadable request must not end the others
            error = RequestError("input_invalid", "An input is missing.", is_input_fault=True)
            return _Call(request, [], self._refuse(error))
        return _Call(request, arrays)

    def _run_joined(self, group: Sequence[_Call]) -> None:
        columns = zip(*(call.arrays for call in group), strict=True)
        joined = [np.concatenate(column) for column in columns]
        try:
            outputs = self._runtime.run(joined, _all_cancelled(group))
        except BaseException:  # noqa: BLE001 - whatever it is, it may be one request's fault
            for call in group:
                self._run_alone(call)
            return
        begin = 0
        for call in group:
            end = begin + call.rows
            self._answer(call, [output[begin:end] for output in outputs])
            begin = end

    def _run_alone(self, call: _Call) -> None:
        try:
            outputs = self._runtime.run(call.arrays, call.request.is_cancelled)
        except RequestError as error:
            call.response = self._refuse(error)
        except MemoryError:
            detail = "The input needs more memory than there is."
            call.response = self._refuse(RequestError("out_of_memory", detail))
        except BaseException as error:  # noqa: BLE001 - the text could quote an input
            detail = f"The model failed on this input ({type(error).__name__})."
            call.response = self._refuse(RequestError("model_failed", detail))
        else:
            self._answer(call, outputs)

    def _answer(self, call: _Call, outputs: Arrays) -> None:
        for index in self._float_outputs:
            if not np.isfinite(outputs[index]).all():
                name = self._outputs[index].name
                detail = f"The output {name} holds a value that is not a finite number."
                call.response = self._refuse(RequestError("output_not_finite", detail))
                return
        tensor = self._pb.Tensor
        call.response = self._pb.InferenceResponse(
            [tensor(one.name, array) for one, array in zip(self._outputs, outputs, strict=True)]
        )

    def _refuse(self, error: RequestError) -> Any:
        kinds = self._pb.TritonError
        code = kinds.INTERNAL
        if isinstance(error, CancelledError):
            code = kinds.CANCELLED
        elif error.is_input_fault:
            code = kinds.INVALID_ARG
        return self._pb.InferenceResponse([], error=kinds(str(error), code))


def _all_cancelled(group: Sequence[_Call]) -> Callable[[], bool]:
    def check() -> bool:
        return all(call.request.is_cancelled() for call in group)

    return check
