"""/v2: a text in and a text out, at once or in pieces."""

from __future__ import annotations

import json

import pytest

from tests.gateway.conftest import PRICE_NANOS, check_books, check_nothing_booked, check_untouched

pytestmark = pytest.mark.django_db(transaction=True)

HEAD = {"model_name": "maker/teller", "model_version": "1"}


def generate(client, action="generate", *, model="teller", headers=None, **members):
    body = {"text_input": "a b c"} | members
    return client.post(f"/v2/models/maker/{model}/{action}", json=body, headers=headers)


def events_of(response):
    assert response.headers["content-type"] == "text/event-stream"
    return [json.loads(one.removeprefix("data: ")) for one in response.text.split("\n\n")[:-1]]


def test_text_is_generated_and_booked_once(teller, client):
    response = generate(client, id="mine", max_new_tokens=2)

    assert response.json() == HEAD | {
        "id": "mine",
        "text_output": "a b",
        "tokens_in": 3,
        "tokens_out": 2,
    }
    check_books(teller, [response.headers["inference-id"]])


def test_inputs_go_by_name_within_parameters_too(teller, client):
    for response in (
        generate(client, parameters={"max_new_tokens": 1}),
        generate(client, "versions/1/generate", max_new_tokens=1),
    ):
        assert response.json()["text_output"] == "a"


def test_model_without_a_stream_generates_at_once(language, client):
    response = generate(client, model="writer")

    assert response.json()["text_output"].startswith("a b c")


def test_retry_with_a_key_is_answered_with_the_first(teller, client):
    first, second = (generate(client, headers={"Idempotency-Key": "once"}) for _ in range(2))

    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    check_books(teller, [first.headers["inference-id"]])


def test_text_is_streamed_and_booked_once(teller, client):
    response = generate(client, "generate_stream", id="mine")

    check_books(teller, [response.headers["inference-id"]])
    head = HEAD | {"id": "mine"}
    assert events_of(response) == [
        head | {"text_output": "a"},
        head | {"text_output": " b"},
        head | {"text_output": " c"},
        head | {"text_output": "", "tokens_in": 3, "tokens_out": 3, "cost_nano_usd": PRICE_NANOS},
    ]


def test_stream_that_breaks_says_so(teller, client):
    response = generate(client, "generate_stream", text_input="a b fail=1")

    assert "broke off" in events_of(response)[-1]["error"]
    check_books(teller, [response.headers["inference-id"]])


def test_failure_before_the_first_piece_has_a_status(teller, client):
    response = generate(client, "generate_stream", text_input="a fail=0")

    assert (response.status_code, list(response.json())) == (500, ["error"])
    check_nothing_booked(teller)


@pytest.mark.parametrize("_action", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    "_members",
    [
        {"text_input": 5},
        {"text_input": "a" * 1001},
        {"parameters": []},
        {"parameters": {"unknown": 1}},
        {"unknown": 1},
        {"prompt": "b", "text_input": None},
        {"id": 5},
        {"id": "a" * 257},
        {"max_new_tokens": 100_001},
    ],
)
def test_wrong_request_is_refused(teller, client, _action, _members):
    response = generate(client, _action, **_members)

    assert (response.status_code, list(response.json())) == (422, ["error"])
    check_untouched(teller)


def test_body_must_be_an_object_with_a_text(teller, client):
    for body in ([], {}):
        response = client.post("/v2/models/maker/teller/generate", json=body)
        assert response.status_code == 422
    check_untouched(teller)


@pytest.mark.parametrize("_model", ["vectors", "echo"])
def test_model_of_another_kind_is_refused(language, client, _model):
    assert generate(client, model=_model).status_code == 422
    check_untouched(language)


def test_what_cannot_be_streamed_is_refused(language, teller, client):
    assert generate(client, "generate_stream", model="writer").status_code == 422
    keyed = generate(client, "generate_stream", headers={"Idempotency-Key": "once"})
    assert keyed.status_code == 400
    assert client.get("/v2/models/maker/teller/generate").status_code == 405
    check_untouched(language)
