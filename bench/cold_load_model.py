"""What a person would write to serve the same model without sealing: a model.py for Triton.

Copied into a model's folder by `bench.cold_load`. The configuration names the plain folder
and how its weights are read: by safetensors, or by tensorizer from an encrypted file.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class TritonPythonModel:
    """What Triton's python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the weights, and note how long each step took."""
        begin = time.monotonic()
        parameters = json.loads(args["model_config"])["parameters"]
        settings = json.loads(parameters["settings"]["string_value"])
        sys.path[:0] = settings["path"]
        if not settings["collects"]:
            gc.disable()
        import numpy
        import tokenizers
        import torch
        import triton_python_backend_utils
        from transformers import LlamaConfig, LlamaForCausalLM

        self._torch, self._numpy = torch, numpy
        self._pb_utils: Any = triton_python_backend_utils
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        folder = Path(settings["folder"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        if not settings["collects"]:
            gc.freeze()
            gc.enable()
        imported = time.monotonic()
        with torch.device("meta"):
            model: Any = LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).to(torch.bfloat16)
        if settings["by"] == "safetensors":
            self._fill_by_safetensors(model, folder / "model.safetensors")
        else:
            self._fill_by_tensorizer(model, Path(settings["file"]), bytes.fromhex(settings["key"]))
        model.tie_weights()
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
        self._model = model.eval()
        steps = {"import_s": imported - begin, "weights_s": time.monotonic() - imported}
        Path(settings["steps"]).write_text(json.dumps(steps))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Continue each prompt with the likeliest tokens."""
        return [self._answer(request) for request in requests]

    def _fill_by_safetensors(self, model: Any, path: Path) -> None:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(path), strict=False, assign=True)

    def _fill_by_tensorizer(self, model: Any, path: Path, key: bytes) -> None:
        from tensorizer import DecryptionParams, TensorDeserializer

        decryption = DecryptionParams.from_key(key)
        with TensorDeserializer(str(path), device="cpu", encryption=decryption) as source:
            source.load_into_module(model)

    def _answer(self, request: Any) -> Any:
        pb_utils, torch, numpy = self._pb_utils, self._torch, self._numpy
        prompt = pb_utils.get_input_tensor_by_name(request, "prompt").as_numpy()[0, 0].decode()
        limit = pb_utils.get_input_tensor_by_name(request, "max_new_tokens").as_numpy()[0, 0]
        ids = torch.tensor([self._tokenizer.encode(prompt).ids])
        with torch.inference_mode():
            whole = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=int(limit),
                do_sample=False,
            )
        new = whole[0, ids.shape[1] :].tolist()
        text = self._tokenizer.decode(new, skip_special_tokens=True).encode()
        answer = numpy.array([[text]], dtype=object)
        return pb_utils.InferenceResponse([pb_utils.Tensor("text", answer)])
