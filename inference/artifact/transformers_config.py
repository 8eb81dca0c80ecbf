"""The configuration of a transformers model: which class it may be, with which sizes.

A config.json can name code to fetch, files to read and layers to build. Nothing of it
reaches the library but the members listed here, each with a type and a limit; the class
is one that we name. A "configuration bomb" (a billion layers) fails before anything is
allocated.

Source: transformers 5, the configuration classes; CVE-2026-5241 and its relatives for
why `trust_remote_code=False` is not relied upon.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inference.artifact.errors import ArtifactError, shown
from inference.artifact.json_document import parse_any, parse_object

MAX_CONFIG_SIZE_BYTES = 1024 * 1024

# Above the largest open model of its kind; below what would hurt before it is compared
# with the tensors, which are what they are.
MAX_HIDDEN_SIZE = 32_768
MAX_INTERMEDIATE_SIZE = 262_144
MAX_LAYERS = 512
MAX_HEADS = 512
MAX_VOCAB_SIZE = 1_048_576
MAX_CONTEXT = 1_048_576
# GPT-2 keeps a square mask of its context: 64 MiB at this length.
MAX_GPT2_CONTEXT = 8_192
MAX_EOS_TOKENS = 16
MAX_ROPE_FACTORS = 512

FEATURE_EXTRACTION = "feature-extraction"
TEXT_GENERATION = "text-generation"

_ACTIVATIONS = frozenset(
    {"gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "tanh"}
)
_ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})

Rule = Callable[[str, Any], Any]


def _refuse(name: str, wanted: str) -> ArtifactError:
    return ArtifactError("config_value_refused", f"{shown(name)} must be {wanted}.")


def _size(maximum: int, *, is_optional: bool = False, minimum: int = 1) -> Rule:
    def check(name: str, value: Any) -> Any:
        if value is None and is_optional:
            return None
        if type(value) is not int or value < minimum:
            raise _refuse(name, f"a whole number of at least {minimum}")
        if value > maximum:
            detail = f"{shown(name)} is {value:.6g}; at most {maximum} is accepted."
            raise ArtifactError("config_too_large", detail)
        return value

    return check


def _number(low: float, high: float) -> Rule:
    def check(name: str, value: Any) -> Any:
        if type(value) not in (int, float) or not low <= value <= high:
            raise _refuse(name, f"a number from {low} to {high}")
        return value

    return check


def _flag(name: str, value: Any) -> Any:
    if type(value) is not bool:
        raise _refuse(name, "true or false")
    return value


def _choice(choices: frozenset[str]) -> Rule:
    def check(name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in choices:
            raise _refuse(name, "one of " + ", ".join(sorted(choices)))
        return value

    return check


def _tokens(name: str, value: Any) -> Any:
    """One token number, several, or none."""
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    fits = len(numbers) <= MAX_EOS_TOKENS and all(
        type(one) is int and 0 <= one < MAX_VOCAB_SIZE for one in numbers
    )
    if not fits:
        raise _refuse(name, f"a token's number, or at most {MAX_EOS_TOKENS} of them")
    return value


def _rope(name: str, value: Any) -> Any:
    """Parameters of rotary positions: a flat object of numbers."""
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > 16:
        raise _refuse(name, "an object of numbers")
    for key, one in value.items():
        if key in ("rope_type", "type"):
            _choice(_ROPE_TYPES)(f"{name}.{key}", one)
        elif isinstance(one, list):
            if len(one) > MAX_ROPE_FACTORS:
                raise _refuse(f"{name}.{key}", f"at most {MAX_ROPE_FACTORS} numbers")
            for factor in one:
                _number(-1e9, 1e9)(f"{name}.{key}", factor)
        elif type(one) is not bool and one is not None:
            _number(-1e9, 1e9)(f"{name}.{key}", one)
    return value


_DECODER: Mapping[str, Rule] = {
    "vocab_size": _size(MAX_VOCAB_SIZE),
    "hidden_size": _size(MAX_HIDDEN_SIZE),
    "intermediate_size": _size(MAX_INTERMEDIATE_SIZE),
    "num_hidden_layers": _size(MAX_LAYERS),
    "num_attention_heads": _size(MAX_HEADS),
    "num_key_value_heads": _size(MAX_HEADS, is_optional=True),
    "head_dim": _size(MAX_HIDDEN_SIZE, is_optional=True),
    "hidden_act": _choice(_ACTIVATIONS),
    "max_position_embeddings": _size(MAX_CONTEXT),
    "rms_norm_eps": _number(0, 1),
    "rope_theta": _number(1, 1e9),
    "rope_scaling": _rope,
    "rope_parameters": _rope,
    "attention_bias": _flag,
    "mlp_bias": _flag,
    "tie_word_embeddings": _flag,
    "sliding_window": _size(MAX_CONTEXT, is_optional=True),
    "use_sliding_window": _flag,
    "max_window_layers": _size(MAX_LAYERS, minimum=0),
    "bos_token_id": _tokens,
    "eos_token_id": _tokens,
    "pad_token_id": _tokens,
}
_GPT2: Mapping[str, Rule] = {
    "vocab_size": _size(MAX_VOCAB_SIZE),
    "n_positions": _size(MAX_GPT2_CONTEXT),
    "n_embd": _size(MAX_HIDDEN_SIZE),
    "n_layer": _size(MAX_LAYERS),
    "n_head": _size(MAX_HEADS),
    "n_inner": _size(MAX_INTERMEDIATE_SIZE, is_optional=True),
    "activation_function": _choice(_ACTIVATIONS),
    "layer_norm_epsilon": _number(0, 1),
    "scale_attn_weights": _flag,
    "scale_attn_by_inverse_layer_idx": _flag,
    "reorder_and_upcast_attn": _flag,
    "tie_word_embeddings": _flag,
    "bos_token_id": _tokens,
    "eos_token_id": _tokens,
    "pad_token_id": _tokens,
}
_ENCODER: Mapping[str, Rule] = {
    "vocab_size": _size(MAX_VOCAB_SIZE),
    "hidden_size": _size(MAX_HIDDEN_SIZE),
    "num_hidden_layers": _size(MAX_LAYERS),
    "num_attention_heads": _size(MAX_HEADS),
    "intermediate_size": _size(MAX_INTERMEDIATE_SIZE),
    "hidden_act": _choice(_ACTIVATIONS),
    "max_position_embeddings": _size(MAX_CONTEXT),
    "type_vocab_size": _size(1024),
    "layer_norm_eps": _number(0, 1),
    "position_embedding_type": _choice(frozenset({"absolute"})),
    "pad_token_id": _tokens,
    "bos_token_id": _tokens,
    "eos_token_id": _tokens,
}
_DISTILBERT: Mapping[str, Rule] = {
    "vocab_size": _size(MAX_VOCAB_SIZE),
    "max_position_embeddings": _size(MAX_CONTEXT),
    "sinusoidal_pos_embds": _flag,
    "n_layers": _size(MAX_LAYERS),
    "n_heads": _size(MAX_HEADS),
    "dim": _size(MAX_HIDDEN_SIZE),
    "hidden_dim": _size(MAX_INTERMEDIATE_SIZE),
    "activation": _choice(_ACTIVATIONS),
    "pad_token_id": _tokens,
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A class that may be built, and what of a configuration it may see."""

    task: str
    members: Mapping[str, Rule]
    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    context: str = "max_position_embeddings"
    # Positions that the model reserves at the start of its table.
    context_offset: int = 0


ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(TEXT_GENERATION, _DECODER),
    "MistralForCausalLM": Architecture(TEXT_GENERATION, _DECODER),
    "Qwen2ForCausalLM": Architecture(TEXT_GENERATION, _DECODER),
    "GPT2LMHeadModel": Architecture(TEXT_GENERATION, _GPT2, "n_embd", "n_head", "n_positions"),
    "BertModel": Architecture(FEATURE_EXTRACTION, _ENCODER),
    "RobertaModel": Architecture(FEATURE_EXTRACTION, _ENCODER, context_offset=2),
    "DistilBertModel": Architecture(FEATURE_EXTRACTION, _DISTILBERT, "dim", "n_heads"),
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What may be built. `values` are the only members the library's class is given."""

    architecture: str
    task: str
    values: Mapping[str, Any]
    stripped: tuple[str, ...]
    vocab_size: int
    hidden_size: int
    context_tokens: int
    eos_token_ids: frozenset[int]


def parse_config(data: memoryview) -> ModelConfig:
    """Read a config.json.

    Raises:
        ArtifactError: `config_architecture_refused`, `config_too_large`,
            `config_value_refused`, `config_quantized_refused`, `config_malformed` or
            `config_duplicate_key`.
    """
    document = _parse_document(data)
    name = _find_architecture(document)
    architecture = ARCHITECTURES[name]
    if document.get("quantization_config") is not None:
        detail = "Quantised weights need kernels that are not served; upload plain ones."
        raise ArtifactError("config_quantized_refused", detail)
    values = {
        key: check(key, document[key])
        for key, check in architecture.members.items()
        if key in document
    }
    for key in ("vocab_size", architecture.hidden, architecture.heads, architecture.context):
        if key not in values:
            raise ArtifactError("config_value_refused", f"{key} is missing.")
    _check_heads(architecture, values)
    return ModelConfig(
        architecture=name,
        task=architecture.task,
        values=values,
        stripped=tuple(sorted(key[:64] for key in document.keys() - values.keys()))[:64],
        vocab_size=values["vocab_size"],
        hidden_size=values[architecture.hidden],
        context_tokens=values[architecture.context] - architecture.context_offset,
        eos_token_ids=_token_set(values.get("eos_token_id")),
    )


def parse_generation_tokens(data: memoryview) -> frozenset[int]:
    """The tokens that end an answer, from a generation_config.json.

    Raises:
        ArtifactError: Like `parse_config`.
    """
    return _token_set(_tokens("eos_token_id", _parse_document(data).get("eos_token_id")))


def parse_pooling(data: memoryview) -> str:
    """How a sentence-transformers folder joins token vectors: "mean" or "cls".

    Raises:
        ArtifactError: `config_value_refused` for a way that is not supported.
    """
    document = _parse_document(data)
    modes = {key for key, value in document.items() if key.startswith("pooling_mode_") and value}
    supported = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or not modes <= supported.keys():
        raise ArtifactError("config_value_refused", "Only mean or cls pooling is supported.")
    return supported[modes.pop()]


def parse_sentence_length(data: memoryview) -> int | None:
    """`max_seq_length` of a sentence_bert_config.json.

    Raises:
        ArtifactError: Like `parse_config`.
    """
    length: int | None = _size(MAX_CONTEXT, is_optional=True)(
        "max_seq_length", _parse_document(data).get("max_seq_length")
    )
    return length


def check_unused(data: memoryview) -> None:
    """Check a configuration file that nothing here reads: it must at least be JSON.

    Raises:
        ArtifactError: `config_malformed`, `config_too_large` or `config_duplicate_key`.
    """
    parse_any(
        data,
        what="The configuration",
        max_size_bytes=MAX_CONFIG_SIZE_BYTES,
        reason_prefix="config",
    )


def _parse_document(data: memoryview) -> dict[str, Any]:
    return parse_object(
        data,
        what="The configuration",
        max_size_bytes=MAX_CONFIG_SIZE_BYTES,
        reason_prefix="config",
    )


def _find_architecture(document: Mapping[str, Any]) -> str:
    names = document.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        detail = "The configuration must name one architecture."
        raise ArtifactError("config_architecture_refused", detail)
    if names[0] not in ARCHITECTURES:
        accepted = ", ".join(ARCHITECTURES)
        detail = f"{shown(names[0])} is not served; these are: {accepted}."
        raise ArtifactError("config_architecture_refused", detail)
    return names[0]


def _check_heads(architecture: Architecture, values: Mapping[str, Any]) -> None:
    heads = values[architecture.heads]
    if values.get("head_dim") is None and values[architecture.hidden] % heads:
        detail = f"{architecture.hidden} must be a multiple of {architecture.heads}."
        raise ArtifactError("config_value_refused", detail)
    if heads % (values.get("num_key_value_heads") or heads):
        detail = f"{architecture.heads} must be a multiple of num_key_value_heads."
        raise ArtifactError("config_value_refused", detail)
    if values.get("head_dim") is not None and values["head_dim"] * heads > MAX_INTERMEDIATE_SIZE:
        detail = f"head_dim times {architecture.heads} is larger than {MAX_INTERMEDIATE_SIZE}."
        raise ArtifactError("config_too_large", detail)


def _token_set(value: Any) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset(value if isinstance(value, list) else [value])
