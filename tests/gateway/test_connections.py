"""Slow, broken and hostile connections: they hold up nobody, reach no model and cost nothing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest

from inference.gateway.config import (
    BODIES_PER_ACCOUNT_MAX,
    BODY_WAIT_S,
    HEAD_BYTES_MAX,
    HEAD_WAIT_S,
)
from inference.models import Node
from tests.factories import APIKeyFactory
from tests.gateway.conftest import X, check_books, check_untouched, make_node, predict, problem_of
from tests.gateway.processes import GatewayProcess, eventually

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/v1/models/maker/echo/predictions"
BODY = b'{"input":{"x":[1,2,3,4]}}'
INFER = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
MANY = 2_000


class Upstream:
    """In the place of a model server; keeps what comes and answers nothing."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.received: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, _ = self.listener.accept()
                with wire:
                    self.received.append(wire.recv(1 << 16))


@pytest.fixture
def upstream(shop):
    """The only model server there is."""
    server = Upstream()
    Node.objects.all().update(triton_http_url=server.url)
    shop.replica.delete()
    shop.add_replica(shop.replica.pk, node=make_node("upstream", server.url))
    yield server
    server.listener.close()


def port_of(shop) -> int:
    return int(shop.url.rpartition(":")[2])


def head(shop, *lines: str, start: str = f"POST {PATH} HTTP/1.1") -> bytes:
    given = [start, "Host: x", f"Authorization: Bearer {shop.key.text}", *lines]
    return "\r\n".join(given).encode("latin-1") + b"\r\n\r\n"


def send(shop, *parts: bytes) -> bytes:
    """What comes back until the server closes; the last part has to ask for that."""
    with socket.create_connection(("127.0.0.1", port_of(shop)), timeout=10) as wire:
        with contextlib.suppress(OSError):
            for part in parts:
                wire.sendall(part)
        answer = b""
        with contextlib.suppress(OSError):
            while data := wire.recv(1 << 16):
                answer += data
        return answer


def last(shop) -> bytes:
    """A good request, after which the connection ends."""
    return head(shop, "Content-Length: 25", "Connection: close") + BODY


def statuses(answer: bytes) -> list[int]:
    """Of all answers that came on a connection."""
    return [int(one[:3]) for one in answer.split(b"HTTP/1.1 ")[1:]]


# --- Slow ones ---


def open_many(port: int, count: int, first: bytes) -> list[socket.socket]:
    wires = []
    for _ in range(count):
        wire = socket.create_connection(("127.0.0.1", port), timeout=10)
        wire.sendall(first)
        wires.append(wire)
    return wires


def read_rss_kib(gateway: GatewayProcess) -> int:
    """Of the process and its worker."""
    pids = [gateway.process.pid]
    children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text()
    pids += map(int, children.split())
    lines = [Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1] for pid in pids]
    return sum(int(one.split()[0]) for one in lines)


def check_others_are_served(shop, gateway: GatewayProcess, first: bytes) -> None:
    """A client of the ordinary kind, beside many that send this and no more."""
    client = shop.client(url=gateway.url)
    client.timeout = 5
    answered = [predict(client).json()["id"]]
    client.close()
    before_kib = read_rss_kib(gateway)
    wires = open_many(gateway.port, MANY, first)
    try:
        fresh = shop.client(url=gateway.url)
        fresh.timeout = 5
        answered += [predict(fresh).json()["id"] for _ in range(5)]
        grown_kib = read_rss_kib(gateway) - before_kib
    finally:
        for wire in wires:
            wire.close()
    # Each may cost some of the buffers that it has filled, not all that it could.
    assert grown_kib < MANY * HEAD_BYTES_MAX / 1024 / 2
    check_books(shop, answered)


@pytest.mark.parametrize("_kind", ["nothing", "half a head", "idle", "half a body"])
def test_slow_connections_hold_up_nobody(shop, gateway, _kind):
    first = {
        "nothing": b"",
        "half a head": b"POST / HTTP/1.1\r\nHo",
        "idle": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        "half a body": half_a_body(APIKeyFactory()),
    }

    check_others_are_served(shop, gateway, first[_kind])


def half_a_body(key) -> bytes:
    start = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key.text}\r\n"
    return f"{start}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY[:5]


def test_bodies_of_an_account_that_do_not_come_are_limited_and_others_are_served(shop):
    key = APIKeyFactory()
    wires = open_many(port_of(shop), BODIES_PER_ACCOUNT_MAX, half_a_body(key))
    client = shop.client(key.text)

    def check_refused():
        assert problem_of(predict(client)) == (503, "capacity")

    eventually(check_refused)
    check_books(shop, [predict(shop.client()).json()["id"]])
    wires.pop().close()

    def check_let_in():
        assert problem_of(predict(client)) == (402, "insufficient_credit")

    eventually(check_let_in)
    for wire in wires:
        wire.close()


def test_without_our_settings_they_would(shop, start_gateway):
    gateway = start_gateway(server_options=())

    with pytest.raises(Exception, match="timed out"):
        check_others_are_served(shop, gateway, b"POST / HTTP/1.1\r\nHo")


def test_head_that_does_not_come_ends_the_connection(shop):
    begun = [b"POST / HTTP/1.1\r\nHo", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"]
    wires = [socket.create_connection(("127.0.0.1", port_of(shop)), timeout=60) for _ in begun]
    for wire, sent in zip(wires, begun, strict=True):
        wire.sendall(sent)
    for wire in wires:
        started_s = time.monotonic()
        with wire, contextlib.suppress(ConnectionError):
            while wire.recv(1 << 16):
                pass
        assert time.monotonic() - started_s < 2 * HEAD_WAIT_S


@pytest.mark.parametrize("_head", ["Content-Length: 25", "Transfer-Encoding: chunked"])
def test_body_that_trickles_is_given_up_long_before_the_deadline(shop, _head):
    with socket.create_connection(("127.0.0.1", port_of(shop)), timeout=60) as wire:
        wire.sendall(head(shop, _head) + (b"1\r\n{\r\n" if "chunked" in _head else b"{"))
        started_s = time.monotonic()
        answer = wire.recv(1 << 16)

    assert statuses(answer) == [408]
    assert b"request_timeout" in answer
    assert time.monotonic() - started_s < 2 * BODY_WAIT_S
    check_untouched(shop)


def test_client_that_leaves_within_its_body_is_nobodys_error(shop, gateway):
    logged = gateway.log()
    with socket.create_connection(("127.0.0.1", port_of(shop)), timeout=10) as wire:
        wire.sendall(head(shop, "Content-Length: 100") + b"{")
    assert predict(shop.client()).status_code == 201

    assert "Traceback" not in gateway.log()[len(logged) :]


# --- Requests that are none, or two ---

CHUNKS = b"19\r\n" + BODY + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("_lines", "_body", "_status"),
    [
        (["Content-Length: 25", "Content-Length: 26"], BODY + b"x", 400),
        (["Content-Length: 25, 25"], BODY, 400),
        (["Content-Length: +25"], BODY, 400),
        (["Content-Length: -1"], b"", 400),
        (["Content-Length: 0x19"], BODY, 400),
        (["Content-Length: " + "9" * 30], b"", 400),
        (["Content-Length: 25", "Transfer-Encoding: xchunked"], BODY, 400),
        (["Transfer-Encoding: chunked, identity"], CHUNKS, 400),
        (["Transfer-Encoding : chunked"], CHUNKS, 400),
        (["Transfer-Encoding: chunked"], b"zz\r\n{}\r\n0\r\n\r\n", 400),
        (["Transfer-Encoding: chunked"], b"-2\r\n{}\r\n0\r\n\r\n", 400),
        (["Transfer-Encoding: chunked"], b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n", 400),
        (["Transfer-Encoding: chunked"], b"2\n{}\n0\n\n", 400),
        (["X-Long: a\r\n b", "Content-Length: 25"], BODY, 400),
        (["X-Return: a\rX-B: c", "Content-Length: 25"], BODY, 400),
        (["X-Nul: a\x00b", "Content-Length: 25"], BODY, 400),
        (["X-\x00: b", "Content-Length: 25"], BODY, 400),
        (["X Space: b", "Content-Length: 25"], BODY, 400),
        (["X-Large: " + "a" * 4 * HEAD_BYTES_MAX, "Content-Length: 25"], BODY, 431),
        ([f"X-{one}: a" for one in range(100)] + ["Content-Length: 25"], BODY, 431),
    ],
)
def test_request_that_is_none_is_refused_whole(shop, upstream, _lines, _body, _status):
    """What is behind it on the connection is not read as another request."""
    answer = send(shop, head(shop, *_lines) + _body + last(shop))

    # The server may close before what it says is read.
    assert statuses(answer) in ([_status], [])
    assert upstream.received == []
    check_untouched(shop)


def test_length_beside_chunks_is_not_used_and_the_connection_ends(shop):
    """As RFC 9112 6.1 has it: whoever forwarded it by its length gets no second answer."""
    lines = ["Content-Length: 3", "Transfer-Encoding: chunked"]
    for given in (lines, lines[::-1]):
        answer = send(shop, head(shop, *given) + CHUNKS, last(shop))
        assert statuses(answer) == [201]


def test_chunks_that_go_wrong_after_a_whole_body_hide_no_second_request(shop):
    begun = head(shop, "Transfer-Encoding: chunked") + b"19\r\n" + BODY
    for wrong in (b"", b"\r\n-1\r\n", b"\r\n0\n\n"):
        answer = send(shop, begun + wrong + last(shop))
        assert len(statuses(answer)) <= 1


def test_requests_behind_each_other_are_answered_in_turn(shop, client):
    """The negative of the two above: this way a second request would be seen."""
    answer = send(shop, head(shop, "Content-Length: 25") + BODY + last(shop))

    assert statuses(answer) == [201, 201]


@pytest.mark.parametrize(
    "_start",
    [
        "GET / HTTP/3.0",
        "GET /",
        "get / HTTP/1.1\x00",
        "\x16\x03\x01",
        "G" * 9_000,
        "PRI * HTTP/2.0",
        f"GET /{'a' * 70_000} HTTP/1.1",
        "GET /\xff HTTP/1.1",
    ],
)
def test_first_line_that_is_none_reaches_nothing(shop, upstream, _start):
    answer = send(shop, head(shop, "Connection: close", start=_start))

    assert all(400 <= one < 500 or one == 505 for one in statuses(answer))
    assert upstream.received == []
    check_untouched(shop)


# --- Ways to what controls a model server ---

CONTROLS = [
    "repository/index",
    "repository/models/r0/load",
    "repository/models/r0/unload",
    "systemsharedmemory/status",
    "systemsharedmemory/region/x/register",
    "cudasharedmemory/status",
    "logging",
    "trace/setting",
    "models/stats",
    "models/maker/echo/config",
    "models/maker/echo/stats",
    "models/maker/echo/trace/setting",
    "models/maker/echo/versions/1/config",
    "models/../repository/index",
    "models/%2e%2e/repository/index",
    "models/maker/echo/../../../repository/index",
    "models/maker/echo%2f..%2f..%2frepository%2findex",
    "models/maker/..%2finfer",
    "models/maker%252fecho/infer",
    "models/maker/echo%00/infer",
    "models/maker/echo%0d%0aX: y/infer",
    "models/maker/echo%20HTTP/infer",
    "models/maker/echo//infer",
    "models//maker/echo/infer",
    "/models/maker/echo/infer",
    "models/maker\\echo/infer",
    "models/maker/echo;x=1/infer",
    "models/maker/%ff%fe/infer",
]


@pytest.mark.parametrize("_path", CONTROLS)
@pytest.mark.parametrize("_method", ["GET", "POST"])
def test_nothing_leads_to_the_controls_of_a_model_server(shop, upstream, _method, _path):
    path = _path.replace(" ", "%20")
    targets = [f"/v2/{path}", f"{upstream.url}/v2/{path}"]
    for target in targets:
        start = f"{_method} {target} HTTP/1.1"
        lines = [f"Content-Length: {len(INFER)}", "Connection: close"]
        answer = send(shop, head(shop, *lines, start=start) + INFER)
        assert statuses(answer) in ([404], [405], [400])
    assert upstream.received == []
    check_untouched(shop)


@pytest.mark.parametrize("_start", ["OPTIONS * HTTP/1.1", "CONNECT 127.0.0.1:18000 HTTP/1.1"])
def test_other_targets_lead_nowhere(shop, upstream, _start):
    answer = send(shop, head(shop, "Connection: close", start=_start))

    assert statuses(answer)[0] in (401, 404, 405)
    assert upstream.received == []


def test_prediction_does_reach_the_model_server(shop, upstream):
    """Without this the tests above would pass with a gateway that calls nobody."""
    response = predict(shop.client())

    assert response.status_code == 503
    assert b"/infer HTTP/1.1" in upstream.received[0]


# --- Names as clients quote them ---


@pytest.mark.parametrize(
    "_name",
    [
        "maker/echo",
        "maker%2Fecho",
        "maker%2fecho",
        "maker/echo:1",
        "maker/echo%3A1",
        "maker%2Fecho%3A1",
        "maker/echo@prod",
        "maker/echo%40prod",
        "maker%2Fecho%40prod",
        f"maker/echo%3A{'ab' * 32}",
    ],
)
def test_every_way_to_write_a_name_leads_to_the_model(shop, client, _name):
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}
    answers = [
        client.get(f"/v2/models/{_name}"),
        client.get(f"/v2/models/{_name}/ready"),
        client.post(f"/v2/models/{_name}/infer", json={"inputs": [tensor]}),
        client.post(f"/v1/models/{_name}/predictions", json={"input": {"x": X}}),
        client.get(f"/openai/v1/models/{_name}"),
    ]

    assert [one.status_code for one in answers] == [200, 200, 200, 201, 200]
    check_books(shop, [answers[2].headers["inference-id"], answers[3].json()["id"]])


def test_many_at_once_on_few_connections(shop, client):
    """After all that, the gateway answers as ever."""
    shop.fund(1_000_000)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: predict(client), range(40)))

    check_books(shop, [one.json()["id"] for one in answers])
