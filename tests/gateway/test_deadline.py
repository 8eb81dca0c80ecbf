"""How long a caller waits: by three headers and a parameter, and never a charge at the end."""

from __future__ import annotations

import math
import time
from datetime import datetime

import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from inference.gateway.config import CANCEL_AFTER_MIN_S, WAIT_BARE_S, WAIT_MARGIN_S, WAIT_MAX_S
from inference.gateway.deadline import read_deadline, read_wait
from inference.gateway.errors import DeadlineInvalidError
from tests.gateway.conftest import (
    X,
    check_books,
    check_nothing_booked,
    check_untouched,
    predict,
    problem_of,
)

SLOW_S = 1
TENSORS = [
    {"name": "x", "shape": [1, len(X)], "datatype": "FP32", "data": X},
    {"name": "wait_s", "shape": [1, 1], "datatype": "FP32", "data": [SLOW_S]},
]


# --- What the headers say ---


@pytest.mark.parametrize(
    ("_text", "_duration_s"),
    [
        (str(CANCEL_AFTER_MIN_S), CANCEL_AFTER_MIN_S),
        ("90s", 90),
        ("5m", 300),
        ("1h30m45s", 5445),
        ("30", 30),
        (" 7s ", 7),
        ("999h", 999 * 3600),
    ],
)
def test_cancel_after_is_a_time_as_replicate_writes_it(_text, _duration_s):
    assert read_deadline({"cancel-after": _text}, math.inf) == _duration_s


@pytest.mark.parametrize(
    "_text",
    [
        "",
        "s",
        "0",
        f"{CANCEL_AFTER_MIN_S - 1}s",
        "-5",
        "1.5m",
        "5d",
        "5 m",
        "1s1m",
        "1000h",
        "\u0665m",
        "9" * 7,
        "1e3",
        "nan",
    ],
)
def test_cancel_after_that_is_none_is_refused(_text):
    with pytest.raises(DeadlineInvalidError):
        read_deadline({"cancel-after": _text}, math.inf)


def test_a_time_in_milliseconds_is_taken():
    assert read_deadline({"x-request-timeout-ms": "1"}, math.inf) == 0.001
    assert read_deadline({"x-request-timeout-ms": "9" * 9}, math.inf) == 999_999.999


@pytest.mark.parametrize("_text", ["", "0", "000", "-1", "1.5", "1s", "9" * 10, "\u0665"])
def test_a_time_in_milliseconds_that_is_none_is_refused(_text):
    with pytest.raises(DeadlineInvalidError):
        read_deadline({"x-request-timeout-ms": _text}, math.inf)


def test_the_shortest_time_counts_and_none_is_above_the_limit():
    both = {"cancel-after": "9s", "x-request-timeout-ms": "8000"}
    assert read_deadline(both, 60) == 8
    assert read_deadline(both | {"cancel-after": "7s"}, 60) == 7
    assert read_deadline(both, 3) == 3
    assert read_deadline({"cancel-after": "5m"}, 60) == 60
    assert read_deadline({}, 60) == 60


@pytest.mark.parametrize(
    ("_text", "_wait"),
    [
        ("wait", ("wait", WAIT_BARE_S)),
        ("wait=1", ("wait=1", 1 - WAIT_MARGIN_S)),
        (f"wait={WAIT_MAX_S}", (f"wait={WAIT_MAX_S}", WAIT_MAX_S - WAIT_MARGIN_S)),
        ('respond-async, WAIT="07" ; x=1', ("wait=7", 7 - WAIT_MARGIN_S)),
        ("handling=lenient", None),
        ("respond-async", None),
        ("", None),
    ],
)
def test_preference_to_wait_is_read(_text, _wait):
    assert read_wait({"prefer": _text}) == _wait


@pytest.mark.parametrize(
    "_value", ["0", str(WAIT_MAX_S + 1), "-1", "1.5", "", "x", "\u0665", "100"]
)
def test_preference_to_wait_that_is_none_is_refused(_value):
    with pytest.raises(DeadlineInvalidError):
        read_wait({"prefer": f"wait={_value}"})


# --- Through the gateway ---


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("_headers", "_wait_s"),
    [
        ({"Cancel-After": "5s"}, 5.5),
        ({"X-Request-Timeout-Ms": "700"}, 1.2),
        ({"Prefer": "wait=1"}, 1.2),
    ],
)
def test_prediction_that_takes_longer_is_given_up_and_costs_nothing(
    client, shop, _headers, _wait_s
):
    # After this one, nothing that was given up before is still worked on.
    answered = predict(client).json()["id"]
    response = predict(client, headers=_headers, wait_s=_wait_s)

    assert problem_of(response) == (504, "deadline")
    check_books(shop, [answered])


@pytest.mark.django_db(transaction=True)
def test_waiting_client_is_answered_before_it_stops_reading(client, shop):
    answered = predict(client).json()["id"]
    started_s = time.monotonic()
    response = predict(client, headers={"Prefer": "wait=2"}, wait_s=2.5)
    took_s = time.monotonic() - started_s

    assert problem_of(response) == (504, "deadline")
    assert took_s < 2
    check_books(shop, [answered])


@pytest.mark.django_db(transaction=True)
def test_preference_that_was_kept_is_named(client, shop):
    waited = predict(client, headers={"Prefer": "wait=5"})
    bare = predict(client, headers={"Prefer": "wait", "Idempotency-Key": "k"})
    again = predict(client, headers={"Prefer": "wait", "Idempotency-Key": "k"})
    plain = predict(client)

    named = [one.headers.get("preference-applied") for one in (waited, bare, again, plain)]
    assert named == ["wait=5", "wait", "wait", None]
    assert [one.status_code for one in (waited, bare, again, plain)] == [201, 201, 200, 201]
    check_books(shop, [one.json()["id"] for one in (waited, bare, plain)])


@pytest.mark.django_db(transaction=True)
def test_prediction_says_when_its_time_ends(client, shop):
    document = predict(client, headers={"Cancel-After": "7s"}).json()
    capped = predict(client, headers={"Cancel-After": "5m"}).json()

    def span_s(one):
        begin, end = (datetime.fromisoformat(one[name]) for name in ("created_at", "deadline"))
        return (end - begin).total_seconds()

    assert (span_s(document), span_s(capped)) == (7, 60)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "_headers",
    [{"Cancel-After": "4s"}, {"X-Request-Timeout-Ms": "soon"}, {"Prefer": "wait=61"}],
)
def test_header_that_cannot_be_kept_is_refused(client, shop, _headers):
    assert problem_of(predict(client, headers=_headers)) == (400, "invalid_deadline")
    check_untouched(shop)


@pytest.mark.django_db(transaction=True)
def test_header_counts_in_every_protocol(language, client):
    headers = {"X-Request-Timeout-Ms": "x"}
    chat = {"model": "maker/writer", "prompt": "hello"}
    openai = client.post("/openai/v1/completions", json=chat, headers=headers)
    oip = client.post("/v2/models/maker/echo/infer", json={"inputs": TENSORS}, headers=headers)

    assert (openai.status_code, openai.json()["error"]["code"]) == (400, "invalid_deadline")
    assert (oip.status_code, list(oip.json())) == (400, ["error"])
    check_untouched(language)


@pytest.mark.django_db(transaction=True)
def test_timeout_of_tritons_client_is_kept(shop):
    client = triton_http.InferenceServerClient(shop.url.removeprefix("http://"))
    inputs = []
    for one in TENSORS:
        given = triton_http.InferInput(one["name"], one["shape"], one["datatype"])
        given.set_data_from_numpy(np.array(one["data"], np.float32).reshape(one["shape"]))
        inputs.append(given)
    headers = {"Authorization": f"Bearer {shop.key.text}"}

    with pytest.raises(InferenceServerException, match="504"):
        client.infer("maker/echo", inputs, headers=headers, timeout=300_000)

    client.close()
    check_nothing_booked(shop)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("_timeout", [-1, 1.5, "1", True])
def test_timeout_that_is_none_is_refused(client, shop, _timeout):
    body = {"inputs": TENSORS, "parameters": {"timeout": _timeout}}
    response = client.post("/v2/models/maker/echo/infer", json=body)

    assert response.status_code == 422
    assert "microseconds" in response.json()["error"]
    check_untouched(shop)


@pytest.mark.django_db(transaction=True)
def test_timeout_of_zero_is_none(client, shop):
    body = {"inputs": TENSORS[:1], "parameters": {"timeout": 0}}

    assert client.post("/v2/models/maker/echo/infer", json=body).status_code == 200
