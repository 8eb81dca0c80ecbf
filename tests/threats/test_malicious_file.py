"""A creator uploads a file that runs code where it is opened.

The payload makes a file; a test that finds it has been taken over.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.artifact import formats
from inference.artifact.errors import ArtifactError
from tests.inference.artifact.hostile_files import samples
from tests.inference.serving.test_loader_refusals import seal_graph

pytestmark = pytest.mark.filterwarnings("ignore")


def test_no_file_of_the_collection_gets_by_and_none_runs(tmp_path: Path) -> None:
    found = {}
    for name, (content, reason_code) in samples(tmp_path).items():
        for kind in ("onnx", "safetensors", "config", "tokenizer", "labels"):
            # Under a harmless name: what it holds decides.
            with pytest.raises(ArtifactError) as refused:
                formats.check_content(kind, "model.safetensors", memoryview(content))
            found[name, kind] = refused.value.reason_code == reason_code

    assert all(found.values())
    assert not (tmp_path / "RAN").exists()


def test_one_that_gets_past_the_client_ends_in_the_sandbox(
    tmp_path: Path, parts: Path, refuse: Any
) -> None:
    """Sealed by a client that does not look; validated where it is decrypted, before it is read."""
    content, expected = samples(tmp_path)["torch_zip"]

    reason_code, peer = refuse(seal_graph(parts, content))

    assert reason_code == expected
    assert peer.find("loaded") is None
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("_name", ["pickle_4", "torch_zip"])
def test_a_server_that_opened_them_would_be_taken_over(tmp_path: Path, _name: str) -> None:
    """The control: as most serving code opens such files."""
    content, _ = samples(tmp_path)[_name]
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    assert not (tmp_path / "RAN").exists()

    if _name == "pickle_4":
        pickle.loads(content)
    else:
        torch.load(path, weights_only=False)

    assert (tmp_path / "RAN").exists()
