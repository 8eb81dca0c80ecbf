from __future__ import annotations

import copy

import pytest

from fakestripe import openapi
from fakestripe.contract import Contract
from fakestripe.errors import ApiError

SESSIONS = ("POST", "/v1/checkout/sessions")
EVENTS = ("GET", "/v1/events")


def parse(contract: Contract, address: tuple[str, str], text: str):
    operation, _ids = contract.find(*address)
    return contract.parse_input(operation, text)


def test_fixed_addresses_win_over_ids(contract: Contract):
    operation, ids = contract.find("GET", "/v1/charges/search")
    assert (operation.path, ids) == ("/v1/charges/search", ())

    operation, ids = contract.find("GET", "/v1/charges/ch_1")
    assert (operation.path, ids) == ("/v1/charges/{charge}", ("ch_1",))

    assert contract.find("GET", "/v1/nothing") is None


def test_texts_get_the_types_of_their_schema(contract: Contract):
    text = (
        "mode=payment&expires_at=1800000000&automatic_tax[enabled]=true"
        "&line_items[1][quantity]=2&line_items[0][price_data][unit_amount]=500"
        "&line_items[0][price_data][currency]=usd&metadata[0]=7&expand[]=customer"
    )

    assert parse(contract, SESSIONS, text) == {
        "mode": "payment",
        "expires_at": 1_800_000_000,
        "automatic_tax": {"enabled": True},
        "line_items": [
            {"price_data": {"unit_amount": 500, "currency": "usd"}},
            {"quantity": 2},
        ],
        "metadata": {"0": "7"},
        "expand": ["customer"],
    }


def test_one_of_several_types_is_chosen_by_what_was_sent(contract: Contract):
    assert parse(contract, EVENTS, "created=5") == {"created": 5}
    assert parse(contract, EVENTS, "created[gte]=5") == {"created": {"gte": 5}}
    assert parse(contract, EVENTS, "delivery_success=false&types[]=a") == {
        "delivery_success": False,
        "types": ["a"],
    }


@pytest.mark.parametrize(
    ("_case", "address", "text", "code", "param", "message"),
    [
        (
            "unknown",
            SESSIONS,
            "mode=payment&bogus=1",
            "parameter_unknown",
            "bogus",
            "Received unknown parameter: bogus",
        ),
        (
            "unknown below",
            SESSIONS,
            "line_items[0][bogus]=1",
            "parameter_unknown",
            "line_items[0][bogus]",
            "Received unknown parameter: line_items[0][bogus]",
        ),
        (
            "unknown in GET",
            EVENTS,
            "bogus=1",
            "parameter_unknown",
            "bogus",
            "Received unknown parameter: bogus",
        ),
        (
            "missing below",
            SESSIONS,
            "line_items[0][price_data][unit_amount]=5",
            "parameter_missing",
            "line_items[0][price_data][currency]",
            "Missing required param: line_items[0][price_data][currency].",
        ),
        (
            "no integer",
            SESSIONS,
            "line_items[0][quantity]=1.5",
            "parameter_invalid_integer",
            "line_items[0][quantity]",
            "Invalid integer: 1.5",
        ),
        (
            "no boolean",
            SESSIONS,
            "automatic_tax[enabled]=1",
            None,
            "automatic_tax[enabled]",
            "Invalid boolean: 1",
        ),
        (
            "no option",
            SESSIONS,
            "mode=gift",
            None,
            "mode",
            "Invalid mode: must be one of payment, setup, or subscription",
        ),
        (
            "empty number",
            SESSIONS,
            "expires_at=",
            "parameter_invalid_empty",
            "expires_at",
            None,
        ),
        ("no map", SESSIONS, "metadata=x", None, "metadata", None),
        ("no form", SESSIONS, "metadata=x&metadata[a]=b", None, None, None),
    ],
)
def test_what_stripe_would_refuse_is_refused_in_its_words(
    contract, _case, address, text, code, param, message
):
    with pytest.raises(ApiError) as caught:
        parse(contract, address, text)

    error = caught.value.body["error"]
    assert caught.value.status == 400
    assert error["type"] == "invalid_request_error"
    assert (error.get("code"), error.get("param")) == (code, param)
    assert message is None or error["message"] == message
    assert contract.object_faults("error", caught.value.body) == []


def test_answers_must_keep_the_contract(contract: Contract):
    operation, _ids = contract.find("GET", "/v1/balance")
    balance = {"object": "balance", "available": [], "pending": [], "livemode": False}

    assert contract.answer_faults(operation, 200, balance) == []
    assert contract.answer_faults(operation, 200, balance | {"pending": None}) != []
    assert contract.answer_faults(operation, 200, balance | {"avialable": []}) != []
    assert contract.answer_faults(operation, 400, {"error": {"type": "mistake"}}) != []


def test_without_closing_the_schemas_a_nested_mistake_would_pass(monkeypatch):
    # Stripe's description closes the top of a request only.
    document = openapi.load_official()
    text = "line_items[0][bogus]=1"
    with pytest.raises(ApiError):
        parse(Contract(openapi.convert(document)), SESSIONS, text)

    converted = _opened(copy.deepcopy(openapi.convert(document)))

    assert parse(Contract(converted), SESSIONS, text) == {"line_items": [{"bogus": "1"}]}


def _opened(node, depth: int = 0):
    if isinstance(node, list):
        return [_opened(item, depth) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        name: _opened(value, depth + 1)
        for name, value in node.items()
        if not (name == "additionalProperties" and value is False)
    }
