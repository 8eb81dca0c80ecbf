"""Look at a model folder before it is sealed: what it is, and what it may not hold.

The checks are those that need no model to be loaded. The server repeats all of them,
and more, on the decrypted files in its sandbox; here they save an upload and tell the
creator what to do instead.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from strongroom.errors import StrongroomError
from strongroom.interface import NAME
from strongroom.onnx_file import GraphValue, OnnxError, OnnxFile, read_onnx
from strongroom.sealing import floe, manifest
from strongroom.sealing.errors import ManifestError
from strongroom.sniff import REASONS, find_refused

# A model has some dozen files; more is somebody's home directory.
MAX_FOLDER_ENTRIES = 10_000
MAX_JSON_BYTES = 32 * 1024 * 1024
MAX_SAFETENSORS_HEADER_BYTES = 8 * 1024 * 1024
# Sensible starting points; a creator changes them in strongroom.toml.
ONNX_BATCH_SIZE = 32
EMBEDDING_BATCH_SIZE = 8

FEATURE_EXTRACTION = "feature-extraction"
TEXT_GENERATION = "text-generation"
# Some pages; a creator who knows the model's context may allow more.
CONVERSATION_LENGTH = 32_768

# Files of a transformers folder that are read when the model is served, by their path.
_TRANSFORMERS_KINDS: Mapping[str, str] = {
    "config.json": "config",
    "generation_config.json": "config",
    "sentence_bert_config.json": "config",
    "1_Pooling/config.json": "config",
    "tokenizer.json": "tokenizer",
    "tokenizer_config.json": "tokenizer_config",
    "special_tokens_map.json": "tokenizer_config",
    "chat_template.jinja": "tokenizer_config",
}
# Said twice by other files, or said to people: never sent, and no reason to refuse.
# Labels travel in the interface.
_IGNORED_NAMES = frozenset(
    {
        "strongroom.toml",
        "labels.txt",
        "labels.json",
        "model.safetensors.index.json",
        "modules.json",
        "config_sentence_transformers.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
    }
)
_IGNORED_SUFFIXES = frozenset({".md", ".rst", ".png", ".jpg", ".jpeg", ".svg", ".pdf"})
_IGNORED_STEMS = ("readme", "license", "licence", "notice", "copying", "authors", "changelog")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one file, or the folder where `path` is empty, cannot be accepted."""

    path: str
    code: str
    detail: str


class PreflightError(StrongroomError):
    """The folder cannot be uploaded. `refusals` holds every reason found."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        first = refusals[0]
        super().__init__(first.code, f"{first.path or 'The folder'}: {first.detail}")
        self.refusals = list(refusals)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One plain file that will be sealed; `path` is its path in the artifact."""

    path: str
    kind: str
    location: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What a folder holds. `ignored` are paths that stay on the creator's machine."""

    root: Path
    runtime: str
    files: tuple[SourceFile, ...]
    ignored: tuple[str, ...] = ()
    graph: OnnxFile | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Size of all files that will be sealed."""
        return sum(one.size_bytes for one in self.files)


def read_folder(root: Path, *, ignore: Collection[str] = ()) -> ModelFolder:
    """Find the runtime and the files of a model, and refuse what is never served.

    Args:
        root: The folder.
        ignore: Paths below it that belong to the listing, such as the card.

    Raises:
        PreflightError: With the reason codes that onboarding uses.
    """
    root = root.resolve()
    if not root.is_dir():
        raise PreflightError([Refusal("", "folder_missing", f"{root} is not a folder.")])
    found = dict(_walk(root))
    ignored = {path for path in found if path in ignore or _is_ignored(path)}
    candidates = {path: place for path, place in found.items() if path not in ignored}
    runtime = _find_runtime(candidates)
    if runtime == "onnx":
        folder = _read_onnx_folder(root, candidates)
    elif runtime == "transformers":
        folder = _read_transformers_folder(root, candidates)
    else:
        refusals = _refuse_hostile(candidates)
        detail = "Needs model.onnx, or config.json with safetensors and tokenizer.json."
        raise PreflightError(refusals or [Refusal("", "runtime_unknown", detail)])
    _check_announcement(folder)
    return ModelFolder(
        folder.root,
        folder.runtime,
        folder.files,
        tuple(sorted(ignored)),
        folder.graph,
        folder.config,
    )


def guess_task(folder: ModelFolder, labels: Sequence[str] = ()) -> str:
    """The task that the files speak for; empty if a person must say."""
    if folder.runtime == "transformers":
        return _find_task(folder.config)
    return "classification" if labels else ""


def draft_interface(folder: ModelFolder, labels: Sequence[str] = ()) -> dict[str, Any]:
    """The interface that the files speak for, to be completed by a person.

    Args:
        folder: What `read_folder` found.
        labels: Names of the classes, if the model gives one score for each.

    Raises:
        PreflightError: `interface_mismatch` where the graph takes or gives something
            that cannot be sent.
    """
    if folder.runtime == "transformers":
        if _find_task(folder.config) == FEATURE_EXTRACTION:
            return _draft_embedding(folder.config)
        return _draft_generation(has_template=_has_chat_template(folder))
    assert folder.graph is not None
    return _draft_onnx(folder.graph, labels)


# --- Files ------------------------------------------------------------------------


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Relative paths and places of all files, hidden ones left out, in order."""
    count = 0
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        # Folders count as well: a tree of empty ones would be walked for ever.
        count += len(names) + len(files)
        if count > MAX_FOLDER_ENTRIES:
            detail = f"The folder holds more than {MAX_FOLDER_ENTRIES} files and folders."
            raise PreflightError([Refusal("", "too_many_files", detail)])
        for name in sorted(files):
            if not name.startswith("."):
                place = Path(folder, name)
                yield place.relative_to(root).as_posix(), place


def _is_ignored(path: str) -> bool:
    name = PurePosixPath(path).name.lower()
    return (
        name in _IGNORED_NAMES
        or PurePosixPath(name).suffix in _IGNORED_SUFFIXES
        or name.startswith(_IGNORED_STEMS)
    )


def _find_runtime(candidates: Mapping[str, Path]) -> str:
    if any(path.lower().endswith(".onnx") for path in candidates):
        return "onnx"
    if "config.json" in candidates:
        return "transformers"
    return ""


def _refuse_hostile(candidates: Mapping[str, Path], data: Collection[str] = ()) -> list[Refusal]:
    """Refusals of formats that are never accepted; raw external data is any bytes."""
    refusals = []
    for path, place in candidates.items():
        if path in data:
            continue
        if not place.is_file():
            refusals.append(Refusal(path, "unknown_format", "This is not a regular file."))
            continue
        code = find_refused(place)
        if code is not None:
            refusals.append(Refusal(path, code, REASONS[code]))
    return refusals


def _read_onnx_folder(root: Path, candidates: Mapping[str, Path]) -> ModelFolder:
    models = [path for path in candidates if path.lower().endswith(".onnx")]
    if len(models) > 1:
        detail = f"One ONNX file is expected; there are {len(models)}."
        raise PreflightError([Refusal(models[1], "file_unexpected", detail)])
    [model] = models
    refusals = _refuse_hostile({model: candidates[model]})
    if refusals:
        raise PreflightError(refusals)
    graph, external = _read_graph(root, model, candidates)
    refusals = _refuse_hostile(candidates, external)
    if graph.custom_operators:
        detail = f"Uses operators that need code: {', '.join(graph.custom_operators[:5])}."
        refusals.append(Refusal(model, "onnx_custom_op", detail))
    kinds = {model: "onnx"} | dict.fromkeys(external, "external_data")
    refused = {one.path for one in refusals}
    refusals += [_unexpected(path) for path in candidates if path not in kinds.keys() | refused]
    if refusals:
        raise PreflightError(refusals)
    return ModelFolder(root, "onnx", _source_files(candidates, kinds), graph=graph)


def _read_graph(
    root: Path, model: str, candidates: Mapping[str, Path]
) -> tuple[OnnxFile, list[str]]:
    """The graph, and the paths of the files that its tensors lie in."""
    try:
        graph = read_onnx(candidates[model])
    except OnnxError as error:
        raise PreflightError([Refusal(model, error.code, error.detail)]) from error
    external = []
    for location in graph.external:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(model), location))
        place = candidates.get(path)
        is_plain = bool(location) and not posixpath.isabs(location) and ".." not in location
        # A link out of the folder could carry any file of this machine into the upload.
        if not is_plain or place is None or not place.resolve().is_relative_to(root):
            detail = f"A tensor lies in {location[:80]!r}, which is no file of the folder."
            raise PreflightError([Refusal(model, "onnx_external_data", detail)])
        external.append(path)
    return graph, external


def _read_transformers_folder(root: Path, candidates: Mapping[str, Path]) -> ModelFolder:
    refusals = _refuse_hostile(candidates)
    kinds = {path: kind for path in candidates if (kind := _transformers_kind(path))}
    refused = {one.path for one in refusals}
    refusals += [_unexpected(path) for path in candidates if path not in kinds.keys() | refused]
    for path, kind in kinds.items():
        if path in refused:
            continue
        fault = _check_content(candidates[path], kind)
        if fault is not None:
            refusals.append(Refusal(path, *fault))
    for kind, what in (("safetensors", "A .safetensors file"), ("tokenizer", "tokenizer.json")):
        if kind not in kinds.values():
            refusals.append(Refusal("", "file_missing", f"{what} is missing."))
    if refusals:
        raise PreflightError(refusals)
    config = json.loads(candidates["config.json"].read_bytes())
    if not _find_task(config):
        detail = "Its architecture is not one that is served, or none is named."
        raise PreflightError([Refusal("config.json", "config_architecture_refused", detail)])
    return ModelFolder(root, "transformers", _source_files(candidates, kinds), config=config)


def _transformers_kind(path: str) -> str:
    if path in _TRANSFORMERS_KINDS:
        return _TRANSFORMERS_KINDS[path]
    return "safetensors" if path.lower().endswith(".safetensors") else ""


def _unexpected(path: str) -> Refusal:
    detail = "No part of a model of this kind. Move it out of the folder."
    return Refusal(path, "file_unexpected", detail)


def _check_content(place: Path, kind: str) -> tuple[str, str] | None:
    if kind == "safetensors":
        return _check_safetensors(place)
    if place.suffix == ".jinja":
        return None
    if place.stat().st_size > MAX_JSON_BYTES:
        return f"{kind}_too_large", f"At most {MAX_JSON_BYTES} bytes are allowed."
    try:
        is_object = isinstance(json.loads(place.read_bytes()), dict)
    except (ValueError, RecursionError):
        is_object = False
    return None if is_object else (f"{kind}_malformed", "This is not a JSON object.")


def _check_safetensors(place: Path) -> tuple[str, str] | None:
    size_bytes = place.stat().st_size
    with place.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size_bytes < 8 or length > size_bytes - 8:
            return "safetensors_truncated", "The file is shorter than its header says."
        if length > MAX_SAFETENSORS_HEADER_BYTES:
            return "safetensors_header_too_large", "The header is larger than 8 MiB."
        try:
            is_object = isinstance(json.loads(file.read(length)), dict)
        except (ValueError, RecursionError):
            is_object = False
    if not is_object:
        return "safetensors_header_malformed", "The header is not a JSON object."
    return None


def _source_files(
    candidates: Mapping[str, Path], kinds: Mapping[str, str]
) -> tuple[SourceFile, ...]:
    return tuple(
        SourceFile(path, kinds[path], candidates[path], candidates[path].stat().st_size)
        for path in sorted(kinds)
    )


def _check_announcement(folder: ModelFolder) -> None:
    """Paths, sizes and their number must be what a manifest can say."""
    announced = [
        {
            "path": one.path,
            "kind": one.kind,
            "plain_size_bytes": one.size_bytes,
            "cipher_size_bytes": floe.PRODUCTION.cipher_size(one.size_bytes),
        }
        for one in folder.files
    ]
    try:
        manifest.check_files(announced)
    except ManifestError as error:
        at = error.pointer.split("/")[2:3]
        path = folder.files[int(at[0])].path if at else ""
        raise PreflightError([Refusal(path, error.code, error.detail)]) from error


# --- Interfaces -------------------------------------------------------------------


def _find_task(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    if not isinstance(name, str):
        return ""
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return TEXT_GENERATION
    return FEATURE_EXTRACTION if name.endswith("Model") else ""


def _draft_embedding(config: Mapping[str, Any]) -> dict[str, Any]:
    size = next((config[name] for name in ("hidden_size", "dim", "n_embd") if name in config), None)
    if type(size) is not int or size < 1:
        detail = "hidden_size is missing."
        raise PreflightError([Refusal("config.json", "config_value_refused", detail)])
    return {
        "inputs": [{"name": "text", "kind": "text", "description": "The text to embed."}],
        "outputs": [{"name": "embedding", "kind": "tensor", "datatype": "FP32", "shape": [size]}],
        "batch": {"max_size": EMBEDDING_BATCH_SIZE, "leading_axis": True},
    }


def _has_chat_template(folder: ModelFolder) -> bool:
    found = {one.path: one.location for one in folder.files if one.kind == "tokenizer_config"}
    if "chat_template.jinja" in found:
        return True
    settings = found.get("tokenizer_config.json")
    return settings is not None and b'"chat_template"' in settings.read_bytes()


def _draft_generation(*, has_template: bool) -> dict[str, Any]:
    messages = {
        "name": "messages",
        "kind": "text",
        "description": "A conversation as JSON, in place of the prompts.",
        "default": "",
        "max_length": CONVERSATION_LENGTH,
    }
    return {
        "inputs": [
            {"name": "prompt", "kind": "text", "description": "What to answer."},
            {
                "name": "system_prompt",
                "kind": "text",
                "description": "How to answer.",
                "default": "",
            },
            *([messages] if has_template else []),
            {
                "name": "max_new_tokens",
                "kind": "integer",
                "minimum": 1,
                "maximum": 512,
                "default": 64,
            },
            {
                "name": "temperature",
                "kind": "number",
                "description": "0 always gives the same answer.",
                "minimum": 0,
                "maximum": 2,
                "default": 0,
            },
        ],
        "outputs": [
            {"name": "text", "kind": "text", "stream": True},
            {"name": "tokens_in", "kind": "integer"},
            {"name": "tokens_out", "kind": "integer"},
        ],
        "batch": {"max_size": 1, "leading_axis": True},
    }


def _draft_onnx(graph: OnnxFile, labels: Sequence[str]) -> dict[str, Any]:
    for one in graph.inputs:
        if one.datatype is None or one.shape is None:
            _refuse_value(one)
    # What cannot be sent (sequences, maps, texts) is left out: it is then not computed.
    outputs = [one for one in graph.outputs if one.datatype and one.shape is not None]
    if not outputs:
        _refuse_value(graph.outputs[0])
    firsts = {one.shape[0] if one.shape else 0 for one in (*graph.inputs, *outputs)}
    has_axis = firsts <= {None, 1}
    is_batchable = firsts == {None}
    described = [_describe(one, has_axis) for one in outputs]
    return {
        "inputs": [_describe(one, has_axis) for one in graph.inputs],
        "outputs": described + _draft_label(described, labels),
        "batch": {
            "max_size": ONNX_BATCH_SIZE if is_batchable else 1,
            "leading_axis": has_axis,
        },
    }


def _describe(value: GraphValue, has_axis: bool) -> dict[str, Any]:
    if not NAME.fullmatch(value.name):
        detail = f"The name {value.name[:80]!r} cannot be sent; rename it in the graph."
        raise PreflightError([Refusal("", "interface_mismatch", detail)])
    shape = (value.shape or ())[1 if has_axis else 0 :]
    return {
        "name": value.name,
        "kind": "tensor",
        "datatype": value.datatype,
        "shape": [-1 if length is None else length for length in shape],
    }


def _draft_label(outputs: Sequence[dict[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    if not labels:
        return []
    scores = [
        one
        for one in outputs
        if one["datatype"] in {"FP32", "FP64"} and one["shape"] == [len(labels)]
    ]
    if len(scores) != 1:
        detail = f"There are {len(labels)} labels, but not one output with as many scores."
        raise PreflightError([Refusal("", "interface_mismatch", detail)])
    taken = {one["name"] for one in outputs}
    name = next(name for name in ("label", "class", "predicted_label") if name not in taken)
    return [{"name": name, "kind": "label", "source": scores[0]["name"], "labels": list(labels)}]


def _refuse_value(value: GraphValue) -> None:
    detail = f"{value.name[:80]!r} is not a tensor that can be sent, or has no shape."
    raise PreflightError([Refusal("", "interface_mismatch", detail)])
