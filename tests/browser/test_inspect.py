"""A folder is read by the page as by the command line: the same refusals, the same draft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper, numpy_helper

from strongroom.inspect import PreflightError, draft_interface, guess_task, read_folder
from strongroom.listing import parse_price
from tests.browser.bench import Bench
from tests.sdk.test_inspect import (
    HOSTILE,
    external_tensor,
    hostile,  # noqa: F401 - a fixture
    write_onnx,
    write_safetensors,
)

FLOAT = TensorProto.FLOAT
LOOK = """
  const found = inspect.walk(folder.listChosen(document.querySelector("input").files));
  const labels = await draft.readLabels(found);
  let seen;
  const code = await codeOf(async () => {
    try {
      const read = await inspect.readFolder(found, new Set(given ?? []));
      seen = {
        runtime: read.runtime, ignored: read.ignored, task: draft.guessTask(read, labels),
        files: read.files.map((one) => [one.path, one.kind, one.file.size]),
        interface: await draft.draftInterface(read, labels),
      };
    } catch (error) {
      if (!error.refusals) throw error;
      seen = error.refusals.map((one) => [one.path, one.code, one.detail]);
    }
  });
  return code ?? seen;
"""


def look_in_python(root: Path, labels: list[str]) -> Any:
    try:
        found = read_folder(root)
        return {
            "runtime": found.runtime,
            "ignored": list(found.ignored),
            "task": guess_task(found, labels),
            "files": [[one.path, one.kind, one.size_bytes] for one in found.files],
            "interface": draft_interface(found, labels),
        }
    except PreflightError as error:
        return [[one.path, one.code, one.detail] for one in error.refusals]


def check_alike(bench: Bench, root: Path, labels: list[str] | None = None) -> Any:
    bench.choose(root)
    seen = bench.run(LOOK)
    assert seen == look_in_python(root, labels or [])
    return seen


def write_transformers(root: Path, config: dict[str, Any]) -> None:
    (root / "config.json").write_text(json.dumps(config))
    (root / "tokenizer.json").write_text("{}")
    write_safetensors(root / "model.safetensors")


def test_models_are_understood_alike(bench, tmp_path):
    onnx = tmp_path / "onnx"
    onnx.mkdir()
    values = ("x", FLOAT, ["batch", 4, None]), ("p", FLOAT, ["batch", 3])
    weights = numpy_helper.from_array(__import__("numpy").ones(300_000, "float32"), "big")
    write_onnx(onnx / "model.onnx", [values[0]], [values[1]], [weights])
    (onnx / "labels.txt").write_text("a\nb\nc\n")
    (onnx / "README.md").write_text("# Hello\n")
    (onnx / ".hidden").write_text("import os\n")
    seen = check_alike(bench, onnx, ["a", "b", "c"])
    assert seen["interface"]["outputs"][1]["labels"] == ["a", "b", "c"]
    assert seen["interface"]["inputs"][0]["shape"] == [4, -1]

    causal = tmp_path / "causal"
    causal.mkdir()
    write_transformers(causal, {"architectures": ["LlamaForCausalLM"]})
    (causal / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    seen = check_alike(bench, causal)
    assert [one["name"] for one in seen["interface"]["inputs"]][2] == "messages"

    embedding = tmp_path / "embedding"
    (embedding / "1_Pooling").mkdir(parents=True)
    write_transformers(embedding, {"architectures": ["BertModel"], "hidden_size": 384})
    (embedding / "1_Pooling" / "config.json").write_text("{}")
    (embedding / "vocab.txt").write_text("import torch\n")
    assert check_alike(bench, embedding)["task"] == "feature-extraction"


def test_external_data_is_found_and_held_to_the_folder(bench, tmp_path):
    values = [("x", FLOAT, [1, 2])], [("y", FLOAT, [1, 2])]
    for name, location in {"good": "w.bin", "gone": "v.bin", "out": "../w.bin"}.items():
        root = tmp_path / name
        root.mkdir()
        write_onnx(root / "model.onnx", *values, [external_tensor(location)])
        # Raw weights may look like anything.
        (root / "w.bin").write_bytes(b"\x80\x04.\n")
        seen = check_alike(bench, root)
        assert isinstance(seen, dict) == (name == "good")


def test_custom_operators_and_cut_files_are_refused_alike(bench, tmp_path):
    node = helper.make_node("Steal", ["x"], ["y"], domain="evil")
    write_onnx(
        tmp_path / "model.onnx",
        [("x", FLOAT, [1])],
        [("y", FLOAT, [1])],
        nodes=[node],
        opsets=[helper.make_opsetid("evil", 1)],
    )
    [refusal] = check_alike(bench, tmp_path)
    assert refusal[1] == "onnx_custom_op"

    whole = (tmp_path / "model.onnx").read_bytes()
    for content in (whole[:-3], b"", b"\0\0\0", whole[:1], bytes([0x0B]) + whole):
        (tmp_path / "model.onnx").write_bytes(content)
        [refusal] = check_alike(bench, tmp_path)
        assert refusal[1] == "onnx_malformed"


def test_hostile_files_are_refused_alike(bench, tmp_path, hostile):  # noqa: F811
    for name in HOSTILE:
        # Pickles of the first protocols have no mark; the server reads them to their end.
        if name not in ("pickle0", "pickle1"):
            (tmp_path / f"{name}.weights").write_bytes((hostile / name).read_bytes())
    for name in ("code.py", "old.pkl", "a.pt2", "b.tar.gz", "c.gguf", "torch.pth"):
        (tmp_path / name).write_text("x")

    seen = check_alike(bench, tmp_path)

    codes = {path.removesuffix(".weights"): code for path, code, _ in seen}
    assert {name: codes[name] for name in HOSTILE if name in codes} == {
        name: code for name, code in HOSTILE.items() if name not in ("pickle0", "pickle1")
    }
    assert len(seen) == len(HOSTILE) - 2 + 6


def test_faulty_transformers_folders_are_refused_alike(bench, tmp_path):
    write_transformers(tmp_path, {"architectures": ["LlamaForCausalLM"]})
    (tmp_path / "tokenizer.json").write_text("[1]")
    (tmp_path / "model.safetensors").write_bytes(b"\xff\0\0\0\0\0\0\0{}")
    (tmp_path / "notes.txt").write_text("hello")
    seen = check_alike(bench, tmp_path)
    assert [code for _, code, _ in seen] == [
        "file_unexpected",
        "safetensors_truncated",
        "tokenizer_malformed",
    ]

    (tmp_path / "notes.txt").unlink()
    (tmp_path / "model.safetensors").unlink()
    assert [code for _, code, _ in check_alike(bench, tmp_path)] == [
        "tokenizer_malformed",
        "file_missing",
    ]
    write_transformers(tmp_path, {"architectures": ["Anything"]})
    assert check_alike(bench, tmp_path)[0][1] == "config_architecture_refused"
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("hello")
    assert check_alike(bench, empty)[0][1] == "runtime_unknown"


def test_the_listing_is_read_from_toml(bench, tmp_path):
    (tmp_path / "strongroom.toml").write_text(
        'owner = "demo"\nprice_dollars_per_prediction = "0.0005"\ncard = "CARD.md"\n'
        "[interface.batch]\nmax_size = 4\n[[test_vectors]]\ninput = {x = [1.5, 2]}\n"
        'expected = {y = [1]}\n[policy.output.y]\nas = "label"\n'
    )
    (tmp_path / "CARD.md").write_text("# Card")
    script = """
      const found = inspect.walk(folder.listChosen(document.querySelector("input").files));
      const read = await listing.readListing(found);
      return { read, card: await listing.readCard(found, read) };
    """
    bench.choose(tmp_path)

    answer = bench.run(script)

    assert answer["card"] == {"path": "CARD.md", "text": "# Card"}
    assert answer["read"] == {
        "owner": "demo",
        "price_dollars_per_prediction": "0.0005",
        "card": "CARD.md",
        "interface": {"batch": {"max_size": 4}},
        "test_vectors": [{"input": {"x": [1.5, 2]}, "expected": {"y": [1]}}],
        "policy": {"output": {"y": {"as": "label"}}},
    }
    for text in ("owner = ", "secret = 1"):
        (tmp_path / "strongroom.toml").write_text(text)
        bench.choose(tmp_path)
        assert bench.run(f"return codeOf(async () => {{ {script} }});") == "listing_invalid"


@pytest.mark.parametrize("text", ["0", "0.0005", "12", "0.000000001", "1000000", "3.50"])
def test_prices_are_read_exactly(bench, text):
    assert bench.run("return listing.parsePrice(given);", text) == parse_price(text)


def test_prices_out_of_range_are_refused(bench):
    texts = ["", "-1", "0.0000000001", "1000000.000000001", "1e3", "abc", "1,5"]

    codes = bench.run(
        "return Promise.all(given.map((one) => codeOf(() => listing.parsePrice(one))));", texts
    )

    assert codes == ["listing_invalid"] * len(texts)
