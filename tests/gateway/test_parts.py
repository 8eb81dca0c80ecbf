"""The parts that need no server: cache, JSON, Triton's wire, settings."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from inference.gateway import triton_pool
from inference.gateway.cache import Cache
from inference.gateway.config import GatewayConfig
from inference.gateway.errors import BadJSONError
from inference.gateway.http import parse_json
from inference.gateway.route import Routes
from inference.gateway.triton_pool import TritonPool
from inference.triton.errors import (
    ModelExecutionError,
    ModelNotReadyError,
    OutputError,
    TensorError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from inference.triton.tensors import Tensor
from marketplace.core.env import SettingError
from marketplace.core.ids import new_id
from tests.gateway.processes import ROOT

# --- Cache ---


def test_cache_keeps_until_dropped():
    cache = Cache(60)
    cache.enable()
    cache.put("a", 1, generation=cache.generation)
    cache.put("b", 2, generation=cache.generation)

    cache.drop("a")

    assert (cache.get("a"), cache.get("b")) == (None, 2)
    cache.drop_all()
    assert len(cache) == 0


def test_cache_ages():
    cache = Cache(0.02)
    cache.enable()
    cache.put("long", 1, generation=cache.generation)
    cache.put("short", 1, generation=cache.generation, ttl_s=-1)

    assert (cache.get("long"), cache.get("short")) == (1, None)
    time.sleep(0.03)
    assert cache.get("long") is None


@pytest.mark.parametrize("_change", ["drop", "drop_all", "disable", "enable"])
def test_cache_refuses_what_was_read_before_a_change(_change):
    cache = Cache(60)
    cache.enable()
    generation = cache.generation

    cache.drop("other") if _change == "drop" else getattr(cache, _change)()
    cache.put("key", "old", generation=generation)

    assert cache.get("key") is None


def test_cache_is_off_while_nothing_is_heard():
    cache = Cache(60)
    cache.put("key", 1, generation=cache.generation)
    assert cache.get("key") is None
    cache.enable()
    cache.put("key", 1, generation=cache.generation)
    cache.disable()
    cache.put("key", 1, generation=cache.generation)
    assert cache.get("key") is None


def test_cache_is_bounded():
    cache = Cache(60, entries_max=3)
    cache.enable()
    for number in range(10):
        cache.put(number, number, generation=cache.generation)

    assert len(cache) <= 3
    assert cache.get(9) == 9


# --- Routes ---


class FakeDatabase:
    """Answers with what is in `rows` when the question is over."""

    def __init__(self):
        self.rows, self.count, self.gate = [], 0, asyncio.Event()

    async def fetch_all(self, *_):
        self.count += 1
        rows = list(self.rows)
        await self.gate.wait()
        return rows


def replica_row(version_id):
    return {
        "id": new_id(),
        "version_id": version_id,
        "triton_http_url": "http://127.0.0.1:1",
        "triton_grpc_url": "127.0.0.1:2",
        "batch_size_max": 4,
        "coalesces": True,
    }


def test_choice_waits_for_a_look_that_began_after_the_notice():
    async def run():
        database, version_id = FakeDatabase(), new_id()
        routes = Routes(database)
        routes.on_listening()
        early = asyncio.create_task(routes.pick(version_id))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        database.rows = [replica_row(version_id)]
        routes.on_change("inference_replica", "id")
        late = [asyncio.create_task(routes.pick(version_id)) for _ in range(5)]
        await asyncio.sleep(0)
        database.gate.set()
        results = await asyncio.gather(early, *late, return_exceptions=True)
        assert isinstance(results[0], ModelNotReadyError)
        assert {one.id for one in results[1:]} == {database.rows[0]["id"]}
        assert database.count == 2
        await routes.pick(version_id)
        assert database.count == 2

    asyncio.run(run())


def test_least_busy_replica_is_chosen_and_failed_ones_last():
    async def run():
        database, version_id = FakeDatabase(), new_id()
        database.rows = [replica_row(version_id) for _ in range(3)]
        database.gate.set()
        routes = Routes(database)
        routes.on_listening()
        first = await routes.pick(version_id)
        one = asyncio.Event()
        await be_busy(first, until=one)
        second = await routes.pick(version_id)
        other = asyncio.Event()
        task = await be_busy(second, until=other)
        third = await routes.pick(version_id)
        third.penalise()
        assert len({first.id, second.id, third.id}) == 3
        assert await routes.pick(version_id) is first
        assert await routes.pick(version_id, besides=first) is second
        other.set()
        await task
        routes.on_change("inference_node", "id")
        # A new picture keeps the counts of the replicas that are still in it.
        assert await routes.pick(version_id) is second
        one.set()

    asyncio.run(run())


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


async def be_busy(replica, *, until: asyncio.Event):
    """Let a request run there."""

    async def send(tensors, *, deadline_s, keep_slot):
        await until.wait()
        return {}

    x = Tensor("x", "FP32", (1, 1), np.zeros((1, 1), np.float32))
    deadline_s = time.monotonic() + 60
    infer = replica.calls.infer(send, [x], deadline_s=deadline_s, on_start=lambda: None)
    task = asyncio.create_task(infer)
    await asyncio.sleep(0)
    return task


# --- JSON ---


@pytest.mark.parametrize("_depth", [32, 33])
def test_depth_of_json_is_limited(_depth):
    body = b"[" * _depth + b"]" * _depth

    if _depth == 32:
        parse_json(body)
    else:
        with pytest.raises(BadJSONError):
            parse_json(body)


@pytest.mark.parametrize(
    "_body",
    [
        b'"' + b"[" * 100 + b'"',
        b'["' + b"]" * 100 + b'","' + b"[" * 100 + b'"]',
        b'"\\"' + b"[" * 100 + b'"',
        b"[" + b"[],".join(b"" for _ in range(100)) + b"[]]",
    ],
)
def test_brackets_that_do_not_nest_are_not_counted(_body):
    parse_json(_body)


def test_closing_brackets_in_texts_hide_no_depth():
    with pytest.raises(BadJSONError):
        parse_json(b'["' + b"]" * 100 + b'",' + b"[" * 40 + b"]" * 40 + b"]")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "_rest", [b'"' + b'\\"' * 2_000_000, b'"' + b"\\" * 4_000_001, b'""' * 2_000_000 + b'"']
)
def test_a_text_without_an_end_costs_no_more_than_its_length(_rest):
    # Tried anew from each quote, these would take hours.
    with pytest.raises(BadJSONError):
        parse_json(b"[" * 32 + b"{" + _rest)


def test_many_brackets_around_a_long_text_are_fine():
    body = b"[" + b"[]," * 40 + b'"' + b'a\\"[' * 1_000_000 + b'"]'

    assert len(parse_json(body)[-1]) == 3_000_000


# --- Triton's wire ---


def answer_with(
    *answers: bytes, delay_s: float = 0.0, cut: bool = False, keep_slot=None, after=None
):
    """Run one call against a server that gives these answers, one a connection.

    Awaits `after`, while all is still there, if the call runs into its deadline of 0.5 s.
    """

    async def run(calls: int = 1):
        seen, handlers = [], []
        pending = list(answers)

        async def serve(reader, writer):
            handlers.append(asyncio.current_task())
            with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
                while pending:
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.split(b"Content-Length: ")[-1].split(b"\r\n")[0])
                    seen.append((head, await reader.readexactly(length)))
                    answer = pending.pop(0)
                    await asyncio.sleep(delay_s)
                    for at in range(0, len(answer), 7):
                        writer.write(answer[at : at + 7])
                        await writer.drain()
                    if cut:
                        return

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        pool = TritonPool()
        tensor = Tensor("x", "FP32", (1, 2), np.array([[1, 2]], np.float32))
        try:
            for _ in range(calls):
                outputs = await pool.infer(
                    url, "r0", [tensor], ["y"], deadline_s=soon(0.5), keep_slot=keep_slot
                )
        except TritonDeadlineError:
            await after()
            raise
        finally:
            pool.close()
            server.close()
            for handler in handlers:
                handler.cancel()
            await asyncio.gather(*handlers, return_exceptions=True)
            await asyncio.sleep(0)  # The transports close in the loop's next round.
        return outputs, seen

    return run


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def tensors(body: bytes, *, size_bytes: int = 8) -> bytes:
    document = (
        b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],'
        b'"parameters":{"binary_data_size":%d}}]}' % size_bytes
    )
    return http(200, document + body, f"Inference-Header-Content-Length: {len(document)}")


class FakeTransport:
    is_closed = False

    def writelines(self, parts):
        pass

    def is_closing(self):
        return self.is_closed

    def abort(self):
        self.is_closed = True


GOOD = tensors(np.array([3, 4], np.float32).tobytes())
# Nothing fills it, and numpy cannot count so far.
HUGE = (
    b'{"outputs":[{"name":"y","datatype":"FP32","shape":[0,18446744073709551615],'
    b'"parameters":{"binary_data_size":0}}]}'
)


def test_call_is_binary_both_ways():
    outputs, seen = asyncio.run(answer_with(GOOD)())

    assert outputs["y"].tolist() == [[3, 4]]
    head, body = seen[0]
    assert head.startswith(b"POST /v2/models/r0/infer HTTP/1.1\r\n")
    assert body.endswith(np.array([1, 2], np.float32).tobytes())
    assert b'"binary_data":true' in body


def test_connection_is_used_again():
    _, seen = asyncio.run(answer_with(GOOD, GOOD, GOOD)(calls=3))

    assert len(seen) == 3


def test_server_that_closes_at_once_is_told_apart_from_a_slow_one():
    async def run():
        async def slam(reader, writer):
            writer.close()

        server = await asyncio.start_server(slam, "127.0.0.1", 0)
        connection = await triton_pool._connect(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        )
        await asyncio.sleep(0.1)
        with pytest.raises(TritonUnavailableError):
            await connection.exchange(b"", [], list)
        server.close()

    asyncio.run(run())


def test_what_nobody_asked_for_is_not_the_next_answer():
    async def run():
        connection, transport = triton_pool.Connection(), FakeTransport()
        connection.connection_made(transport)
        call = asyncio.create_task(connection.exchange(b"", [], list))
        await asyncio.sleep(0)
        connection.data_received(GOOD)
        connection.data_received(GOOD)
        assert (await call)[0] == 200
        assert not connection.is_reusable
        assert transport.is_closing()

    asyncio.run(run())


def test_connections_of_a_server_that_is_given_up_are_closed():
    async def run():
        pool, transport = TritonPool(), FakeTransport()
        connection = triton_pool.Connection()
        connection.connection_made(transport)
        idle = pool._idle.setdefault("http://gone", collections.deque())
        call = asyncio.create_task(pool._use("http://gone", connection, idle, b"", [], list))
        await asyncio.sleep(0)
        pool.keep_only(set())
        connection.data_received(GOOD)
        await call
        assert transport.is_closing()

    asyncio.run(run())


def test_connection_that_was_closed_while_idle_is_replaced():
    outputs, _ = asyncio.run(answer_with(GOOD, GOOD, cut=True)(calls=2))

    assert outputs["y"].tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("_answer", "_error"),
    [
        (http(404, b'{"error":"Request for unknown model"}'), ModelNotReadyError),
        (http(400, b'{"error":"model r0 is not ready"}'), ModelNotReadyError),
        (http(503, b'{"error":"Server is exiting"}'), TritonUnavailableError),
        (http(500, b'{"error":"Stub process r0 is not healthy."}'), TritonUnavailableError),
        (http(500, b'{"error":"anything"}'), ModelExecutionError),
        (http(500, b"no json"), ModelExecutionError),
        (http(400, b'{"error":"unexpected shape"}'), TensorError),
        (http(200, b"{}"), OutputError),
        (http(200, b"no json"), OutputError),
        (tensors(b"1234"), OutputError),
        (tensors(b"12345678", size_bytes=4), OutputError),
        (tensors(b"12345678", size_bytes=9), OutputError),
        (tensors(b"12345678", size_bytes=-1), OutputError),
        (http(200, HUGE, f"Inference-Header-Content-Length: {len(HUGE)}"), OutputError),
        (http(200, b"{}", "Inference-Header-Content-Length: 99"), TritonUnavailableError),
        (b"HTTP/1.1 200 OK\r\n\r\n", TritonUnavailableError),
        (b"nonsense\r\n\r\n", TritonUnavailableError),
        (b"", TritonUnavailableError),
        (GOOD[:-1], TritonUnavailableError),
    ],
)
def test_every_failure_is_told_apart(_answer, _error):
    with pytest.raises(_error):
        asyncio.run(answer_with(_answer, cut=True)())


@pytest.mark.parametrize("_answer", [GOOD, GOOD[:-1], b""])
def test_call_ends_at_its_deadline_and_counts_until_triton_has_done_it(_answer):
    kept: list[bool] = []

    def keep() -> Callable[[], None]:
        kept.append(True)
        return kept.clear

    async def watch():
        # The call itself goes on over there.
        assert kept == [True]
        await asyncio.sleep(0.7)
        assert kept == []

    async def run():
        call = answer_with(_answer, delay_s=1, cut=True, keep_slot=keep, after=watch)
        with pytest.raises(TritonDeadlineError):
            await call()

    asyncio.run(run())


# --- The process ---


@pytest.mark.parametrize(
    ("_name", "_value"),
    [
        ("STRONGROOM_GATEWAY_DATABASE_URL", ""),
        ("STRONGROOM_GATEWAY_URL", "ftp://x"),
        ("STRONGROOM_WEB_URL", "web"),
        ("STRONGROOM_PLAYGROUND_SECRET", ""),
        ("STRONGROOM_GATEWAY_DEADLINE_S", "0"),
        ("STRONGROOM_GATEWAY_DEADLINE_S", "soon"),
        ("STRONGROOM_GATEWAY_BODY_BYTES_MAX", "-1"),
        *(
            ("STRONGROOM_GATEWAY_GRPC_LISTEN", text)
            for text in ("8002", ":8002", "host", "host:0", "host:65536", "host:x")
        ),
        ("STRONGROOM_GATEWAY_GRPC_LISTEN", "http://host:1"),
        ("STRONGROOM_GATEWAY_GRPC_LISTEN", "user@host:1"),
        ("STRONGROOM_REDIS_URL", ""),
        ("STRONGROOM_GATEWAY_REDIS_WAIT_MS", "0"),
        ("STRONGROOM_GATEWAY_COUNT", "0"),
        ("STRONGROOM_GATEWAY_READS_PER_MINUTE", "0"),
        ("STRONGROOM_GATEWAY_ACCOUNT_REQUESTS_PER_MINUTE", "-1"),
        ("STRONGROOM_GATEWAY_ACCOUNT_REQUESTS_PER_MINUTE", "100000001"),
        ("STRONGROOM_GATEWAY_ACCOUNT_UNITS_PER_MINUTE", "many"),
        ("STRONGROOM_GATEWAY_ACCOUNT_CONCURRENCY_MAX", "100000001"),
    ],
)
def test_wrong_setting_ends_the_process(monkeypatch, _name, _value):
    monkeypatch.setenv("STRONGROOM_GATEWAY_DATABASE_URL", "postgresql://x")
    monkeypatch.setenv(_name, _value)

    with pytest.raises(SettingError, match=_name):
        GatewayConfig.from_env()


def test_settings_show_no_secret(monkeypatch):
    monkeypatch.setenv("STRONGROOM_GATEWAY_DATABASE_URL", "postgresql://user:hunter2@x/y")
    monkeypatch.setenv("STRONGROOM_PLAYGROUND_SECRET", "hunter3")
    monkeypatch.setenv("STRONGROOM_REDIS_URL", "redis://user:hunter4@x/0")

    assert "hunter" not in repr(GatewayConfig.from_env())


@pytest.mark.parametrize("_limit", ["0", "100000000"])
def test_limits_of_accounts_may_be_none_and_the_largest(monkeypatch, _limit):
    monkeypatch.setenv("STRONGROOM_GATEWAY_DATABASE_URL", "postgresql://x")
    monkeypatch.setenv("STRONGROOM_GATEWAY_ACCOUNT_UNITS_PER_MINUTE", _limit)

    assert GatewayConfig.from_env().account_units_per_minute == int(_limit)


def test_hold_outlives_deadline_and_booking(monkeypatch):
    monkeypatch.setenv("STRONGROOM_GATEWAY_DATABASE_URL", "postgresql://x")
    config = GatewayConfig.from_env()

    assert config.hold_ttl_s > config.deadline_s + config.settle_wait_s


def test_gateway_starts_without_django():
    code = "import inference.gateway.app, sys; print('django' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert answer.stdout.strip() == "False"
