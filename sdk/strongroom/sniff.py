"""Recognise files that are never accepted, by their first bytes and by their names.

A pickle called model.safetensors is a pickle. What is refused here on the creator's
machine is refused on the server as well, with the same reason codes; saying so before
gigabytes are uploaded is the only purpose.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

REASONS: Mapping[str, str] = {
    "pickle_refused": "A pickle runs code when it is opened. Save the weights as safetensors.",
    "torchscript_refused": "TorchScript can read and write files. Export the model to ONNX.",
    "pt2_refused": "The loader of exported programs unpickles. Export the model to ONNX.",
    "archive_refused": "Archives are not accepted. Put the files into the folder as they are.",
    "python_file_refused": "Programs are not accepted: models are data only.",
    "gguf_refused": "GGUF is not accepted. Convert the weights to safetensors.",
    "unknown_format": "The format of this file is not accepted.",
}

_CODES_BY_SUFFIX: Mapping[str, str] = {
    **dict.fromkeys((".py", ".pyi", ".pyw", ".pyc", ".pyd", ".ipynb"), "python_file_refused"),
    **dict.fromkeys(
        (".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth", ".ckpt"), "pickle_refused"
    ),
    ".pt2": "pt2_refused",
    **dict.fromkeys((".gguf", ".ggml"), "gguf_refused"),
    **dict.fromkeys(
        (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".whl", ".npz"),
        "archive_refused",
    ),
}
_ARCHIVE_MAGIC = (
    b"\x1f\x8b",  # gzip
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",  # zstd
    b"\x04\x22\x4d\x18",  # lz4
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
)
_TAR_MAGIC_OFFSET = 257
_GGUF_MAGIC = (b"GGUF", b"lmgg", b"ggjt", b"tjgg")
_UNKNOWN_MAGIC = (
    b"\x7fELF",
    b"MZ",
    b"\xcf\xfa\xed\xfe",  # Mach-O
    b"\x89HDF",  # Keras: its layers may hold code
)
_TFLITE_MAGIC = b"TFL3"  # At offset 4.
_HEAD_BYTES = 64 * 1024
# Pickles of protocol 0 and 1 have no mark; they are read to their end up to this size.
_OLD_PICKLE_MAX_BYTES = 1024 * 1024
_PYTHON_LINE = re.compile(
    rb"^(?:#!.*python|# -\*-|(?:import|from)[ \t]+\w|def[ \t]+\w+[ \t]*\(|class[ \t]+\w|@\w)",
    re.MULTILINE,
)


def find_refused(path: Path) -> str | None:
    """The reason code for a file that is never accepted; None if nothing speaks against it.

    The content is looked at first: it gives the more exact reason.
    """
    return _find_by_content(path) or find_refused_name(path.name)


def find_refused_name(name: str) -> str | None:
    """The reason code for a file of this name, by its last two endings."""
    for suffix in PurePosixPath(name.lower()).suffixes[-2:]:
        if suffix in _CODES_BY_SUFFIX:
            return _CODES_BY_SUFFIX[suffix]
    return None


def _find_by_content(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
        return _classify_zip(path)
    if head.startswith(_ARCHIVE_MAGIC) or head[_TAR_MAGIC_OFFSET:].startswith(b"ustar"):
        return "archive_refused"
    if head.startswith(_GGUF_MAGIC):
        return "gguf_refused"
    if head.startswith(_UNKNOWN_MAGIC) or head[4:8] == _TFLITE_MAGIC:
        return "unknown_format"
    if _is_pickle(head) or _is_old_pickle(path, head):
        return "pickle_refused"
    if head.startswith(b"#!") or _is_python(head):
        return "python_file_refused"
    return None


def _is_pickle(head: bytes) -> bool:
    if head.startswith(b"\x93NUMPY"):
        # An array of objects is a pickle with a preface.
        return b"|O" in head[:512]
    # Protocol 2 and later begin with a mark and their number. So may the length of a
    # safetensors header, which has zeros and a brace behind it.
    is_marked = head[:1] == b"\x80" and len(head) > 2 and 2 <= head[1] <= 5
    return is_marked and not (head[4:8] == bytes(4) and head[8:9] == b"{")


def _is_old_pickle(path: Path, head: bytes) -> bool:
    size_bytes = path.stat().st_size
    # A text that happens to begin like one ("cat" is a global of "at") goes wrong
    # before it ends in a dot, or has no second line to name the global.
    if not 1 < size_bytes <= _OLD_PICKLE_MAX_BYTES or head[:1] in b"{[ \t\r\n\"'":
        return False
    content = path.read_bytes()
    if content.rstrip()[-1:] != b".":
        return False
    try:
        *_, (stop, _, position) = pickletools.genops(content)
    except Exception:  # noqa: BLE001 - whatever it stumbles over, it is no pickle
        return False
    return stop.name == "STOP" and position is not None and not content[position + 1 :].strip()


def _is_python(head: bytes) -> bool:
    is_text = b"\0" not in head[:4096]
    return is_text and not head.lstrip().startswith(b"{") and bool(_PYTHON_LINE.search(head))


def _classify_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, RuntimeError, OSError, ValueError):
        # RuntimeError: written for a later version of the format than Python reads.
        return "archive_refused"
    return _classify_names(names)


def _classify_names(names: Iterable[str]) -> str:
    paths = [PurePosixPath(name) for name in names]
    ends = {path.name for path in paths}
    if ends & {"archive_format", "serialized_exported_program.json"}:
        return "pt2_refused"
    if any(path.suffix == ".pt2" or "aotinductor" in path.parts for path in paths):
        return "pt2_refused"
    if "constants.pkl" in ends or any("code" in path.parts[:-1] for path in paths):
        return "torchscript_refused"
    if any(path.suffix == ".pkl" for path in paths):
        return "pickle_refused"
    return "archive_refused"
