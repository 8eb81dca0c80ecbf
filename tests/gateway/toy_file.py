"""A model for Triton's python backend that says what it was given: how much, and its digest."""

import hashlib

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        octets = _read(request, "document")[0, 0]
        picture = _read(request, "picture")[0, 0]
        sizes = np.array([[len(octets)]], np.int64)
        digest = np.array([[hashlib.sha256(octets + picture).hexdigest().encode()]], np.object_)
        outputs = [("size", sizes), ("digest", digest)]
        return pb_utils.InferenceResponse([pb_utils.Tensor(*one) for one in outputs])


def _read(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
