"""/openai/v1: models and embeddings, in the shapes that OpenAI's clients read."""

from __future__ import annotations

import base64
import json
import struct
from datetime import timedelta

import pytest
from django.utils import timezone

from billing.models import LedgerAccount, UsageEvent
from inference.gateway.protocols.openai import OpenAIProtocol
from inference.models import Prediction
from marketplace.core.errors import (
    AuthenticationError,
    ConflictError,
    ForbiddenError,
    InsufficientCreditError,
    LimitExceededError,
    MarketplaceError,
    NotFoundError,
    UnavailableError,
)
from marketplace.core.ids import from_public
from marketplace.models import AIModel, APIKey, Channel, ModelVersion
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
    VECTORS,
    check_books,
    check_holds,
    check_ledger,
    check_nothing_booked,
    check_untouched,
)
from tests.gateway.processes import eventually

pytestmark = pytest.mark.django_db(transaction=True)

PATH = "/openai/v1/embeddings"
MIB = 1024 * 1024


def embed(client, given="two words", *, headers=None, **members):
    body = {"model": "maker/vectors", "input": given} | members
    return client.post(PATH, json=body, headers=headers)


def error_of(response):
    """Status, code and parameter, after a look at the form."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-cost-nano-usd"] == "0"
    document = response.json()
    assert list(document) == ["error"]
    error = document["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    return response.status_code, error["code"], error["param"]


# --- Models


def test_models_are_listed_that_the_caller_may_see(language):
    AIModelFactory(account=language.creator, name="no-version")
    hidden = AIModelFactory(account=language.creator, name="hidden", visibility="private")
    ChannelFactory(version=ModelVersionFactory(model=hidden))
    suspended = AIModelFactory(
        account=language.creator, name="suspended", suspended_at=timezone.now()
    )
    ChannelFactory(version=ModelVersionFactory(model=suspended))
    staged = AIModelFactory(account=language.creator, name="staged")
    ChannelFactory(version=ModelVersionFactory(model=staged), name="staging")
    closed = AccountFactory(slug="closed", suspended_at=timezone.now())
    ChannelFactory(version=ModelVersionFactory(model=AIModelFactory(account=closed)))

    def names(key):
        document = language.client(key.text).get("/openai/v1/models").json()
        assert document["object"] == "list"
        return [one["id"] for one in document["data"]]

    public = ["maker/echo", "maker/vectors", "maker/writer"]
    assert names(language.key) == public
    assert names(APIKeyFactory(account=language.creator)) == sorted([*public, "maker/hidden"])


@pytest.mark.parametrize(
    "_reference",
    [
        "maker/vectors",
        "maker%2Fvectors",
        "maker/vectors:1",
        "maker%2Fvectors@prod",
        "maker%2Fvectors%40prod",
        "maker%2Fvectors%3A1",
    ],
)
def test_every_reference_names_the_model(language, client, _reference):
    response = client.get(f"/openai/v1/models/{_reference}")

    shown = response.json()
    assert response.status_code == 200
    name = _reference.replace("%2F", "/").replace("%40", "@").replace("%3A", ":")
    created = language.model.created_at.timestamp()
    assert abs(shown.pop("created") - created) < 60
    assert shown == {
        "id": name,
        "object": "model",
        "owned_by": "maker",
        "task": "feature-extraction",
    }


@pytest.mark.parametrize(
    "_reference", ["maker/none", "maker/vectors:2", "maker/vectors@dev", "vectors", "a/b/c", "%00"]
)
def test_model_that_is_not_there_is_404(language, client, _reference):
    response = client.get(f"/openai/v1/models/{_reference}")

    assert error_of(response) == (404, "not_found", "model")


@pytest.mark.parametrize(
    ("_name", "_route", "_members"),
    [
        ("vectors", "embeddings", {"input": "a"}),
        ("writer", "completions", {"prompt": "a"}),
        ("writer", "chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ],
)
def test_private_model_of_another_is_not_there(language, client, _name, _route, _members):
    AIModel.objects.filter(name=_name).update(visibility="private")
    body = {"model": f"maker/{_name}", **_members}

    def check_hidden():
        shown = client.get(f"/openai/v1/models/maker/{_name}")
        assert error_of(shown) == (404, "not_found", "model")

    # The news may take a moment to reach the gateway.
    eventually(check_hidden, timeout_s=1)
    response = client.post(f"/openai/v1/{_route}", json=body)
    assert error_of(response) == (404, "not_found", "model")
    check_untouched(language)
    owner = language.client(APIKeyFactory(account=language.creator, mode="test").text)
    assert owner.post(f"/openai/v1/{_route}", json=body).status_code == 200


def test_list_at_its_limit_and_one_past_it(language, client):
    # Three are there already.
    add_models(language.creator, 997)
    assert len(client.get("/openai/v1/models").json()["data"]) == 1000
    add_models(language.creator, 1)
    assert len(client.get("/openai/v1/models").json()["data"]) == 1000


def add_models(account, count):
    """Many at once; what a factory makes one by one."""
    models = AIModelFactory.build_batch(count, account=account)
    versions = [ModelVersionFactory.build(model=one) for one in models]
    AIModel.objects.bulk_create(models)
    ModelVersion.objects.bulk_create(versions)
    Channel.objects.bulk_create([ChannelFactory.build(version=one) for one in versions])


# --- Embeddings


def test_embedding_is_answered_and_booked_once(language, client):
    response = embed(client)

    check_books(language, [response.headers["inference-id"]])
    assert response.status_code == 200
    assert response.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [9.0, 0.1, 1.0]}],
        "model": "maker/vectors",
        "usage": {"prompt_tokens": 2, "total_tokens": 2},
    }
    row = Prediction.objects.get()
    assert (row.protocol, row.rows, row.cost_nanos) == ("openai", 1, PRICE_NANOS)


def test_base64_holds_the_same_floats(language, client):
    response = embed(client, encoding_format="base64")

    text = response.json()["data"][0]["embedding"]
    assert base64.b64decode(text) == struct.pack("<3f", 9.0, 0.1, 1.0)


def test_every_text_is_a_unit_though_they_run_in_batches(language, client):
    texts = ["a", "b b", "c c c", "d", "e"]

    response = embed(client, texts)

    document = response.json()
    assert [one["index"] for one in document["data"]] == [0, 1, 2, 3, 4]
    # The last number is the size of the batch that the text ran in.
    vectors = [one["embedding"] for one in document["data"]]
    assert [(one[0], one[2]) for one in vectors] == [(1, 2), (3, 2), (5, 2), (1, 2), (1, 1)]
    assert document["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    usage = UsageEvent.objects.get()
    assert usage.pk == from_public(response.headers["inference-id"])
    assert (usage.units, usage.gross_nanos) == (5, 5 * PRICE_NANOS)
    assert response.headers["x-cost-nano-usd"] == str(5 * PRICE_NANOS)
    wallet = LedgerAccount.objects.get(pk=language.wallet_id)
    assert wallet.posted_nanos == 5 * PRICE_NANOS
    check_ledger()


def test_texts_of_which_the_last_fails_cost_nothing(language, client):
    response = embed(client, ["a", "b", "fail"])

    assert error_of(response) == (500, "model_failed", None)
    assert "secret" not in response.text
    assert response.headers["x-should-retry"] == "false"
    check_nothing_booked(language)


def test_batches_share_one_deadline(language, start_gateway):
    gateway = start_gateway(STRONGROOM_GATEWAY_DEADLINE_S="1")
    client = language.client(url=gateway.url)

    # Each batch takes 0.6 s: one of them has the time, two have not.
    assert embed(client, ["slow", "slow"]).status_code == 200
    response = embed(client, ["slow", "slow", "slow"])

    assert error_of(response) == (504, "deadline", None)
    assert UsageEvent.objects.get().units == 2
    eventually(lambda: check_holds(language))


def test_time_is_the_sum_over_the_batches(language, client):
    response = embed(client, ["slow", "slow", "slow"])

    row = Prediction.objects.get(pk=from_public(response.headers["inference-id"]))
    assert 1_200_000 <= row.predict_time_us < 5_000_000


def test_credit_must_reach_for_all_texts(language, client):
    assert error_of(embed(client, ["a"] * 11)) == (402, "insufficient_credit", None)
    check_nothing_booked(language)

    assert embed(client, ["a"] * 10).status_code == 200


def test_texts_at_the_limit_are_taken(language, client):
    language.fund(256 * PRICE_NANOS)

    assert len(embed(client, ["a"] * 256).json()["data"]) == 256
    assert error_of(embed(client, ["a"] * 257)) == (400, "invalid_parameter", "input")


def test_length_at_the_limit_is_taken(language, client):
    assert embed(client, "a" * 100).status_code == 200
    response = embed(client, ["a", "a" * 101])
    assert error_of(response) == (400, "invalid_parameter", "input")
    assert response.json()["error"]["message"].startswith("input[1]: ")


@pytest.mark.parametrize(
    "_members",
    [
        {"user": "me", "metadata": {"a": "b"}},
        {"dimensions": 3},
        {"dimensions": None, "encoding_format": "float"},
    ],
)
def test_parameters_that_ask_for_nothing_more_are_taken(language, client, _members):
    assert embed(client, **_members).status_code == 200


@pytest.mark.parametrize(
    ("_members", "_code", "_param"),
    [
        ({"input": None}, "invalid_parameter", "input"),
        ({"input": []}, "invalid_parameter", "input"),
        ({"input": 5}, "invalid_parameter", "input"),
        ({"input": [1, 2]}, "invalid_parameter", "input"),
        ({"input": [["a"]]}, "invalid_parameter", "input"),
        ({"input": {"text": "a"}}, "invalid_parameter", "input"),
        ({"encoding_format": "hex"}, "invalid_parameter", "encoding_format"),
        ({"encoding_format": ["float"]}, "invalid_parameter", "encoding_format"),
        ({"dimensions": 2}, "invalid_parameter", "dimensions"),
        ({"dimensions": 3.0}, "invalid_parameter", "dimensions"),
        ({"dimensions": "3"}, "invalid_parameter", "dimensions"),
        ({"truncate": True}, "unsupported_parameter", "truncate"),
        ({"p" * 70: True}, "unsupported_parameter", "p" * 64),
        ({"model": None}, "invalid_parameter", "model"),
        ({"model": ["maker/vectors"]}, "invalid_parameter", "model"),
        ({"model": "maker/echo"}, "invalid_parameter", "model"),
        ({"model": "maker/writer"}, "invalid_parameter", "model"),
    ],
)
def test_wrong_parameter_is_named(language, client, _members, _code, _param):
    assert error_of(embed(client, **_members)) == (400, _code, _param)
    check_untouched(language)


def test_model_of_the_task_with_another_interface_is_refused(language, client):
    model = AIModelFactory(account=language.creator, name="odd", task="feature-extraction")
    ChannelFactory(version=ModelVersionFactory(model=model, interface=INTERFACE))

    assert error_of(embed(client, model="maker/odd")) == (400, "invalid_parameter", "model")
    check_untouched(language)


def test_model_without_a_replica_says_when_to_come_back(language, client):
    model = AIModelFactory(account=language.creator, name="cold", task="feature-extraction")
    ChannelFactory(version=ModelVersionFactory(model=model, interface=VECTORS))
    language.price.pk = None
    language.price.model = model
    language.price.save()

    response = embed(client, model="maker/cold")

    assert error_of(response) == (503, "model_not_ready", None)
    assert int(response.headers["retry-after"]) > 0
    check_untouched(language)


# --- What all routes have in common


def test_keyed_retry_gets_the_first_answer_and_pays_once(language, client):
    headers = {"Idempotency-Key": "once"}

    first = embed(client, ["a", "b"], headers=headers)
    second = embed(client, ["a", "b"], headers=headers)
    other = embed(client, ["a"], headers=headers)

    assert second.json() == first.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["inference-id"] == first.headers["inference-id"]
    assert error_of(other) == (422, "idempotency_mismatch", None)
    assert UsageEvent.objects.get().gross_nanos == 2 * PRICE_NANOS


def test_test_key_runs_own_models_uncharged(language, client):
    own = APIKeyFactory(account=language.creator, mode=APIKey.Mode.TEST)
    others = APIKeyFactory(account=language.consumer, mode=APIKey.Mode.TEST)

    assert embed(language.client(own.text)).headers["x-cost-nano-usd"] == "0"
    assert UsageEvent.objects.get().gross_nanos == 0
    refused = embed(language.client(others.text))
    assert error_of(refused) == (403, "test_key_forbidden", None)


@pytest.mark.parametrize(
    "_headers",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer sk_live_nope"},
        {"Authorization": "Basic a2V5OmtleQ=="},
    ],
)
def test_bad_key_is_401(language, client, _headers):
    for response in (
        client.get("/openai/v1/models", headers=_headers),
        embed(client, headers=_headers),
        client.get("/openai/v1/none", headers=_headers),
    ):
        assert error_of(response) == (401, "unauthenticated", None)
        assert response.headers["www-authenticate"] == "Bearer"
    check_untouched(language)


def test_expired_key_is_401(language):
    key = APIKeyFactory(account=language.consumer, expires_at=timezone.now() - timedelta(seconds=1))

    assert error_of(embed(language.client(key.text)))[:2] == (401, "unauthenticated")


def test_key_without_the_scope_is_403(language):
    key = APIKeyFactory(account=language.consumer, scopes=["billing"])
    client = language.client(key.text)

    for path in ("models", "models/maker/echo"):
        assert error_of(client.get(f"/openai/v1/{path}")) == (403, "forbidden", None)
    reader = APIKeyFactory(account=language.consumer, scopes=["read"])
    assert error_of(embed(language.client(reader.text))) == (403, "forbidden", None)
    check_untouched(language)


@pytest.mark.parametrize(
    "_path",
    [
        "/openai",
        "/openai/v1",
        "/openai/v2/models",
        "/openai/v1/none",
        "/openai/v1/embeddings/1",
        "/openai/models",
    ],
)
def test_what_is_not_there_is_404(shop, client, _path):
    for response in (client.get(_path), client.post(_path, json={})):
        assert error_of(response) == (404, "not_found", None)


@pytest.mark.parametrize(
    ("_method", "_path"),
    [
        ("GET", "embeddings"),
        ("PUT", "embeddings"),
        ("POST", "models"),
        ("DELETE", "models/maker/echo"),
    ],
)
def test_wrong_method_is_405(shop, client, _method, _path):
    response = client.request(_method, f"/openai/v1/{_path}")

    assert error_of(response) == (405, "method_not_allowed", None)


@pytest.mark.parametrize(
    "_body", [b"", b"{", b"[]", b'"a"', b"[" * 33 + b"]" * 33, b"\xff", b'{"model": "\\ud800"}']
)
def test_body_that_is_no_request_is_400(language, client, _body):
    status, _, _ = error_of(client.post(PATH, content=_body))

    assert status == 400
    check_untouched(language)


def test_large_body_is_refused_and_holds_nothing(language, client):
    body = json.dumps({"model": "maker/vectors", "input": "a"}).encode()

    response = client.post(PATH, content=body + b" " * (10 * MIB - len(body) + 1))

    assert error_of(response) == (413, "payload_too_large", None)
    check_untouched(language)
    assert client.post(PATH, content=body + b" " * (10 * MIB - len(body))).status_code == 200


def test_prediction_is_found_under_v1_too(language, client):
    response = embed(client)

    document = client.get(f"/v1/predictions/{response.headers['inference-id']}").json()
    assert (document["status"], document["model"]) == ("succeeded", "maker/vectors")


def test_suspended_account_is_refused(language, client):
    language.consumer.suspended_at = timezone.now()
    language.consumer.save()

    def check_refused():
        assert error_of(embed(client))[:2] == (403, "account_suspended")

    eventually(check_refused)


@pytest.mark.parametrize(
    ("_error", "_kind"),
    [
        (AuthenticationError, "authentication_error"),
        (InsufficientCreditError, "insufficient_quota"),
        (ForbiddenError, "permission_error"),
        (NotFoundError, "not_found_error"),
        (ConflictError, "invalid_request_error"),
        (LimitExceededError, "rate_limit_error"),
        (MarketplaceError, "server_error"),
        (UnavailableError, "server_error"),
    ],
)
def test_every_status_has_its_type(_error, _kind):
    answer = OpenAIProtocol.render_error(None, None, _error("Because."))

    assert answer.status == _error.http_status
    assert json.loads(answer.body)["error"] == {
        "message": "Because.",
        "type": _kind,
        "param": None,
        "code": _error.code,
    }
