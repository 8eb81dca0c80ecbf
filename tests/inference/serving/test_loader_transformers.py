"""Sealed language models in a real tritonserver, compared with transformers itself."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc

from inference.gateway.triton_stream import TritonStreams
from inference.triton import tensors
from inference.triton.control import TritonControl
from inference.triton.errors import (
    ModelNotReadyError,
    TensorError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from inference.triton.tensors import Tensor
from strongroom.interface import Interface
from tests.inference.serving import builders
from tests.inference.serving.sealed import seal

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_generated_text_is_the_librarys(triton, load, parts):
    sealed = seal(
        parts,
        builders.llama_files(),
        runtime="transformers",
        interface=builders.GENERATION_INTERFACE,
    )
    name, peer = load(sealed)
    prompts = ["hello world the", "the cat"]

    answer = triton.infer(
        name,
        prompt=np.array([[one.encode()] for one in prompts], dtype=object),
        max_new_tokens=np.array([[12], [5]]),
        temperature=np.zeros((2, 1), np.float32),
        seed=np.full((2, 1), -1),
    )

    tokenizer, model = builders.byte_tokenizer(), builders.llama()
    for row, (prompt, limit) in enumerate(zip(prompts, (12, 5), strict=True)):
        ids = torch.tensor([tokenizer.encode(prompt).ids])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False
        )
        new = whole[0, ids.shape[1] :].tolist()
        is_stopped = new[-1] == 1
        new = new[: len(new) - is_stopped]
        assert answer["text"][row, 0].decode() == tokenizer.decode(new)
        assert answer["tokens_in"][row, 0] == ids.shape[1]
        assert answer["tokens_out"][row, 0] == len(new)
        assert answer["finish_reason"][row, 0] == (b"stop" if is_stopped else b"length")
    validation = peer.find("validation")
    assert validation["architecture"] == "LlamaForCausalLM"
    assert validation["parameters"] == sum(one.numel() for one in model.parameters())


def test_embeddings_are_the_librarys(triton, load, parts):
    sealed = seal(
        parts,
        builders.bert_files(),
        runtime="transformers",
        interface=builders.EMBEDDING_INTERFACE,
        task="feature-extraction",
    )
    name, _ = load(sealed)
    texts = ["hello world", "the cat sat on the mat and looked at the dog", ""]

    answer = triton.infer(name, text=np.array([[one.encode()] for one in texts], dtype=object))

    for row, text in enumerate(texts):
        ids = torch.tensor([builders.word_tokenizer().encode(text).ids])
        with torch.inference_mode():
            mean = builders.bert()(ids).last_hidden_state[0].mean(0)
        expected = torch.nn.functional.normalize(mean, dim=0).numpy()
        assert np.allclose(answer["embedding"][row], expected, atol=1e-6)
        assert answer["tokens_in"][row, 0] == ids.shape[1]


def test_cancelled_request_frees_the_model(triton, load, parts):
    interface = copy.deepcopy(builders.GENERATION_INTERFACE)
    interface["inputs"][1]["maximum"] = 6000
    sealed = seal(
        parts,
        # Only the rotary positions depend on it: the same weights have a longer context.
        builders.llama_files(max_position_embeddings=8000, eos_token_id=None),
        runtime="transformers",
        interface=interface,
    )
    name, _ = load(sealed)
    finished: list[Any] = []

    def inputs(limit: int) -> list[grpc.InferInput]:
        values = {
            "prompt": np.array([[b"hello"]], dtype=object),
            "max_new_tokens": np.array([[limit]]),
            "temperature": np.zeros((1, 1), np.float32),
            "seed": np.array([[-1]]),
        }
        kinds = ("BYTES", "INT64", "FP32", "INT64")
        made = []
        for (key, value), kind in zip(values.items(), kinds, strict=True):
            made.append(grpc.InferInput(key, [1, 1], kind))
            made[-1].set_data_from_numpy(value)
        return made

    with grpc.InferenceServerClient(triton.config.grpc_url) as client:
        long = client.async_infer(name, inputs(6000), lambda result, error: finished.append(error))
        time.sleep(0.5)
        assert finished == []
        long.cancel()

        begin = time.monotonic()
        short = client.infer(name, inputs(3), client_timeout=60)
        waited_s = time.monotonic() - begin

    assert short.as_numpy("tokens_out").tolist() == [[3]]
    # Six thousand tokens take this model a quarter of a minute.
    assert waited_s < 5
    assert "CANCELLED" in str(finished[0])


def test_sealed_model_streams_and_stops(triton, load, parts):
    interface = copy.deepcopy(builders.GENERATION_INTERFACE)
    interface["inputs"][1]["maximum"] = 6000
    interface["outputs"][0]["stream"] = True
    interface["batch"]["max_size"] = 1
    sealed = seal(
        parts,
        builders.llama_files(max_position_embeddings=8000, eos_token_id=None),
        runtime="transformers",
        interface=interface,
    )
    name, _ = load(sealed)
    parsed = Interface.parse(interface)
    outputs = [one.name for one in parsed.wire_outputs]

    def inputs(limit: int) -> list[Tensor]:
        row = {"prompt": "hello", "max_new_tokens": limit, "temperature": 0.0, "seed": -1}
        return tensors.encode(parsed, [row])

    async def read(limit: int, *, until: int) -> list[dict[str, np.ndarray]]:
        streams = TritonStreams()
        found = streams.stream(
            triton.config.grpc_url, name, inputs(limit), outputs, deadline_s=time.monotonic() + 60
        )
        parts = []
        async with contextlib.aclosing(found):
            async for part in found:
                parts.append(part)
                if len(parts) == until:
                    break
        await streams.close()
        return parts

    pieces = asyncio.run(read(20, until=1000))
    assert len(asyncio.run(read(6000, until=3))) == 3
    begin = time.monotonic()
    with TritonControl(triton.config.grpc_url, "") as control:
        whole = control.infer_streaming(name, inputs(20), outputs, timeout_s=60)
        waited_s = time.monotonic() - begin
        with pytest.raises(TensorError):
            control.infer_streaming(
                name,
                tensors.encode(
                    parsed,
                    [{"prompt": "a" * 8001, "max_new_tokens": 1, "temperature": 0, "seed": -1}],
                ),
                outputs,
                timeout_s=60,
            )
        with pytest.raises(TritonDeadlineError):
            control.infer_streaming(name, inputs(6000), outputs, timeout_s=0.5)
        with pytest.raises(ModelNotReadyError):
            control.infer_streaming(f"r{0:032x}", inputs(6000), outputs, timeout_s=5)
    with (
        TritonControl("127.0.0.1:1", "") as control,
        pytest.raises(TritonUnavailableError),
    ):
        control.infer_streaming(name, inputs(1), outputs, timeout_s=2)

    assert len(pieces) > 2
    assert b"".join(one["text"][0, 0] for one in pieces) == whole["text"][0, 0]
    assert pieces[-1]["tokens_out"] == whole["tokens_out"] == 20
    assert pieces[-1]["finish_reason"][0, 0] == b"length"
    # Six thousand tokens take this model a quarter of a minute.
    assert waited_s < 5
