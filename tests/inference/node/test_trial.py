"""The arithmetic of tests and benchmarks, on a model that is a function of the test."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from inference.node import trial
from inference.node.errors import CancelledError
from inference.node.replica import Work, WorkOrder
from inference.triton.errors import ModelExecutionError, TritonUnavailableError
from marketplace.core.ids import new_id
from strongroom.sealing.manifest import Manifest, TestVector

INTERFACE = {
    "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [-1]}],
    "outputs": [
        {"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [2], "hidden": True},
        {"name": "best", "kind": "label", "source": "scores", "labels": ["a", "b"]},
    ],
    "batch": {"max_size": 6},
}


@pytest.fixture(autouse=True)
def short_points(monkeypatch):
    monkeypatch.setattr(trial, "POINT_S", 0.02)
    monkeypatch.setattr(trial, "CALLS_MIN", 5)


def order(kind, *vectors, interface=INTERFACE):
    manifest = Manifest(
        artifact_id=str(new_id()),
        model="acme/toy",
        runtime="onnx",
        task="t",
        licence="MIT",
        interface=interface,
        files=(),
        created_at="2026-11-21T03:42:00Z",
        test_vectors=vectors,
    )
    return WorkOrder(Work(new_id(), kind), new_id(), manifest, 0, 123.456)


class Model:
    def __init__(self, scores=(0.25, 0.75), error=None):
        self.scores, self.error = scores, error
        self.calls = []

    def __call__(self, name, inputs, outputs, /, *, timeout_s):
        self.calls.append((name, inputs[0].shape, list(outputs)))
        if self.error is not None:
            raise self.error
        return {"scores": np.array([self.scores] * inputs[0].shape[0], dtype=np.float32)}


def run(one, model, cancelled=None):
    return trial.run(one, model, triton_version="2.51.0", cancelled=cancelled or threading.Event())


def vector(best="b", score=0.75, x=(1.0, 2.0), **expected):
    return TestVector({"x": list(x)}, {"best": {"label": best, "score": score}, **expected}, 1e-4)


def test_vectors_are_run_one_by_one_and_compared():
    model = Model()
    one = order("test", vector(), vector(x=(1.0,), scores=[0.25, 0.75]))

    result = run(one, model)

    assert result.to_json() == {"state": "succeeded", "result": {"vectors": 2, "passed": 2}}
    assert [shape for _, shape, _ in model.calls] == [(1, 2), (1, 1)]
    assert model.calls[0][0] == f"r{one.replica_id.hex}"
    assert model.calls[0][2] == ["scores"]


def test_a_difference_is_told_with_its_place():
    result = run(order("test", vector(), vector(best="a"), vector(score=0.8)), Model()).to_json()

    assert (result["state"], result["reason_code"]) == ("failed", "test_vector_mismatch")
    assert (result["result"]["vectors"], result["result"]["passed"]) == (3, 1)
    assert result["result"]["failures"] == [
        {"vector": 1, "mismatches": [{"pointer": "/best/label", "detail": "Is 'b', not 'a'."}]},
        {"vector": 2, "mismatches": [{"pointer": "/best/score", "detail": "Is 0.75, not 0.8."}]},
    ]
    assert result["result"]["detail"] == "Test vector 1, /best/label: Is 'b', not 'a'."


def test_within_the_tolerance_is_right():
    assert run(order("test", vector(score=0.75005)), Model()).is_success
    assert not run(order("test", vector(score=0.7503)), Model()).is_success


@pytest.mark.parametrize(
    "model", [Model(error=ModelExecutionError("It broke.")), Model(scores=(float("nan"), 0.0))]
)
def test_a_model_that_fails_on_a_vector_fails_the_test(model):
    result = run(order("test", vector()), model)

    assert result.reason_code == "test_vector_mismatch"
    (failure,) = result.result["failures"]
    assert failure["mismatches"][0]["pointer"] == ""


def test_a_long_list_of_failures_is_cut():
    result = run(order("test", *[vector(best="a")] * 30), Model())

    assert len(result.result["failures"]) == trial.FAILURES_MAX
    assert result.result["passed"] == 0


def test_the_benchmark_goes_up_to_the_largest_batch():
    model = Model()

    result = run(order("benchmark", vector()), model)

    assert result.is_success
    assert [one["batch"] for one in result.result["points"]] == [1, 2, 4, 6]
    assert {shape for _, shape, _ in model.calls} == {(1, 2), (2, 2), (4, 2), (6, 2)}
    assert (result.result["load_ms"], result.result["triton_version"]) == (123.5, "2.51.0")
    for point in result.result["points"]:
        assert point["p50_ms"] <= point["p95_ms"]


def test_no_batch_is_measured_whose_inputs_fill_the_memory(monkeypatch):
    # A row has two numbers of four octets.
    monkeypatch.setattr(trial, "BATCH_BYTES_MAX", 4 * 8)
    at_limit = run(order("benchmark", vector()), Model())
    monkeypatch.setattr(trial, "BATCH_BYTES_MAX", 4 * 8 - 1)
    past_it = run(order("benchmark", vector()), Model())
    monkeypatch.setattr(trial, "BATCH_BYTES_MAX", 1)
    tiny = run(order("benchmark", vector()), Model())

    batches = [[one["batch"] for one in got.result["points"]] for got in (at_limit, past_it, tiny)]
    assert batches == [[1, 2, 4], [1, 2], [1]]


def test_rows_per_second_are_rows_over_time():
    class Slow(Model):
        def __call__(self, *args, **kwargs):
            time.sleep(0.01)
            return super().__call__(*args, **kwargs)

    points = run(order("benchmark", vector()), Slow()).result["points"]

    for point in points:
        assert 10 <= point["p50_ms"] < 15
        assert point["rows_per_s"] == pytest.approx(
            1000 * point["batch"] / point["p50_ms"], rel=0.3
        )


def test_rows_of_different_lengths_are_measured_with_one_of_them():
    model = Model()

    result = run(order("benchmark", vector(x=(1.0,)), vector(x=(1.0, 2.0))), model)

    assert [one["batch"] for one in result.result["points"]] == [1, 2, 4, 6]
    assert {shape[1] for _, shape, _ in model.calls} == {1}


def test_a_model_that_fails_in_its_benchmark_gets_no_certificate():
    result = run(order("benchmark", vector()), Model(error=ModelExecutionError("It broke.")))

    assert result.reason_code == "benchmark_failed"
    assert result.result["detail"] == "The model failed in its benchmark: It broke."


@pytest.mark.parametrize("kind", ["test", "benchmark"])
def test_a_server_that_is_gone_is_not_the_models_fault(kind):
    with pytest.raises(TritonUnavailableError):
        run(order(kind, vector()), Model(error=TritonUnavailableError()))


@pytest.mark.parametrize("kind", ["test", "benchmark"])
def test_work_can_be_cancelled(kind):
    cancelled = threading.Event()
    cancelled.set()

    with pytest.raises(CancelledError):
        run(order(kind, vector()), Model(), cancelled)


def test_unknown_work_is_refused():
    assert run(order("other"), Model()).reason_code == "work_unknown"


def test_a_slow_model_gets_fewer_calls(monkeypatch):
    monkeypatch.setattr(trial, "POINT_LIMIT_S", 0.0)
    model = Model()

    run(order("benchmark", vector()), model)

    assert len(model.calls) == 4 * (trial.CALLS_FLOOR + 2)


def test_a_benchmark_that_takes_too_long_stops_growing(monkeypatch):
    monkeypatch.setattr(trial, "BENCHMARK_LIMIT_S", 0.0)

    result = run(order("benchmark", vector()), Model())

    assert [one["batch"] for one in result.result["points"]] == [1]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 2.0), (0.95, 4.0), (0.25, 1.0), (0.26, 2.0), (1.0, 4.0)]
)
def test_percentiles_are_times_that_were_measured(share, expected):
    assert trial._percentile([4.0, 1.0, 3.0, 2.0], share) == expected
