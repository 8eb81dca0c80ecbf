"""The parts of a stream, each alone: its events, its pieces, its place at a replica."""

from __future__ import annotations

import asyncio
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from inference.gateway.coalesce import Coalescer
from inference.gateway.delivery import Delivery
from inference.gateway.errors import ClientGoneError
from inference.gateway.events import EventStream, render_data
from inference.triton.errors import OutputError, QueueFullError, TritonDeadlineError
from inference.triton.tensors import Tensor
from marketplace.core.errors import MarketplaceError
from strongroom.interface import Interface
from tests.gateway.conftest import TELLER

X = Tensor("x", "INT64", (1, 1), np.array([[1]]))


class Wire:
    """What granian gives, on paper."""

    def __init__(self):
        self.heads, self.sent = [], []
        self.gone = asyncio.Event()
        self.is_closed = False
        self._is_enough = asyncio.Event()
        self._enough = 0

    async def client_disconnect(self):
        await self.gone.wait()

    def response_stream(self, status, headers):
        self.heads.append((status, dict(headers)))
        return self

    async def send_str(self, data):
        if self.is_closed:
            raise RuntimeError("RSGI transport is closed")
        self.sent.append(data)
        if len(self.sent) == self._enough:
            self._is_enough.set()

    async def wait_for(self, count):
        self._enough = count
        await self._is_enough.wait()


def request_of(wire):
    headers = [("x-request-id", "1")]
    return SimpleNamespace(protocol=wire, common_headers=headers, limit_headers=[], events=None)


def opened(wire, **limits):
    return EventStream(request_of(wire), lambda error: render_data({"error": error.code}), **limits)


def test_head_leaves_with_the_first_event():
    async def run():
        wire = Wire()
        async with opened(wire) as events:
            assert (wire.heads, events.has_begun) == ([], False)
            await events.fail(MarketplaceError())
            assert wire.heads == []
            await events.send("data: 1\n\n")
            await events.send("data: 2\n\n")
        await events.fail(MarketplaceError())
        [(status, headers)] = wire.heads
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert headers["x-request-id"] == "1"
        assert wire.sent == ["data: 1\n\n", "data: 2\n\n", 'data: {"error":"internal"}\n\n']

    asyncio.run(run())


def test_silence_is_kept_alive_by_comments():
    async def run():
        wire = Wire()
        async with opened(wire, keep_alive_s=0.05):
            await wire.wait_for(3)
        assert set(wire.sent) == {": keep-alive\n\n"}
        count = len(wire.sent)
        await asyncio.sleep(0.2)
        assert len(wire.sent) == count

    asyncio.run(asyncio.wait_for(run(), 30))


def test_events_that_come_need_no_comments():
    async def run():
        wire = Wire()
        async with opened(wire, keep_alive_s=60) as events:
            await events.send("data: 1\n\n")
            await asyncio.sleep(0.1)
        assert wire.sent == ["data: 1\n\n"]

    asyncio.run(run())


@pytest.mark.parametrize("_how", ["gone", "is_closed"])
def test_nothing_is_sent_to_nobody(_how):
    async def run():
        wire = Wire()
        async with opened(wire) as events:
            await events.send("data: 1\n\n")
            if _how == "gone":
                wire.gone.set()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert events.is_gone
            else:
                wire.is_closed = True
            with pytest.raises(ClientGoneError):
                await events.send("data: 2\n\n")
            await events.fail(MarketplaceError())
        assert wire.sent == ["data: 1\n\n"]

    asyncio.run(run())


def test_leaving_is_told_once_while_it_matters():
    async def run():
        wire, told = Wire(), []
        async with opened(wire) as events:
            with events.on_gone(lambda: told.append(1)):
                pass
            with events.on_gone(lambda: told.append(2)):
                wire.gone.set()
                for _ in range(5):
                    await asyncio.sleep(0)
        assert told == [2]

    asyncio.run(asyncio.wait_for(run(), 30))


def test_stream_has_a_largest_size_and_room_for_its_end():
    async def run():
        wire = Wire()
        async with opened(wire, bytes_max=6) as events:
            await events.send("abc")
            await events.send("ü1")
            with pytest.raises(OutputError):
                await events.send("1")
            await events.finish("the end")
        assert wire.sent == ["abc", "ü1", "the end"]

    asyncio.run(run())


def test_data_is_one_line_for_every_reader():
    text = "a\nb\rc\u2028d\u2029e\x85fü"

    event = render_data({"text": text})

    assert event.endswith("\n\n")
    assert len(event.strip().splitlines()) == 1
    assert json.loads(event.removeprefix("data: ")) == {"text": text}


# --- Pieces ---


def deliver(*parts):
    async def run():
        wire = Wire()
        async with opened(wire) as events:
            delivery = Delivery(Interface.parse(TELLER), events, lambda piece: piece)
            try:
                for one in parts:
                    await delivery.take(dict(one))
                return delivery.finish(), wire.sent
            finally:
                delivered.append(delivery.has_begun)

    delivered = []
    try:
        return (*asyncio.run(run()), delivered[0])
    except OutputError as error:
        return error, delivered[0]


def text(value):
    return {"text": np.array([[value]], dtype=object)}


COUNTS = {"tokens_in": np.array([[1]]), "tokens_out": np.array([[2]])}


def test_pieces_are_handed_on_and_make_the_answer():
    row, sent, has_begun = deliver(text(b"a"), text(b""), text(b" b") | COUNTS)

    assert row == {"text": "a b", "tokens_in": 1, "tokens_out": 2}
    assert sent == ["a", " b"]
    assert has_begun


def test_answer_without_text_has_delivered_nothing():
    row, sent, has_begun = deliver(text(b"") | COUNTS)

    assert (row["text"], sent, has_begun) == ("", [], False)


@pytest.mark.parametrize(
    "_part",
    [
        text(b"\xe2\x82"),
        {"text": np.array([1])},
        {"text": np.array([[b"a", b"b"]], dtype=object)},
    ],
)
def test_piece_that_is_no_text_is_refused(_part):
    error, has_begun = deliver(_part)

    assert isinstance(error, OutputError)
    assert not has_begun


@pytest.mark.parametrize(
    "_parts", [[text(b"a")], [text(b"a") | COUNTS | {"tokens_in": np.array([1])}], []]
)
def test_answer_that_is_not_complete_is_refused(_parts):
    error, has_begun = deliver(*_parts)

    assert isinstance(error, OutputError)
    assert has_begun == bool(_parts)


# --- Places ---


def test_place_is_kept_for_the_whole_block():
    async def run():
        calls = Coalescer(1, calls_max=1, waiting_max=1)
        deadline_s = time.monotonic() + 30
        async with calls.place([X], deadline_s=deadline_s):
            assert (calls.running, calls.load) == (1, 1)
            with pytest.raises(TritonDeadlineError):
                async with calls.place([X], deadline_s=time.monotonic() + 0.05):
                    raise AssertionError
            assert calls.load == 1
            second = asyncio.ensure_future(take(calls, deadline_s))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError):
                async with calls.place([X], deadline_s=deadline_s):
                    raise AssertionError
        await second
        for _ in range(5):
            await asyncio.sleep(0)
        assert (calls.running, calls.load) == (0, 0)

    asyncio.run(asyncio.wait_for(run(), 30))


async def take(calls, deadline_s):
    async with calls.place([X], deadline_s=deadline_s):
        pass


def test_who_leaves_the_line_leaves_no_trace():
    async def run():
        calls = Coalescer(1, calls_max=1)
        deadline_s = time.monotonic() + 30
        async with calls.place([X], deadline_s=deadline_s):
            waiting = asyncio.ensure_future(take(calls, deadline_s))
            await asyncio.sleep(0)
            assert calls.load == 2
            waiting.cancel()
            await asyncio.wait({waiting})
            assert calls.load == 1
        await take(calls, deadline_s)

    asyncio.run(asyncio.wait_for(run(), 30))
