"""What is refused: each with its code, and nothing booked, held or recorded."""

from __future__ import annotations

import json
import socket
from datetime import timedelta

import pytest
from django.utils import timezone

from billing.models import Hold, LedgerAccount, Price
from inference.models import Node, Prediction, Replica
from marketplace.core import keys
from marketplace.core.ids import new_id, to_public
from marketplace.models import APIKey, ModelVersion
from tests.factories import (
    AccountFactory,
    AIModelFactory,
    APIKeyFactory,
    ChannelFactory,
    ModelVersionFactory,
)
from tests.gateway.conftest import (
    INTERFACE,
    PRICE_NANOS,
    X,
    check_books,
    check_nothing_booked,
    check_untouched,
    predict,
    problem_of,
)
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/v1/models/maker/echo/predictions"
TENSOR = {"name": "x", "shape": [1, len(X)], "datatype": "FP32", "data": X}


# --- Keys ---


@pytest.mark.parametrize(
    "_authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        "Bearer " + "x" * 5000,
        "Basic eA==",
        "Basic OnNrX2xpdmVfeA==",
        "Digest abc",
        "Bearer sk_live_" + "a" * 38,
        "Bearer sp_e30.AAAA",
        "Bearer sp_.",
    ],
)
def test_without_a_key_nothing_is_done(shop, _authorization):
    headers = {} if _authorization is None else {"Authorization": _authorization}

    response = predict(shop.client(""), headers=headers)

    assert problem_of(response) == (401, "unauthenticated")
    assert response.headers["www-authenticate"] == "Bearer"
    check_untouched(shop)


def test_mistyped_key_is_told_from_an_unknown_one(shop):
    text = shop.key.text
    mistyped = predict(shop.client(text[:-1] + ("a" if text[-1] != "a" else "b")))
    unknown = predict(shop.client(keys.generate(keys.LIVE).text))

    assert problem_of(mistyped) == problem_of(unknown) == (401, "unauthenticated")
    assert "checksum" in mistyped.json()["detail"]
    assert "unknown" in unknown.json()["detail"]
    check_untouched(shop)


def test_revoked_key_is_refused_at_once(shop, client):
    shop.fund(1000 * PRICE_NANOS)
    answered = [predict(client).json()["id"]]

    APIKey.objects.filter(pk=shop.key.pk).update(revoked_at=timezone.now())

    response = eventually(lambda: check_unauthenticated(predict(client)), timeout_s=1)
    assert "revoked" in response.json()["detail"]
    done = list(Prediction.objects.filter(state="succeeded").values_list("pk", flat=True))
    assert to_public(done[0]) in answered
    check_books(shop, [to_public(one) for one in done])


def check_unauthenticated(response):
    assert response.status_code == 401
    assert problem_of(response) == (401, "unauthenticated")
    return response


def test_expired_key_is_refused(shop):
    key = APIKeyFactory(account=shop.consumer, expires_at=timezone.now() - timedelta(seconds=1))

    response = predict(shop.client(key.text))

    assert problem_of(response) == (401, "unauthenticated")
    assert "expired" in response.json()["detail"]
    check_untouched(shop)


def test_key_expires_while_it_is_cached(shop):
    key = APIKeyFactory(account=shop.consumer, expires_at=timezone.now() + timedelta(seconds=1))
    client = shop.client(key.text)

    assert predict(client).status_code == 201
    eventually(lambda: check_unauthenticated(predict(client)), timeout_s=2)


@pytest.mark.parametrize("_scopes", [["read"], ["read", "push", "publish", "keys", "billing"]])
def test_key_needs_the_scope(shop, _scopes):
    key = APIKeyFactory(account=shop.consumer, scopes=_scopes)

    response = predict(shop.client(key.text))

    assert problem_of(response) == (403, "forbidden")
    check_untouched(shop)


def test_suspended_account_is_refused_at_once(shop, client):
    shop.consumer.suspended_at = timezone.now()
    shop.consumer.save()

    response = eventually(lambda: check_suspended(predict(client)), timeout_s=1)

    assert response.status_code == 403
    check_untouched(shop)


def test_frozen_account_is_refused_at_once_and_served_again(shop, client):
    shop.consumer.frozen_at = timezone.now()
    shop.consumer.save()

    def check_frozen():
        assert problem_of(predict(client)) == (403, "account_frozen")

    eventually(check_frozen, timeout_s=1)
    shop.consumer.frozen_at = None
    shop.consumer.save()

    def check_served():
        response = predict(client)
        assert response.status_code == 201, response.text

    eventually(check_served, timeout_s=1)


def test_models_of_a_frozen_account_serve_others(shop, client):
    shop.creator.frozen_at = timezone.now()
    shop.creator.save()

    assert predict(client).status_code == 201


def check_suspended(response):
    assert problem_of(response) == (403, "account_suspended")
    return response


def test_test_key_runs_nobody_elses_model(shop):
    key = APIKeyFactory(account=shop.consumer, mode=APIKey.Mode.TEST)

    response = predict(shop.client(key.text))

    assert problem_of(response) == (403, "test_key_forbidden")
    check_untouched(shop)


def test_basic_is_for_v2_only(shop):
    client = shop.client("")
    client.auth = ("anything", shop.key.text)

    assert problem_of(predict(client)) == (401, "unauthenticated")
    assert client.get("/v2/models/maker/echo").status_code == 200


def test_no_key_reaches_log_or_answer(shop, gateway):
    leaked = keys.generate(keys.LIVE).text
    predict(shop.client(leaked))
    predict(shop.client(leaked[:-1]))
    shop.client("").get(f"/v1/predictions/{leaked}?key={leaked}")
    predict(shop.client(shop.key.text), mode="fail")

    assert leaked[:-1] not in gateway.log()
    assert shop.key.text not in gateway.log()


# --- Models ---


def _unpublish(shop):
    shop.model.channels.all().delete()


def _make_private(shop):
    shop.model.visibility = "private"
    shop.model.save()


def _suspend_model(shop):
    shop.model.suspended_at = timezone.now()
    shop.model.save()


def _suspend_creator(shop):
    shop.creator.suspended_at = timezone.now()
    shop.creator.save()


def _withdraw(shop):
    ModelVersion.objects.filter(pk=shop.version.pk).update(state="withdrawn")


def _refuse(shop):
    ModelVersion.objects.filter(pk=shop.version.pk).update(state="refused")


@pytest.mark.parametrize(
    "_hide", [_unpublish, _make_private, _suspend_model, _suspend_creator, _withdraw, _refuse]
)
def test_model_that_may_not_be_seen_does_not_exist(shop, client, _hide):
    assert predict(client, x=[1]).status_code == 422  # The gateway knows the model now.
    _hide(shop)

    # With an input that cannot be sold: the news may take a moment to reach the gateway.
    response = eventually(lambda: check_not_found(predict(client, x=[1])), timeout_s=5)

    unknown = client.post("/v1/models/maker/nothing/predictions", json={"input": {"x": X}})
    assert response.json()["detail"] == unknown.json()["detail"]
    check_untouched(shop)


def check_not_found(response):
    assert problem_of(response) == (404, "not_found")
    return response


@pytest.mark.parametrize(
    "_path",
    [
        "/",
        "/v1",
        "/v3/models",
        "/v1/models/maker",
        "/v1/models/nobody/echo/predictions",
        "/v1/models/maker/echo:2/predictions",
        "/v1/models/maker/echo@dev/predictions",
        "/v1/models/maker/%00/predictions",
        "/v1/models/MAKER/echo/predictions",
        "/v1/models/maker/" + "e" * 500 + "/predictions",
        "/v1/models/../echo/predictions",
    ],
)
def test_unknown_address_is_not_found(shop, client, _path):
    assert problem_of(client.post(_path, json={"input": {"x": X}})) == (404, "not_found")
    check_untouched(shop)


@pytest.mark.parametrize(
    "_version", ["maker/none", "maker", "", "cd" * 32, "maker/echo:0", "maker/echo:99999999999"]
)
def test_unknown_version_is_not_found(shop, client, _version):
    response = client.post("/v1/predictions", json={"version": _version, "input": {"x": X}})

    assert problem_of(response) == (404, "not_found")
    check_untouched(shop)


def test_other_methods_are_refused(shop, client):
    assert problem_of(client.delete("/v1/predictions")) == (405, "method_not_allowed")


def test_version_without_a_price_is_not_ready(shop, client):
    model = AIModelFactory(account=shop.creator, name="unpriced")
    ChannelFactory(version=ModelVersionFactory(model=model, interface=INTERFACE))

    response = client.post("/v1/models/maker/unpriced/predictions", json={"input": {"x": X}})

    assert problem_of(response) == (503, "model_not_ready")
    assert int(response.headers["retry-after"]) > 0
    check_untouched(shop)


def _lose_replica(shop):
    Replica.objects.update(state=Replica.State.LOST)


def _make_unwanted(shop):
    Replica.objects.update(wanted=False)


def _scan_only(shop):
    Replica.objects.all().delete()
    shop.add_replica(new_id())
    Replica.objects.update(purpose=Replica.Purpose.SCAN, wanted=True)


def _revoke_node(shop):
    Node.objects.update(revoked_at=timezone.now())


def _unready_node(shop):
    Node.objects.update(triton_ready=False)


@pytest.mark.parametrize("_lose", [_lose_replica, _make_unwanted, _revoke_node, _unready_node])
def test_without_a_ready_replica_the_caller_is_told_when_to_come_back(shop, client, _lose):
    shop.fund(1000 * PRICE_NANOS)
    assert predict(client, x=[1]).status_code == 422
    _lose(shop)

    response = eventually(lambda: check_not_ready(predict(client)), timeout_s=1)

    assert 0 < int(response.headers["retry-after"]) <= 60
    assert client.get("/v2/models/maker/echo/ready").status_code == 503
    assert Hold.objects.filter(state="pending").count() == 0


def check_not_ready(response):
    assert problem_of(response) == (503, "model_not_ready")
    return response


# --- Input ---


@pytest.mark.parametrize(
    ("_input", "_pointer"),
    [
        ({}, "/input/x"),
        (None, "/input"),
        ([1], "/input"),
        ({"x": [1, 2, 3]}, "/input/x"),
        ({"x": [1, 2, 3, 4, 5]}, "/input/x"),
        ({"x": [[1, 2], [3, 4]]}, "/input/x"),
        ({"x": "1234"}, "/input/x"),
        ({"x": [1, 2, 3, "4"]}, "/input/x/3"),
        ({"x": [1, 2, 3, None]}, "/input/x/3"),
        ({"x": [1, 2, True, 4]}, "/input/x/2"),
        ({"x": [1, 2, 3, 101]}, "/input/x/3"),
        ({"x": X, "note": "n" * 21}, "/input/note"),
        ({"x": X, "note": 3}, "/input/note"),
        ({"x": X, "mode": "other"}, "/input/mode"),
        ({"x": X, "wait_s": -1}, "/input/wait_s"),
        ({"x": X, "more": 1}, "/input/more"),
    ],
)
def test_bad_input_names_the_field(shop, client, _input, _pointer):
    response = client.post(PATH, json={"input": _input})

    assert problem_of(response) == (422, "validation")
    assert response.json()["errors"][0]["pointer"] == _pointer
    check_untouched(shop)


@pytest.mark.parametrize("_literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_number_that_is_none_names_the_field(shop, client, _literal):
    response = client.post(PATH, content=f'{{"input": {{"x": [1, 2, {_literal}, 4]}}}}')

    assert problem_of(response) == (422, "validation")
    assert response.json()["errors"][0]["pointer"] == "/input/x/2"
    check_untouched(shop)


@pytest.mark.parametrize(
    "_body",
    [
        "",
        "{",
        "nonsense",
        '{"input": NaN',
        "[" * 33 + "]" * 33,
        "[" * 100_000,
        '"\xff"',
        '"\\ud800"',
    ],
)
def test_body_that_is_no_json_is_refused(shop, client, _body):
    response = client.post(PATH, content=_body.encode("latin-1"))

    assert problem_of(response) == (400, "bad_request")
    check_untouched(shop)


@pytest.mark.parametrize(
    ("_body", "_pointer"),
    [
        ([], ""),
        ("text", ""),
        ({}, "/input"),
        ({"input": {"x": X}, "version": "maker/echo"}, "/version"),
        ({"input": {"x": X}, "webhook": "https://example.com"}, "/webhook"),
        ({"input": {"x": X}, "inputs": 1}, "/inputs"),
    ],
)
def test_wrong_envelope_is_refused(shop, client, _body, _pointer):
    response = client.post(PATH, json=_body)

    assert problem_of(response) == (422, "validation")
    assert response.json()["errors"][0]["pointer"] == _pointer
    check_untouched(shop)


@pytest.mark.parametrize("_version", [1, None, ["maker/echo"]])
def test_version_of_another_type_is_refused(shop, client, _version):
    response = client.post("/v1/predictions", json={"version": _version, "input": {"x": X}})

    assert problem_of(response) == (422, "validation")
    assert response.json()["errors"][0]["pointer"] == "/version"


def test_nesting_at_the_limit_is_read(shop, client):
    # 29 lists in an object in an object: refused for its shape, not for its depth.
    deep = json.loads("[" * 30 + "]" * 30)

    assert problem_of(client.post(PATH, json={"input": {"x": deep}})) == (422, "validation")
    deeper = {"input": {"x": [deep]}}
    assert problem_of(client.post(PATH, json=deeper)) == (400, "bad_request")


def test_brackets_in_a_text_are_no_nesting(shop, client):
    assert predict(client, note="[" * 20).status_code == 201
    document = {"input": {"x": X, "mode": "[" * 200}}
    assert problem_of(client.post(PATH, json=document)) == (422, "validation")


# --- Size ---


def test_100_mb_body_is_refused(shop, client):
    response = client.post(PATH, content=b"x" * 100_000_000)

    assert problem_of(response) == (413, "payload_too_large")
    check_untouched(shop)


def test_large_body_is_refused_before_it_is_sent(shop, gateway):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as wire:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shop.key.text}\r\n"
        wire.sendall(f"{head}Content-Length: 100000000\r\n\r\n".encode())

        assert wire.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("_extra", [0, 1])
def test_body_at_the_limit_is_read_and_one_byte_more_is_not(shop, start_gateway, _extra):
    gateway = start_gateway(STRONGROOM_GATEWAY_BODY_BYTES_MAX="1000")
    body = json.dumps({"input": {"x": X}})
    body += " " * (1000 - len(body) + _extra)
    client = shop.client(url=gateway.url)

    whole = client.post(PATH, content=body)
    chunked = client.post(PATH, content=iter([body[:500].encode(), body[500:].encode()]))

    if _extra:
        assert problem_of(whole) == problem_of(chunked) == (413, "payload_too_large")
        check_untouched(shop)
    else:
        assert (whole.status_code, chunked.status_code) == (201, 201)


def test_body_that_trickles_is_given_up(shop, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_DEADLINE_S="1")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as wire:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shop.key.text}\r\n"
        wire.sendall(f'{head}Content-Length: 100\r\n\r\n{{"input"'.encode())

        answer = wire.recv(10_000)

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer
    check_untouched(shop)


# --- Money ---


def test_empty_wallet_is_told(shop):
    poor = AccountFactory(slug="poor")
    wallet = LedgerAccount.objects.create(kind="wallet", holder=poor, min_available_nanos=0)
    key = APIKeyFactory(account=poor)

    response = predict(shop.client(key.text))

    assert problem_of(response) == (402, "insufficient_credit")
    assert response.headers["x-should-retry"] == "false"
    wallet.refresh_from_db()
    assert (wallet.posted_nanos, wallet.held_nanos) == (0, 0)
    check_untouched(shop)


def test_account_without_a_wallet_has_no_credit(shop):
    key = APIKeyFactory(account=AccountFactory(slug="new"))

    assert problem_of(predict(shop.client(key.text))) == (402, "insufficient_credit")
    check_untouched(shop)


@pytest.mark.parametrize(("_missing", "_status"), [(0, 201), (1, 402)])
def test_credit_is_exact_to_the_last_nano(shop, _missing, _status):
    buyer = AccountFactory(slug="exact")
    shop.wallet_id = LedgerAccount.objects.create(
        kind="wallet", holder=buyer, min_available_nanos=0
    ).pk
    shop.funded_nanos = 0
    shop.fund(PRICE_NANOS - _missing)

    response = predict(shop.client(APIKeyFactory(account=buyer).text))

    assert response.status_code == _status
    check_books(shop, [response.json()["id"]] if _status == 201 else [])


# --- Failures of the model ---


@pytest.mark.parametrize(
    ("_mode", "_status", "_code"),
    [
        ("fail", 500, "model_failed"),
        ("nan", 500, "output_invalid"),
        ("short", 500, "output_invalid"),
    ],
)
def test_failing_model_costs_nothing(shop, client, _mode, _status, _code):
    response = predict(client, mode=_mode)

    assert problem_of(response) == (_status, _code)
    assert "secret" not in response.text
    check_nothing_booked(shop)

    def check_recorded():
        rows = Prediction.objects.values_list("state", "error", "cost_nanos")
        assert list(rows) == [("failed", _code, 0)]

    eventually(check_recorded)
    shown = client.get(f"/v1/predictions/{response.headers['inference-id']}").json()
    assert (shown["status"], shown["error"]) == ("failed", _code)
    assert shown["metrics"]["cost_nano_usd"] == 0


def test_deadline_costs_nothing(shop, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_DEADLINE_S="1")

    response = predict(shop.client(url=gateway.url), wait_s=2)

    assert problem_of(response) == (504, "deadline")
    check_nothing_booked(shop)


# --- Other accounts ---


def test_predictions_of_others_do_not_exist(shop, client):
    public_id = predict(client).json()["id"]
    outsider = shop.client(APIKeyFactory().text)

    assert client.get(f"/v1/predictions/{public_id}").json()["id"] == public_id
    assert problem_of(outsider.get(f"/v1/predictions/{public_id}")) == (404, "not_found")
    assert problem_of(outsider.post(f"/v1/predictions/{public_id}/cancel")) == (404, "not_found")
    assert outsider.get("/v1/predictions").json()["results"] == []
    unknown = to_public(new_id())
    assert problem_of(client.get(f"/v1/predictions/{unknown}")) == (404, "not_found")
    assert problem_of(client.get("/v1/predictions/nonsense")) == (404, "not_found")


@pytest.mark.parametrize(
    "_path",
    [
        "/v1/models/maker/echo",
        "/v1/models/maker/echo/versions",
        "/v1/models/maker/echo/versions/1",
        "/v2/models/maker/echo",
        "/v2/models/maker/echo/ready",
        "/v2/models/maker/echo/versions/1",
        "/openai/v1/models/maker/echo",
        "/openai/v1/models/maker%2Fecho:1",
    ],
)
def test_private_models_of_others_do_not_exist(shop, client, _path):
    assert client.get(_path).status_code == 200

    _make_private(shop)

    def check_hidden():
        assert client.get(_path).status_code == 404

    eventually(check_hidden, timeout_s=1)
    owner = shop.client(APIKeyFactory(account=shop.creator).text)
    assert owner.get(_path).status_code == 200


@pytest.mark.parametrize(
    ("_path", "_body"),
    [
        ("/v1/models/maker/echo/predictions", {"input": {"x": X}}),
        ("/v1/predictions", {"version": "maker/echo", "input": {"x": X}}),
        ("/v1/predictions", {"version": "maker/echo:1", "input": {"x": X}}),
        ("/v2/models/maker/echo/infer", {"inputs": [TENSOR]}),
        ("/v2/models/maker/echo/versions/1/infer", {"inputs": [TENSOR]}),
    ],
)
def test_private_models_of_others_are_not_run(shop, client, _path, _body):
    _make_private(shop)
    # The news may take a moment to reach the gateway.
    eventually(lambda: check_status(client.get("/v1/models/maker/echo"), 404), timeout_s=1)

    check_status(client.post(_path, json=_body), 404)

    check_untouched(shop)
    owner = APIKeyFactory(account=shop.creator, mode="test")
    check_status(shop.client(owner.text).post(_path, json=_body), 200, 201)


def check_status(response, *statuses):
    assert response.status_code in statuses, response.text


def test_model_whose_price_ended_is_not_for_sale(shop, client):
    Price.objects.filter(pk=shop.price.pk).update(valid_until=timezone.now())

    response = eventually(lambda: check_not_ready(predict(client)), timeout_s=1)

    assert "price" in response.json()["detail"]
