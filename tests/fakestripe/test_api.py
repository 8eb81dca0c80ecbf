from __future__ import annotations

import asyncio
import time

import httpx
import pytest
import stripe

from fakestripe import app as fakestripe_app
from fakestripe.config import Config, ConfigError
from fakestripe.contract import Contract
from tests.fakestripe.process import SECRET_KEY


@pytest.mark.parametrize(
    ("_case", "authorization", "message"),
    [
        ("none", "", "You did not provide an API key."),
        (
            "wrong",
            "Bearer sk_test_of_somebody_else",
            "Invalid API Key provided: sk_test_********else",
        ),
        ("short", "Bearer wrong", "Invalid API Key provided: *****"),
        ("prefix of the right one", f"Bearer {SECRET_KEY[:-1]}", "Invalid API Key provided: "),
    ],
)
def test_a_wrong_key_is_refused(fake, _case, authorization, message):
    answer = fake.request("POST", "/v1/customers", Authorization=authorization)

    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["message"].startswith(message)
    assert fake.count("customer") == 0


def test_the_key_may_come_as_user_name(fake):
    # How curl examples in Stripe's documentation send it.
    encoded = "Basic c2tfdGVzdF9mYWtlc3RyaXBlOg=="
    assert fake.request("GET", "/v1/balance", Authorization=encoded).status_code == 200


def test_answers_carry_request_id_and_version(fake):
    plain = fake.request("GET", "/v1/balance")
    pinned = fake.request("GET", "/v1/balance", Stripe_Version="2026-10-28.endive")
    wrong = fake.request("GET", "/v1/balance", Stripe_Version="newest")

    assert plain.headers["Request-Id"].startswith("req_")
    assert plain.headers["Request-Id"] != pinned.headers["Request-Id"]
    assert plain.headers["Stripe-Version"] == "2026-05-27.dahlia"
    assert pinned.headers["Stripe-Version"] == "2026-10-28.endive"
    assert wrong.status_code == 400
    assert wrong.json()["error"]["message"] == "Invalid Stripe API version: newest"


@pytest.mark.parametrize(
    ("_case", "method", "path", "status", "message"),
    [
        ("no such address", "GET", "/v1/nothing", 404, "Unrecognized request URL (GET: /v1/noth"),
        ("no such method", "PUT", "/v1/balance", 404, "Unrecognized request URL (PUT: /v1/balan"),
        ("not covered", "GET", "/v1/payouts", 400, "fakestripe does not stand in for GET /v1/p"),
        ("no such object", "GET", "/v1/customers/cus_1", 404, "No such customer: 'cus_1'"),
        ("POST with a query", "POST", "/v1/customers?email=a", 400, "Parameters of a POST belong"),
    ],
)
def test_what_does_not_exist_is_said_so(fake, _case, method, path, status, message):
    answer = fake.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("_case", "data", "content_type", "status"),
    [
        ("json", b'{"email": "a@example.com"}', "application/json", 400),
        ("no utf-8", b"email=\xff", "application/x-www-form-urlencoded", 400),
        ("too large", b"a=" + b"x" * (1 << 20), "application/x-www-form-urlencoded", 413),
    ],
)
def test_bodies_that_are_no_form_are_refused(fake, _case, data, content_type, status):
    answer = fake.request("POST", "/v1/customers", data, Content_Type=content_type)

    assert answer.status_code == status
    assert fake.count("customer") == 0


def test_customers_are_created_changed_and_read(client):
    created = client.v1.customers.create(
        params={"email": "a@example.com", "metadata": {"account_id": "1", "old": "x"}}
    )
    client.v1.customers.update(
        created.id, params={"name": "Ada", "metadata": {"old": "", "new": "y"}}
    )
    found = client.v1.customers.retrieve(created.id)

    assert (found.email, found.name) == ("a@example.com", "Ada")
    assert found.metadata.to_dict() == {"account_id": "1", "new": "y"}
    events = client.v1.events.list().data
    assert [event.type for event in events] == ["customer.updated", "customer.created"]
    assert events[0].data.previous_attributes.to_dict() == {
        "name": None,
        "metadata": {"account_id": "1", "old": "x"},
    }


@pytest.mark.parametrize(
    ("_case", "params", "param"),
    [
        ("unknown", {"bogus": "1"}, "bogus"),
        ("no address", {"email": "nobody"}, "email"),
        ("long key", {"metadata": {"k" * 41: "v"}}, "metadata"),
        ("long value", {"metadata": {"k": "v" * 501}}, "metadata[k]"),
        ("many keys", {"metadata": {f"k{n}": "v" for n in range(51)}}, "metadata"),
        ("not covered", {"balance": 5}, None),
    ],
)
def test_bad_customers_are_refused_and_not_stored(fake, client, _case, params, param):
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.customers.create(params=params)

    assert caught.value.param == param
    assert fake.state()["counts"] == {}


def test_lists_are_paged_in_both_directions(client):
    for number in range(5):
        client.v1.customers.create(params={"name": str(number)})

    first = client.v1.customers.list(params={"limit": 2})
    second = client.v1.customers.list(params={"limit": 2, "starting_after": first.data[-1].id})
    back = client.v1.customers.list(params={"limit": 2, "ending_before": second.data[0].id})
    everything = [item.name for item in client.v1.customers.list().auto_paging_iter()]

    assert [item.name for item in first.data] == ["4", "3"]
    assert [item.name for item in second.data] == ["2", "1"]
    assert [item.name for item in back.data] == ["4", "3"]
    assert (first.has_more, second.has_more, back.has_more) == (True, True, False)
    assert first.url == "/v1/customers"
    assert everything == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize(
    ("_case", "params"),
    [
        ("zero", {"limit": 0}),
        ("too many", {"limit": 101}),
        ("unknown cursor", {"starting_after": "cus_1"}),
        ("two cursors", {"starting_after": "cus_1", "ending_before": "cus_1"}),
        ("not covered", {"test_clock": "clock_1"}),
    ],
)
def test_bad_pages_are_refused(client, _case, params):
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.customers.list(params=params)


def test_lists_are_filtered(fake, client):
    client.v1.customers.create(params={"email": "a@example.com"})
    fake.order("clock", offset_s=1_000)
    late = client.v1.customers.create(params={"email": "b@example.com"})
    border = int(time.time()) + 500

    by_email = client.v1.customers.list(params={"email": "b@example.com"})
    by_time = client.v1.customers.list(params={"created": {"gte": border}})
    before = client.v1.customers.list(params={"created": {"lt": border}})
    exact = client.v1.customers.list(params={"created": late.created})

    assert [item.id for item in by_email.data] == [late.id]
    assert [item.id for item in by_time.data] == [late.id]
    assert [item.email for item in before.data] == ["a@example.com"]
    assert [item.id for item in exact.data] == [late.id]


def test_ids_are_expanded_along_paths(fake, client, session, customer):
    fake.order(f"checkout/{session.id}/pay")
    path = "payment_intent.latest_charge.balance_transaction"

    found = client.v1.checkout.sessions.retrieve(
        session.id, params={"expand": ["customer", "line_items", path]}
    )
    listed = client.v1.checkout.sessions.list(params={"expand": ["data.customer"]})

    assert found.customer.email == "owner@example.com"
    assert found.line_items.data[0].amount_total == 2_500
    assert found.payment_intent.latest_charge.balance_transaction.net == 2_500 - 103
    assert listed.data[0].customer.id == customer.id


@pytest.mark.parametrize("path", ["bogus", "amount_total", "id", "customer.a.b.c.d"])
def test_what_cannot_be_expanded_is_refused(client, session, path):
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.checkout.sessions.retrieve(session.id, params={"expand": [path]})


def test_without_the_check_an_unknown_parameter_passes(tmp_path, monkeypatch):
    # What the contract is worth: the handlers alone would take it.
    config = Config(port=1, state=tmp_path / "state.sqlite3")
    contract = Contract.load(tmp_path)
    application = fakestripe_app.build_app(config, contract)

    def create() -> int:
        async def send() -> int:
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://fake") as web:
                answer = await web.post(
                    "/v1/customers",
                    data={"address[bogus]": "1"},
                    headers={"Authorization": f"Bearer {SECRET_KEY}"},
                )
                return answer.json().get("error", {}).get("code", "")

        return asyncio.run(send())

    assert create() == "parameter_unknown"

    monkeypatch.setattr(Contract, "check_input", lambda *_args: None)
    monkeypatch.setattr("fakestripe.resources.checks.only", lambda *_args, **_more: None)

    assert create() == ""


@pytest.mark.parametrize(
    ("_case", "env"),
    [
        ("no state", {"FAKESTRIPE_PORT": "4010"}),
        ("no port", {"FAKESTRIPE_STATE": "s"}),
        ("port in words", {"FAKESTRIPE_STATE": "s", "FAKESTRIPE_PORT": "http"}),
        ("port too high", {"FAKESTRIPE_STATE": "s", "FAKESTRIPE_PORT": "65536"}),
        (
            "live key",
            {
                "FAKESTRIPE_STATE": "s",
                "FAKESTRIPE_PORT": "4010",
                "FAKESTRIPE_SECRET_KEY": "sk_live_1",
            },
        ),
        (
            "webhooks without a secret",
            {
                "FAKESTRIPE_STATE": "s",
                "FAKESTRIPE_PORT": "4010",
                "FAKESTRIPE_WEBHOOK_URL": "http://127.0.0.1:1/",
                "FAKESTRIPE_WEBHOOK_SECRET": " ",
            },
        ),
    ],
)
def test_it_does_not_start_with_settings_that_make_no_sense(_case, env):
    with pytest.raises(ConfigError, match="FAKESTRIPE_"):
        Config.from_env(env, port=None, state=None)
