"""Sounds and pictures of an output as files: they come as data URLs, which nobody can hear."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strongroom.interface import AUDIO, IMAGE

_SUFFIXES: Mapping[str, str] = {AUDIO: ".wav", IMAGE: ".png"}
_HEAD = re.compile(r"data:(audio/wav|image/png);base64,")
# Names of outputs are their creator's, and may have slashes and dots.
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def save_media(output: Any, folder: Path, prediction_id: str) -> Any:
    """Write each sound and picture of an output into a folder.

    Args:
        output: Of a prediction: output name to value.
        folder: Is made if it is not there.
        prediction_id: Begins the names of the files; a file that is there is kept.

    Returns:
        The output with the paths of the files in the place of what they hold; what is no
        sound and no picture as it was.

    Raises:
        OSError: A file cannot be written, or is there already.
    """
    if not isinstance(output, dict):
        return output
    return {name: _save(value, name, folder, prediction_id) for name, value in output.items()}


def _save(value: Any, name: str, folder: Path, prediction_id: str) -> Any:
    head = _HEAD.match(value) if isinstance(value, str) else None
    if head is None:
        return value
    try:
        octets = base64.b64decode(value[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        return value
    folder.mkdir(parents=True, exist_ok=True)
    stem = _UNSAFE.sub("_", f"{prediction_id}-{name}")
    path = folder / f"{stem}{_SUFFIXES[head[1]]}"
    with path.open("xb") as file:
        file.write(octets)
    return str(path)
