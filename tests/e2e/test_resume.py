"""A push that is killed goes on: the platform gets each part once, and the version is whole."""

from __future__ import annotations

import json
import secrets
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from strongroom.sealing import floe
from tests.e2e.relay import Relay
from tests.e2e.searching import Canary, is_in_file
from tests.e2e.terminal import Creator
from tests.stack import Stack

ROWS = 1024
# The weights fill two parts and a piece of a third.
COLUMNS = (2 * floe.PART_BYTES + (8 << 20)) // (4 * ROWS)
GRAPH, WEIGHTS = 0, 1
STUCK_WITHIN_S = 120


def write_model(folder: Path, canary: Canary) -> list[float]:
    """Write y = sum(x @ w), with w in a file of its own; returns y for ones."""
    weights = np.random.default_rng().random((ROWS, COLUMNS), np.float32)
    weights.flat[: canary.numbers.size] = canary.numbers
    weights.tofile(folder / "weights.bin")
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=weights.shape)
    w.data_location = TensorProto.EXTERNAL
    w.external_data.add(key="location", value="weights.bin")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("ReduceSum", ["m", "axis"], ["y"]),
        ],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", ROWS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [w, numpy_helper.from_array(np.array([1]), "axis")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    return [float(weights.sum(dtype=np.float64))]


class Platform:
    """What the platform has on record, as its API tells the creator.

    Args:
        creator: Who is logged in.
    """

    def __init__(self, creator: Creator) -> None:
        profile = json.loads((creator.config / "profile.json").read_text())
        self._http = httpx.Client(
            base_url=profile["web_url"], headers={"Authorization": f"Bearer {profile['token']}"}
        )

    def parts(self, upload_id: str) -> dict[tuple[int, int], str]:
        """The hash of each part that it holds."""
        answer = self._http.get(f"/api/uploads/{upload_id}").raise_for_status().json()
        return {(one["file"], one["part"]): one["sha256"] for one in answer["parts"]}


@pytest.mark.timeout(1_900)
def test_a_killed_push_goes_on_and_the_version_is_whole(stack: Stack, tmp_path: Path) -> None:
    name = f"resume-{secrets.token_hex(3)}"
    (tmp_path / name).mkdir()
    canary = Canary.make()
    y = write_model(tmp_path / name, canary)
    vectors = [{"input": {"x": [1.0] * ROWS}, "expected": {"y": y}, "tolerance": 1e-3}]
    (tmp_path / "vectors.json").write_text(json.dumps(vectors))
    with Relay(stack.demo["web_url"]) as relay:
        creator = Creator(stack, tmp_path, web_url=relay.url)
        creator.init(name, title="Sum", price="0.0001")

        relay.get_stuck_in(WEIGHTS, 1)
        with creator.start("push", name, "--threads=1") as push:
            assert relay.stuck.wait(STUCK_WITHIN_S)
            push.send_signal(signal.SIGKILL)
            assert push.wait(60) == -signal.SIGKILL
        assert relay.sent == [(GRAPH, 0), (WEIGHTS, 0), (WEIGHTS, 1)]
        upload_id = check_state(creator, canary)
        platform = Platform(creator)
        before = platform.parts(upload_id)
        assert set(before) == {(GRAPH, 0), (WEIGHTS, 0)}

        relay.go_on()
        version = json.loads(creator.run("push", name, "--wait", "--json"))

        # Only what was missing was sent; what was there is the same as before.
        assert sorted(relay.sent) == [(WEIGHTS, 1), (WEIGHTS, 2)]
        after = platform.parts(upload_id)
        assert before.items() < after.items()
        assert set(after) == {*before, *relay.sent}
    steps = {step["name"]: step["state"] for step in version["steps"]}
    assert version["state"] == "in_review"
    assert [steps[one] for one in ("verify", "validate", "load", "test")] == ["succeeded"] * 4
    assert list((creator.config / "uploads").iterdir()) == []


def check_state(creator: Creator, canary: Canary) -> str:
    """What the killed push left behind goes on with this upload, and holds no weights."""
    kept = [path for path in creator.config.rglob("*") if path.is_file()]
    assert {path.suffix for path in kept if path.parent.name == "uploads"} == {".json", ".parts"}
    assert [path for path in kept if is_in_file(canary, path)] == []
    # The search would find them.
    assert is_in_file(canary, next(creator.folder.glob("*/weights.bin")))
    [begun] = (creator.config / "uploads").glob("*.json")
    return str(json.loads(begun.read_text())["upload_id"])
