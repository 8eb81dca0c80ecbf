"""A model for Triton's python backend that does what its input says."""

import os
import time

import numpy as np
import triton_python_backend_utils as pb_utils

LABELS = 3


class TritonPythonModel:
    def execute(self, requests):
        return [self.run(request) for request in requests]

    def run(self, request):
        x = _read(request, "x")
        note = _read(request, "note")
        mode = _read(request, "mode")[0, 0].decode()
        time.sleep(float(_read(request, "wait_s")[0, 0]))
        if mode == "fail":
            raise RuntimeError("the model fails, at /secret/path")
        if mode == "die":
            os._exit(1)
        y = x * 2
        if mode == "nan":
            y = y * np.float32("nan")
        scores = np.zeros((len(x), LABELS), dtype=np.float32)
        scores[:, 1] = 0.75
        secret = x[:, :1] + 7
        outputs = [("y", y), ("scores", scores), ("secret", secret), ("echo", note)]
        if mode == "short":
            outputs.pop()
        return pb_utils.InferenceResponse([pb_utils.Tensor(*one) for one in outputs])


def _read(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
