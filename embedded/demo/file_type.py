"""`demo/file-type`: magika, which tells a file's type from its first and last bytes.

Graph, labels and settings are those of the package `magika` (Google, Apache-2.0), as it
was published; the graph is not changed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from embedded.demo import folder as folders
from embedded.demo.folder import Built, Card
from embedded.demo.wheel_data import find_package

NAME = "file-type"
TITLE = "File type"
PRICE_NANOS = 50_000  # $0.00005
TOLERANCE = 1e-3

PYTHON_SOURCE = b'''"""Count the words of a text."""

import sys
from collections import Counter


def count_words(text: str) -> Counter[str]:
    words = (word.strip(".,;:!?").lower() for word in text.split())
    return Counter(word for word in words if word)


if __name__ == "__main__":
    for word, count in count_words(sys.stdin.read()).most_common(10):
        print(f"{count:6} {word}")
'''
HTML = b"""<!DOCTYPE html>
<html lang="en">
  <head><meta charset="utf-8"><title>Opening hours</title></head>
  <body>
    <h1>Opening hours</h1>
    <ul><li>Monday to Friday: 9 to 18</li><li>Saturday: 10 to 14</li></ul>
  </body>
</html>
"""
SHELL = b"""#!/bin/sh
set -eu
for file in "$@"; do
    if [ -f "$file" ]; then
        gzip --keep -- "$file" && echo "packed $file"
    fi
done
"""

TEXT = """
Tells what a file is from its content: one of 214 types, from Python and HTML to PNG and
ELF. This is the model `standard_v3_3` of [magika](https://github.com/google/magika) by
Google, unchanged.

**What to send.** 2,048 numbers: the first 1,024 bytes of the file after leading white
space, padded with 256 at their end, then the last 1,024 bytes before trailing white space,
padded with 256 at their beginning. Of a file longer than 4,096 bytes only the first and the
last 4,096 bytes are looked at for that.

**What comes back.** The likeliest type with its score, and the two after it. magika's own
tool replaces types with a low score by "unknown"; here the raw score is yours to judge.
"""


def build(folder: Path) -> Built:
    """Copy the graph and note what it says to files of three types."""
    source = find_package("magika") / "models" / "standard_v3_3"
    config = json.loads((source / "config.min.json").read_text())
    labels = config["target_labels_space"]
    shutil.copyfile(source / "model.onnx", folder / "model.onnx")
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    vectors = []
    for content in (PYTHON_SOURCE, HTML, SHELL):
        row = to_input(content, config)
        scores = session.run(None, {"bytes": np.array([row], np.int32)})[0][0]
        label = labels[int(scores.argmax())]
        expected = {"file_type": {"label": label, "score": float(scores.max())}}
        vectors.append(({"bytes": row}, expected, TOLERANCE))
    folders.write(
        folder,
        name=NAME,
        title=TITLE,
        task="file-classification",
        price_nanos=PRICE_NANOS,
        interface=interface(labels, config, example=to_input(PYTHON_SOURCE, config)),
        vectors=vectors,
        card=Card(
            summary="What kind of file it is, from its bytes: 214 types.",
            data="About 100 million files of 214 types, collected by Google; not public",
            accuracy="About 99% on average over the types, as its authors report",
            licence="Apache-2.0",
            limits="Looks at the beginning and the end only; short files are guesses.",
            text=TEXT,
        ),
    )
    return Built(dict(vectors[0][0]), {"label": "python"})


def interface(labels: list[str], config: dict[str, Any], *, example: list[int]) -> dict[str, Any]:
    """What goes in and comes out; the form shows the example at first."""
    return {
        "inputs": [
            {
                "name": "bytes",
                "kind": "tensor",
                "datatype": "INT32",
                "shape": [config["beg_size"] + config["end_size"]],
                "minimum": 0,
                "maximum": config["padding_token"],
                "description": "First and last bytes, padded with 256; see the card.",
                "example": example,
            }
        ],
        "outputs": [
            {
                "name": "file_type",
                "kind": "label",
                "source": "target_label",
                "labels": labels,
                "top": 3,
            },
            {
                "name": "target_label",
                "kind": "tensor",
                "datatype": "FP32",
                "shape": [len(labels)],
                "description": "A score for each type.",
                "hidden": True,
            },
        ],
        "batch": {"max_size": 16, "leading_axis": True},
    }


def to_input(content: bytes, config: dict[str, Any]) -> list[int]:
    """The numbers that stand for a file, as magika's own tool makes them."""
    block, padding = config["block_size"], config["padding_token"]
    begin = list(content[:block].lstrip()[: config["beg_size"]])
    end = list(content[-block:].rstrip()[-config["end_size"] :])
    begin += [padding] * (config["beg_size"] - len(begin))
    return begin + [padding] * (config["end_size"] - len(end)) + end


if __name__ == "__main__":
    folders.run(build)
