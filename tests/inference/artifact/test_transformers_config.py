from __future__ import annotations

import json
from typing import Any

import pytest

from inference.artifact import transformers_config as configs
from inference.artifact.errors import ArtifactError
from inference.artifact.transformers_config import parse_config
from inference.artifact.transformers_interface import find_roles
from strongroom.interface import Interface

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "eos_token_id": [1, 2],
}
BERT: dict[str, Any] = LLAMA | {"architectures": ["BertModel"], "eos_token_id": None}


def parse(document: Any) -> configs.ModelConfig:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_config(memoryview(raw))


def refuse(document: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        parse(document)
    return caught.value.reason_code


def test_reads_what_the_class_needs():
    found = parse(LLAMA)

    assert (found.architecture, found.task) == ("LlamaForCausalLM", "text-generation")
    assert (found.vocab_size, found.hidden_size, found.context_tokens) == (100, 32, 128)
    assert found.eos_token_ids == {1, 2}
    assert found.stripped == ("architectures", "model_type")


def test_members_that_could_run_code_do_not_reach_the_class():
    hostile = {
        "auto_map": {"AutoModel": "modeling_evil.Evil"},
        "trust_remote_code": True,
        "_name_or_path": "evil/model",
        "attn_implementation": "evil/kernel",
        "_attn_implementation": "evil/kernel",
        "custom_pipelines": {},
    }

    found = parse(LLAMA | hostile)

    assert hostile.keys() & found.values.keys() == set()
    assert hostile.keys() <= set(found.stripped)


_REFUSED = {
    "remote_code": (
        {"model_type": "lightglue", "trust_remote_code": True},
        "config_architecture_refused",
    ),
    "other_class": (LLAMA | {"architectures": ["EvilModel"]}, "config_architecture_refused"),
    "two_classes": (
        LLAMA | {"architectures": ["LlamaForCausalLM"] * 2},
        "config_architecture_refused",
    ),
    "class_is_no_text": (LLAMA | {"architectures": [["x"]]}, "config_architecture_refused"),
    "layer_bomb": (LLAMA | {"num_hidden_layers": 10**9}, "config_too_large"),
    "width_bomb": (LLAMA | {"hidden_size": 2**31}, "config_too_large"),
    "vocabulary_bomb": (LLAMA | {"vocab_size": 10**12}, "config_too_large"),
    "context_bomb": (LLAMA | {"max_position_embeddings": 10**10}, "config_too_large"),
    "head_bomb": (LLAMA | {"head_dim": 30_000, "num_attention_heads": 512}, "config_too_large"),
    "digits_bomb": (
        json.dumps(LLAMA).replace('"hidden_size": 32', '"hidden_size": ' + "9" * 5000).encode(),
        "config_malformed",
    ),
    "negative": (LLAMA | {"hidden_size": -1}, "config_value_refused"),
    "text_for_number": (LLAMA | {"hidden_size": "32"}, "config_value_refused"),
    "true_for_number": (LLAMA | {"hidden_size": True}, "config_value_refused"),
    "missing": ({"architectures": ["LlamaForCausalLM"]}, "config_value_refused"),
    "activation": (LLAMA | {"hidden_act": "os.system"}, "config_value_refused"),
    "heads": (LLAMA | {"num_attention_heads": 5}, "config_value_refused"),
    "key_value_heads": (LLAMA | {"num_key_value_heads": 3}, "config_value_refused"),
    "no_heads": (LLAMA | {"num_attention_heads": 0}, "config_value_refused"),
    "rope_type": (LLAMA | {"rope_scaling": {"rope_type": "evil"}}, "config_value_refused"),
    "rope_factors": (
        LLAMA | {"rope_scaling": {"long_factor": [1.0] * 513}},
        "config_value_refused",
    ),
    "eos": (LLAMA | {"eos_token_id": list(range(17))}, "config_value_refused"),
    "quantised": (LLAMA | {"quantization_config": {"bits": 4}}, "config_quantized_refused"),
    "positions": (BERT | {"position_embedding_type": "relative"}, "config_value_refused"),
    "not_json": (b"import os", "config_malformed"),
    "nan": (b'{"architectures": NaN}', "config_malformed"),
    "list": (b"[]", "config_malformed"),
    "byte_order_mark": (b"\xef\xbb\xbf{}", "config_malformed"),
    "deep": (b'{"a":' * 40 + b"1" + b"}" * 40, "config_malformed"),
    "very_deep": (b'{"a":' * 100_000, "config_malformed"),
    "repeated_key": (b'{"vocab_size":1,"vocab_size":2}', "config_duplicate_key"),
}


@pytest.mark.parametrize("_case", _REFUSED)
def test_hostile_configuration_is_refused(_case):
    document, reason_code = _REFUSED[_case]

    assert refuse(document) == reason_code


def test_size_has_a_limit():
    padding = b" " * (configs.MAX_CONFIG_SIZE_BYTES - len(json.dumps(LLAMA)))

    assert parse(json.dumps(LLAMA).encode() + padding).vocab_size == 100
    assert refuse(json.dumps(LLAMA).encode() + padding + b" ") == "config_too_large"


@pytest.mark.parametrize(
    ("_member", "_limit"),
    [
        ("num_hidden_layers", configs.MAX_LAYERS),
        ("vocab_size", configs.MAX_VOCAB_SIZE),
        ("max_position_embeddings", configs.MAX_CONTEXT),
        ("intermediate_size", configs.MAX_INTERMEDIATE_SIZE),
        ("hidden_size", configs.MAX_HIDDEN_SIZE),
    ],
)
def test_sizes_are_accepted_at_their_limit(_member, _limit):
    assert parse(LLAMA | {_member: _limit}).values[_member] == _limit
    assert refuse(LLAMA | {_member: _limit + 4}) == "config_too_large"


def test_without_the_rules_a_bomb_would_pass(monkeypatch):
    free = dict.fromkeys(LLAMA, lambda _, value: value)
    architecture = configs.Architecture("text-generation", free)
    monkeypatch.setitem(configs.ARCHITECTURES, "LlamaForCausalLM", architecture)

    assert parse(LLAMA | {"num_hidden_layers": 10**9}).values["num_hidden_layers"] == 10**9


def test_pooling_of_a_sentence_transformer():
    def pooling(**modes: bool) -> str:
        document = {f"pooling_mode_{name}": value for name, value in modes.items()}
        return configs.parse_pooling(memoryview(json.dumps(document).encode()))

    assert pooling(mean_tokens=True, cls_token=False) == "mean"
    assert pooling(mean_tokens=False, cls_token=True) == "cls"
    with pytest.raises(ArtifactError, match="config_value_refused"):
        pooling(max_tokens=True)
    with pytest.raises(ArtifactError, match="config_value_refused"):
        pooling(mean_tokens=True, cls_token=True)


# --- The interface ---


PROMPT = {"name": "prompt", "kind": "text"}
TEXT = {"name": "text", "kind": "text"}
EMBEDDING = {"name": "embedding", "kind": "tensor", "datatype": "FP32", "shape": [32]}


def roles(config: dict[str, Any], inputs: list[Any], outputs: list[Any], **more: Any) -> Any:
    interface = Interface.parse({"inputs": inputs, "outputs": outputs, **more})
    return find_roles(parse(config), interface)


def test_generation_takes_a_prompt_and_settings():
    seed = {"name": "seed", "kind": "integer", "required": False, "default": -1}
    count = {"name": "tokens_out", "kind": "integer"}

    found = roles(LLAMA, [PROMPT, seed], [TEXT, count])

    assert (found.text, found.result) == ("prompt", "text")
    assert (found.settings, found.side_outputs) == ({"seed"}, {"tokens_out"})


@pytest.mark.parametrize(
    ("_config", "_inputs", "_outputs"),
    [
        (LLAMA, [PROMPT, TEXT], [TEXT]),
        (LLAMA, [{"name": "n", "kind": "number"}], [TEXT]),
        (LLAMA, [PROMPT, {"name": "seed", "kind": "number"}], [TEXT]),
        (LLAMA, [PROMPT], [EMBEDDING]),
        (LLAMA, [PROMPT], [TEXT, {"name": "logits", "kind": "integer"}]),
        (LLAMA, [PROMPT], [TEXT, {"name": "tokens_in", "kind": "number"}]),
        (BERT, [PROMPT], [TEXT]),
        (BERT, [PROMPT], [EMBEDDING | {"shape": [31]}]),
        (BERT, [PROMPT], [EMBEDDING | {"datatype": "FP64"}]),
        (BERT, [PROMPT], [EMBEDDING, {"name": "tokens_out", "kind": "integer"}]),
    ],
)
def test_interface_must_fit_the_task(_config, _inputs, _outputs):
    with pytest.raises(ArtifactError, match="interface_mismatch"):
        roles(_config, _inputs, _outputs)


def test_rows_need_an_axis():
    with pytest.raises(ArtifactError, match="interface_mismatch"):
        roles(BERT, [PROMPT], [EMBEDDING], batch={"max_size": 1, "leading_axis": False})
