"""A model for Triton's python backend that answers every input as it came."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.run(request) for request in requests]

    def run(self, request):
        outputs = [
            pb_utils.Tensor(f"same_{one.name()}", one.as_numpy()) for one in request.inputs()
        ]
        return pb_utils.InferenceResponse(outputs)
