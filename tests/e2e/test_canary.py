"""Sell predictions, keep the weights: bytes of pushed models are in one memory, and on no disk.

An ONNX model and a transformers model go the whole way, from the creator's terminal to a paid
prediction; meanwhile and afterwards nothing but its serving process may hold a piece of each.
"""

from __future__ import annotations

import copy
import json
import mmap
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
from playwright.sync_api import Browser, Page
from safetensors.torch import save_file

from tests.chaos.children import find_stub, wait_for
from tests.e2e import searching
from tests.e2e.conftest import ARGUMENTS, SignIn, find_program
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
        more_vectors: Test vectors that nobody but the product asks.
        known: Numbers of these.
    """

    canary: Canary
    weights: Path
    task: str
    input: dict[str, Any]
    output: dict[str, Any]
    more_vectors: tuple[dict[str, Any], ...] = ()
    known: Canary | None = None


def write_onnx(folder: Path) -> Written:
    """Write y = x @ w, where the canary is a row of w."""
    canary = Canary.make()
    weights = np.random.default_rng().standard_normal((ROWS, COLUMNS)).astype(np.float32)
    weights[CANARY_ROW] = canary.numbers
    path = folder / "model.onnx"
    path.write_bytes(linear(weights))
    x = np.random.default_rng().standard_normal(ROWS).astype(np.float32)
    answer = (x @ weights).tolist()
    other = np.random.default_rng().standard_normal(ROWS).astype(np.float32)
    answers = {"y": (other @ weights).tolist()}
    vector = {"input": {"x": other.tolist()}, "expected": answers, "tolerance": 1e-2}
    known = Canary.any_of(
        Canary.of(one.tobytes()) for one in (other[:COLUMNS], (other @ weights).astype(np.float32))
    )
    written = {"x": x.tolist()}, {"y": answer}, (vector,), known
    return Written(canary, path, "regression", *written)


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
    (creator.folder / "vectors.json").write_text(json.dumps([vector, *written.more_vectors]))
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


def list_small(folder: Path) -> Iterator[Path]:
    """The files of a folder itself, without those below: cores are written there."""
    return (path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def decoy_core(folder: Path, decoy: Canary) -> Path:
    """A file as a crash would leave it."""
    path = folder / f"core.{os.getpid()}"
    path.write_bytes(decoy.content)
    return path


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
    mapped = searching.list_mapped_files(stack.pids, pushed.begun_at)
    assert [one for one in mapped if searching.is_in_file(pushed.canary, one)] == []
    # Also what was there before: the home, and wherever a crash would leave its memory.
    folders = [stack.home, *searching.list_core_folders(stack.pids)]
    kept = {
        *searching.list_files(stack.home),
        *(one for folder in folders[1:] for one in list_small(folder)),
    }
    assert [one for one in kept if searching.is_in_file(pushed.canary, one)] == []


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

    cores = [decoy_core(folder, decoy) for folder in searching.list_core_folders([os.getpid()])]
    planted.extend(cores)
    for core in cores:
        assert core in [one for one in list_small(core.parent) if searching.is_in_file(decoy, one)]

    mapped = tmp_path / "mapped"
    mapped.write_bytes(decoy.content)
    with mapped.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        for _ in range(2):
            found = searching.list_mapped_files([os.getpid()], pushed.begun_at)
            assert IS_ROOT is False or any(searching.is_in_file(decoy, one) for one in found)
            # With a name, then without one.
            mapped.unlink(missing_ok=True)

    unlinked = tmp_path / "unlinked"
    unlinked.write_bytes(decoy.content)
    with unlinked.open("rb"):
        unlinked.unlink()
        opened = searching.list_open_files([os.getpid()])
        assert any(searching.is_in_file(decoy, one) for one in opened)


def test_neither_database_nor_redis_holds_the_canary(stack: Stack, pushed: Pushed) -> None:
    assert not pushed.canary.is_in_stream(searching.dump_database(stack))
    assert not pushed.canary.is_in_stream(searching.read_redis(stack))
    assert not pushed.canary.is_in_stream(searching.save_redis(stack))


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
            assert decoy.is_in_stream(searching.save_redis(stack))
        finally:
            client.delete("planted")


def test_a_browser_that_looked_at_the_models_keeps_nothing(
    stack: Stack, pushed: Pushed, decoy: Canary, browser: Browser, tmp_path: Path
) -> None:
    profile = tmp_path / "profile"
    for canary_kept, expected in ((None, False), (decoy.content.hex(), True)):
        context = browser.browser_type.launch_persistent_context(
            profile, executable_path=find_program(), args=ARGUMENTS
        )
        page = context.new_page()
        for person in ("consumer", "creator"):
            context.clear_cookies()
            log_in(page, stack, person)
            for model in pushed.models:
                page.goto(f"{stack.demo['web_url']}/{model}")
                page.get_by_text("Canary").first.wait_for()
        page.goto(f"{stack.demo['web_url']}/dashboard/models/{next(iter(pushed.models))}")
        if canary_kept:
            page.evaluate("content => localStorage.setItem('planted', content)", canary_kept)
        context.close()

        written = list(searching.list_files(profile))
        assert len(written) > 20
        assert not any(searching.is_in_file(pushed.canary, one) for one in written)
        assert any(searching.is_in_file(decoy, one) for one in written) is expected


def log_in(page: Page, stack: Stack, person: str) -> None:
    login = stack.demo[person]
    page.goto(f"{stack.demo['web_url']}/login")
    page.fill("input[name=email]", login["email"])
    page.fill("input[name=password]", login["password"])
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/login" not in url)


def test_consumers_never_see_test_vectors(stack: Stack, pushed: Pushed, sign_in: SignIn) -> None:
    [(model, written)] = [
        (name, one) for name, one in pushed.models.items() if one.known is not None
    ]
    known = written.known
    assert known is not None
    web, gateway = stack.demo["web_url"], stack.demo["gateway_url"]
    page = sign_in("consumer")
    ways = ["", "home", "console", model.partition("/")[0], model, f"panels/try/{model}"]
    ways += [f"api/models/{model}", f"api/models/{model}/versions", f"dashboard/models/{model}"]
    version_id = find_version(stack, model)
    ways += [f"panels/onboarding/{version_id}", f"api/versions/{version_id}"]
    seen = [page.request.get(f"{web}/{way}") for way in ways]
    key = {"Authorization": f"Bearer {stack.demo['consumer']['api_key']}"}
    ways = [f"v1/models/{model}", f"v1/models/{model}/versions", f"v2/models/{model}"]
    ways += [f"v1/models/{model}/versions/{version_id}", "openapi.json", "openai/v1/models"]
    answers = [httpx.get(f"{gateway}/{way}", headers=key) for way in ways]

    assert sum(one.status == 200 for one in seen) >= 6, [one.status for one in seen]
    assert sum(one.status_code == 200 for one in answers) >= 5, [one.status_code for one in answers]
    assert not any(known.is_in(one.body()) for one in seen)
    assert not any(known.is_in(one.content) for one in answers)
    # Where the node reads them they are; the search knows them by sight.
    identity = json.loads((stack.home / "node/identity.json").read_text())
    token = {"Authorization": f"Bearer {identity['token']}"}
    manifest = httpx.get(f"{web}/api/node/artifacts/{version_id}", headers=token).json()
    assert known.is_in(manifest["manifest"].encode())


def find_version(stack: Stack, model: str) -> str:
    """The id of a model's newest version."""
    query = """
        SELECT v.id FROM marketplace_modelversion v
        JOIN marketplace_aimodel m ON m.id = v.model_id
        JOIN marketplace_account a ON a.id = m.account_id
        WHERE a.slug || '/' || m.name = %s ORDER BY v.id DESC LIMIT 1"""
    with psycopg.connect(searching.database_url(stack)) as connection:
        [[version_id]] = connection.execute(query, [model]).fetchall()
    return str(version_id)


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
