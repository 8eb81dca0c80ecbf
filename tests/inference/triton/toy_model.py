"""A plain model for the tests of what surrounds it: doubles, echoes, and fails on request."""

import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.purpose = parameters["purpose"]["string_value"]
        if self.purpose == "scan":
            raise RuntimeError("reason_code_of_the_loader")

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        if b"fail" in text[0]:
            error = pb_utils.TritonError("model_failed: It went wrong.")
            return pb_utils.InferenceResponse(error=error)
        if b"sleep" in text[0]:
            time.sleep(1.5)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("y", x * np.float32(2)),
                pb_utils.Tensor("echo", np.array(text, dtype=object)),
            ]
        )
