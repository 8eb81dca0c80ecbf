from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from inference.triton import repository
from inference.triton.errors import RepositoryError
from inference.triton.repository import Parameters, render_config, write_model
from strongroom.interface import Interface
from tests.inference.triton.conftest import TOY

REPLICA = uuid.UUID("0192f0c1-2d3e-7a4b-8c5d-6e7f80910203")
NAME = "r0192f0c12d3e7a4b8c5d6e7f80910203"
INTERFACE = Interface.parse(
    {
        "inputs": [
            {"name": "text", "kind": "text"},
            {"name": "mood", "kind": "choice", "choices": ["glad"]},
            {"name": "heat", "kind": "number"},
            {"name": "count", "kind": "integer", "required": False, "default": 1},
            {"name": "loud", "kind": "boolean"},
            {"name": "image:0", "kind": "tensor", "datatype": "UINT8", "shape": [-1, 3]},
            {"name": "one", "kind": "tensor", "datatype": "FP64", "shape": []},
        ],
        "outputs": [
            {"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [2], "hidden": True},
            {"name": "best", "kind": "label", "source": "scores", "labels": ["a", "b"]},
        ],
        "batch": {"max_size": 16},
    }
)


def parse(text: str):
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_the_config_is_complete():
    config = parse(render_config(NAME, INTERFACE, Parameters(REPLICA, Path("/run/a.sock"), "scan")))

    types = model_config_pb2.DataType
    assert (config.name, config.backend, config.max_batch_size) == (NAME, "python", 16)
    assert [(one.name, types.Name(one.data_type), list(one.dims)) for one in config.input] == [
        ("text", "TYPE_STRING", [1]),
        ("mood", "TYPE_STRING", [1]),
        ("heat", "TYPE_FP32", [1]),
        ("count", "TYPE_INT64", [1]),
        ("loud", "TYPE_BOOL", [1]),
        ("image:0", "TYPE_UINT8", [-1, 3]),
        ("one", "TYPE_FP64", [1]),
    ]
    # A label is no tensor of the model.
    assert [(one.name, list(one.dims)) for one in config.output] == [("scores", [2])]
    assert config.HasField("dynamic_batching")
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    # With any limit of its own on the queue, Triton's batcher misses wake-ups.
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert not config.dynamic_batching.priority_queue_policy
    (group,) = config.instance_group
    assert (group.kind, group.count) == (group.KIND_CPU, 1)
    assert {key: one.string_value for key, one in config.parameters.items()} == {
        "replica_id": str(REPLICA),
        "socket": "/run/a.sock",
        "purpose": "scan",
        "root": str(Path(repository.__file__).resolve().parents[2]),
    }


@pytest.mark.parametrize("batch", [{"max_size": 1}, {"max_size": 16, "coalesce": False}])
def test_requests_that_may_not_meet_are_not_batched(batch):
    interface = Interface.parse({**INTERFACE.to_json(), "batch": batch})

    config = parse(render_config(NAME, interface, Parameters(REPLICA, Path("/run/a.sock"), "scan")))

    assert config.max_batch_size == batch["max_size"]
    assert not config.HasField("dynamic_batching")


def test_nothing_in_a_value_can_leave_its_quotes():
    hostile = Path('/run/"\n} backend: "x\\é')

    config = parse(render_config(NAME, INTERFACE, Parameters(REPLICA, hostile)))

    assert config.parameters["socket"].string_value == str(hostile)
    assert config.backend == "python"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "r",
        NAME[:-1],
        NAME + "0",
        NAME.upper(),
        "x" + NAME[1:],
        "../" + NAME,
        NAME + "/",
        NAME + "\n",
    ],
)
def test_names_that_are_not_ours_are_refused(tmp_path, name):
    (tmp_path / "keep").mkdir()

    with pytest.raises(RepositoryError):
        render_config(name, INTERFACE, Parameters(REPLICA, Path("/s")))
    with pytest.raises(RepositoryError):
        repository.remove_model(tmp_path, name)
    with pytest.raises(RepositoryError):
        repository.replica_id_of(name)
    assert [one.name for one in tmp_path.iterdir()] == ["keep"]


def test_a_folder_is_written_once_and_removed(tmp_path):
    parameters = Parameters(REPLICA, Path("/s"))

    name = write_model(tmp_path, INTERFACE, parameters, model_source=TOY)

    assert name == NAME
    assert repository.replica_id_of(name) == REPLICA
    files = sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file())
    assert files == [f"{NAME}/1/model.py", f"{NAME}/config.pbtxt"]
    # It may be loaded: Triton must not see it change.
    before = (tmp_path / NAME).stat().st_ino
    with pytest.raises(RepositoryError):
        write_model(tmp_path, INTERFACE, parameters, model_source=TOY)
    assert (tmp_path / NAME).stat().st_ino == before
    repository.remove_model(tmp_path, NAME)
    assert list(tmp_path.iterdir()) == []
    repository.remove_model(tmp_path, NAME)


def test_the_loaders_entry_is_what_is_copied_by_default(tmp_path):
    write_model(tmp_path, INTERFACE, Parameters(REPLICA, Path("/s")))

    root = Path(repository.__file__).resolve().parents[2]
    entry = (root / "inference/serving/model_stub.py").read_bytes()
    assert (tmp_path / NAME / "1/model.py").read_bytes() == entry


def test_clear_takes_only_our_folders(tmp_path):
    write_model(tmp_path, INTERFACE, Parameters(REPLICA, Path("/s")), model_source=TOY)
    (tmp_path / f".{NAME}.new/1").mkdir(parents=True)
    (tmp_path / "other").mkdir()

    assert sorted(repository.clear(tmp_path)) == [f".{NAME}.new", NAME]

    assert [one.name for one in tmp_path.iterdir()] == ["other"]
    assert repository.clear(tmp_path / "missing") == []


def test_model_that_streams_is_decoupled():
    described = {
        "inputs": [{"name": "prompt", "kind": "text"}],
        "outputs": [{"name": "text", "kind": "text", "stream": True}],
    }
    parameters = Parameters(REPLICA, Path("/run/a.sock"))

    streaming = parse(render_config(NAME, Interface.parse(described), parameters))
    described["outputs"][0]["stream"] = False
    plain = parse(render_config(NAME, Interface.parse(described), parameters))

    assert streaming.model_transaction_policy.decoupled
    assert streaming.max_batch_size == 1
    assert not plain.HasField("model_transaction_policy")
