"""Files that may run code when they are opened, or are no models at all."""

from __future__ import annotations

import gzip
import io
import logging
import pickle
import py_compile
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch


class Payload:
    """Unpickling it makes a file; no test may ever see that file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


class _AddOne(torch.nn.Module):
    def forward(self, x):
        return x + 1


def _saved(thing: object, **how: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer, **how)
    return buffer.getvalue()


def _torchscript() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(_AddOne()), buffer)
    return buffer.getvalue()


def _pt2() -> bytes:
    buffer = io.BytesIO()
    logging.disable(logging.WARNING)
    torch.export.save(torch.export.export(_AddOne(), (torch.ones(2),)), buffer)
    logging.disable(logging.NOTSET)
    return buffer.getvalue()


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


def _array_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _compiled(tmp_path: Path) -> bytes:
    source = tmp_path / "evil.py"
    source.write_text("import os\n")
    return Path(str(py_compile.compile(str(source), str(tmp_path / "evil.bin")))).read_bytes()


def samples(tmp_path: Path) -> dict[str, tuple[bytes, str]]:
    """By name: content, and the reason code with which it is refused."""
    payload = Payload(tmp_path / "RAN")
    samples = {
        f"pickle_{protocol}": (pickle.dumps(payload, protocol), "pickle_refused")
        for protocol in range(6)
    }
    return samples | {
        "torch_zip": (_saved({"w": payload}), "pickle_refused"),
        "torch_legacy": (
            _saved({"w": payload}, _use_new_zipfile_serialization=False),
            "pickle_refused",
        ),
        "array_of_objects": (_array_of_objects(), "pickle_refused"),
        "torchscript": (_torchscript(), "torchscript_refused"),
        "pt2": (_pt2(), "pt2_refused"),
        "zip": (_zip("a.txt"), "archive_refused"),
        "empty_zip": (_zip(), "archive_refused"),
        "gzip": (gzip.compress(b"x"), "archive_refused"),
        "tar": (_tar(), "archive_refused"),
        "gguf": (b"GGUF" + bytes(60), "gguf_refused"),
        "program": (b"#!/usr/bin/env python\nprint(1)\n", "python_file_refused"),
        "module": (b'"""Doc."""\nimport os\n', "python_file_refused"),
        "compiled": (_compiled(tmp_path), "python_file_refused"),
        "elf": (b"\x7fELF\x02\x01\x01" + bytes(60), "unknown_format"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(60), "unknown_format"),
        "script": (b"#!/bin/sh\nid\n", "unknown_format"),
    }
