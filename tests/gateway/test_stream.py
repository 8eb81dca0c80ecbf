"""Streams: each token as it comes, charged for what was delivered, stopped when nobody listens."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from django.utils import timezone

from billing.models import Hold
from billing.services import ledger
from inference.gateway.config import BREAKER_FAILURES
from inference.models import Prediction, Replica
from strongroom.interface import Interface
from tests.factories import APIKeyFactory
from tests.gateway.conftest import (
    LANGUAGE_REPLICA_IDS,
    PRICE_NANOS,
    TELLER,
    check_books,
    check_nothing_booked,
    check_untouched,
    make_node,
)
from tests.gateway.processes import TOY_LANGUAGE, ToyTriton, eventually
from tests.gateway.scrape import Scrape
from tests.gateway.test_crashes import wire, wired  # noqa: F401 - fixtures
from tests.gateway.test_openai import error_of

pytestmark = pytest.mark.django_db(transaction=True)

SLOW_S = 30


def body_of(prompt="one two three", **members):
    messages = [{"role": "user", "content": prompt}]
    return {"model": "maker/teller", "messages": messages, "stream": True} | members


@contextlib.contextmanager
def opened(client, prompt="one two three", *, headers=None, **members):
    """A chat as it comes."""
    body = body_of(prompt, **members)
    with client.stream(
        "POST", "/openai/v1/chat/completions", json=body, headers=headers
    ) as response:
        yield response


def chat(client, prompt="one two three", **members):
    """The answer and all its events."""
    with opened(client, prompt, **members) as response:
        if response.headers["content-type"] != "text/event-stream":
            response.read()
            return response, []
        return response, list(events_of(response))


def events_of(response):
    for line in response.iter_lines():
        if line:
            assert line.startswith("data: "), line
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def text_of(events):
    chunks = [one for one in events if one != "[DONE]" and one.get("choices")]
    return "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)


def stops(triton, name):
    """After how many tokens the model was stopped, or ended, on this prompt."""
    found = re.findall(
        f"TELLER {name} (stopped|ended) after ([0-9]+)", triton.config.log_path.read_text()
    )
    assert len(found) == 1
    return found[0][0], int(found[0][1])


def test_stream_is_chunks_in_openais_shape_and_booked_once(teller, client):
    response, events = chat(client, stream_options={"include_usage": True})

    public_id = response.headers["inference-id"]
    check_books(teller, [public_id])
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "private, no-store"
    assert response.headers["x-request-id"]
    assert "x-cost-nano-usd" not in response.headers
    assert events.pop() == "[DONE]"
    frame = {
        "id": f"chatcmpl-{public_id}",
        "object": "chat.completion.chunk",
        "created": int(Prediction.objects.get().created_at.timestamp()),
        "model": "maker/teller",
        "usage": None,
    }

    def chunk(delta, finish_reason=None):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return frame | {"choices": [choice]}

    usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert events == [
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "one"}),
        chunk({"content": " two"}),
        chunk({"content": " three"}),
        chunk({}, "stop") | {"cost_nano_usd": PRICE_NANOS},
        frame | {"choices": [], "usage": usage | {"cost_nano_usd": PRICE_NANOS}},
    ]
    row = Prediction.objects.get()
    assert (row.protocol, row.rows, row.cost_nanos) == ("openai", 1, PRICE_NANOS)


def test_completion_streams_in_its_own_shape(teller, client):
    body = {"model": "maker/teller", "prompt": "a b", "stream": True, "max_tokens": 2}
    with client.stream("POST", "/openai/v1/completions", json=body) as response:
        events = list(events_of(response))

    check_books(teller, [response.headers["inference-id"]])
    assert events.pop() == "[DONE]"
    assert {one["object"] for one in events} == {"text_completion"}
    choices = [one["choices"][0] for one in events]
    assert [one["text"] for one in choices] == ["a", " b", ""]
    assert [one["finish_reason"] for one in choices] == [None, None, "length"]
    assert all("usage" not in one for one in events)
    assert events[-1]["cost_nano_usd"] == PRICE_NANOS


def test_first_token_comes_before_the_last_is_made(teller, client, triton):
    with opened(client, "a repeat=100 pause=0.1 name=first") as response:
        next(events_of(response))
        with pytest.raises(AssertionError):
            stops(triton, "first")


def test_model_that_streams_answers_at_once_too(teller, client):
    response = client.post("/openai/v1/chat/completions", json=body_of() | {"stream": False})
    native = client.post("/v1/models/maker/teller/predictions", json={"input": {"prompt": "a b"}})

    assert response.json()["choices"][0]["message"]["content"] == "one two three"
    assert response.json()["usage"]["total_tokens"] == 6
    assert native.json()["output"] == {"text": "a b", "tokens_in": 2, "tokens_out": 2}
    check_books(teller, [response.headers["inference-id"], native.json()["id"]])


def test_empty_answer_is_an_answer(teller, client):
    response, events = chat(client, "repeat=0")

    assert text_of(events) == ""
    assert [one["choices"][0]["finish_reason"] for one in events[:-1]] == [None, "stop"]
    check_books(teller, [response.headers["inference-id"]])


def test_text_is_whole_whatever_it_holds(teller, client):
    prompt = "grüße \n\ndata: €€ 👩‍👩‍👧 \u2028\x85 [DONE]"

    _, events = chat(client, prompt)

    assert text_of(events) == prompt


# --- Refusals ---


def test_model_without_a_stream_refuses_it(language, client):
    body = body_of() | {"model": "maker/writer"}
    response = client.post("/openai/v1/chat/completions", json=body)

    assert error_of(response) == (400, "unsupported_parameter", "stream")
    check_untouched(language)


@pytest.mark.parametrize(
    ("_members", "_code", "_param"),
    [
        ({"stream": 1}, "unsupported_parameter", "stream"),
        ({"stream": "true"}, "unsupported_parameter", "stream"),
        ({"stream": False, "stream_options": {}}, "unsupported_parameter", "stream_options"),
        ({"stream_options": []}, "invalid_parameter", "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "invalid_parameter", "stream_options"),
        ({"stream_options": {"other": True}}, "unsupported_parameter", "stream_options"),
    ],
)
def test_stream_is_asked_for_clearly(teller, client, _members, _code, _param):
    response = client.post("/openai/v1/chat/completions", json=body_of() | _members)

    assert error_of(response) == (400, _code, _param)
    check_untouched(teller)


def test_stream_with_a_key_is_refused(teller, client):
    response, _ = chat(client, headers={"Idempotency-Key": "once"})

    assert error_of(response) == (400, "stream_with_key", None)
    check_untouched(teller)


def test_stream_without_credit_is_refused(teller, client):
    for _ in range(10):
        chat(client, "a")

    response, events = chat(client, "a")

    assert error_of(response)[:2] == (402, "insufficient_credit")
    assert events == []
    assert Prediction.objects.filter(state="succeeded").count() == 10


# --- Failures ---


def test_failure_before_the_first_token_has_a_status_and_costs_nothing(teller, client):
    response, events = chat(client, "a b fail=0")

    assert error_of(response)[:2] == (500, "model_failed")
    assert "/secret" not in response.text
    assert events == []
    check_nothing_booked(teller)


def test_failure_after_a_token_is_an_event_and_the_delivered_is_charged(teller, client):
    response, events = chat(client, "a b c fail=2")

    check_books(teller, [response.headers["inference-id"]])
    assert text_of(events[:-1]) == "a b"
    assert events[-1]["error"]["code"] == "stream_broken"
    assert "model_failed" in events[-1]["error"]["message"]
    assert events[-1]["error"].keys() == {"message", "type", "param", "code"}


def test_answer_that_breaks_its_interface_is_told_and_charged_as_delivered(teller, client):
    response, events = chat(client, "a short=1")

    assert events[-1]["error"]["code"] == "stream_broken"
    check_books(teller, [response.headers["inference-id"]])


def test_deadline_stops_the_model_and_charges_what_was_delivered(teller, start_gateway, triton):
    client = teller.client(url=start_gateway(STRONGROOM_GATEWAY_DEADLINE_S="1").url)

    response, events = chat(client, "a repeat=1000 pause=0.05 name=deadline", max_tokens=1000)

    check_books(teller, [response.headers["inference-id"]])
    assert events[-1]["error"]["code"] == "stream_broken"
    assert "(deadline)" in events[-1]["error"]["message"]
    how, count = eventually(lambda: stops(triton, "deadline"))
    assert how == "stopped"
    assert count < 100


def test_deadline_before_the_first_token_costs_nothing(teller, start_gateway):
    client = teller.client(url=start_gateway(STRONGROOM_GATEWAY_DEADLINE_S="1").url)

    response, _ = chat(client, "a lead=2")

    assert error_of(response)[:2] == (504, "deadline")
    check_nothing_booked(teller)


# --- Cancellations ---


def test_cancelled_stream_is_charged_for_what_it_delivered(teller, client, triton):
    with opened(client, "a repeat=400 pause=0.02 name=cancelled", max_tokens=1000) as response:
        events = events_of(response)
        next(events), next(events)
        public_id = response.headers["inference-id"]
        shown = teller.client().post(f"/v1/predictions/{public_id}/cancel")
        rest = list(events)

    # Nothing is called free that is not.
    assert (shown.status_code, shown.json()["status"]) == (200, "succeeded")
    assert shown.json()["metrics"]["cost_nano_usd"] == PRICE_NANOS
    assert rest[-1]["error"]["code"] == "stream_broken"
    assert "(canceled)" in rest[-1]["error"]["message"]
    how, count = eventually(lambda: stops(triton, "cancelled"), timeout_s=SLOW_S)
    assert how == "stopped"
    assert count < 300
    check_books(teller, [public_id])


# --- Limits ---


def test_running_stream_keeps_its_place(teller, client):
    teller.key = APIKeyFactory(account=teller.consumer, concurrency_max=1)
    client = teller.client()
    with opened(client, "a repeat=400 pause=0.02", max_tokens=1000) as response:
        events = events_of(response)
        next(events)
        refused, _ = chat(teller.client(), "b")

    assert error_of(refused)[:2] == (429, "rate_limit_exceeded")
    _, events = eventually(lambda: check_streamed(chat(client, "b")))
    assert text_of(events) == "b"


def check_streamed(answer):
    assert answer[0].status_code == 200
    return answer


def test_streams_count_as_requests(teller):
    teller.key = APIKeyFactory(account=teller.consumer, requests_per_minute=2)
    answers = [chat(teller.client(), "a")[0] for _ in range(3)]

    assert [one.status_code for one in answers] == [200, 200, 429]
    assert error_of(answers[2])[:2] == (429, "rate_limit_exceeded")
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
    check_books(teller, [one.headers["inference-id"] for one in answers[:2]])


# --- Clients that leave ---


def leave(client, prompt, after):
    """Close the connection after so many chunks with text."""
    with opened(client, prompt, max_tokens=100_000) as response:
        events = events_of(response)
        for _ in range(after + 1 if after else 0):
            next(events)
        return response.headers["inference-id"]


def test_client_that_leaves_stops_the_model_and_pays_once(teller, client, triton):
    check_leaving(teller, client, triton, "left")


def check_leaving(teller, client, triton, name):
    public_id = leave(client, f"a repeat=400 pause=0.02 name={name}", after=3)

    how, count = eventually(lambda: stops(triton, name), timeout_s=SLOW_S)
    assert how == "stopped"
    assert 3 <= count < 300
    eventually(lambda: check_books(teller, [public_id]), timeout_s=SLOW_S)


def test_client_that_leaves_before_the_first_token_pays_nothing(teller, triton):
    with connect(teller, "a repeat=3 lead=1.5 pause=0.5 name=early"):
        time.sleep(0.3)

    how, count = eventually(lambda: stops(triton, "early"), timeout_s=SLOW_S)
    assert (how, count) == ("stopped", 0)
    eventually(lambda: check_failures("client_gone"), timeout_s=SLOW_S)
    check_nothing_booked(teller)


def test_client_that_leaves_the_queue_frees_its_place(teller, client, triton):
    with connect(teller, "a repeat=100 pause=0.1 name=first_in_line") as first:
        first.recv(1)
        waiting = [connect(teller, f"a name=waiting{at}") for at in range(3)]
        time.sleep(0.3)
        for one in waiting:
            one.close()
    _, events = chat(client, "b")

    assert text_of(events) == "b"
    eventually(lambda: check_failures(*["client_gone"] * 3), timeout_s=SLOW_S)
    eventually(lambda: check_booked(2), timeout_s=SLOW_S)


def check_failures(*codes):
    rows = Prediction.objects.exclude(state="succeeded")
    assert sorted(rows.values_list("error", flat=True)) == sorted(codes)


def check_booked(count):
    assert Prediction.objects.filter(state="succeeded").count() == count


def connect(shop, prompt, **members):
    """A connection on which a stream was asked for, and nothing is read yet."""
    body = json.dumps(body_of(prompt, **members)).encode()
    host, port = shop.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"
        b"Content-Type: application/json\r\n"
        + f"Authorization: Bearer {shop.key.text}\r\n".encode()
        + f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return connection


def test_client_that_reads_nothing_holds_nothing_up(teller, client, triton):
    with connect(teller, "abcdefgh repeat=20000 name=deaf", max_tokens=20_000):
        how, count = eventually(lambda: stops(triton, "deaf"), timeout_s=SLOW_S)
        _, events = chat(client, "b")
        assert text_of(events) == "b"
        eventually(lambda: check_booked(2), timeout_s=SLOW_S)

    assert (how, count) == ("ended", 20_000)


# --- Servers that end ---

# Before every other in the order of ids: asked first among those that are equally free.
OWN_ID = UUID(int=1)


@pytest.fixture
def own_triton(tmp_path):
    server = ToyTriton(tmp_path, Interface.parse(TELLER), [])
    server.load(Interface.parse(TELLER), OWN_ID, model_source=TOY_LANGUAGE)
    yield server
    server.stop()


@pytest.fixture
def doubled(teller, own_triton):
    """The teller with a second replica, on a server that may be killed."""
    node = make_node("node-2", own_triton.config.http_url, own_triton.config.grpc_url)
    first = Replica.objects.get(pk=LANGUAGE_REPLICA_IDS["teller"])
    teller.add_replica(OWN_ID, version=first.version, node=node)
    return teller


@pytest.fixture
def fragile(doubled):
    """The teller on that server alone."""
    Replica.objects.get(pk=LANGUAGE_REPLICA_IDS["teller"]).delete()
    return doubled


def test_killed_server_is_told_and_the_delivered_is_charged(fragile, client, own_triton):
    with opened(client, "a repeat=1000 pause=0.05", max_tokens=1000) as response:
        events = events_of(response)
        first = [next(events), next(events)]
        own_triton.kill()
        rest = list(events)

    check_books(fragile, [response.headers["inference-id"]])
    assert text_of(first) == "a"
    assert rest[-1]["error"]["code"] == "stream_broken"
    assert "triton_unavailable" in rest[-1]["error"]["message"]


def test_killed_model_is_told_and_the_delivered_is_charged(fragile, client):
    response, events = chat(client, "a b c die=2")

    check_books(fragile, [response.headers["inference-id"]])
    assert text_of(events[:-1]) == "a b"
    assert "triton_unavailable" in events[-1]["error"]["message"]


def test_dead_server_costs_nothing(fragile, client, own_triton):
    own_triton.kill()

    response, _ = chat(client, "a")

    assert error_of(response)[:2] == (503, "triton_unavailable")
    check_nothing_booked(fragile)


def test_dead_server_is_soon_left_alone(fragile, own_triton, start_gateway):
    gateway = start_gateway()
    client = fragile.client(url=gateway.url)
    own_triton.kill()

    refused = [chat(client, "a")[0] for _ in range(BREAKER_FAILURES + 1)]

    assert {error_of(one)[:2] for one in refused} == {(503, "triton_unavailable")}
    # The last one was not tried, and is told when to come.
    assert "are tried again soon" in refused[-1].json()["error"]["message"]
    assert int(refused[-1].headers["retry-after"]) >= 1
    assert Scrape(gateway.url).sum("replica_breaker") == 1
    check_nothing_booked(fragile)


def test_stream_goes_to_another_replica_while_nothing_was_said(doubled, client, own_triton):
    response, _ = chat(client, "a name=before")
    assert "TELLER before" in own_triton.config.log_path.read_text()
    own_triton.kill()

    second, events = chat(client, "a")

    assert text_of(events) == "a"
    check_books(doubled, [one.headers["inference-id"] for one in (response, second)])


def test_booking_that_fails_is_told_in_place_of_the_end(teller, wire, wired):  # noqa: F811
    client = teller.client(url=wired(STRONGROOM_GATEWAY_SETTLE_WAIT_S="1").url)
    with opened(client, "a b c pause=0.3") as response:
        events = events_of(response)
        next(events)
        wire.cut()
        rest = list(events)
    wire.mend()

    assert text_of(rest[:-1]) == "a b c"
    assert rest[-1] != "[DONE]"
    assert rest[-1]["error"]["code"] == "database_unavailable"
    eventually(lambda: check_nothing_booked(teller), timeout_s=SLOW_S)


def test_gateway_that_is_killed_in_a_stream_charges_nothing(teller, start_gateway, triton):
    gateway = start_gateway()
    client = teller.client(url=gateway.url)
    with opened(client, "a repeat=400 pause=0.02 name=orphan") as response:
        events = events_of(response)
        next(events)
        gateway.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            list(events)

    assert eventually(lambda: stops(triton, "orphan"), timeout_s=SLOW_S)[0] == "stopped"
    assert Hold.objects.get().state == Hold.State.PENDING
    Hold.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert ledger.expire_holds() == 1
    check_nothing_booked(teller)


def test_gateway_that_is_told_to_stop_ends_its_streams_first(teller, start_gateway):
    gateway = start_gateway()
    client = teller.client(url=gateway.url)
    with opened(client, "a b c d pause=0.2") as response:
        events = events_of(response)
        next(events)
        gateway.stop()
        rest = list(events)

    assert rest[-1] == "[DONE]"
    check_books(teller, [response.headers["inference-id"]])
