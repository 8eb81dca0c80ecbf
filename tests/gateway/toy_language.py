"""A model for Triton's python backend that embeds, writes or tells, as its interface says.

A prompt of the teller is words, which it says again, and settings among them: `repeat=9`
says the words so often, `pause=0.1` waits before each, `lead=1` before the first, `fail=2`
fails and `die=2` ends the process after so many. What it has done stands in Triton's log.
Of a conversation it says every turn.
"""

import json
import os
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        policy = json.loads(args["model_config"]).get("model_transaction_policy", {})
        self.streams = policy.get("decoupled", False)

    def execute(self, requests):
        if self.streams:
            for request in requests:
                _tell(request)
            return None
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


def _tell(request):
    (prompt,) = _read(request, "prompt")
    settings = dict(word.split("=", 1) for word in prompt.split(" ") if "=" in word)
    words = [word for word in prompt.split(" ") if "=" not in word]
    for messages in filter(None, _read(request, "messages")):
        words = [f"{one['role']}:{one['content']}" for one in json.loads(messages)]
    words *= int(settings.get("repeat", 1))
    sender = request.get_response_sender()
    in_pieces = json.loads(request.parameters() or "{}").get("stream", False)
    said = []
    time.sleep(float(settings.get("lead", 0)))
    for word in words[: int(_number(request, "max_new_tokens"))]:
        time.sleep(float(settings.get("pause", 0)))
        if str(len(said)) == settings.get("die"):
            os._exit(1)
        if str(len(said)) == settings.get("fail"):
            error = pb_utils.TritonError("the model fails, at /secret/path")
            return _send(sender, error=error)
        if sender.is_cancelled():
            print(f"TELLER {settings.get('name')} stopped after {len(said)}", flush=True)
            return _send(sender, error=pb_utils.TritonError("cancelled"))
        said.append(word)
        if in_pieces:
            piece = word if len(said) == 1 else f" {word}"
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("text", _texts(piece))]))
    print(f"TELLER {settings.get('name')} ended after {len(said)}", flush=True)
    text = "" if in_pieces else " ".join(said)
    outputs = {"text": _texts(text), "tokens_in": np.array([[len(prompt.split(" "))]])}
    outputs["tokens_out"] = np.array([[len(said)]])
    if settings.get("short"):
        del outputs["tokens_out"]
    return _send(sender, outputs)


def _send(sender, outputs=None, error=None):
    tensors = [pb_utils.Tensor(name, array) for name, array in (outputs or {}).items()]
    sender.send(pb_utils.InferenceResponse(tensors, error=error))
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _number(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy().ravel()[0]


def _texts(text):
    return np.array([[text.encode()]], dtype=object)


def _read(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else [one.decode() for one in tensor.as_numpy().ravel()]
