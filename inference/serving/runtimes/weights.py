"""Fill a model that was built without memory with tensors over the decrypted files.

The model is made on torch's "meta" device, so that its config alone allocates nothing.
Each parameter is then pointed at its bytes in the plain buffer: no copy, and nothing is
left of a state dict. What no file holds (positions, rotary frequencies, causal masks) is
computed here, since code that would normally do so ran on "meta".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from inference.artifact.errors import ArtifactError, shown
from inference.artifact.safetensors import FLOAT_TYPES, SafetensorsHeader

_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# Buffers that older versions of the library saved, and heads that are not served.
_IGNORED = re.compile(
    r"(^|\.)(position_ids|token_type_ids|inv_freq|masked_bias)$|\.attn\.bias$|^pooler\."
)
# Names of the first few tensors are enough to understand a mismatch.
_SHOWN_NAMES = 5

Source = tuple[memoryview, SafetensorsHeader]


def fill_model(model: torch.nn.Module, sources: Sequence[Source]) -> None:
    """Give every parameter its tensor, and compute what is not saved.

    Args:
        model: Built on "meta".
        sources: Plain files with their checked headers.

    Raises:
        ArtifactError: `weights_mismatch` for names, shapes or types that the
            architecture does not have.
    """
    wanted = dict(model.state_dict())
    found = _find_tensors(sources, wanted)
    tied = _find_tied(model) - found.keys()
    missing = wanted.keys() - found.keys() - tied
    if missing:
        raise ArtifactError("weights_mismatch", f"Missing: {_show(missing)}.")
    model.load_state_dict(found, strict=False, assign=True)
    if _is_tied(model):
        _model(model).get_output_embeddings().weight = _model(model).get_input_embeddings().weight
    _rebuild_rotary(model)
    _rebuild_buffers(model)


def _find_tensors(
    sources: Sequence[Source], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    types: set[str] = set()
    unexpected: set[str] = set()
    for data, header in sources:
        for name, place in header.tensors.items():
            if name in found:
                detail = f"{shown(name)} is in two files."
                raise ArtifactError("safetensors_duplicate_key", detail)
            if name not in wanted:
                if not _IGNORED.search(name):
                    unexpected.add(name)
                continue
            if tuple(wanted[name].shape) != place.shape:
                detail = f"{shown(name)} has the shape {list(place.shape)}; "
                detail += f"the configuration needs {list(wanted[name].shape)}."
                raise ArtifactError("weights_mismatch", detail)
            types.add(place.dtype)
            found[name] = _view(data, place.dtype, place.shape, place.begin)
    if unexpected:
        raise ArtifactError("weights_mismatch", f"Not in this architecture: {_show(unexpected)}.")
    if len(types) != 1 or not types <= FLOAT_TYPES:
        detail = f"The weights have the types {', '.join(sorted(types))}; one float type is needed."
        raise ArtifactError("weights_mismatch", detail)
    return found


def _view(data: memoryview, dtype: str, shape: tuple[int, ...], begin: int) -> torch.Tensor:
    count = 1
    for length in shape:
        count *= length
    if count == 0:
        return torch.empty(shape, dtype=_DTYPES[dtype])
    flat = torch.frombuffer(data, dtype=_DTYPES[dtype], count=count, offset=begin)
    return flat.view(shape)


def _is_tied(model: torch.nn.Module) -> bool:
    return bool(_model(model).config.tie_word_embeddings) and hasattr(model, "lm_head")


def _find_tied(model: torch.nn.Module) -> set[str]:
    return {"lm_head.weight"} if _is_tied(model) else set()


def _rebuild_rotary(model: torch.nn.Module) -> None:
    """Rotary frequencies are computed from the configuration when the module is made."""
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RotaryEmbedding"):
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], type(module)(_model(model).config))


def _rebuild_buffers(model: torch.nn.Module) -> None:
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:
            owner = model.get_submodule(name.rpartition(".")[0])
            leaf = name.rpartition(".")[2]
            owner.register_buffer(leaf, _compute_buffer(leaf, buffer), persistent=False)
    left = [name for name, one in model.named_parameters() if one.is_meta]
    if left:
        raise ArtifactError("weights_mismatch", f"Missing: {_show(left)}.")


def _compute_buffer(leaf: str, buffer: torch.Tensor) -> torch.Tensor:
    if leaf == "position_ids":
        return torch.arange(buffer.shape[-1]).expand(tuple(buffer.shape)).clone()
    if leaf == "token_type_ids":
        return torch.zeros(tuple(buffer.shape), dtype=torch.long)
    if leaf == "bias" and buffer.dtype == torch.bool:
        # GPT-2's causal mask.
        return torch.tril(torch.ones(tuple(buffer.shape), dtype=torch.bool))
    detail = f"The architecture has the buffer {shown(leaf)}, which cannot be rebuilt."
    raise ArtifactError("weights_mismatch", detail)


def _model(model: torch.nn.Module) -> Any:
    """The same object, for members that torch's types do not know."""
    return model


def _show(names: Any) -> str:
    listed = sorted(names)
    text = ", ".join(shown(one) for one in listed[:_SHOWN_NAMES])
    return text if len(listed) <= _SHOWN_NAMES else f"{text} and {len(listed) - _SHOWN_NAMES} more"
