"""Hostile requests to the running gateway: each is answered, none reaches a model or costs."""

from __future__ import annotations

import http.client
import json
import socket
import zlib
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from billing.models import UsageEvent
from marketplace.core.ids import from_public
from tests.gateway.conftest import (
    LANGUAGE_REPLICA_IDS,
    REPLICA_IDS,
    X,
    check_untouched,
)
from tests.gateway.hostile import JSON, TEXTS, fuzz, mostly

pytestmark = pytest.mark.django_db(transaction=True)

live = settings(fuzz, max_examples=250)
V1, V2 = "/v1/models/maker/echo/predictions", "/v2/models/maker/echo/infer"
BAD = "/v1/predictions"
WRITE = "/v2/models/maker/writer/generate"
OPENAI = ["/openai/v1/embeddings", "/openai/v1/completions", "/openai/v1/chat/completions"]
_TIMEOUT_S = 60


def is_row(value) -> bool:
    """Whether it could be an x, as a row or as a tensor."""
    return isinstance(value, list) and bool(value)


# Nowhere a right x, a prompt of the right model, or a text to embed: all else is as it comes.
WRONG = JSON.filter(lambda value: not is_row(value))
TENSOR = {"name": "x", "shape": [1, 4], "datatype": "FP32"}
DOCUMENTS = st.one_of(
    JSON.filter(lambda value: not isinstance(value, dict)),
    st.builds(lambda x, more: {"input": {**more, "x": x}}, WRONG, st.dictionaries(TEXTS, JSON)),
    st.builds(lambda x, name: {"input": {"x": x}, "version": name}, WRONG, JSON),
    st.builds(
        lambda data, more: {"inputs": [{**more, **TENSOR, "data": data}]},
        WRONG,
        JSON.map(lambda one: one if isinstance(one, dict) else {}),
    ),
    st.builds(
        lambda name, text: {"model": f"none/{name}", "input": text, "prompt": text}, TEXTS, JSON
    ),
    st.builds(lambda message: {"model": "maker/writer", "messages": [message]}, WRONG),
    st.builds(
        lambda size: {"inputs": [{**TENSOR, "parameters": {"binary_data_size": size}}]},
        JSON.filter(lambda value: value != 16),
    ),
)
BODIES = st.one_of(
    DOCUMENTS.map(lambda one: json.dumps(one).encode()),
    DOCUMENTS.map(lambda one: json.dumps(one).encode()[:-1]),
    DOCUMENTS.map(lambda one: zlib.compress(json.dumps(one).encode())),
    st.binary(max_size=100),
)
# What a header line may hold: no end of line, no NUL.
VALUES = st.one_of(
    st.integers(-5, 10**6).map(str),
    st.text(st.characters(max_codepoint=255, blacklist_characters="\r\n\0"), max_size=300),
    st.sampled_from(["gzip", "deflate", "identity", "br", "gzip, gzip", "chunked", "a" * 300]),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Content-Encoding",
            "Content-Type",
            "Idempotency-Key",
            "Inference-Header-Content-Length",
            "Prefer",
            "Accept",
            "traceparent",
            "X-Request-Id",
        ]
    ),
    VALUES,
    max_size=3,
)
PATHS = st.one_of(
    st.sampled_from([V1, V2, BAD, WRITE, f"{WRITE}_stream", *OPENAI]),
    st.sampled_from([V1, V2, BAD, *OPENAI]),
    st.builds(
        lambda text, tail: f"/v1/models/{quote(text, safe='')}/{tail}", TEXTS, TEXTS.map(quote)
    ),
    st.binary(max_size=20).map(lambda one: "/v1/predictions/" + quote(one, safe="")),
    st.lists(TEXTS.map(lambda one: quote(one, safe="")), max_size=6).map(
        lambda parts: "/v2/" + "/".join(parts)
    ),
)
METHODS = mostly(st.just("POST"), st.sampled_from(["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "X"]))


def send(port: int, method: str, target: str, headers: dict[str, str], body: bytes):
    """One request over a connection of its own, with whatever octets are given."""
    lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    raw = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S) as wire:
        wire.sendall(raw)
        response = http.client.HTTPResponse(wire, method=method)
        response.begin()
        return response, response.read()


def check_refusal(response, body: bytes, target: str, method: str) -> None:
    """Answered clearly, in the envelope of the protocol, at no cost."""
    assert 400 <= response.status < 500, (response.status, body)
    if not response.headers["x-request-id"]:
        # Refused by the server underneath, before it is a request of ours.
        assert (response.status, body) == (400, b"")
        return
    assert response.headers["x-cost-nano-usd"] == "0"
    if method == "HEAD":
        return
    document = json.loads(body)
    if target.startswith("/v2"):
        assert isinstance(document["error"], str)
    elif target.startswith("/openai"):
        assert document["error"].keys() == {"message", "type", "param", "code"}
    else:
        assert response.headers["content-type"] == "application/problem+json"
        assert document["status"] == response.status
        assert document["code"]
    assert b"internal" not in body or b"Something went wrong" not in body


@pytest.fixture
def watched(language, triton):
    """The shop with all models; at the end no model has run, and nothing has cost."""
    ids = [REPLICA_IDS[0], *LANGUAGE_REPLICA_IDS.values()]
    before = [triton.count_calls(one) for one in ids]
    yield language
    assert [triton.count_calls(one) for one in ids] == before
    check_untouched(language)


def test_hostile_requests_are_answered_and_do_nothing(watched, gateway):
    authorization = {"Authorization": f"Bearer {watched.key.text}"}

    @live
    @given(METHODS, PATHS, HEADERS, BODIES)
    @example("POST", V1, {"Content-Encoding": "gzip"}, b"\x1f\x8b")
    @example("POST", V2, {"Content-Encoding": "gzip"}, zlib.compress(bytes(11 * 2**20), wbits=31))
    @example("POST", V2, {"Inference-Header-Content-Length": "9" * 5000}, b"{}")
    @example("POST", V1, {"Idempotency-Key": "\xff"}, b"{}")
    @example("POST", V1, {}, b'{"input": {"x": [NaN, 1' + b"0" * 4000 + b", 1, 1]}}")
    @example("POST", V1, {}, b'{"input": {"\\udcff": NaN}}')
    @example("POST", "/v1/models/%ff%fe/%00/predictions", {}, b"{}")
    @example("POST", "/v1/%ed%a0%80", {}, b"{}")
    @example("POST", "/%c0%af", {}, b"{}")
    @example("POST", "//v1//predictions", {}, b"{}")
    @example("POST", "*", {}, b"{}")
    @example("GET", "/v1/predictions?created_after=0001-01-01T00:00:00%2B23:59", {}, b"")
    @example("GET", "/v1/predictions?created_before=9999-12-31T23:59:59-23:59", {}, b"")
    @example("GET", "/v1/predictions?cursor=n%00", {}, b"")
    @example("GET", "/v1/predictions?" + "a&" * 40, {}, b"")
    @example("GET", "/openai/v1/models/" + "%2F" * 50, {}, b"")
    def attack(method, target, headers, body):
        response, answer = send(gateway.port, method, target, authorization | headers, body)
        if method in ("GET", "HEAD") and response.status == 200:
            return
        check_refusal(response, answer, target, method)

    attack()


def test_what_is_no_http_is_refused(watched, gateway):
    @settings(fuzz, max_examples=60)
    @given(
        st.one_of(
            st.binary(min_size=1, max_size=100),
            st.binary(max_size=30).map(lambda one: b"POST " + one + b" HTTP/1.1\r\n\r\n"),
            VALUES.map(lambda one: f"POST {V1} HTTP/1.1\r\nContent-Length: {one}\r\n\r\n".encode()),
            VALUES.map(
                lambda one: f"POST {V1} HTTP/1.1\r\nTransfer-Encoding: {one}\r\n\r\nz\r\n".encode()
            ),
        )
    )
    @example(f"POST {V1} HTTP/1.1\r\nHost: x\r\nContent-Length: {'9' * 5000}\r\n\r\n".encode())
    @example(b"GET /" + b"a" * 500_000 + b" HTTP/1.1\r\n\r\n")
    @example(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000 + b"\r\n")
    @example(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    def attack(octets):
        answer = b""
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=_TIMEOUT_S) as wire:
            try:
                wire.sendall(octets)
                wire.shutdown(socket.SHUT_WR)
                while piece := wire.recv(65536):
                    answer += piece
            except OSError:  # It closed before it had read all.
                pass
        # Closed without a word, or refused: without a key nothing else is possible.
        status = answer.split(b" ")[1] if answer else b"400"
        assert b"400" <= status <= b"499", answer

    attack()
    assert watched.client().get("/health").status_code == 200


def test_numbers_beyond_64_bits_are_answered_as_they_are_taken(shop, client):
    """Beside a NaN they were read as integers that no answer could repeat: booked, and then 500."""
    x = [-(10**30), 10, 1, 1]
    body = f'{{"input": {{"x": {x}}}, "stream": NaN}}'

    response = client.post(V1, content=body)

    assert response.status_code == 201, response.text
    assert response.json()["input"]["x"] == [-1e30, 10, 1, 1]
    assert UsageEvent.objects.get().pk == from_public(response.json()["id"])


def test_a_request_that_does_something_is_noticed(shop, gateway, triton):
    """What is checked above of hostile requests is not true of a right one."""
    before = triton.count_calls(REPLICA_IDS[0])
    headers = {"Authorization": f"Bearer {shop.key.text}"}
    body = json.dumps({"input": {"x": X}}).encode()

    response, answer = send(gateway.port, "POST", V1, headers, body)

    assert response.status == 201
    assert triton.count_calls(REPLICA_IDS[0]) == before + 1
    with pytest.raises(AssertionError):
        check_untouched(shop)
    with pytest.raises(AssertionError):
        check_refusal(response, answer, V1, "POST")
