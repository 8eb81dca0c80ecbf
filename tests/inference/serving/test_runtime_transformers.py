"""The transformers runtime by itself, without Triton and without a sandbox."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from transformers import (
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from inference.artifact.errors import ArtifactError
from inference.serving.decryption import PlainFile
from inference.serving.errors import CancelledError, RequestError
from inference.serving.memory import PlainBuffer
from inference.serving.runtimes.transformers import MAX_NEW_TOKENS, TransformersRuntime
from strongroom.interface import Interface
from tests.inference.serving import builders

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def plain(path: str, kind: str, content: bytes) -> PlainFile:
    buffer = PlainBuffer(len(content))
    buffer.view[:] = content
    return PlainFile(path, kind, buffer)


def build(files: builders.Files, interface: dict[str, Any]) -> TransformersRuntime:
    runtime = TransformersRuntime(threads=2)
    runtime.import_libraries()
    runtime.validate([plain(path, *one) for path, one in files.items()], Interface.parse(interface))
    runtime.build()
    return runtime


def never() -> bool:
    return False


def ask(
    runtime: TransformersRuntime,
    prompt: str = "hello world the",
    *,
    max_new_tokens: int = 12,
    temperature: float = 0.0,
    seed: int = -1,
    is_cancelled: Callable[[], bool] = never,
) -> dict[str, Any]:
    inputs = [
        np.array([[prompt.encode()]], dtype=object),
        np.array([[max_new_tokens]]),
        np.array([[temperature]], np.float32),
        np.array([[seed]]),
    ]
    names = [one["name"] for one in builders.GENERATION_INTERFACE["outputs"]]
    values = [one[0, 0] for one in runtime.run(inputs, is_cancelled)]
    return dict(zip(names, values, strict=True))


@pytest.fixture(scope="module")
def llama() -> TransformersRuntime:
    return build(builders.llama_files(), builders.GENERATION_INTERFACE)


# --- Classes ---

_DECODER = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}
_DECODERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_DECODER)),
    "llama_scaled": lambda: LlamaForCausalLM(
        LlamaConfig(
            **_DECODER,
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_DECODER, sliding_window=8)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_DECODER, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_positions=96, n_embd=32, n_layer=2, n_head=4)
    ),
}
_ENCODER = {name: one for name, one in _DECODER.items() if name != "num_key_value_heads"}
_ENCODERS = {
    "roberta": lambda: RobertaModel(RobertaConfig(**_ENCODER, pad_token_id=0)),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(
            vocab_size=300, dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=96
        )
    ),
}


def files_of(model: Any, tokenizer: Any) -> builders.Files:
    tensors = {name: one.contiguous() for name, one in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    # Positions beyond the tokenizer's last number would end an answer early.
    config |= {"eos_token_id": None, "bos_token_id": None}
    return builders._files(config, save(tensors), tokenizer)


@pytest.mark.parametrize("_class", _DECODERS)
def test_every_decoder_generates_like_the_library(_class):
    torch.manual_seed(3)
    model = _DECODERS[_class]().eval()
    model.generation_config.eos_token_id = None
    tokenizer = builders.byte_tokenizer()
    ids = torch.tensor([tokenizer.encode("the cat sat on the mat").ids])
    runtime = build(files_of(model, tokenizer), builders.GENERATION_INTERFACE)

    answer = ask(runtime, "the cat sat on the mat", max_new_tokens=20)

    whole = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
    )
    assert answer["text"].decode() == tokenizer.decode(whole[0, ids.shape[1] :].tolist())
    assert answer["tokens_out"] == 20


@pytest.mark.parametrize("_class", _ENCODERS)
def test_every_encoder_embeds_like_the_library(_class):
    torch.manual_seed(4)
    model = _ENCODERS[_class]().eval()
    tokenizer = builders.word_tokenizer()
    runtime = build(files_of(model, tokenizer), builders.EMBEDDING_INTERFACE)
    texts = ["the cat", "hello world the dog looked at the mat"]

    vectors, counts = runtime.run(
        [np.array([[one.encode()] for one in texts], dtype=object)], never
    )

    for row, text in enumerate(texts):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            mean = model(ids).last_hidden_state[0].mean(0)
        assert np.allclose(vectors[row], (mean / mean.norm()).numpy(), atol=1e-6)
        assert counts[row, 0] == ids.shape[1]


# --- Weights ---


def test_tensors_lie_in_the_decrypted_file():
    files = [plain(path, *one) for path, one in builders.llama_files().items()]
    runtime = TransformersRuntime(threads=1)
    runtime.import_libraries()
    runtime.validate(files, Interface.parse(builders.GENERATION_INTERFACE))
    runtime.build()

    view = next(one for one in files if one.kind == "safetensors").data
    begin = ctypes.addressof(ctypes.c_char.from_buffer(view))
    places = [one.data_ptr() for one in runtime._model.parameters()]
    assert all(begin < place < begin + len(view) for place in places)
    assert not [one for one in runtime._model.buffers() if one.is_meta]


def repack(content: bytes, change: Callable[[dict[str, Any]], None], *, pad: int = 0) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    change(header)
    raw = json.dumps(header).encode()
    raw += b" " * ((pad - len(raw)) % 8)
    return len(raw).to_bytes(8, "little") + raw + content[8 + size :]


@pytest.mark.parametrize("_odd", [0, 1, 3, 7])
def test_header_of_any_length_is_served(llama, _odd):
    files = builders.llama_files()
    kind, content = files["model.safetensors"]
    files["model.safetensors"] = (kind, repack(content, lambda _: None, pad=_odd))

    runtime = build(files, builders.GENERATION_INTERFACE)

    assert ask(runtime) == ask(llama)


def test_weights_may_come_in_several_files(llama):
    files = builders.llama_files()
    tensors = {
        name: one for name, one in builders.llama().state_dict().items() if name != "lm_head.weight"
    }
    del files["model.safetensors"]
    for index, part in enumerate((0, 1)):
        some = {name: one for at, (name, one) in enumerate(tensors.items()) if at % 2 == part}
        files[f"model-{index}.safetensors"] = ("safetensors", save(some))

    assert ask(build(files, builders.GENERATION_INTERFACE)) == ask(llama)


def _rename(header: dict[str, Any]) -> None:
    header["model.norm.wait"] = header.pop("model.norm.weight")


def _reshape(header: dict[str, Any]) -> None:
    header["model.norm.weight"]["shape"] = [1, 32]


def _retype(header: dict[str, Any]) -> None:
    header["model.norm.weight"]["dtype"] = "I32"


@pytest.mark.parametrize("_change", [_rename, _reshape, _retype])
def test_weights_must_be_those_of_the_architecture(_change):
    files = builders.llama_files()
    kind, content = files["model.safetensors"]
    files["model.safetensors"] = (kind, repack(content, _change))

    with pytest.raises(ArtifactError, match="weights_mismatch"):
        build(files, builders.GENERATION_INTERFACE)


def test_tensor_in_two_files_is_refused():
    files = builders.llama_files()
    files["again.safetensors"] = files["model.safetensors"]

    with pytest.raises(ArtifactError, match="safetensors_duplicate_key"):
        build(files, builders.GENERATION_INTERFACE)


def test_leftovers_of_older_versions_are_passed_over():
    tensors = builders.bert().state_dict() | {
        "embeddings.position_ids": torch.arange(24).unsqueeze(0)
    }
    files = builders.bert_files()
    files["model.safetensors"] = ("safetensors", save(tensors))

    runtime = build(files, builders.EMBEDDING_INTERFACE)

    assert runtime.run([np.array([[b"the cat"]], dtype=object)], never)[1].tolist() == [[4]]


# --- Generation ---


def test_request_may_not_want_more_than_the_interface_allows(llama):
    assert ask(llama, max_new_tokens=20)["tokens_out"] == 20
    assert ask(llama, max_new_tokens=10_000)["tokens_out"] == 20
    assert MAX_NEW_TOKENS > 20


def test_context_has_an_end(llama):
    def prompt_of(tokens: int) -> str:
        text = "z" * tokens
        assert len(builders.byte_tokenizer().encode(text).ids) == tokens
        return text

    full = ask(llama, prompt_of(95), max_new_tokens=20)
    assert (full["tokens_in"], full["tokens_out"], full["finish_reason"]) == (95, 1, b"length")
    with pytest.raises(RequestError) as caught:
        ask(llama, prompt_of(96))
    assert caught.value.reason_code == "input_too_long"
    assert caught.value.is_input_fault
    with pytest.raises(RequestError, match="input_too_long"):
        ask(llama, "")


def test_cancelled_generation_stops_between_two_tokens(llama):
    asked = 0

    def after_three() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(CancelledError):
        ask(llama, max_new_tokens=20, is_cancelled=after_three)

    assert asked == 4


def test_end_token_ends_the_answer(llama):
    first = builders.byte_tokenizer().encode(ask(llama, max_new_tokens=1)["text"].decode()).ids
    files = builders.llama_files(eos_token_id=first)

    answer = ask(build(files, builders.GENERATION_INTERFACE))

    assert (answer["text"], answer["tokens_out"], answer["finish_reason"]) == (b"", 0, b"stop")


def test_end_token_of_the_generation_config_counts_too(llama):
    first = builders.byte_tokenizer().encode(ask(llama, max_new_tokens=1)["text"].decode()).ids
    files = builders.llama_files()
    files["generation_config.json"] = ("config", json.dumps({"eos_token_id": first}).encode())

    assert ask(build(files, builders.GENERATION_INTERFACE))["tokens_out"] == 0


def test_seed_makes_chance_repeatable(llama):
    def sample(seed: int) -> bytes:
        return ask(llama, temperature=1.5, seed=seed, max_new_tokens=20)["text"]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(-1) != sample(-1)


def test_low_temperature_is_like_none(llama):
    assert ask(llama, temperature=1e-4, seed=5) == ask(llama)


def test_scores_that_are_not_finite_are_an_error():
    files = builders.llama_files()
    tensors = {
        name: one.clone()
        for name, one in builders.llama().state_dict().items()
        if name != "lm_head.weight"
    }
    tensors["model.norm.weight"][:] = torch.inf
    files["model.safetensors"] = ("safetensors", save(tensors))

    with pytest.raises(RequestError, match="output_not_finite"):
        ask(build(files, builders.GENERATION_INTERFACE))


def test_chat_template_is_applied(llama):
    files = builders.llama_files(chat_template=builders.CHAT_TEMPLATE)
    runtime = build(files, builders.GENERATION_INTERFACE)

    answer = ask(runtime, "hello")

    # The template writes the special token itself; it must not be added again.
    rendered = "<s>user hello the "
    ids = builders.byte_tokenizer().encode(rendered, add_special_tokens=False).ids
    assert answer["tokens_in"] == len(ids)
    assert answer["text"] == ask(llama, rendered)["text"]


def test_system_prompt_reaches_the_template():
    interface = json.loads(json.dumps(builders.GENERATION_INTERFACE))
    interface["inputs"].append(
        {"name": "system_prompt", "kind": "text", "required": False, "default": ""}
    )
    files = builders.llama_files(chat_template=builders.CHAT_TEMPLATE)
    runtime = build(files, interface)

    def count(system: str) -> int:
        inputs = [
            np.array([[b"hello"]], dtype=object),
            np.array([[1]]),
            np.array([[0.0]], np.float32),
            np.array([[-1]]),
            np.array([[system.encode()]], dtype=object),
        ]
        return int(runtime.run(inputs, never)[1][0, 0])

    encode = builders.byte_tokenizer().encode
    assert count("") == len(encode("<s>user hello the ").ids)
    assert count("cat") == len(encode("<s>system cat <s>user hello the ").ids)


def test_text_that_is_not_utf8_is_the_requests_fault(llama):
    inputs = [
        np.array([[b"\xff"]], dtype=object),
        np.array([[1]]),
        np.array([[0.0]], np.float32),
        np.array([[-1]]),
    ]

    with pytest.raises(RequestError) as caught:
        llama.run(inputs, never)

    assert (caught.value.reason_code, caught.value.is_input_fault) == ("input_invalid", True)


# --- Embeddings ---


def test_long_texts_are_cut_at_the_models_length():
    runtime = build(builders.bert_files(), builders.EMBEDDING_INTERFACE)

    _, counts = runtime.run([np.array([[b"the cat " * 50]], dtype=object)], never)

    assert counts.tolist() == [[24]]


def test_folder_of_a_sentence_transformer_says_how_to_pool_and_where_to_cut():
    files = builders.bert_files()
    files["1_Pooling/config.json"] = ("config", b'{"pooling_mode_cls_token": true}')
    files["sentence_bert_config.json"] = ("config", b'{"max_seq_length": 5}')
    runtime = build(files, builders.EMBEDDING_INTERFACE)

    vectors, counts = runtime.run([np.array([[b"the cat sat on the mat"]], dtype=object)], never)

    ids = builders.word_tokenizer().encode("the cat sat").ids
    with torch.inference_mode():
        first = builders.bert()(torch.tensor([ids])).last_hidden_state[0, 0]
    assert counts.tolist() == [[5]]
    assert np.allclose(vectors[0], (first / first.norm()).numpy(), atol=1e-6)


# --- Streams ---


def stream(runtime: TransformersRuntime, **settings: Any) -> list[dict[str, Any]]:
    """The parts of an answer, with the outputs of each by name."""
    is_cancelled = settings.pop("is_cancelled", never)
    settings = {"max_new_tokens": 12, "temperature": 0.0, "seed": -1} | settings
    inputs = [
        np.array([[b"hello world the"]], dtype=object),
        np.array([[settings["max_new_tokens"]]]),
        np.array([[settings["temperature"]]], np.float32),
        np.array([[settings["seed"]]]),
    ]
    parts = runtime.stream(inputs, is_cancelled)
    return [{name: array[0, 0] for name, array in part.items()} for part in parts]


@pytest.mark.parametrize("_seed", range(6))
def test_pieces_are_the_whole_answer(llama, _seed):
    # At this temperature the model babbles octets of all kinds, most of them no characters.
    settings = {"max_new_tokens": 60, "temperature": 5.0, "seed": _seed}

    parts = stream(llama, **settings)

    whole = ask(llama, **settings)
    assert b"".join(one["text"] for one in parts) == whole["text"]
    assert {name: parts[-1][name] for name in whole if name != "text"} == {
        name: value for name, value in whole.items() if name != "text"
    }
    for one in parts:
        one["text"].decode()
    counts = [one["tokens_out"] for one in parts]
    assert counts == sorted(counts)
    assert len(parts) > 5


def test_stream_stops_between_two_tokens(llama):
    asked = 0

    def after_three() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(CancelledError):
        stream(llama, is_cancelled=after_three)

    assert asked == 4


def test_conversation_replaces_the_prompts():
    interface = json.loads(json.dumps(builders.GENERATION_INTERFACE))
    interface["inputs"].append({"name": "messages", "kind": "text", "default": ""})
    runtime = build(builders.llama_files(chat_template=builders.CHAT_TEMPLATE), interface)

    def count(messages: str) -> int:
        inputs = [
            np.array([[b"hello"]], dtype=object),
            np.array([[1]]),
            np.array([[0.0]], np.float32),
            np.array([[-1]]),
            np.array([[messages.encode()]], dtype=object),
        ]
        return int(runtime.run(inputs, never)[1][0, 0])

    encode = builders.byte_tokenizer().encode
    turns = [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "dog"}]
    assert count("") == len(encode("<s>user hello the ").ids)
    assert count(json.dumps(turns)) == len(encode("<s>user cat <s>assistant dog the ").ids)


def test_conversations_need_a_chat_template():
    interface = json.loads(json.dumps(builders.GENERATION_INTERFACE))
    interface["inputs"].append({"name": "messages", "kind": "text", "default": ""})

    with pytest.raises(ArtifactError) as caught:
        build(builders.llama_files(), interface)

    assert caught.value.reason_code == "interface_mismatch"
