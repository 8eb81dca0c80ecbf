"""Sell predictions, keep the weights: bytes of a pushed model are in one memory, and on no disk.

The model goes the whole way, from the creator's terminal to a paid prediction; meanwhile and
afterwards nothing but its serving process may hold a piece of it.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psycopg
import pytest
import redis

from tests.chaos.children import find_stub, wait_for
from tests.e2e import searching
from tests.e2e.searching import Canary
from tests.e2e.terminal import Creator, manage, predict
from tests.inference.artifact.onnx_models import linear
from tests.onlookers import IS_ROOT, check_closed
from tests.stack import Stack

ROWS, COLUMNS = 4096, 16
CANARY_ROW = 2900
PUBLISHED_WITHIN_S = 60.0


@dataclass(frozen=True)
class Pushed:
    """A model that is served.

    Args:
        name: As consumers know it.
        canary: One row of its weights.
        begun_at: Before the canary existed; seconds since 1970.
        source: The creator's own folder, the only place where the plain file may lie.
    """

    name: str
    canary: Canary
    begun_at: float
    source: Path


@pytest.fixture(scope="module")
def pushed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    begun_at = time.time() - 1
    canary = Canary.make()
    weights = np.random.default_rng().standard_normal((ROWS, COLUMNS)).astype(np.float32)
    weights[CANARY_ROW] = np.frombuffer(canary.content, np.float32)
    source = tmp_path_factory.mktemp("creator")
    name = f"canary-{secrets.token_hex(3)}"
    (source / name).mkdir()
    (source / name / "model.onnx").write_bytes(linear(weights))
    x = np.random.default_rng().standard_normal(ROWS).astype(np.float32)
    vectors = [
        {"input": {"x": x.tolist()}, "expected": {"y": (x @ weights).tolist()}, "tolerance": 1e-2}
    ]
    (source / "vectors.json").write_text(json.dumps(vectors))
    creator = Creator(stack, source)
    creator.init(name, title="Canary", price="0.0001")
    version_id = json.loads(creator.run("push", name, "--wait", "--json"))["id"]
    admin = stack.demo["admin"]["email"]
    manage(stack, "review_version", version_id, "--approve", "--reason", "Test.", "--email", admin)

    model = f"demo/{name}"
    answer = wait_for(
        lambda: try_predict(stack, model, x), "the model", within_s=PUBLISHED_WITHIN_S
    )
    # It is this model that answers, and so its weights are in some memory.
    assert np.allclose(answer.json()["output"]["y"], x @ weights, atol=1e-2)
    return Pushed(model, canary, begun_at, source)


def try_predict(stack: Stack, model: str, x: np.ndarray) -> httpx.Response | None:
    answer = predict(stack, model, stack.demo["consumer"]["api_key"], {"x": x.tolist()})
    assert answer.status_code in (201, 404, 503), answer.text
    return answer if answer.status_code == 201 else None


def find_in_files(pushed: Pushed, canary: Canary) -> list[Path]:
    changed = searching.list_changed_files(pushed.begun_at, pushed.source)
    return [path for path in changed if searching.is_in_file(canary, path)]


@pytest.fixture
def decoy() -> Canary:
    """Another one, which is put on purpose where the real one must not be."""
    return Canary.make()


@pytest.fixture
def planted() -> Iterator[list[Path]]:
    """Files that are removed again."""
    paths: list[Path] = []
    yield paths
    for path in paths:
        path.unlink()


def test_no_file_holds_the_canary(stack: Stack, pushed: Pushed) -> None:
    assert find_in_files(pushed, pushed.canary) == []
    opened = searching.list_open_files(stack.pids)
    assert [one for one in opened if searching.is_in_file(pushed.canary, one)] == []


def test_the_search_of_files_would_find_it(
    stack: Stack, pushed: Pushed, decoy: Canary, planted: list[Path], tmp_path: Path
) -> None:
    model = pushed.source / pushed.name.partition("/")[2] / "model.onnx"
    assert searching.is_in_file(pushed.canary, model)
    # Across the border of two pieces, too.
    filler = b"\0" * (searching.PIECE_BYTES - 10)
    for number, spelling in enumerate(decoy.spellings):
        for folder in (stack.home / "logs", Path("/dev/shm"), tmp_path):
            path = folder / f"planted-{secrets.token_hex(4)}-{number}"
            planted.append(path)
            path.write_bytes(filler + spelling + b"\n")

    assert sorted(find_in_files(pushed, decoy)) == sorted(planted)

    unlinked = tmp_path / "unlinked"
    unlinked.write_bytes(decoy.content)
    with unlinked.open("rb"):
        unlinked.unlink()
        opened = searching.list_open_files([os.getpid()])
        assert any(searching.is_in_file(decoy, one) for one in opened)


def test_neither_database_nor_redis_holds_the_canary(stack: Stack, pushed: Pushed) -> None:
    assert not pushed.canary.is_in_stream(searching.dump_database(stack))
    assert not pushed.canary.is_in_stream(searching.read_redis(stack))


def test_the_search_of_database_and_redis_would_find_it(stack: Stack, decoy: Canary) -> None:
    with psycopg.connect(searching.database_url(stack), autocommit=True) as connection:
        connection.execute("CREATE TABLE planted (content bytea)")
        try:
            connection.execute("INSERT INTO planted VALUES (%s)", [b"x" + decoy.content])
            assert decoy.is_in_stream(searching.dump_database(stack))
        finally:
            connection.execute("DROP TABLE planted")
    with redis.Redis.from_url(searching.redis_url(stack)) as client:
        client.hset("planted", "field", b"x" + decoy.content)
        try:
            assert decoy.is_in_stream(searching.read_redis(stack))
        finally:
            client.delete("planted")


def test_no_process_was_started_with_the_canary(
    stack: Stack, pushed: Pushed, decoy: Canary
) -> None:
    assert not pushed.canary.is_in_stream(searching.read_starts(stack.pids))
    with subprocess.Popen(["/bin/sleep", "60"], env={"WEIGHTS": decoy.content.hex()}) as one:
        # A process that has just begun shows its environment a moment later.
        wait_for(lambda: decoy.is_in_stream(searching.read_starts([one.pid])), "it", within_s=10)
        one.kill()


def test_its_serving_process_alone_holds_it_in_memory(stack: Stack, pushed: Pushed) -> None:
    stub = find_stub(stack, pushed.name)
    if not IS_ROOT:
        # Whoever runs the product cannot look, either; the answer above shows what is there.
        with pytest.raises(PermissionError):
            Path(f"/proc/{stub}/maps").read_text()
        return

    holders = [pid for pid in stack.pids if pushed.canary.is_in_stream(searching.read_memory(pid))]
    assert holders == [stub]


def test_another_user_cannot_look_into_its_memory(stack: Stack, pushed: Pushed) -> None:
    check_closed(find_stub(stack, pushed.name))
