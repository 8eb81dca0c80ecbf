"""What a folder may be: real models are understood, real hostile files are refused."""

import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from strongroom import inspect
from strongroom.inspect import PreflightError, draft_interface, guess_task, read_folder
from strongroom.interface import Interface
from strongroom.onnx_file import OnnxError, read_onnx
from strongroom.sniff import find_refused


class Payload:
    """Opening it would create the marker file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


class FileWriter(torch.nn.Module):
    def forward(self, x):
        torch.save(x, "written_by_torchscript.pt")
        return x


class AddOne(torch.nn.Module):
    def forward(self, x):
        return x + 1


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of files whose loaders would run code; none is ever loaded here."""
    out = tmp_path_factory.mktemp("hostile")
    payload = Payload(out / "RAN")
    for protocol in (0, 1, 2, 4, 5):
        (out / f"pickle{protocol}").write_bytes(pickle.dumps(payload, protocol=protocol))
    torch.save({"w": payload}, out / "zip_pickle")
    torch.save({"w": payload}, out / "legacy_pickle", _use_new_zipfile_serialization=False)
    np.save(out / "objects.npy", np.array([payload], dtype=object), allow_pickle=True)
    np.savez(out / "arrays.npz", np.zeros(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(FileWriter()).save(str(out / "torchscript"))
        torch.export.save(torch.export.export(AddOne(), (torch.ones(2),)), out / "program.pt2")
    hide_pickle(out / "program.pt2", out / "exported", payload)
    with tarfile.open(out / "tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"), io.BytesIO(b""))
    with tarfile.open(out / "tar_gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"), io.BytesIO(b""))
    with zipfile.ZipFile(out / "zip", "w") as archive:
        archive.writestr("model.onnx", b"")
    (out / "seven_zip").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(26))
    (out / "gguf").write_bytes(b"GGUF" + bytes(20))
    (out / "elf").write_bytes(b"\x7fELF" + bytes(20))
    (out / "keras").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(20))
    (out / "script").write_text("#!/usr/bin/env python\nprint(1)\n")
    (out / "module").write_text('"""Docs."""\nimport os\nos.getcwd()\n')
    yield out
    assert not (out / "RAN").exists()


def hide_pickle(good, bad, payload):
    """An exported program whose example inputs are replaced by a pickle."""
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as copy:
        for name in source.namelist():
            swap = "sample_inputs" in name
            copy.writestr(name, pickle.dumps(payload) if swap else source.read(name))


HOSTILE = {
    "pickle0": "pickle_refused",
    "pickle1": "pickle_refused",
    "pickle2": "pickle_refused",
    "pickle4": "pickle_refused",
    "pickle5": "pickle_refused",
    "zip_pickle": "pickle_refused",
    "legacy_pickle": "pickle_refused",
    "objects.npy": "pickle_refused",
    "torchscript": "torchscript_refused",
    "exported": "pt2_refused",
    "arrays.npz": "archive_refused",
    "tar": "archive_refused",
    "tar_gz": "archive_refused",
    "zip": "archive_refused",
    "seven_zip": "archive_refused",
    "gguf": "gguf_refused",
    "elf": "unknown_format",
    "keras": "unknown_format",
    "script": "python_file_refused",
    "module": "python_file_refused",
}


def write_safetensors(path, header=None, data=bytes(4)):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    text = json.dumps({"w": entry} if header is None else header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_onnx(path, inputs, outputs, initializers=(), nodes=None, opsets=()):
    """A model of values (name, type, shape) whose outputs copy the first input."""
    if nodes is None:
        nodes = [helper.make_node("Identity", [inputs[0][0]], [one[0]]) for one in outputs]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), *opsets])
    path.write_bytes(model.SerializeToString())


def external_tensor(location):
    tensor = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="length", value="4")
    return tensor


@pytest.fixture
def onnx_folder(tmp_path):
    x = ("x", TensorProto.FLOAT, ["batch", 4])
    y = ("scores", TensorProto.FLOAT, ["batch", 4])
    write_onnx(tmp_path / "model.onnx", [x], [y])
    return tmp_path


@pytest.fixture
def llm_folder(tmp_path):
    folder = tmp_path / "llm"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    write_safetensors(folder / "model.safetensors")
    return folder


def refusals(folder, **options):
    with pytest.raises(PreflightError) as refused:
        read_folder(folder, **options)
    return {(one.path, one.code) for one in refused.value.refusals}


@pytest.mark.parametrize(("name", "code"), HOSTILE.items())
def test_hostile_files_are_recognised_by_their_content(hostile, name, code):
    assert find_refused(hostile / name) == code


@pytest.mark.parametrize(("name", "code"), HOSTILE.items())
@pytest.mark.parametrize("disguise", ["model.safetensors", "tokenizer.json", "vectors.dat"])
def test_hostile_files_are_refused_in_any_dress(hostile, llm_folder, name, code, disguise):
    (llm_folder / disguise).write_bytes((hostile / name).read_bytes())

    assert (disguise, code) in refusals(llm_folder)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("pytorch_model.pt", "pickle_refused"),
        ("x.CKPT", "pickle_refused"),
        ("x.joblib", "pickle_refused"),
        ("x.pkl", "pickle_refused"),
        ("x.pth", "pickle_refused"),
        ("x.pt2", "pt2_refused"),
        ("x.tar.gz", "archive_refused"),
        ("modeling_x.py", "python_file_refused"),
        ("x.ipynb", "python_file_refused"),
        ("x.gguf", "gguf_refused"),
        ("data.csv", "file_unexpected"),
        ("sub/x.bin", "file_unexpected"),
    ],
)
def test_files_are_refused_by_name_where_the_content_says_nothing(onnx_folder, name, code):
    place = onnx_folder / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"\1\2\3\4")

    assert refusals(onnx_folder) == {(name, code)}


def test_a_binary_with_a_pickle_in_it_is_refused_as_pickle(hostile, llm_folder):
    (llm_folder / "pytorch_model.bin").write_bytes((hostile / "zip_pickle").read_bytes())

    assert refusals(llm_folder) == {("pytorch_model.bin", "pickle_refused")}


def test_every_reason_is_told_at_once(hostile, llm_folder):
    (llm_folder / "weights.pkl").write_bytes((hostile / "pickle4").read_bytes())
    (llm_folder / "modeling_evil.py").write_text("import os\n")
    (llm_folder / "tokenizer.json").unlink()

    assert refusals(llm_folder) == {
        ("weights.pkl", "pickle_refused"),
        ("modeling_evil.py", "python_file_refused"),
        ("", "file_missing"),
    }


def test_a_folder_of_only_a_pickle_says_why(hostile, tmp_path):
    (tmp_path / "model.pkl").write_bytes((hostile / "pickle2").read_bytes())

    assert refusals(tmp_path) == {("model.pkl", "pickle_refused")}


def test_an_empty_folder_and_none(tmp_path):
    assert refusals(tmp_path) == {("", "runtime_unknown")}
    assert refusals(tmp_path / "none") == {("", "folder_missing")}


def test_texts_that_look_a_little_like_pickles_pass(tmp_path):
    for text in ("cat\ndog\nRabbit\n", "I am.", "c a.\n", "N.x", "."):
        (tmp_path / "x").write_text(text)
        assert find_refused(tmp_path / "x") is None, text


def test_a_safetensors_header_of_an_unlucky_length_passes(tmp_path):
    header = {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode().ljust(0x0480)
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))

    assert (tmp_path / "x").read_bytes()[:2] == b"\x80\x04"
    assert find_refused(tmp_path / "x") is None


# --- ONNX -------------------------------------------------------------------------


def test_an_onnx_folder_is_understood(onnx_folder):
    (onnx_folder / "README.md").write_text("# Model")
    (onnx_folder / "labels.txt").write_text("a\nb\n")
    (onnx_folder / "strongroom.toml").write_text("")
    (onnx_folder / ".git").mkdir()
    (onnx_folder / ".git" / "hook.py").write_text("import os")

    folder = read_folder(onnx_folder)

    assert folder.runtime == "onnx"
    assert [(one.path, one.kind) for one in folder.files] == [("model.onnx", "onnx")]
    assert folder.ignored == ("README.md", "labels.txt", "strongroom.toml")
    assert folder.size_bytes == (onnx_folder / "model.onnx").stat().st_size


def test_a_symbolic_first_axis_is_the_batch(onnx_folder):
    drafted = draft_interface(read_folder(onnx_folder), labels=["a", "b", "c", "d"])

    assert drafted == {
        "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [4]}],
        "outputs": [
            {"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [4]},
            {"name": "label", "kind": "label", "source": "scores", "labels": ["a", "b", "c", "d"]},
        ],
        "batch": {"max_size": 32, "leading_axis": True},
    }
    Interface.parse(drafted)
    assert guess_task(read_folder(onnx_folder), ["a"]) == "classification"


@pytest.mark.parametrize(
    ("_case", "x", "y", "shapes", "batch"),
    [
        ("fixed to one row", [1, 3, "w"], [1, 2], ([3, -1], [2]), (1, True)),
        ("no batch axis", [3, 2], [7], ([3, 2], [7]), (1, False)),
        ("one side fixed", ["n", 3], [7, 2], ([-1, 3], [7, 2]), (1, False)),
        ("a number a row", ["n", 3], ["n"], ([3], []), (32, True)),
        ("a lone number", ["n", 3], [], ([-1, 3], []), (1, False)),
    ],
)
def test_axes_of_a_graph(tmp_path, _case, x, y, shapes, batch):
    write_onnx(
        tmp_path / "model.onnx",
        [("x", TensorProto.INT64, x)],
        [("y", TensorProto.DOUBLE, y)],
    )

    parsed = Interface.parse(draft_interface(read_folder(tmp_path)))

    assert (list(parsed.inputs[0].shape), list(parsed.outputs[0].shape)) == shapes
    assert (parsed.batch.max_size, parsed.batch.leading_axis) == batch
    assert (parsed.inputs[0].datatype, parsed.outputs[0].datatype) == ("INT64", "FP64")


def test_initializers_are_no_inputs(tmp_path):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    write_onnx(
        tmp_path / "model.onnx",
        [("x", TensorProto.FLOAT, ["n", 1]), ("w", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, ["n", 1])],
        [weight],
    )

    assert [one.name for one in read_onnx(tmp_path / "model.onnx").inputs] == ["x"]


def test_our_reader_agrees_with_the_onnx_package(tmp_path):
    write_onnx(
        tmp_path / "model.onnx",
        [("x", TensorProto.INT8, ["n", 5, None]), ("z", TensorProto.BOOL, None)],
        [("y", TensorProto.UINT16, [2, "k"])],
    )
    theirs = onnx.load(tmp_path / "model.onnx").graph

    ours = read_onnx(tmp_path / "model.onnx")

    assert [one.name for one in ours.inputs] == [one.name for one in theirs.input]
    assert [one.datatype for one in (*ours.inputs, *ours.outputs)] == ["INT8", "BOOL", "UINT16"]
    assert [one.shape for one in ours.inputs] == [(None, 5, None), None]
    assert ours.outputs[0].shape == (2, None)


@pytest.mark.parametrize(
    ("_case", "x", "y"),
    [
        ("texts", ("x", TensorProto.STRING, ["n", 1]), ("y", TensorProto.STRING, ["n", 1])),
        ("shape not stated", ("x", TensorProto.FLOAT, None), ("y", TensorProto.FLOAT, [1])),
        ("half floats", ("x", TensorProto.FLOAT, [1]), ("y", TensorProto.FLOAT16, [1])),
        ("odd name", ("x y", TensorProto.FLOAT, [1]), ("y", TensorProto.FLOAT, [1])),
    ],
)
def test_graphs_that_cannot_be_sent_are_refused(tmp_path, _case, x, y):
    write_onnx(tmp_path / "model.onnx", [x], [y])

    with pytest.raises(PreflightError) as refused:
        draft_interface(read_folder(tmp_path))

    assert refused.value.code == "interface_mismatch"


def test_labels_need_as_many_scores(onnx_folder):
    with pytest.raises(PreflightError) as refused:
        draft_interface(read_folder(onnx_folder), labels=["a", "b", "c"])

    assert refused.value.code == "interface_mismatch"


def test_external_data_in_the_folder_is_part_of_the_model(onnx_folder):
    write_onnx(
        onnx_folder / "model.onnx",
        [("x", TensorProto.UINT8, [4])],
        [("y", TensorProto.UINT8, [4])],
        [external_tensor("weights.bin")],
    )
    (onnx_folder / "weights.bin").write_bytes(b"\x80\x04.\0")

    folder = read_folder(onnx_folder)

    assert [(one.path, one.kind) for one in folder.files] == [
        ("model.onnx", "onnx"),
        ("weights.bin", "external_data"),
    ]


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "/etc/passwd",
        "../../../../etc/passwd",
        "missing.bin",
        "link.bin",
        "",
        "a/../link.bin",
    ],
)
def test_external_data_outside_of_the_folder_is_refused(onnx_folder, location):
    folder = onnx_folder / "model"
    folder.mkdir()
    (onnx_folder / "secret").write_text("mine")
    (folder / "link.bin").symlink_to(onnx_folder / "secret")
    write_onnx(
        folder / "model.onnx",
        [("x", TensorProto.UINT8, [4])],
        [("y", TensorProto.UINT8, [4])],
        [external_tensor(location)],
    )

    assert refusals(folder) == {("model.onnx", "onnx_external_data")}


def test_external_data_in_a_subgraph_is_found(tmp_path):
    constant = helper.make_node("Constant", [], ["c"], value=external_tensor("../secret"))
    branch = helper.make_graph(
        [constant], "b", [], [helper.make_tensor_value_info("c", TensorProto.UINT8, [4])]
    )
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    write_onnx(
        tmp_path / "model.onnx",
        [("x", TensorProto.BOOL, [])],
        [("y", TensorProto.UINT8, [4])],
        nodes=[node],
    )

    assert refusals(tmp_path) == {("model.onnx", "onnx_external_data")}


def test_custom_operators_are_refused(tmp_path):
    write_onnx(
        tmp_path / "model.onnx",
        [("x", TensorProto.FLOAT, [1])],
        [("y", TensorProto.FLOAT, [1])],
        nodes=[helper.make_node("EvilOp", ["x"], ["y"], domain="evil.custom")],
        opsets=[helper.make_opsetid("evil.custom", 1)],
    )

    assert refusals(tmp_path) == {("model.onnx", "onnx_custom_op")}


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"hello world", b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x02\x62", b"\xff" * 20, b"{}"],
)
def test_what_is_no_onnx_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(OnnxError):
        read_onnx(tmp_path / "model.onnx")
    assert refusals(tmp_path) == {("model.onnx", "onnx_malformed")}


def test_two_onnx_files_are_refused(onnx_folder):
    (onnx_folder / "other.onnx").write_bytes((onnx_folder / "model.onnx").read_bytes())

    assert refusals(onnx_folder) == {("other.onnx", "file_unexpected")}


def test_paths_that_no_manifest_has_are_refused(onnx_folder):
    (onnx_folder / "model.onnx").rename(onnx_folder / "my model.onnx")

    assert refusals(onnx_folder) == {("my model.onnx", "path_invalid")}


# --- transformers -----------------------------------------------------------------


def test_a_language_model_is_understood(llm_folder):
    (llm_folder / "merges.txt").write_text("a b")

    folder = read_folder(llm_folder)

    assert folder.runtime == "transformers"
    assert {one.path: one.kind for one in folder.files} == {
        "chat_template.jinja": "tokenizer_config",
        "config.json": "config",
        "generation_config.json": "config",
        "model.safetensors": "safetensors",
        "tokenizer.json": "tokenizer",
        "tokenizer_config.json": "tokenizer_config",
    }
    assert folder.ignored == ("merges.txt",)
    assert guess_task(folder) == "text-generation"
    parsed = Interface.parse(draft_interface(folder))
    assert parsed.check_input({"prompt": "hi"}) == {
        "prompt": "hi",
        "system_prompt": "",
        "messages": "",
        "max_new_tokens": 64,
        "temperature": 0,
    }
    assert parsed.streamed_output == parsed.outputs[0]
    assert [one.name for one in parsed.outputs] == ["text", "tokens_in", "tokens_out"]
    assert parsed.batch.max_size == 1


@pytest.mark.parametrize(
    ("architecture", "size"), [("BertModel", "hidden_size"), ("DistilBertModel", "dim")]
)
def test_an_embedding_model_is_understood(llm_folder, architecture, size):
    config = {"architectures": [architecture], size: 384}
    (llm_folder / "config.json").write_text(json.dumps(config))

    folder = read_folder(llm_folder)
    parsed = Interface.parse(draft_interface(folder))

    assert guess_task(folder) == "feature-extraction"
    assert [one.name for one in parsed.inputs] == ["text"]
    assert (parsed.outputs[0].name, parsed.outputs[0].shape) == ("embedding", (384,))
    assert parsed.batch.max_size == 8


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({}, "config_architecture_refused"),
        ({"architectures": []}, "config_architecture_refused"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "config_architecture_refused"),
        ({"architectures": [7]}, "config_architecture_refused"),
        ([], "config_malformed"),
    ],
)
def test_configurations_that_are_not_served(llm_folder, config, code):
    (llm_folder / "config.json").write_text(json.dumps(config))

    assert refusals(llm_folder) == {("config.json", code)}


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("config.json", b"{", "config_malformed"),
        ("tokenizer.json", b"[" * 100_000, "tokenizer_malformed"),
        ("tokenizer_config.json", b"\xff", "tokenizer_config_malformed"),
        ("model.safetensors", b"", "safetensors_truncated"),
        ("model.safetensors", struct.pack("<Q", 1 << 40) + b"{" * 99, "safetensors_truncated"),
        ("model.safetensors", struct.pack("<Q", 2) + b"[]", "safetensors_header_malformed"),
        ("model.safetensors", struct.pack("<Q", 2) + b"{x", "safetensors_header_malformed"),
    ],
)
def test_broken_files_are_refused(llm_folder, name, content, code):
    (llm_folder / name).write_bytes(content)

    assert refusals(llm_folder) == {(name, code)}


def test_large_headers_and_documents_are_refused(llm_folder, monkeypatch):
    monkeypatch.setattr(inspect, "MAX_SAFETENSORS_HEADER_BYTES", 16)
    monkeypatch.setattr(inspect, "MAX_JSON_BYTES", 1)

    found = refusals(llm_folder)

    assert ("model.safetensors", "safetensors_header_too_large") in found
    assert ("tokenizer.json", "tokenizer_too_large") in found


def test_a_missing_hidden_size_is_told(llm_folder):
    (llm_folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))

    with pytest.raises(PreflightError) as refused:
        draft_interface(read_folder(llm_folder))

    assert refused.value.code == "config_value_refused"


def test_a_folder_of_too_many_files_is_not_read(onnx_folder, monkeypatch):
    monkeypatch.setattr(inspect, "MAX_FOLDER_ENTRIES", 3)
    for name in "abc":
        (onnx_folder / f"{name}.md").write_text("")

    assert refusals(onnx_folder) == {("", "too_many_files")}


def test_linked_files_are_followed_and_sockets_are_not(llm_folder, tmp_path):
    blob = tmp_path / "blob"
    (llm_folder / "model.safetensors").rename(blob)
    (llm_folder / "model.safetensors").symlink_to(blob)

    assert "model.safetensors" in [one.path for one in read_folder(llm_folder).files]

    (llm_folder / "dangling.safetensors").symlink_to(Path("nowhere"))
    assert refusals(llm_folder) >= {("dangling.safetensors", "unknown_format")}


@pytest.mark.parametrize(
    ("_settings", "_takes"), [("{}", False), ('{"chat_template": "{{ messages }}"}', True)]
)
def test_model_without_a_chat_template_takes_no_conversation(llm_folder, _settings, _takes):
    (llm_folder / "chat_template.jinja").unlink()
    (llm_folder / "tokenizer_config.json").write_text(_settings)

    parsed = Interface.parse(draft_interface(read_folder(llm_folder)))

    assert ("messages" in {one.name for one in parsed.inputs}) is _takes


# --- Folders that are no model ------------------------------------------------------


def test_a_folder_of_a_hundred_thousand_files_is_refused_unread(onnx_folder, monkeypatch):
    for number in range(100_000):
        os.close(os.open(onnx_folder / f"{number}.bin", os.O_CREAT, 0o600))
    opened = []
    monkeypatch.setattr(inspect, "find_refused", opened.append)
    monkeypatch.setattr(inspect, "read_onnx", opened.append)

    with pytest.raises(PreflightError, match="too_many_files"):
        read_folder(onnx_folder)

    assert opened == []


def test_folders_count_as_well(onnx_folder, monkeypatch):
    """A tree of empty folders would be walked for ever."""
    monkeypatch.setattr(inspect, "MAX_FOLDER_ENTRIES", 10)
    for number in range(9):
        (onnx_folder / f"folder{number}").mkdir()
    assert read_folder(onnx_folder).runtime == "onnx"

    (onnx_folder / "folder9").mkdir()
    with pytest.raises(PreflightError, match="too_many_files"):
        read_folder(onnx_folder)
