"""What an upload may consist of, and what is refused at first sight.

The first bytes decide, not the name: a pickle called model.safetensors is a pickle.
Names are looked at as well, so that a creator who uploads `pytorch_model.bin` is told
why it is refused, and not only that its header is odd.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from inference.artifact.errors import ArtifactError, shown

# Reason code by file name. Programs first: they are the ones that must never slip by.
_REFUSED_SUFFIXES: Mapping[str, str] = {
    **dict.fromkeys((".py", ".pyi", ".pyw", ".pyc", ".pyd", ".ipynb"), "python_file_refused"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt"), "pickle_refused"),
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
    b"TFL3",
    b"#!",
)
# Statements at the beginning of a line that no JSON text has.
_PYTHON_LINE = re.compile(
    rb"^(?:#!.*python|# -\*-|(?:import|from)[ \t]+\w|def[ \t]+\w+[ \t]*\(|class[ \t]+\w|@\w)",
    re.MULTILINE,
)
# Where a zip names its members: torch's own files put data.pkl first.
_ZIP_LOCAL, _ZIP_CENTRAL, _ZIP_EMPTY = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_ZIP_WINDOW_BYTES = 1024 * 1024
_ZIP_MAX_NAMES = 1024
_SNIFF_BYTES = 64 * 1024

# Runtime to the kinds of file it takes, with how many of each: (at least, at most).
LAYOUTS: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "onnx": {"onnx": (1, 1), "external_data": (0, 32), "labels": (0, 4), "config": (0, 4)},
    "transformers": {
        "safetensors": (1, 48),
        "config": (1, 8),
        "tokenizer": (1, 1),
        "tokenizer_config": (0, 4),
        "labels": (0, 4),
    },
}


def check_layout(runtime: str, kinds: Sequence[str]) -> None:
    """Check that the files of a version are the ones its runtime needs.

    Raises:
        ArtifactError: `runtime_unknown`, `file_missing` or `file_unexpected`.
    """
    layout = LAYOUTS.get(runtime)
    if layout is None:
        raise ArtifactError("runtime_unknown", f"There is no runtime {shown(runtime)}.")
    counts = Counter(kinds)
    for kind in counts.keys() - layout.keys():
        detail = f"The runtime {runtime} takes no file of the kind {shown(kind)}."
        raise ArtifactError("file_unexpected", detail)
    for kind, (least, most) in layout.items():
        if counts[kind] < least:
            raise ArtifactError("file_missing", f"A file of the kind {kind} is missing.")
        if counts[kind] > most:
            detail = f"There are {counts[kind]} files of the kind {kind}; {most} are allowed."
            raise ArtifactError("file_unexpected", detail)


def check_name(path: str) -> None:
    """Refuse a file by the end of its name.

    Raises:
        ArtifactError: With the reason code of the format that the name stands for.
    """
    for suffix in PurePosixPath(path.lower()).suffixes[-2:]:
        if suffix in _REFUSED_SUFFIXES:
            detail = f"{shown(path)}: files with the ending {suffix} are not accepted."
            raise ArtifactError(_REFUSED_SUFFIXES[suffix], detail)


def check_content(kind: str, path: str, data: memoryview) -> None:
    """Refuse a file by its first bytes, whatever it is called.

    Raw external data is not looked at: any bytes may be numbers, and nothing reads it
    but the tensors that name it.

    Raises:
        ArtifactError: With the reason code of the format that was found.
    """
    if kind == "external_data":
        return
    reason_code = find_refused(data)
    if reason_code is None and kind == "safetensors" and bytes(data[8:9]) != b"{":
        reason_code = "unknown_format"
    if reason_code is not None:
        detail = f"{shown(path)} is not a {kind} file: {_WHAT[reason_code]}."
        raise ArtifactError(reason_code, detail)


_WHAT: Mapping[str, str] = {
    "pickle_refused": "it is a pickle, which runs code when it is opened",
    "torchscript_refused": "it is TorchScript, which can write and read files",
    "pt2_refused": "it is an exported program, whose loader unpickles",
    "archive_refused": "it is an archive",
    "python_file_refused": "it is a Python program",
    "gguf_refused": "it is GGUF; convert it to safetensors first",
    "unknown_format": "its format is not accepted",
}


def find_refused(data: memoryview) -> str | None:
    """The reason code of a refused format, None where nothing speaks against the file."""
    head = bytes(data[:_SNIFF_BYTES])
    if head.startswith((_ZIP_LOCAL, _ZIP_EMPTY)):
        return _classify_zip(_zip_names(data))
    if head.startswith(_ARCHIVE_MAGIC) or head[_TAR_MAGIC_OFFSET:].startswith(b"ustar"):
        return "archive_refused"
    if head.startswith(_GGUF_MAGIC):
        return "gguf_refused"
    if _is_pickle(head):
        return "pickle_refused"
    # Compiled Python: two bytes of version, then CR LF.
    if len(head) >= 16 and head[2:4] == b"\r\n" and head[1] in (0x0C, 0x0D, 0x0E):
        return "python_file_refused"
    if head.startswith(_UNKNOWN_MAGIC):
        return "python_file_refused" if _PYTHON_LINE.match(head) else "unknown_format"
    if _is_text(head) and not head.lstrip().startswith(b"{") and _PYTHON_LINE.search(head):
        return "python_file_refused"
    return None


def _is_pickle(head: bytes) -> bool:
    if head.startswith(b"\x93NUMPY"):
        # An array of objects is a pickle with a preface.
        return b"|O" in head[:512]
    # Protocol 2 and later announce themselves: PROTO, version, then an opcode. A
    # safetensors file may begin with the same two bytes, as the length of its header.
    if head[:1] == b"\x80" and len(head) > 2 and 2 <= head[1] <= 5:
        return not (head[3:8] == bytes(5) and head[8:9] == b"{")
    # Protocol 0 and 1 have no mark; a global or a dict, and the final dot, are typical.
    is_global = re.match(rb"\(?[cd(\]}]?c?[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n", head) is not None
    return is_global and head.rstrip()[-1:] == b"."


def _is_text(head: bytes) -> bool:
    return b"\0" not in head[:4096]


def _zip_names(data: memoryview) -> list[bytes]:
    """Names of members, found by their signatures; no offset of the file is trusted."""
    names: list[bytes] = []
    windows = [bytes(data[:_ZIP_WINDOW_BYTES])]
    if len(data) > _ZIP_WINDOW_BYTES:
        windows.append(bytes(data[-_ZIP_WINDOW_BYTES:]))
    for window in windows:
        for signature, length_at, name_at in ((_ZIP_LOCAL, 26, 30), (_ZIP_CENTRAL, 28, 46)):
            at = window.find(signature)
            while at != -1 and len(names) < _ZIP_MAX_NAMES:
                length = int.from_bytes(window[at + length_at : at + length_at + 2], "little")
                names.append(window[at + name_at : at + name_at + length])
                at = window.find(signature, at + 4)
    return names


def _classify_zip(names: Sequence[bytes]) -> str:
    ends = {name.rpartition(b"/")[2] for name in names}
    if b"archive_format" in ends or b"serialized_exported_program.json" in ends:
        return "pt2_refused"
    if any(name.endswith(b".pt2") or b"aotinductor" in name for name in names):
        return "pt2_refused"
    if b"constants.pkl" in ends or any(b"/code/" in name for name in names):
        return "torchscript_refused"
    if any(name.endswith(b".pkl") for name in ends):
        return "pickle_refused"
    return "archive_refused"
