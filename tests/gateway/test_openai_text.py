"""/openai/v1: completions and chat, in the shapes that OpenAI's clients read."""

from __future__ import annotations

import pytest

from inference.gateway.config import MESSAGES_MAX
from inference.models import Prediction
from tests.factories import AIModelFactory, ChannelFactory, ModelVersionFactory
from tests.gateway.conftest import (
    PRICE_NANOS,
    WRITER,
    check_books,
    check_nothing_booked,
    check_untouched,
)
from tests.gateway.test_openai import error_of

pytestmark = pytest.mark.django_db(transaction=True)

USER = {"role": "user", "content": "How are you?"}
SYSTEM = {"role": "system", "content": "Be kind."}
ASSISTANT = {"role": "assistant", "content": "Fine."}


def complete(client, prompt="How are you?", *, headers=None, **members):
    body = {"model": "maker/writer", "prompt": prompt} | members
    return client.post("/openai/v1/completions", json=body, headers=headers)


def chat(client, *messages, headers=None, **members):
    body = {"model": "maker/writer", "messages": messages or [USER]} | members
    return client.post("/openai/v1/chat/completions", json=body, headers=headers)


def text_of(response):
    (choice,) = response.json()["choices"]
    return choice["message"]["content"] if "message" in choice else choice["text"]


def test_completion_is_answered_and_booked_once(language, client):
    response = complete(client)

    public_id = response.headers["inference-id"]
    check_books(language, [public_id])
    document = response.json()
    created = int(Prediction.objects.get().created_at.timestamp())
    assert response.status_code == 200
    assert document == {
        "id": f"cmpl-{public_id}",
        "object": "text_completion",
        "created": created,
        "model": "maker/writer",
        "choices": [
            {
                "index": 0,
                "text": "How are you? temperature=0.0 seed=-1",
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
    }
    row = Prediction.objects.get()
    assert (row.protocol, row.rows, row.cost_nanos) == ("openai", 1, PRICE_NANOS)


def test_chat_is_answered_and_booked_once(language, client):
    response = chat(client, SYSTEM, USER, model="maker/writer:1")

    public_id = response.headers["inference-id"]
    check_books(language, [public_id])
    document = response.json()
    assert document.pop("created") > 0
    assert document == {
        "id": f"chatcmpl-{public_id}",
        "object": "chat.completion",
        "model": "maker/writer:1",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Be kind. How are you? temperature=0.0 seed=-1",
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10},
    }


@pytest.mark.parametrize("_name", ["max_tokens", "max_completion_tokens"])
def test_answer_that_was_cut_says_so(language, client, _name):
    response = chat(client, **{_name: 2})

    assert text_of(response) == "How are"
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert response.json()["usage"]["completion_tokens"] == 2


def test_settings_reach_the_model(language, client):
    for ask in (complete, chat):
        response = ask(client, temperature=0.5, seed=7)
        assert text_of(response) == "How are you? temperature=0.5 seed=7"


def test_content_may_be_parts_and_the_system_a_developer(language, client):
    parts = [{"type": "text", "text": "How are"}, {"type": "text", "text": "you?"}]
    developer = {"role": "developer", "content": "Be kind.", "name": None}

    response = chat(client, developer, {"role": "user", "content": parts})

    assert text_of(response).startswith("Be kind. How are you?")


def test_prompt_may_be_a_list_of_one(language, client):
    assert text_of(complete(client, ["Hi"])).startswith("Hi ")


@pytest.mark.parametrize(
    "_members",
    [
        {"n": 1, "stream": False, "store": False, "logprobs": False},
        {"presence_penalty": 0, "frequency_penalty": 0.0, "top_p": 1, "logit_bias": {}},
        {"user": "me", "metadata": {"a": "b"}, "service_tier": "auto", "stop": []},
        {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none"},
        {"stream": None, "tools": None, "top_p": None, "unknown": None},
    ],
)
def test_parameters_that_ask_for_nothing_are_taken(language, client, _members):
    assert chat(client, **_members).status_code == 200
    assert complete(client, **_members).status_code == 200


UNSUPPORTED = [
    ("stream", True),
    ("stream", 0),
    ("stream_options", {"include_usage": True}),
    ("n", 2),
    ("n", True),
    ("n", 0),
    ("top_p", 0.5),
    ("top_p", True),
    ("stop", "."),
    ("stop", ["."]),
    ("presence_penalty", 1),
    ("frequency_penalty", False),
    ("logit_bias", {"5": 1}),
    ("logprobs", True),
    ("logprobs", 0),
    ("logprobs", 5),
    ("top_logprobs", 2),
    ("tools", [{"type": "function"}]),
    ("response_format", {"type": "json_object"}),
    ("store", True),
    ("service_tier", "priority"),
    ("reasoning_effort", "low"),
    ("top_k", 5),
]


@pytest.mark.parametrize(("_name", "_value"), UNSUPPORTED)
def test_what_the_model_cannot_do_is_refused_by_name(language, client, _name, _value):
    for ask in (complete, chat):
        response = ask(client, **{_name: _value})
        assert error_of(response) == (400, "unsupported_parameter", _name)
    check_untouched(language)


@pytest.mark.parametrize(
    ("_name", "_value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 17),
        ("max_tokens", "5"),
        ("max_tokens", 2.5),
        ("max_tokens", True),
        ("temperature", 2.1),
        ("temperature", -1),
        ("temperature", "hot"),
        ("seed", 2**63),
        ("seed", 1.5),
        ("model", "maker/vectors"),
        ("model", None),
        ("model", 5),
    ],
)
def test_wrong_value_is_refused_by_name(language, client, _name, _value):
    for ask in (complete, chat):
        assert error_of(ask(client, **{_name: _value})) == (400, "invalid_parameter", _name)
    check_untouched(language)


def test_values_at_their_limits_are_taken(language, client):
    assert chat(client, max_tokens=16, temperature=2, seed=2**63 - 1).status_code == 200
    assert complete(client, "p" * 100).status_code == 200


@pytest.mark.parametrize("_prompt", [None, [], ["a", "b"], [1, 2], [[1]], 5, {}, "p" * 101])
def test_wrong_prompt_is_refused(language, client, _prompt):
    assert error_of(complete(client, _prompt)) == (400, "invalid_parameter", "prompt")
    check_untouched(language)


def test_each_route_has_parameters_of_its_own(language, client):
    response = complete(client, messages=[USER])
    assert error_of(response) == (400, "unsupported_parameter", "messages")
    response = complete(client, max_completion_tokens=5)
    assert error_of(response) == (400, "unsupported_parameter", "max_completion_tokens")
    assert error_of(chat(client, prompt="a")) == (400, "unsupported_parameter", "prompt")
    response = chat(client, max_tokens=5, max_completion_tokens=5)
    assert error_of(response) == (400, "invalid_parameter", "max_tokens")
    check_untouched(language)


@pytest.mark.parametrize(
    ("_messages", "_code"),
    [
        ([], "invalid_parameter"),
        (None, "invalid_parameter"),
        ("Hi", "invalid_parameter"),
        ([5], "invalid_parameter"),
        ([{}], "invalid_parameter"),
        ([{"role": "user"}], "invalid_parameter"),
        ([{"role": ["user"], "content": "a"}], "invalid_parameter"),
        ([{"role": "tool", "content": "a"}], "invalid_parameter"),
        ([USER | {"content": None}], "invalid_parameter"),
        ([USER | {"content": []}], "invalid_parameter"),
        ([USER | {"content": [{"type": "text", "text": 5}]}], "invalid_parameter"),
        ([USER | {"content": [{"type": "image_url", "image_url": {}}]}], "invalid_parameter"),
        ([USER | {"content": "c" * 101}], "invalid_parameter"),
        ([SYSTEM | {"content": "c" * 101}, USER], "invalid_parameter"),
        ([USER | {"name": "bob"}], "unsupported_parameter"),
        ([SYSTEM], "unsupported_parameter"),
        ([USER, SYSTEM], "unsupported_parameter"),
        ([SYSTEM, SYSTEM, USER], "unsupported_parameter"),
        ([USER, ASSISTANT], "unsupported_parameter"),
        ([USER, ASSISTANT, USER], "unsupported_parameter"),
    ],
)
def test_wrong_conversation_is_refused(language, client, _messages, _code):
    body = {"model": "maker/writer", "messages": _messages}

    response = client.post("/openai/v1/chat/completions", json=body)

    assert error_of(response) == (400, _code, "messages")
    check_untouched(language)


@pytest.mark.parametrize(
    ("_change", "_param"),
    [
        ({"name": "prompt", "kind": "number"}, "model"),
        ({"name": "other", "kind": "text"}, "model"),
        ({"name": "needed", "kind": "number"}, "model"),
        ({"name": "system_prompt", "kind": "number", "default": 0}, "messages"),
    ],
)
def test_model_of_the_task_with_another_interface_is_refused(language, client, _change, _param):
    inputs = {one["name"]: one for one in WRITER["inputs"]} | {_change["name"]: _change}
    odd = WRITER | {"inputs": list(inputs.values())}
    model = AIModelFactory(account=language.creator, name="odd", task="text-generation")
    ChannelFactory(version=ModelVersionFactory(model=model, interface=odd))

    response = chat(client, SYSTEM, USER, model="maker/odd")

    assert error_of(response) == (400, "invalid_parameter", _param)
    check_untouched(language)


def test_model_without_a_system_prompt_refuses_one(language, client):
    plain = WRITER | {"inputs": [WRITER["inputs"][0]]}
    model = AIModelFactory(account=language.creator, name="plain", task="text-generation")
    ChannelFactory(version=ModelVersionFactory(model=model, interface=plain))

    response = chat(client, SYSTEM, USER, model="maker/plain")
    assert error_of(response) == (400, "unsupported_parameter", "messages")
    response = chat(client, USER, model="maker/plain", max_tokens=5)
    assert error_of(response) == (400, "unsupported_parameter", "max_tokens")


def test_failure_of_the_model_is_not_charged(language, client):
    for ask in (complete, chat):
        given = "fail" if ask is complete else {"role": "user", "content": "fail"}
        response = ask(client, given)
        assert error_of(response) == (500, "model_failed", None)
        assert "secret" not in response.text
    check_nothing_booked(language)


def test_keyed_retry_gets_the_first_answer_and_pays_once(language, client):
    headers = {"Idempotency-Key": "once"}

    first = chat(client, headers=headers)
    second = chat(client, headers=headers)

    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    check_books(language, [first.headers["inference-id"]])


@pytest.mark.parametrize("_path", ["completions", "chat/completions"])
def test_wrong_method_is_405(shop, client, _path):
    assert error_of(client.get(f"/openai/v1/{_path}"))[0] == 405
    assert error_of(client.post("/openai/v1/chat"))[0] == 404


# --- Conversations ---

TURNS = [SYSTEM, USER, ASSISTANT, {"role": "user", "content": 'Really, "ü"?'}]


def talk(client, messages, **members):
    body = {"model": "maker/teller", "messages": messages} | members
    return client.post("/openai/v1/chat/completions", json=body)


def test_conversation_reaches_the_model_in_its_order(teller, client):
    response = talk(client, TURNS)

    assert text_of(response) == (
        'system:Be kind. user:How are you? assistant:Fine. user:Really, "ü"?'
    )
    check_books(teller, [response.headers["inference-id"]])


def test_conversation_begins_with_whoever_speaks_first(teller, client):
    response = talk(client, [ASSISTANT, USER, USER])

    assert text_of(response) == "assistant:Fine. user:How are you? user:How are you?"


def test_conversation_has_a_largest_number_of_turns(teller, client):
    turn = {"role": "user", "content": "a"}

    assert talk(client, [turn] * MESSAGES_MAX, max_tokens=300).status_code == 200
    response = talk(client, [turn] * (MESSAGES_MAX + 1))

    assert error_of(response) == (400, "invalid_parameter", "messages")
    assert Prediction.objects.count() == 1


def test_conversation_has_a_largest_size(teller, client):
    turns = [USER, ASSISTANT | {"content": "a" * 20_000}, USER]

    assert error_of(talk(client, turns)) == (400, "invalid_parameter", "messages")
    check_untouched(teller)


def test_system_message_without_a_place_of_its_own_is_a_turn(teller, client):
    response = talk(client, [SYSTEM, USER])

    assert text_of(response) == "system:Be kind. user:How are you?"
