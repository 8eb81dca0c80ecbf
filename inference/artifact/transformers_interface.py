"""Which input and output of the interface plays which part in a transformers model.

An ONNX graph names its own tensors. A language model does not: its parts are found by
what they are. The one required text goes in; what else a request may set goes by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.artifact.errors import ArtifactError, shown
from inference.artifact.transformers_config import TEXT_GENERATION, ModelConfig
from strongroom.interface import Input, Interface, Output

MESSAGES = "messages"
# Settings of a generation that a request may have, and the kinds they may be given as.
GENERATION_SETTINGS = {
    "system_prompt": ("text",),
    # A whole conversation as JSON, in place of prompt and system prompt.
    MESSAGES: ("text",),
    "max_new_tokens": ("integer",),
    "temperature": ("number",),
    "top_p": ("number",),
    "top_k": ("integer",),
    "seed": ("integer",),
}
COUNTERS = ("tokens_in", "tokens_out")


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of the interface: what goes in, what comes out, and what may stand beside it."""

    text: str
    result: str
    settings: frozenset[str] = frozenset()
    side_outputs: frozenset[str] = frozenset()


def find_roles(config: ModelConfig, interface: Interface) -> Roles:
    """Match an interface to the task of the model.

    Raises:
        ArtifactError: `interface_mismatch`.
    """
    if not interface.batch.leading_axis:
        _fail("batch.leading_axis must be true for a transformers model.")
    if config.task == TEXT_GENERATION:
        return _generation_roles(interface)
    return _embedding_roles(config, interface)


def _generation_roles(interface: Interface) -> Roles:
    settings: set[str] = set()
    prompts = []
    for one in interface.inputs:
        if one.name in GENERATION_SETTINGS:
            _check_kind(one, GENERATION_SETTINGS[one.name])
            settings.add(one.name)
        else:
            prompts.append(one)
    texts = [one for one in interface.outputs if one.name != "finish_reason" and one.kind == "text"]
    result = _only(texts, "text output")
    streamed = interface.streamed_output
    if streamed is not None and streamed.name != result:
        _fail(f"{shown(streamed.name)} is given at once: it has no stream.")
    side_outputs = _side_outputs(interface, result, (*COUNTERS, "finish_reason"))
    return Roles(_only_text(prompts), result, frozenset(settings), side_outputs)


def _embedding_roles(config: ModelConfig, interface: Interface) -> Roles:
    tensors = [one for one in interface.outputs if one.kind == "tensor"]
    result = _only(tensors, "tensor output")
    found = next(one for one in tensors if one.name == result)
    if found.datatype != "FP32" or found.shape != (config.hidden_size,):
        _fail(f"{shown(result)} must be FP32 with the shape [{config.hidden_size}].")
    side_outputs = _side_outputs(interface, result, ("tokens_in",))
    return Roles(_only_text(interface.inputs), result, side_outputs=side_outputs)


def _side_outputs(interface: Interface, result: str, allowed: Sequence[str]) -> frozenset[str]:
    names = set()
    for one in interface.outputs:
        if one.name == result:
            continue
        if one.name not in allowed:
            _fail(f"The model gives no output {shown(one.name)}.")
        _check_kind(one, ("text",) if one.name == "finish_reason" else ("integer",))
        names.add(one.name)
    return frozenset(names)


def _only_text(found: Sequence[Input]) -> str:
    for one in found:
        if one.kind != "text":
            _fail(f"The model takes no input {shown(one.name)}.")
    return _only(found, "text input")


def _only(found: Sequence[Input] | Sequence[Output], what: str) -> str:
    if len(found) != 1:
        _fail(f"The interface must have one {what}; it has {len(found)}.")
    return found[0].name


def _check_kind(one: Input | Output, kinds: Sequence[str]) -> None:
    if one.kind not in kinds:
        _fail(f"{shown(one.name)} must be of the kind {kinds[0]}.")


def _fail(detail: str) -> None:
    raise ArtifactError("interface_mismatch", detail)
