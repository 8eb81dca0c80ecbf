"""What a model has said so far, and how it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from inference.gateway.config import OUTPUT_BYTES_MAX, OUTPUT_CHUNKS_MAX
from inference.node import answer as module
from inference.node.answer import CHUNK_LENGTH_MAX, CHUNKS_MAX, Answer, Appender
from inference.node.errors import RefusedError, UnreachableError
from inference.triton.errors import OutputError
from marketplace.core.ids import new_id
from tests.gateway.processes import eventually

WAIT_S = 30


class Platform:
    """Keeps chunks as the queue does, and says what it is told to instead."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.says: list[str | Exception] = []
        self.calls = 0

    def append(self, job_id, epoch, number, chunks) -> str:
        self.calls += 1
        assert len(chunks) <= OUTPUT_CHUNKS_MAX
        assert sum(len(one.encode()) for one in chunks) <= OUTPUT_BYTES_MAX
        word = self.says.pop(0) if self.says else "kept"
        if isinstance(word, Exception):
            raise word
        if word == "kept":
            if number > len(self.kept):
                raise RefusedError(409, "output_out_of_order", "")
            self.kept += chunks[len(self.kept) - number :]
        return word

    @property
    def text(self) -> str:
        return "".join(self.kept)


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(module, "APPEND_EVERY_S", 0.01)
    monkeypatch.setattr(module, "TROUBLE_WAIT_S", 0.02)


@pytest.fixture
def told(quick):
    platform, answer, stops = Platform(), Answer("text"), []
    appender = Appender(platform.append, new_id(), 1, answer, stops.append)
    appender.start()
    yield platform, answer, stops
    appender.close()
    appender._thread.join(WAIT_S)
    assert not appender._thread.is_alive()


def say(answer: Answer, text: str, **beside: int) -> None:
    part = {name: np.array([[value]]) for name, value in beside.items()}
    answer.take({"text": np.array([[text.encode()]], dtype=object), **part})


def wait_for(check: Callable[[], bool]) -> None:
    def look() -> None:
        assert check()

    eventually(look, timeout_s=WAIT_S)


def test_an_answer_is_what_its_parts_come_to():
    answer = Answer("text")
    assert answer.outputs == {}
    say(answer, "a", tokens=1)
    say(answer, "")
    say(answer, " b", tokens=2)

    assert answer.piece_count == 2
    assert answer.outputs["text"].tolist() == [[b"a b"]]
    assert answer.outputs["tokens"].tolist() == [[2]]
    assert answer.cut(1) == (" b", 2)


def test_an_answer_that_said_nothing_is_one_if_it_came_to_its_end():
    answer = Answer("text")
    answer.is_whole = True

    assert answer.outputs["text"].tolist() == [[b""]]


@pytest.mark.parametrize(
    "part",
    [np.array([[b"a", b"b"]], dtype=object), np.array([[1]]), np.array([[b"\xff"]], dtype=object)],
)
def test_what_is_no_text_is_refused(part):
    with pytest.raises(OutputError):
        Answer("text").take({"text": part})


def test_all_is_told_in_its_order(told):
    platform, answer, stops = told
    for number in range(50):
        say(answer, f"{number} ")

    wait_for(lambda: platform.text == "".join(f"{number} " for number in range(50)))
    assert platform.calls < 50
    assert stops == []


def test_what_is_long_comes_in_pieces_that_are_taken(told):
    platform, answer, _ = told
    text = "é" * (CHUNK_LENGTH_MAX * CHUNKS_MAX * 2 + 1)
    say(answer, text)

    wait_for(lambda: platform.text == text)
    assert max(map(len, platform.kept)) == CHUNK_LENGTH_MAX
    # Four octets is what a character has at most.
    assert CHUNK_LENGTH_MAX * CHUNKS_MAX * 4 <= OUTPUT_BYTES_MAX


def test_trouble_passes_and_what_was_lost_is_told_again(told):
    platform, answer, stops = told
    platform.says = [UnreachableError("x"), "away", UnreachableError("x")]
    say(answer, "a")
    wait_for(lambda: platform.text == "a")
    # Redis has forgotten all of it.
    platform.kept.clear()
    say(answer, "b")

    wait_for(lambda: platform.text == "ab")
    assert stops == []


@pytest.mark.parametrize(("word", "stopped"), [("cancel", "canceled"), ("stale", "lost")])
def test_a_word_of_the_platform_stops_the_run(told, word, stopped):
    platform, answer, stops = told
    platform.says = [word]
    say(answer, "a")

    wait_for(lambda: stops == [stopped])
    say(answer, "b")
    assert platform.calls == 1


@pytest.mark.parametrize("word", ["full", RefusedError(413, "payload_too_large", "")])
def test_what_is_refused_is_not_told_again(told, word):
    platform, answer, stops = told
    platform.says = [word]
    done = threading.Event()
    say(answer, "a")
    wait_for(lambda: platform.calls == 1)
    say(answer, "b")
    done.wait(0.2)

    assert (platform.calls, stops) == (1, [])
