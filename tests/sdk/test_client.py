"""The client: typed errors, careful repetition, and secrets that stay secret."""

import json
import subprocess
import sys

import httpx
import pytest

import strongroom
from strongroom import client as client_module
from strongroom.client import ApiError, Client, Transport, UnreachableError, is_private_path
from strongroom.errors import StrongroomError

KEY = "sk_live_that_must_not_leak"
DONE = {
    "id": "abcdefghijklmnopqrstuvwxyz",
    "model": "acme/digits",
    "status": "succeeded",
    "output": {"digit": {"label": "7", "score": 0.98}},
    "metrics": {"cost_nano_usd": 500_000},
}


class Answers:
    """Answers requests in order; an exception in the list is raised."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def __call__(self, request):
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def slept(monkeypatch):
    found = []
    monkeypatch.setattr(client_module.time, "sleep", found.append)
    return found


def make_client(answers):
    http = httpx.Client(transport=httpx.MockTransport(answers))
    return Client("https://gateway.example.com/", KEY, http=http)


def make_transport(answers, token=KEY):
    return Transport(
        "https://example.com", token, http=httpx.Client(transport=httpx.MockTransport(answers))
    )


def problem(status, code, **members):
    body = {"title": "No.", "status": status, "code": code, "detail": "Because."} | members
    return httpx.Response(status, json=body)


def test_a_prediction(slept):
    answers = Answers(httpx.Response(201, json=DONE))

    with make_client(answers) as client:
        prediction = client.predict("acme/digits", {"image": [[0, 1]]})

    assert prediction.output == {"digit": {"label": "7", "score": 0.98}}
    assert (prediction.id, prediction.cost_nanos) == ("abcdefghijklmnopqrstuvwxyz", 500_000)
    [request] = answers.requests
    assert str(request.url) == "https://gateway.example.com/v1/models/acme/digits/predictions"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert json.loads(request.content) == {"input": {"image": [[0, 1]]}}


@pytest.mark.parametrize("tag", ["a", "Team-7:nightly.run_2", "x" * 64])
def test_a_tag_goes_with_its_prediction(slept, tag):
    answers = Answers(*(httpx.Response(201, json=DONE) for _ in range(2)))

    make_client(answers).predict("acme/digits", {}, tag=tag)
    make_client(answers).predict("acme/digits", {})

    tagged, plain = answers.requests
    assert tagged.headers["Strongroom-Tag"] == tag
    assert "Strongroom-Tag" not in plain.headers


@pytest.mark.parametrize("tag", ["x" * 65, "two words", "é", "a\n", " ", "a/b"])
def test_what_is_no_tag_is_not_sent(slept, tag):
    answers = Answers()

    with pytest.raises(StrongroomError) as refused:
        make_client(answers).predict("acme/digits", {}, tag=tag)

    assert refused.value.code == "tag_invalid"
    assert answers.requests == []


@pytest.mark.parametrize(
    "model", ["acme/digits:3", "acme/digits@staging", "acme/digits:" + "a" * 64]
)
def test_a_named_version_goes_into_the_body(slept, model):
    answers = Answers(httpx.Response(201, json=DONE))

    make_client(answers).predict(model, {})

    [request] = answers.requests
    assert request.url.path == "/v1/predictions"
    assert json.loads(request.content) == {"input": {}, "version": model}


def test_a_repeated_prediction_keeps_its_idempotency_key(slept):
    answers = Answers(
        httpx.ReadTimeout("lost"), problem(503, "model_not_ready"), httpx.Response(201, json=DONE)
    )

    make_client(answers).predict("acme/digits", {})

    keys = {request.headers["Idempotency-Key"] for request in answers.requests}
    assert len(answers.requests) == 3
    assert len(keys) == 1
    assert len(slept) == 2


def test_each_prediction_has_its_own_idempotency_key_unless_given(slept):
    answers = Answers(*[httpx.Response(201, json=DONE)] * 3)
    client = make_client(answers)

    client.predict("acme/digits", {})
    client.predict("acme/digits", {})
    client.predict("acme/digits", {}, idempotency_key="mine")

    keys = [request.headers["Idempotency-Key"] for request in answers.requests]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_a_prediction_that_takes_longer_is_waited_for(slept):
    running = DONE | {"status": "starting", "output": None}
    answers = Answers(
        httpx.Response(201, json=running),
        httpx.Response(200, json=running | {"status": "processing"}),
        httpx.Response(200, json=DONE),
    )

    assert make_client(answers).predict("acme/digits", {}).output == DONE["output"]
    assert [request.method for request in answers.requests] == ["POST", "GET", "GET"]
    assert answers.requests[2].url.path == "/v1/predictions/abcdefghijklmnopqrstuvwxyz"


def test_waiting_has_an_end(slept):
    running = httpx.Response(200, json=DONE | {"status": "starting"})

    with pytest.raises(ApiError) as refused:
        make_client(Answers(running)).predict("acme/digits", {}, timeout_s=0)

    assert refused.value.code == "deadline"


def test_a_prediction_for_later_is_put_into_the_queue_as_it_is_wished(slept):
    waiting = DONE | {"status": "starting", "output": None}
    answers = Answers(httpx.Response(202, json=waiting), httpx.Response(202, json=waiting))
    client = make_client(answers)

    made = client.submit(
        "acme/digits",
        {"x": 1},
        priority="batch",
        cancel_after_s=90,
        is_retried=False,
        webhook="https://hooks.example/a",
        webhook_events=["completed"],
        tag="team-a",
    )
    client.submit("acme/digits:3", {}, idempotency_key="mine")

    first, second = answers.requests
    assert made == waiting
    assert json.loads(first.content) == {
        "input": {"x": 1},
        "priority": "batch",
        "webhook": "https://hooks.example/a",
        "webhook_events_filter": ["completed"],
    }
    assert first.headers["prefer"] == second.headers["prefer"] == "respond-async"
    assert first.headers["cancel-after"] == "90s"
    assert first.headers["x-strongroom-retry"] == "never"
    assert first.headers["strongroom-tag"] == "team-a"
    assert json.loads(second.content)["version"] == "acme/digits:3"
    assert second.headers["idempotency-key"] == "mine"
    assert not {"cancel-after", "x-strongroom-retry"} & set(second.headers)


def test_a_prediction_for_later_is_looked_at_less_and_less(slept):
    waiting = DONE | {"status": "starting", "progress": {"stage": "queued", "position": 1}}
    looks = [httpx.Response(200, json=waiting) for _ in range(30)]
    seen = []

    done = make_client(Answers(*looks, httpx.Response(200, json=DONE))).wait_for(
        DONE["id"], on_look=seen.append
    )

    assert done.output == DONE["output"]
    assert len(seen) == 30
    assert slept == sorted(slept)
    assert (slept[0], slept[-1]) == (0.5, 5.0)


def test_a_prediction_is_canceled_and_its_id_is_a_part_of_an_address(slept):
    answers = Answers(httpx.Response(200, json=DONE | {"status": "canceled"}))

    assert make_client(answers).cancel_prediction("../x")["status"] == "canceled"
    (request,) = answers.requests
    assert request.method == "POST"
    assert request.url.raw_path == b"/v1/predictions/..%2Fx/cancel"


@pytest.mark.parametrize("status", ["failed", "canceled"])
def test_a_prediction_without_output_is_an_error(slept, status):
    answers = Answers(httpx.Response(201, json=DONE | {"status": status, "error": "Too dark."}))

    with pytest.raises(ApiError) as refused:
        make_client(answers).predict("acme/digits", {})

    assert (refused.value.code, refused.value.detail) == ("prediction_failed", "Too dark.")


def test_a_refusal_carries_what_the_platform_said(slept):
    errors = [{"pointer": "/input/image", "detail": "Is required.", "code": "required"}]
    answers = Answers(problem(422, "validation", errors=errors, request_id="r1"))

    with pytest.raises(ApiError) as refused:
        make_client(answers).predict("acme/digits", {})

    error = refused.value
    assert (error.code, error.status, error.request_id) == ("validation", 422, "r1")
    assert error.errors == errors
    assert str(error) == "validation: Because."
    assert slept == []


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthenticated"), (402, "insufficient_credit"), (413, "x")]
)
def test_refusals_that_repeating_cannot_help_are_not_repeated(slept, status, code):
    answers = Answers(problem(status, code))

    with pytest.raises(ApiError, match=code):
        make_client(answers).predict("acme/digits", {})
    assert len(answers.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_idempotent_calls_are_repeated_a_limited_number_of_times(slept, status):
    answers = Answers(*[problem(status, "unavailable")] * 9)

    with pytest.raises(ApiError, match="unavailable"):
        make_transport(answers).call("GET", "/x")

    assert len(answers.requests) == client_module.MAX_ATTEMPTS
    assert len(slept) == client_module.MAX_ATTEMPTS - 1
    for attempt, slept_s in enumerate(slept):
        assert 0.125 * 2**attempt <= slept_s <= 0.25 * 2**attempt


def test_other_calls_are_repeated_only_if_they_were_never_sent(slept):
    answers = Answers(httpx.ConnectError("refused"), httpx.Response(201, json={"id": "1"}))
    assert make_transport(answers).call("POST", "/x", json={}) == {"id": "1"}

    for lost in (httpx.ReadTimeout("lost"), httpx.RemoteProtocolError("cut")):
        answers = Answers(lost, httpx.Response(201, json={}))
        with pytest.raises(UnreachableError):
            make_transport(answers).call("POST", "/x", json={})
        assert len(answers.requests) == 1

    answers = Answers(problem(500, "internal"))
    with pytest.raises(ApiError, match="internal"):
        make_transport(answers).call("POST", "/x", json={})
    assert len(answers.requests) == 1


def test_retry_after_is_obeyed_up_to_a_limit(slept):
    soon = httpx.Response(503, json={"code": "x"}, headers={"Retry-After": "2"})
    answers = Answers(soon, httpx.Response(200, json={}))
    make_transport(answers).call("GET", "/x")
    assert slept == [2.0]

    late = httpx.Response(503, json={"code": "x"}, headers={"Retry-After": "3600"})
    with pytest.raises(ApiError) as refused:
        make_transport(Answers(late)).call("GET", "/x")
    assert refused.value.retry_after_s == 3600

    odd = httpx.Response(503, json={"code": "x"}, headers={"Retry-After": "Fri, 31 Dec 2027"})
    make_transport(Answers(odd, httpx.Response(200, json={}))).call("GET", "/x")
    assert len(slept) == 2


def test_a_body_is_made_afresh_for_each_attempt(slept):
    answers = Answers(httpx.WriteTimeout("slow"), httpx.Response(200, json={}))

    make_transport(answers).call(
        "PUT", "/x", content=lambda: iter([b"ab", b"c"]), headers={"Content-Length": "3"}
    )

    assert [request.content for request in answers.requests] == [b"abc", b"abc"]
    for request in answers.requests:
        assert request.headers["Content-Length"] == "3"
        assert "Transfer-Encoding" not in request.headers


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (httpx.Response(200, text="<html>"), "answer_invalid"),
        (httpx.Response(404, text="<html>"), "http_404"),
        (httpx.Response(404, json=[1]), "http_404"),
        (httpx.Response(302, headers={"Location": "https://elsewhere"}), "http_302"),
    ],
)
def test_answers_of_something_else(slept, response, code):
    with pytest.raises(ApiError) as refused:
        make_transport(Answers(response)).call("GET", "/x")

    assert refused.value.code == code


def test_an_empty_answer_is_none(slept):
    assert make_transport(Answers(httpx.Response(204))).call("DELETE", "/x") is None


def test_the_key_appears_in_no_text(slept, caplog):
    caplog.set_level("DEBUG")
    answers = Answers(*[httpx.ReadTimeout("lost")] * 9)
    client = make_client(answers)

    with pytest.raises(UnreachableError) as refused:
        client.predict("acme/digits", {})

    for text in (repr(client), repr(client._transport), str(refused.value), caplog.text):
        assert KEY not in text


@pytest.mark.parametrize("model", ["digits", "/digits", "acme/", "a/b/c", ""])
def test_models_have_an_owner_and_a_name(slept, model):
    with pytest.raises(StrongroomError, match="model_invalid"):
        make_client(Answers()).predict(model, {})


def test_names_are_quoted(slept):
    answers = Answers(httpx.Response(200, json={}))

    make_client(answers).get_model("acme/x?y#z")

    assert answers.requests[0].url.raw_path == b"/v1/models/acme/x%3Fy%23z"


@pytest.mark.parametrize(
    ("url", "is_private"),
    [
        ("https://example.com", True),
        ("http://localhost:8000", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:80", True),
        ("http://strongroom.localhost", True),
        ("http://example.com", False),
        ("http://127.example.com.evil", False),
        ("http://localhost.evil.com", False),
    ],
)
def test_paths_that_nobody_can_read(url, is_private):
    assert is_private_path(url) is is_private


def test_the_package_offers_its_names_and_loads_no_http_client_for_the_format():
    assert strongroom.Client is Client
    for name in strongroom.__all__:
        assert getattr(strongroom, name)
    with pytest.raises(AttributeError):
        strongroom.Nothing  # noqa: B018

    script = (
        "import sys, strongroom.interface, strongroom.sealing.manifest\n"
        "unwanted = {'httpx', 'click', 'rich', 'django', 'marketplace'}\n"
        "print(unwanted & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert answer.stdout == b"set()\n"
