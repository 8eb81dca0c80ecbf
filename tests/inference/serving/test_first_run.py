"""The comparison at a load, on a model that is a function of the test."""

from __future__ import annotations

import numpy as np
import pytest

from inference.serving import first_run
from inference.serving.errors import LoadError
from inference.serving.first_run import check_canaries
from marketplace.core.ids import new_id
from strongroom.sealing.manifest import Manifest, TestVector

INTERFACE = {
    "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [1]}],
    "outputs": [{"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [1]}],
}


class Model:
    """Answers its input; each run takes a second of the test's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = 0
        monkeypatch.setattr(first_run.time, "monotonic", lambda: float(self.runs))

    def run(self, arrays, is_cancelled):
        assert is_cancelled() is False
        self.runs += 1
        return [np.array(arrays[0])]


def manifest(*pairs: tuple[float, float]) -> Manifest:
    return Manifest(
        artifact_id=str(new_id()),
        model="acme/toy",
        runtime="onnx",
        task="t",
        licence="MIT",
        interface=INTERFACE,
        files=(),
        created_at="2026-11-21T03:42:00Z",
        test_vectors=tuple(TestVector({"x": [x]}, {"y": [y]}) for x, y in pairs),
    )


def check(model, one: Manifest) -> int:
    return check_canaries(model, one, one.parsed_interface)


@pytest.fixture
def model(monkeypatch):
    return Model(monkeypatch)


def test_all_vectors_are_compared_while_there_is_time(model, monkeypatch):
    monkeypatch.setattr(first_run, "CANARY_BUDGET_S", 3.0)
    pairs = [(float(number), float(number)) for number in range(5)]

    assert check(model, manifest(*pairs[:3])) == 3
    model.runs = 0
    assert check(model, manifest(*pairs)) == 3
    assert model.runs == 3


def test_the_first_is_compared_whatever_it_takes(model, monkeypatch):
    monkeypatch.setattr(first_run, "CANARY_BUDGET_S", 0.0)

    assert check(model, manifest((1.0, 1.0), (2.0, 3.0))) == 1
    with pytest.raises(LoadError, match=r"canary_mismatch.*Test vector 0, /y/0"):
        check(model, manifest((1.0, 2.0)))


def test_a_later_vector_counts_as_much(model):
    with pytest.raises(LoadError, match=r"canary_mismatch.*Test vector 1, /y/0"):
        check(model, manifest((1.0, 1.0), (2.0, 3.0), (4.0, 4.0)))


def test_no_vectors_are_none_compared(model):
    assert check(model, manifest()) == 0
