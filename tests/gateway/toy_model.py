"""A model for Triton's python backend that does what its input says."""

import os
import time

import numpy as np
import triton_python_backend_utils as pb_utils

LABELS = 3


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        """Triton joins the calls of several gateways: as with a real loader, each stands alone."""
        try:
            return self.run(request)
        except RuntimeError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))

    def run(self, request):
        x = _read(request, "x")
        note = _read(request, "note")
        modes = [one.decode() for one in _read(request, "mode")[:, 0]]
        time.sleep(float(_read(request, "wait_s").max()))
        # As a real model: one row that it cannot take spoils the call.
        if "fail" in modes:
            raise RuntimeError("the model fails, at /secret/path")
        if "die" in modes:
            os._exit(1)
        y = x * 2
        y[[mode == "nan" for mode in modes]] = np.nan
        scores = np.zeros((len(x), LABELS), dtype=np.float32)
        scores[:, 1] = 0.75
        secret = x[:, :1] + 7
        outputs = [("y", y), ("scores", scores), ("secret", secret), ("echo", note)]
        if "short" in modes:
            outputs.pop()
        return pb_utils.InferenceResponse([pb_utils.Tensor(*one) for one in outputs])


def _read(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
