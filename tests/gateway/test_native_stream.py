"""/v1: predictions as events of the kinds that Replicate's clients know."""

from __future__ import annotations

import json

import pytest

from tests.gateway.conftest import (
    PRICE_NANOS,
    check_books,
    check_nothing_booked,
    check_untouched,
    problem_of,
)

pytestmark = pytest.mark.django_db(transaction=True)


def stream(client, prompt="a b", *, model="teller", headers=None, **members):
    """The answer, and its events as kind, id and lines of data."""
    body = {"input": {"prompt": prompt}, "stream": True} | members
    wanted = {"Accept": "text/event-stream"} | (headers or {})
    response = client.post(f"/v1/models/maker/{model}/predictions", json=body, headers=wanted)
    if response.headers["content-type"] != "text/event-stream":
        return response, []
    return response, [parse(one) for one in response.text.split("\n\n")[:-1]]


def parse(event):
    kind, number, *data = event.split("\n")
    assert kind.startswith("event: ")
    assert number.startswith("id: ")
    assert all(one.startswith("data: ") for one in data)
    return kind[7:], int(number[4:]), [one[6:] for one in data]


def test_prediction_is_streamed_and_booked_once(teller, client):
    response, events = stream(client)

    check_books(teller, [response.headers["inference-id"]])
    assert response.status_code == 200
    assert [one[:2] for one in events] == [("output", 1), ("output", 2), ("done", 3)]
    assert [one[2] for one in events[:2]] == [["a"], [" b"]]
    end = json.loads(events[2][2][0])
    assert end["output"] == {"tokens_in": 2, "tokens_out": 2}
    assert end["metrics"]["cost_nano_usd"] == PRICE_NANOS
    assert end["metrics"]["predict_time"] > 0


def test_lines_of_a_piece_are_lines_of_data(teller, client):
    _, events = stream(client, "a\nb\r\n\rdata:c")

    assert events[0][2] == ["a", "b", "", "data:c"]


@pytest.mark.parametrize(
    ("_accept", "_stream"), [("application/json", True), ("text/event-stream", False)]
)
def test_both_body_and_header_must_ask(teller, client, _accept, _stream):
    response, _ = stream(client, headers={"Accept": _accept}, stream=_stream)

    assert (response.status_code, response.json()["output"]["text"]) == (201, "a b")


def test_failure_after_a_piece_is_an_event(teller, client):
    response, events = stream(client, "a b fail=1")

    check_books(teller, [response.headers["inference-id"]])
    assert [one[:2] for one in events] == [("output", 1), ("error", 2)]
    problem = json.loads(events[1][2][0])
    assert problem["code"] == "stream_broken"
    assert problem["request_id"] == response.headers["x-request-id"]


def test_failure_before_the_first_piece_is_a_problem(teller, client):
    response, _ = stream(client, "a fail=0")

    assert problem_of(response) == (500, "model_failed")
    check_nothing_booked(teller)


def test_model_without_a_stream_refuses_it(language, client):
    response, _ = stream(client, model="writer")

    assert problem_of(response) == (422, "validation")
    assert response.json()["errors"][0]["pointer"] == "/stream"
    check_untouched(language)


def test_stream_with_a_key_is_refused(teller, client):
    response, _ = stream(client, headers={"Idempotency-Key": "once"})

    assert problem_of(response) == (400, "stream_with_key")
    check_untouched(teller)
