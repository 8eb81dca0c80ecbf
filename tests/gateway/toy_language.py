"""A model for Triton's python backend that embeds or writes, as its interface says."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.run(request) for request in requests]

    def run(self, request):
        run = _embed if _read(request, "text") else _write
        return pb_utils.InferenceResponse([pb_utils.Tensor(*one) for one in run(request)])


def _embed(request):
    texts = _read(request, "text")
    if "fail" in texts:
        raise RuntimeError("the model fails, at /secret/path")
    if "slow" in texts:
        time.sleep(0.6)
    vectors = [[len(text), 0.1, len(texts)] for text in texts]
    yield "embedding", np.array(vectors, dtype=np.float32)
    yield "tokens_in", np.array([[len(text.split())] for text in texts])


def _write(request):
    """As many words as are allowed of: what was asked, and how."""
    (prompt,) = _read(request, "prompt")
    if prompt == "fail":
        raise RuntimeError("the model fails, at /secret/path")
    said = [name + "=" + str(_number(request, name)) for name in ("temperature", "seed")]
    words = [*_read(request, "system_prompt")[0].split(), *prompt.split(), *said]
    kept = words[: int(_number(request, "max_new_tokens"))]
    yield "text", _texts(" ".join(kept))
    yield "tokens_in", np.array([[len(prompt.split())]])
    yield "tokens_out", np.array([[len(kept)]])


def _number(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel()[0]


def _texts(text):
    return np.array([[text.encode()]], dtype=object)


def _read(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else [one.decode() for one in tensor.as_numpy().ravel()]
