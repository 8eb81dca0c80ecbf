"""The small decisions of the loader, by themselves."""

from __future__ import annotations

import gc
import json
import os
from contextlib import suppress
from typing import Any

import pytest

from inference.artifact.errors import ArtifactError
from inference.serving import loader
from inference.serving.errors import LoadError
from inference.serving.loader import LoaderConfig
from strongroom.sealing.errors import TamperedError

VALUES = {"replica_id": "r1", "socket": "/run/x.sock", "purpose": "serve", "root": "/opt"}


def args(values: dict[str, Any]) -> dict[str, str]:
    parameters = {name: {"string_value": value} for name, value in values.items()}
    return {"model_config": json.dumps({"parameters": parameters})}


def test_configuration_names_replica_socket_and_purpose():
    config = LoaderConfig.parse(args(VALUES))

    assert (config.replica_id, config.socket_path, config.purpose) == (
        "r1",
        "/run/x.sock",
        "serve",
    )
    assert str(config.root) == "/opt"


@pytest.mark.parametrize("_missing", VALUES)
def test_configuration_must_be_complete(_missing):
    values = {name: one for name, one in VALUES.items() if name != _missing}

    with pytest.raises(LoadError, match="config_invalid"):
        LoaderConfig.parse(args(values))


@pytest.mark.parametrize("_config", ["", "[]", "{}", '{"parameters": 1}'])
def test_configuration_must_be_readable(_config):
    with pytest.raises(LoadError, match="config_invalid"):
        LoaderConfig.parse({"model_config": _config})


def test_purpose_must_be_known():
    with pytest.raises(LoadError, match="config_invalid"):
        LoaderConfig.parse(args(VALUES | {"purpose": "train"}))


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return caught


@pytest.mark.parametrize(
    ("_error", "_reason_code", "_detail"),
    [
        (LoadError("lease_invalid", "Why."), "lease_invalid", "Why."),
        (ArtifactError("onnx_malformed", "Why."), "onnx_malformed", "Why."),
        (TamperedError("Why."), "tampered", "Why."),
        (
            MemoryError("12 GB"),
            "out_of_memory",
            "The model needs more memory than this node has.",
        ),
    ],
)
def test_expected_failures_keep_their_words(_error, _reason_code, _detail):
    assert loader._explain(raised(_error)) == (_reason_code, _detail)


def test_unexpected_failure_tells_its_place_and_not_its_text():
    reason_code, detail = loader._explain(raised(ValueError("plaintext of a weight")))

    assert reason_code == "internal_error"
    assert detail.startswith("The loader failed (ValueError in test_loader.py:")
    assert "plaintext" not in detail


@pytest.mark.parametrize(("_setting", "_least"), [("1", True), ("", False), ("x", False)])
def test_threads_are_those_that_triton_was_given(monkeypatch, _setting, _least):
    monkeypatch.setenv("OMP_NUM_THREADS", _setting)

    assert loader._count_threads() == (1 if _least else len(os.sched_getaffinity(0)))


def test_no_garbage_is_collected_during_imports_and_what_they_made_is_spared():
    gc.unfreeze()
    try:
        with suppress(LoadError), loader._without_collections():
            assert not gc.isenabled()
            raise LoadError("load_failed", "An import failed.")
        assert gc.isenabled()
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
