"""Known questions in service: who is asked when, what counts as wrong, and who goes for it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from inference.node import canary
from inference.node.canary import Canaries
from inference.node.replica import CanaryOrder
from inference.triton import processes
from inference.triton.errors import (
    ModelExecutionError,
    ModelNotReadyError,
    OutputError,
    TensorError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from marketplace.core.ids import new_id
from strongroom.sealing.manifest import Manifest, TestVector
from tests.inference.artifact.onnx_models import LINEAR_INTERFACE, WEIGHTS, model, value
from tests.inference.node.conftest import X, right_vector
from tests.inference.node.platform import Platform, wait_for
from tests.inference.node.processes import NodeProcess
from tests.inference.serving.builders import GENERATION_INTERFACE
from tests.inference.serving.sealed import SealedModel, seal

ROW = np.array([X], dtype=np.float32)
RIGHT = [1.0, 2.0]


def make_order(*vectors: TestVector, interface: dict[str, Any] | None = None) -> CanaryOrder:
    plain = {
        "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [2]}],
        "outputs": [{"name": "y", "kind": "tensor", "datatype": "FP32", "shape": [2]}],
    }
    manifest = Manifest(
        artifact_id=str(new_id()),
        model="acme/toy",
        runtime="onnx",
        task="t",
        licence="MIT",
        interface=interface or plain,
        files=(),
        created_at="2026-11-21T03:42:00Z",
        test_vectors=vectors,
    )
    return CanaryOrder(new_id(), manifest, 1)


def vector(number: float = 0.0) -> TestVector:
    return TestVector({"x": [number, number]}, {"y": RIGHT}, 1e-3)


@dataclass
class Service:
    """Replicas whose answers, or failures, the test puts in a row; then they are right."""

    orders: list[CanaryOrder]
    answers: list[Any] = field(default_factory=list)
    is_busy: bool = False
    asked: list[tuple[str, float, float]] = field(default_factory=list)
    records: dict[Any, dict[str, Any]] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[tuple[CanaryOrder, str]] = field(default_factory=list)

    def infer(self, name, inputs, outputs, /, *, timeout_s):
        self.asked.append((name, float(inputs[0].data[0, 0]), timeout_s))
        answer = self.answers.pop(0) if self.answers else RIGHT
        if isinstance(answer, Exception):
            raise answer
        return {"y": np.array([answer], np.float32)}

    def note(self, replica_id, record):
        self.records[replica_id] = record
        self.history.append(record)

    def canaries(self, interval_s: float = 0.001) -> Canaries:
        return Canaries(
            interval_s=interval_s,
            list_orders=lambda: self.orders,
            is_busy=lambda: self.is_busy,
            find_infer=lambda _: self.infer,
            on_record=self.note,
            on_wrong=lambda order, place: self.wrong.append((order, place)),
        )


def tick_until(canaries: Canaries, look) -> None:
    def step():
        canaries.tick()
        return look()

    wait_for(step)


def settle(canaries: Canaries) -> None:
    """Let the question that is out come back."""
    if canaries._thread is not None:
        canaries._thread.join(10)


def test_vectors_are_asked_in_turn():
    service = Service([make_order(vector(1), vector(2), vector(3))])
    canaries = service.canaries()

    tick_until(canaries, lambda: len(service.asked) >= 5)
    settle(canaries)

    assert [number for _, number, _ in service.asked[:5]] == [1, 2, 3, 1, 2]
    assert {timeout_s for _, _, timeout_s in service.asked} == {canary.TIMEOUT_S}
    record = service.records[service.orders[0].replica_id]
    assert record["right"] == record["asked"] == len(service.asked)
    assert (record["wrong"], record["vectors"], record["healthy"]) == (0, 3, True)
    assert record["at"].endswith("Z")
    assert service.wrong == []


def test_every_replica_gets_its_turn():
    service = Service([make_order(vector()), make_order(vector()), make_order(vector())])

    tick_until(service.canaries(), lambda: len({name for name, _, _ in service.asked}) == 3)


def test_nobody_is_asked_before_the_interval_is_over():
    service = Service([make_order(vector())])
    canaries = service.canaries(interval_s=600)

    canaries.tick()
    settle(canaries)

    assert service.asked == []
    due_s = canaries._records[service.orders[0].replica_id].due_at - time.monotonic()
    assert 0.7 * 600 < due_s < 1.26 * 600


def test_nobody_is_asked_while_something_is_loaded_or_measured():
    service = Service([make_order(vector())], is_busy=True)
    canaries = service.canaries()
    for _ in range(20):
        canaries.tick()
        time.sleep(0.002)
    assert service.asked == []

    service.is_busy = False
    tick_until(canaries, lambda: service.asked)


def test_one_question_at_a_time():
    go, at_once, most = threading.Event(), [0], [0]
    service = Service([make_order(vector()), make_order(vector())])
    real = service.infer

    def slow(*arguments, **options):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        go.wait(0.05)
        at_once[0] -= 1
        return real(*arguments, **options)

    service.infer = slow
    tick_until(service.canaries(), lambda: len(service.asked) >= 4)
    assert most == [1]


def test_version_without_vectors_says_so():
    service = Service([make_order()])
    service.canaries().tick()

    assert service.records[service.orders[0].replica_id] == {"vectors": 0, "note": "no canary"}
    assert service.asked == []


def test_text_that_is_drawn_by_chance_is_not_compared():
    def ask(**inputs: Any) -> TestVector:
        return TestVector({"prompt": "a", **inputs}, {"text": "b"})

    order = make_order(
        ask(),
        ask(temperature=0.7),
        ask(temperature=0.7, seed=3),
        ask(temperature=0),
        interface=GENERATION_INTERFACE,
    )
    assert canary._list_repeatable(order.manifest) == (0, 2, 3)


WRONG = [
    [1.0, 2.5],
    [float("nan"), 2.0],
    OutputError("the model answered 2 times"),
    TensorError("input_too_long: The prompt is too long."),
    ModelExecutionError("output_not_finite: The output y holds NaN."),
    ModelExecutionError("input fault: input_invalid: No."),
    ModelExecutionError("model_failed: The model failed on this input (ValueError)."),
]
UNANSWERED = [
    TritonUnavailableError("gone"),
    TritonDeadlineError("the model server did not answer in time"),
    ModelNotReadyError(),
    ModelExecutionError("out_of_memory: The input needs more memory than there is."),
    ModelExecutionError("Stub process 'r1_0_0' is not healthy."),
]


@pytest.mark.parametrize("_answer", WRONG, ids=str)
def test_two_wrong_answers_take_the_replica_out(_answer):
    service = Service([make_order(vector())], [_answer, _answer])
    canaries = service.canaries()

    tick_until(canaries, lambda: service.wrong)
    settle(canaries)

    [(order, place)] = service.wrong[:1]
    assert order is service.orders[0]
    assert place.startswith("Test vector 0, /")
    assert service.records[order.replica_id]["wrong"] == 2


@pytest.mark.parametrize("_answer", WRONG, ids=str)
def test_one_wrong_answer_does_not(_answer):
    service = Service([make_order(vector())], [_answer])
    canaries = service.canaries()

    tick_until(canaries, lambda: len(service.asked) >= 4)
    settle(canaries)

    assert service.wrong == []
    # It was asked for again at once, without waiting for the next turn.
    record = service.records[service.orders[0].replica_id]
    assert (record["wrong"], record["asked"]) == (1, len(service.asked))


@pytest.mark.parametrize("_answer", UNANSWERED, ids=str)
def test_no_answer_is_not_a_wrong_one(_answer):
    service = Service([make_order(vector())], [_answer] * canary.UNANSWERED_MAX)
    canaries = service.canaries()
    replica_id = service.orders[0].replica_id

    tick_until(canaries, lambda: service.records[replica_id].get("right"))
    settle(canaries)

    record = service.records[replica_id]
    assert service.wrong == []
    assert (record["wrong"], record["unanswered"]) == (0, canary.UNANSWERED_MAX)
    # Called unhealthy with the last of them, not before, and well again with the first answer.
    healthy = [one["healthy"] for one in service.history]
    sick = canary.UNANSWERED_MAX
    assert healthy[: sick + 2] == [*[True] * sick, False, True]


def test_mistake_of_ours_takes_nobody_out():
    service = Service([make_order(vector())], [ZeroDivisionError()])
    canaries = service.canaries()

    tick_until(canaries, lambda: len(service.asked) >= 3)

    assert service.wrong == []


def flaky(seed: int) -> bytes:
    """The linear graph, plus one at some of its runs: ONNX Runtime draws on from run to run."""
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"]),
            helper.make_node("RandomUniform", [], ["u"], seed=float(seed), shape=[1], low=-1.0),
            helper.make_node("Relu", ["u"], ["r"]),
            helper.make_node("Sign", ["r"], ["s"]),
            helper.make_node("Add", ["p", "s"], ["y"]),
        ],
        [value("x", [None, 16])],
        [value("y", [None, 4])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )


def flaky_with(pattern: str) -> bytes:
    """A graph whose first runs are right (R) and wrong (W) in this order."""
    zeros = np.zeros((1, 16), np.float32)
    for seed in range(1, 5000):
        graph = flaky(seed)
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        if all((session.run(None, {"x": zeros})[0][0, 0] > 0.5) == (one == "W") for one in pattern):
            return graph
    raise AssertionError(pattern)


def seal_graph(folder: Path, graph: bytes, *vectors: TestVector) -> SealedModel:
    files = {"model.onnx": ("onnx", graph)}
    return seal(folder, files, runtime="onnx", interface=LINEAR_INTERFACE, vectors=vectors)


@pytest.fixture
def own_platform() -> Iterator[Platform]:
    platform = Platform()
    yield platform
    platform.close()


def start_node(platform: Platform, interval_s: int) -> NodeProcess:
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    node = NodeProcess(folder, platform, STRONGROOM_NODE_CANARY_INTERVAL_S=str(interval_s))
    node.start()
    platform.wait_triton(ready=True)
    return node


def stop_node(node: NodeProcess) -> None:
    if node.process.poll() is None:
        node.stop()
    shutil.rmtree(node.folder, ignore_errors=True)


def test_replica_that_begins_to_answer_wrongly_is_taken_out(own_platform, tmp_path):
    platform = own_platform
    node = start_node(platform, 1)
    try:
        # The first run is the load's own comparison.
        bad = platform.assign(seal_graph(tmp_path / "a", flaky_with("RRWWW"), right_vector()))
        once = platform.assign(seal_graph(tmp_path / "b", flaky_with("RRWRRRR"), right_vector()))
        plain = platform.assign(seal_graph(tmp_path / "c", flaky_with("RRRRRRR")))
        for replica_id in (bad, once, plain):
            platform.wait_state(replica_id, "ready", "unloading", "failed")
        pid = node.stub_pid(bad)

        line = platform.wait_state(bad, "failed")

        assert line["reason_code"] == "canary_mismatch"
        assert line["detail"].startswith("Test vector 0, /y/0: Is ")
        assert platform.states(bad)[-3:] == ["ready", "unloading", "failed"]
        assert not processes.is_alive(pid)
        lent = {lease for lease, of in platform.leases.items() if of == bad}
        assert len(lent) == 1
        assert lent <= set(platform.released)
        found = platform.merged[bad]["canary"]
        assert (found["wrong"], found["right"]) == (2, found["asked"] - 2)
        # A mistake that is gone when it is asked for again takes nobody out.
        wait_for(lambda: platform.merged[once].get("canary", {}).get("right", 0) >= 4)
        assert platform.merged[once]["canary"]["wrong"] == 1
        assert platform.line(once)["state"] == "ready"
        assert platform.merged[once]["canary"]["at"]
        assert platform.merged[plain]["canary"] == {"vectors": 0, "note": "no canary"}
    finally:
        stop_node(node)


def test_switched_off_it_stays_in_service(own_platform, tmp_path):
    """The negative control: it is the canary that takes it out."""
    platform = own_platform
    node = start_node(platform, 0)
    try:
        sealed = seal_graph(tmp_path / "a", flaky_with("RWWWW"), right_vector())
        replica_id = platform.assign(sealed)
        platform.wait_state(replica_id, "ready")

        answers = [node.infer(replica_id, ROW) for _ in range(4)]

        assert not any(np.allclose(one, ROW @ WEIGHTS, atol=0.1) for one in answers)
        count = len(platform.reports)
        wait_for(lambda: len(platform.reports) > count + 1)
        assert platform.line(replica_id)["state"] == "ready"
        assert "canary" not in platform.merged[replica_id]
    finally:
        stop_node(node)
