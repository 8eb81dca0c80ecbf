"""Sell predictions, keep the weights: bytes of pushed models are in one memory, and on no disk.

An ONNX model and a transformers model go the whole way, from the creator's terminal to a paid
prediction; meanwhile and afterwards nothing but its serving process may hold a piece of each.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
import redis
import torch
from safetensors.torch import save_file

from tests.chaos.children import find_stub, wait_for
from tests.e2e import searching
from tests.e2e.searching import Canary
from tests.e2e.terminal import Creator, manage, predict
from tests.inference.artifact.onnx_models import linear
from tests.inference.serving.builders import bert, word_tokenizer
from tests.onlookers import IS_ROOT, check_closed
from tests.stack import Stack

ROWS, COLUMNS = 4096, searching.COUNT
CANARY_ROW = 2900
WORD = "cat"
PUBLISHED_WITHIN_S = 60.0


@dataclass(frozen=True)
class Written:
    """A plain model in a folder of the creator.

    Args:
        canary: Some of its weights.
        weights: The file that holds them.
        task: What it does.
        input: Something to ask it.
        output: What it answers; none of it comes about without the canary.
    """

    canary: Canary
    weights: Path
    task: str
    input: dict[str, Any]
    output: dict[str, Any]


def write_onnx(folder: Path) -> Written:
    """Write y = x @ w, where the canary is a row of w."""
    canary = Canary.make()
    weights = np.random.default_rng().standard_normal((ROWS, COLUMNS)).astype(np.float32)
    weights[CANARY_ROW] = canary.numbers
    path = folder / "model.onnx"
    path.write_bytes(linear(weights))
    x = np.random.default_rng().standard_normal(ROWS).astype(np.float32)
    answer = (x @ weights).tolist()
    return Written(canary, path, "regression", {"x": x.tolist()}, {"y": answer})


def write_transformers(folder: Path) -> Written:
    """Write a small BERT, where the canary is half of what it knows of a word."""
    canary = Canary.make()
    model, tokenizer = copy.deepcopy(bert()), word_tokenizer()
    embeddings = model.get_input_embeddings().weight
    with torch.inference_mode():
        embeddings[tokenizer.token_to_id(WORD), : searching.COUNT] = torch.tensor(canary.numbers)
        ids = torch.tensor([tokenizer.encode(WORD).ids])
        hidden = model(input_ids=ids).last_hidden_state[0].mean(0)
        vector = torch.nn.functional.normalize(hidden, dim=0)
    path = folder / "model.safetensors"
    save_file(model.state_dict(), path)
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    answer = {"embedding": vector.tolist()}
    return Written(canary, path, "feature-extraction", {"text": WORD}, answer)


KINDS: dict[str, Callable[[Path], Written]] = {
    "onnx": write_onnx,
    "transformers": write_transformers,
}


@dataclass(frozen=True)
class Pushed:
    """Models that are served.

    Args:
        models: The plain ones, by the names that consumers know.
        begun_at: Before the canaries existed; seconds since 1970.
        source: Where the creator worked. The plain files lie in folders of it, and may lie
            nowhere else; what the command line keeps for itself is there, too.
    """

    models: dict[str, Written]
    begun_at: float
    source: Path

    @property
    def canary(self) -> Canary:
        """Found where any of the models' canaries would be."""
        return Canary.any_of(model.canary for model in self.models.values())


@pytest.fixture(scope="module")
def pushed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    begun_at = time.time() - 1
    source = tmp_path_factory.mktemp("creator")
    creator = Creator(stack, source)
    models = {}
    for kind, write in KINDS.items():
        name = f"canary-{kind}-{secrets.token_hex(3)}"
        (source / name).mkdir()
        models[f"demo/{name}"] = written = write(source / name)
        publish(stack, creator, name, written)
    for name, written in models.items():
        answer = wait_for(
            lambda name=name, written=written: try_predict(stack, name, written.input),
            name,
            within_s=PUBLISHED_WITHIN_S,
        )
        # It is this model that answers, and so its weights are in some memory.
        for field, expected in written.output.items():
            assert np.allclose(answer.json()["output"][field], expected, atol=1e-2)
    return Pushed(models, begun_at, source)


def publish(stack: Stack, creator: Creator, name: str, written: Written) -> None:
    """Push and approve a model in the creator's folder of this name."""
    vector = {"input": written.input, "expected": written.output, "tolerance": 1e-2}
    (creator.folder / "vectors.json").write_text(json.dumps([vector]))
    creator.init(name, title="Canary", price="0.0001", task=written.task)
    version_id = json.loads(creator.run("push", name, "--wait", "--json"))["id"]
    admin = stack.demo["admin"]["email"]
    manage(stack, "review_version", version_id, "--approve", "--reason", "Test.", "--email", admin)


def try_predict(stack: Stack, model: str, body: dict[str, Any]) -> httpx.Response | None:
    answer = predict(stack, model, stack.demo["consumer"]["api_key"], body)
    assert answer.status_code in (201, 404, 503), answer.text
    return answer if answer.status_code == 201 else None


def find_in_files(pushed: Pushed, canary: Canary) -> list[Path]:
    plain = [model.weights.parent for model in pushed.models.values()]
    changed = searching.list_changed_files(pushed.begun_at, *plain)
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
    for model in pushed.models.values():
        assert searching.is_in_file(model.canary, model.weights)
        assert searching.is_in_file(pushed.canary, model.weights)
    # Across the border of two pieces, too.
    filler = b"\0" * (searching.PIECE_BYTES - 10)
    for number, spelling in enumerate(decoy.spellings):
        # The creator's own configuration is searched like everything else.
        for folder in (stack.home / "logs", Path("/dev/shm"), tmp_path, pushed.source / "config"):
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
    stubs = {name: find_stub(stack, name) for name in pushed.models}
    if not IS_ROOT:
        # Whoever runs the product cannot look, either; the answer above shows what is there.
        for stub in stubs.values():
            with pytest.raises(PermissionError):
                Path(f"/proc/{stub}/maps").read_text()
        return

    holders = {
        name: [pid for pid in stack.pids if model.canary.is_in_stream(searching.read_memory(pid))]
        for name, model in pushed.models.items()
    }
    assert holders == {name: [stub] for name, stub in stubs.items()}


def test_another_user_cannot_look_into_its_memory(stack: Stack, pushed: Pushed) -> None:
    for name in pushed.models:
        check_closed(find_stub(stack, name))
