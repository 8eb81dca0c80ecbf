"""A model for Triton's python backend that makes as much sound and picture as it is asked for."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        length = int(_read(request, "length")[0, 0])
        level = _read(request, "level")[0, 0]
        side = int(_read(request, "side")[0, 0])
        sound = np.full((1, length), level, np.float32)
        picture = np.zeros((1, side, side, 3), np.uint8)
        picture[..., 0] = 255
        outputs = [("sound", sound), ("picture", picture)]
        return pb_utils.InferenceResponse([pb_utils.Tensor(*one) for one in outputs])


def _read(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
