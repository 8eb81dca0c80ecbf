"""The small listener: whom it answers, what it refuses, and what a hostile scrape can do to it."""

from __future__ import annotations

import http.client
import socket
import time

import pytest

from marketplace.core import metrics_listener
from marketplace.core.env import SettingError
from marketplace.core.exposition import OTHER, Counter, Family, Page, Registry, Timer
from marketplace.core.metrics_listener import (
    CONNECTIONS_MAX,
    HEAD_BYTES_MAX,
    TOKEN_LENGTH_MIN,
    MetricsListener,
    is_allowed,
    read_listen,
    read_token,
    start_listener,
)

TOKEN = "t" * TOKEN_LENGTH_MIN
NAME = "STRONGROOM_WORKER_METRICS_LISTEN"


@pytest.fixture
def serve():
    listeners = []

    def start(token="", render=lambda: b"a 1\n"):
        listener = MetricsListener(("127.0.0.1", 0), render, token=token)
        listener.start()
        listeners.append(listener)
        return listener

    yield start
    for listener in listeners:
        listener.stop()


def scrape(listener, path="/metrics", method="GET", **headers):
    client = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=5)
    try:
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        client.close()


def exchange(listener, octets, *, close=False):
    """What comes back for raw octets."""
    with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as sent:
        sent.sendall(octets)
        if close:
            sent.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := sent.recv(65536):
            received += chunk
    return received


def test_this_machine_sees_the_page_without_a_token(serve):
    status, body, headers = scrape(serve())

    assert (status, body) == (200, b"a 1\n")
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert headers["Cache-Control"] == "no-store"
    assert "Python" not in headers["Server"]


@pytest.mark.parametrize("name", sorted(metrics_listener.FORWARDED))
def test_what_a_proxy_passes_on_is_not_of_this_machine(serve, name):
    status, body, _ = scrape(serve(), **{name: "203.0.113.9"})

    assert (status, body) == (401, b"")


def test_with_a_token_nobody_sees_it_without(serve):
    listener = serve(TOKEN)

    assert scrape(listener)[0] == 401
    assert scrape(listener, Authorization=f"Bearer {TOKEN}")[0] == 200
    assert scrape(listener, Authorization=f"bearer {TOKEN}")[0] == 200
    for wrong in (TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ", f"Basic {TOKEN}"):
        status, body, headers = scrape(listener, Authorization=wrong)
        assert (status, body) == (401, b"")
        assert headers["WWW-Authenticate"] == "Bearer"


def test_a_token_of_other_octets_is_refused_and_not_an_error(serve):
    head = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\xc3\xa9\r\n\r\n"

    assert exchange(serve(TOKEN), head).startswith(b"HTTP/1.0 401 ")


def test_strangers_learn_of_no_address(serve):
    assert scrape(serve(TOKEN), "/metricz")[0] == 401
    assert scrape(serve(TOKEN), "/metricz", Authorization=f"Bearer {TOKEN}")[0] == 404


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/x", "/../metrics"])
def test_there_is_one_address(serve, path):
    assert scrape(serve(), path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE"])
def test_there_is_one_method(serve, method):
    status, body, _ = scrape(serve(), method=method)

    assert (status, body) == (501, b"")


@pytest.mark.parametrize(
    "octets",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics<script> HTTP/1.1\r\nX\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET /metrics HTTP/1.1\r\nA: " + b"b" * HEAD_BYTES_MAX,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"",
    ],
)
def test_nonsense_gets_nothing_and_harms_nobody(serve, octets):
    listener = serve()

    received = exchange(listener, octets, close=True)

    assert b"a 1" not in received
    assert b"<script>" not in received
    assert scrape(listener)[0] == 200


def test_a_slow_head_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(metrics_listener, "HEAD_TIMEOUT_S", 0.3)
    listener = serve()

    with socket.create_connection(("127.0.0.1", listener.port), timeout=10) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        # Octets that come in time do not make it longer.
        for _ in range(20):
            try:
                slow.sendall(b"A")
            except OSError:
                break
            time.sleep(0.05)
        slow.settimeout(5)
        try:
            received = slow.recv(100)
        except ConnectionError:
            received = b""

    assert b"200" not in received
    assert scrape(listener)[0] == 200


def test_many_that_say_nothing_leave_room_again(serve, monkeypatch):
    monkeypatch.setattr(metrics_listener, "HEAD_TIMEOUT_S", 1.0)
    listener = serve()
    idle = [
        socket.create_connection(("127.0.0.1", listener.port), timeout=5)
        for _ in range(CONNECTIONS_MAX * 3)
    ]
    try:
        # Beyond the limit they are closed at once, not kept waiting.
        assert idle[-1].recv(1) == b""
    finally:
        for one in idle:
            one.close()
    ends_at = time.monotonic() + 20
    while True:
        try:
            assert scrape(listener)[0] == 200
            break
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < ends_at
            time.sleep(0.05)


def test_a_page_that_cannot_be_made_is_an_error_without_words(serve):
    def fail():
        raise RuntimeError("password=hunter2")

    status, body, _ = scrape(serve(render=fail))

    assert (status, body) == (500, b"")


def test_it_ends(serve):
    listener = serve()
    listener.stop()

    with pytest.raises(OSError, match="refused"):
        scrape(listener)


def test_one_that_was_never_started_ends_too():
    MetricsListener(("127.0.0.1", 0), bytes, token="").stop()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9101", ("127.0.0.1", 9101)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("localhost:9101", ("localhost", 9101)),
    ],
)
def test_an_address(text, address):
    assert read_listen(NAME, {NAME: text}) == address


@pytest.mark.parametrize(
    "text",
    ["9101", ":9101", "host:", "host:0", "host:65536", "host:-1", "host:x", "::1:9101", "[::1:1",
     "host:\uff19\uff11"],
)  # fmt: skip
def test_a_malformed_address_stops_the_process_with_its_name(text):
    with pytest.raises(SettingError, match=f"{NAME} must be host:port"):
        read_listen(NAME, {NAME: text})


def test_no_address_is_no_listener():
    assert read_listen(NAME, {}) is None
    assert start_listener(NAME, bytes, {}) is None


def test_a_token_that_can_be_guessed_stops_the_process(tmp_path):
    name = "STRONGROOM_METRICS_TOKEN"
    assert read_token({}) == ""
    assert read_token({name: TOKEN}) == TOKEN
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert read_token({f"{name}_FILE": str(tmp_path / "token")}) == TOKEN
    for wrong in (TOKEN[:-1], " " * TOKEN_LENGTH_MIN + "x", "é" * TOKEN_LENGTH_MIN):
        with pytest.raises(SettingError, match=name) as caught:
            read_token({name: wrong})
        assert wrong not in str(caught.value)


def test_who_may_see_it():
    def allowed(token, authorization=None, peer="127.0.0.1", forwarded=False):
        return is_allowed(
            token, authorization=authorization, peer_host=peer, is_forwarded=forwarded
        )

    assert allowed("")
    assert allowed("", peer="::1")
    assert allowed("", peer="::ffff:127.0.0.1")
    assert not allowed("", peer="10.0.0.1")
    assert not allowed("", peer="")
    assert not allowed("", peer="localhost")
    assert not allowed("", f"Bearer {TOKEN}", peer="10.0.0.1")
    assert not allowed("", forwarded=True)
    assert not allowed(TOKEN)
    assert allowed(TOKEN, f"Bearer {TOKEN}", peer="10.0.0.1", forwarded=True)


def test_a_counter_is_there_before_the_first():
    registry = Registry("t_")
    counter = registry.counter("x_total", "X.", ("code",), known=[("a",), ("b",)])
    bare = registry.counter("y_total", "Y.")

    before = registry.render().decode()
    counter.add("a")
    counter.add("c")
    bare.add()
    after = registry.render().decode()

    assert 't_x_total{code="a"} 0\nt_x_total{code="b"} 0\n' in before
    assert "t_y_total 0\n" in before
    assert 't_x_total{code="a"} 1\n' in after
    assert 't_x_total{code="c"} 1\n' in after
    assert "t_y_total 1\n" in after


def test_series_are_bounded():
    counter = Counter(Family("x_total", "counter", "X.", ("a", "b")), series_max=2)
    for index in range(5):
        counter.add(str(index), "b")
    timer = Timer(Family("x_seconds", "histogram", "X.", ("a",)), (1.0,), series_max=2)
    for index in range(5):
        timer.observe(0.5, str(index))
    page = Page({"x_total": counter.family, "x_seconds": timer.family})
    counter.write(page)
    timer.write(page)

    text = page.to_bytes().decode()
    assert counter.read("0", "b") == counter.read("1", "b") == 1
    assert counter.read(OTHER, OTHER) == 3
    assert 'x_seconds_count{a="other"} 3' in text
    assert text.count("x_seconds_count") == 3


def test_a_part_that_fails_hides_no_other(caplog):
    registry = Registry("t_")

    def fail(page):
        raise RuntimeError("hunter2")

    registry.gauges([Family("t_a", "gauge", "A.")], fail)
    registry.gauges([Family("t_b", "gauge", "B.")], lambda page: page.add("t_b", 7))

    text = registry.render().decode()
    assert "t_b 7\n" in text
    assert "t_a" not in text
    assert "hunter2" not in caplog.text
    assert "RuntimeError" in caplog.text


def test_a_name_that_is_there_twice_is_a_mistake():
    registry = Registry("t_")
    registry.counter("x_total", "X.")
    with pytest.raises(AssertionError):
        registry.counter("x_total", "X.")


def test_labels_cannot_forge_a_line():
    registry = Registry("t_")
    registry.counter("x_total", "X.", ("a",)).add('"} 1\nforged 2\\')

    assert 't_x_total{a="\\"} 1\\nforged 2\\\\"} 1\n' in registry.render().decode()
