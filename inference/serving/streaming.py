"""Answer requests of a model that streams: with pieces, or with all at once.

Triton calls such a model decoupled: it sends responses through a sender, as many as it wants,
and at last that there are no more. A request that does not ask for pieces gets one
response, the same that a model without streams gives. Whatever happens, the end is
told: without it Triton would keep the request, and its caller, for ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from inference.serving.errors import CancelledError, RequestError
from inference.serving.runtimes.base import Arrays, IsCancelled, StreamingRuntime
from inference.triton.errors import INPUT_FAULT_MARK
from inference.triton.tensors import STREAM_PARAMETER
from strongroom.interface import Interface


class StreamExecutor:
    """Runs requests of Triton's on a runtime, one after the other.

    Args:
        runtime: The built model.
        interface: Names of inputs and outputs, in the runtime's order.
        pb_utils: Triton's module, which only exists inside the stub.
    """

    def __init__(self, runtime: StreamingRuntime, interface: Interface, pb_utils: Any) -> None:
        self._runtime = runtime
        self._pb = pb_utils
        self._input_names = [one.name for one in interface.inputs]
        self._outputs = interface.wire_outputs

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer each request through its sender; never raises."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._answer(request, sender)
            except RequestError as error:
                sender.send(self._refuse(error))
            except MemoryError:
                detail = "The input needs more memory than there is."
                sender.send(self._refuse(RequestError("out_of_memory", detail)))
            except BaseException as error:  # noqa: BLE001 - the text could quote an input
                detail = f"The model failed on this input ({type(error).__name__})."
                sender.send(self._refuse(RequestError("model_failed", detail)))
            # Alone: no piece has to wait until it is known whether another one follows.
            sender.send(flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _answer(self, request: Any, sender: Any) -> None:
        inputs = self._read(request)
        is_cancelled: IsCancelled = sender.is_cancelled
        if not _wants_pieces(request):
            names = [one.name for one in self._outputs]
            arrays = self._runtime.run(inputs, is_cancelled)
            sender.send(self._make_response(dict(zip(names, arrays, strict=True))))
            return
        for part in self._runtime.stream(inputs, is_cancelled):
            sender.send(self._make_response(part))

    def _read(self, request: Any) -> Arrays:
        try:
            get = self._pb.get_input_tensor_by_name
            return [get(request, name).as_numpy() for name in self._input_names]
        except BaseException:  # noqa: BLE001 - it may be anything that Triton has let through
            raise RequestError(
                "input_invalid", "An input is missing.", is_input_fault=True
            ) from None

    def _make_response(self, arrays: dict[str, np.ndarray]) -> Any:
        tensor = self._pb.Tensor
        return self._pb.InferenceResponse(
            [tensor(one.name, arrays[one.name]) for one in self._outputs if one.name in arrays]
        )

    def _refuse(self, error: RequestError) -> Any:
        kinds = self._pb.TritonError
        if isinstance(error, CancelledError):
            return self._pb.InferenceResponse([], error=kinds(str(error), kinds.CANCELLED))
        # Triton's stream carries an error's text and not its code.
        mark = INPUT_FAULT_MARK if error.is_input_fault else ""
        return self._pb.InferenceResponse([], error=kinds(f"{mark}{error}", kinds.INTERNAL))


def _wants_pieces(request: Any) -> bool:
    """Whether the parameter is set; Triton hands parameters over as JSON."""
    try:
        return json.loads(request.parameters() or "{}").get(STREAM_PARAMETER) is True
    except (ValueError, AttributeError):
        return False
