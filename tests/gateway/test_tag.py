"""`Strongroom-Tag`: a consumer's own word on the usage of a prediction, and on nothing else."""

from __future__ import annotations

import concurrent.futures
import re

import pytest
from grpc import StatusCode

from billing.models import KeySpend, Transfer, UsageEvent
from billing.services.receipt import seal_receipts
from inference.gateway import openapi
from inference.gateway.errors import TagInvalidError
from inference.gateway.tag import read_tag
from inference.models import APIRequest, Prediction
from marketplace.core.ids import from_public
from marketplace.core.tag import TAG_LENGTH_MAX, is_tag
from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests.gateway.calls import calling, make_request
from tests.gateway.conftest import (
    PRICE_NANOS,
    X,
    check_books,
    check_ledger,
    check_untouched,
    predict,
    problem_of,
)
from tests.gateway.test_grpc import refused
from tests.gateway.test_grpc_stream import Requests, ended

pytestmark = pytest.mark.django_db(transaction=True)

LONGEST = "x" * TAG_LENGTH_MAX
EVERY_KIND = "AZaz09._:-"
# What is one character too long, has another character, or none at all.
NO_TAGS = ["", LONGEST + "x", "two words", "a/b", "a,b", "a;b", "a\tb", "'a'", "a@b", "a=b", "=1"]
TENSORS = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": X}]}


def tag_of(public_id: str) -> str:
    return UsageEvent.objects.get(pk=from_public(public_id)).tag


@pytest.mark.parametrize("_tag", ["a", "-", EVERY_KIND, LONGEST])
def test_what_is_a_tag_is_booked_as_it_is(shop, client, _tag):
    tagged = predict(client, headers={"Strongroom-Tag": _tag})
    plain = predict(client)

    assert (tagged.status_code, plain.status_code) == (201, 201)
    assert tag_of(tagged.json()["id"]) == _tag
    assert tag_of(plain.json()["id"]) == ""
    # It costs what it costs without.
    assert tagged.headers["x-cost-nano-usd"] == str(PRICE_NANOS)
    check_books(shop, [one.json()["id"] for one in (tagged, plain)])


@pytest.mark.parametrize("_tag", [*NO_TAGS, b"\xc3\xa9", b"\xff"])
def test_what_is_none_is_refused_and_nothing_runs(shop, client, triton, _tag):
    runs = Prediction.objects.count()

    response = predict(client, headers={"Strongroom-Tag": _tag})

    assert problem_of(response) == (400, "invalid_tag")
    assert f"1 to {TAG_LENGTH_MAX} characters" in response.json()["detail"]
    assert Prediction.objects.count() == runs
    check_untouched(shop)


def test_every_protocol_takes_it_and_refuses_in_its_own_words(shop, language, client):
    texts = {"model": "maker/vectors", "input": "hello"}
    for number, (path, body) in enumerate(
        (
            ("/v1/models/maker/echo/predictions", {"input": {"x": X}}),
            ("/v2/models/maker/echo/infer", TENSORS),
            ("/openai/v1/embeddings", texts),
        )
    ):
        taken = client.post(path, json=body, headers={"Strongroom-Tag": f"way-{number}"})
        assert taken.status_code < 300, taken.text
        assert tag_of(taken.headers["inference-id"]) == f"way-{number}"

    booked = UsageEvent.objects.count()
    wrong = {"Strongroom-Tag": LONGEST + "x"}
    tensors = client.post("/v2/models/maker/echo/infer", json=TENSORS, headers=wrong)
    assert (tensors.status_code, list(tensors.json())) == (400, ["error"])
    assert "A tag has" in tensors.json()["error"]
    openai = client.post("/openai/v1/embeddings", json=texts, headers=wrong)
    assert openai.status_code == 400
    assert openai.json()["error"]["code"] == "invalid_tag"
    assert openai.json()["error"]["type"] == "invalid_request_error"
    assert UsageEvent.objects.count() == booked


def test_grpc_takes_it_as_metadata(shop):
    with calling(shop.grpc_address, shop.key.text) as caller:

        def with_tag(tag: str):
            return (*caller.metadata, ("strongroom-tag", tag))

        _, answered = caller.infer(make_request(), metadata=with_tag("nightly"))
        _, plain = caller.infer(make_request())
        assert tag_of(answered["inference-id"]) == "nightly"
        assert tag_of(plain["inference-id"]) == ""

        wrong = LONGEST + "x"
        assert refused(caller.infer, make_request(), metadata=with_tag(wrong)) == (
            StatusCode.INVALID_ARGUMENT,
            "invalid_tag",
        )
        # Of a stream, it is the tag of all its requests, and is looked at before the first.
        unread, requests = Requests(), Requests()
        opened = caller.stub.ModelStreamInfer(unread, metadata=with_tag(wrong), timeout=60)
        assert ended(opened) == (StatusCode.INVALID_ARGUMENT, "invalid_tag")
        unread.end()
        responses = caller.stub.ModelStreamInfer(requests, metadata=with_tag("both"), timeout=60)
        ids = []
        for _ in range(2):
            requests.send(make_request())
            ids.append(next(responses).infer_response.parameters["inference_id"].string_param)
        requests.end()
        assert [tag_of(one) for one in ids] == ["both", "both"]
    check_books(shop, [answered["inference-id"], plain["inference-id"], *ids])


def test_a_retry_keeps_the_first_tag(shop, client):
    first = predict(client, headers={"Idempotency-Key": "one", "Strongroom-Tag": "first"})
    other = predict(client, headers={"Idempotency-Key": "one", "Strongroom-Tag": "second"})
    bare = predict(client, headers={"Idempotency-Key": "one"})
    wrong = predict(client, headers={"Idempotency-Key": "one", "Strongroom-Tag": "no tag"})

    assert [one.headers.get("idempotent-replayed") for one in (first, other, bare)] == [
        None,
        "true",
        "true",
    ]
    assert problem_of(wrong) == (400, "invalid_tag")
    assert tag_of(first.json()["id"]) == "first"
    assert APIRequest.objects.count() == 1
    check_books(shop, [first.json()["id"]])


def test_each_of_many_at_once_gets_its_own(shop, client):
    """They are booked together, as they come; none gets its neighbour's."""
    shop.fund(100 * PRICE_NANOS)
    tags = [f"job-{number % 5}" if number % 6 else "" for number in range(30)]

    def ask(tag: str) -> str:
        response = predict(client, headers={"Strongroom-Tag": tag} if tag else {})
        return str(response.json()["id"])

    with concurrent.futures.ThreadPoolExecutor(len(tags)) as pool:
        answered = list(pool.map(ask, tags))

    assert [tag_of(one) for one in answered] == tags
    # Some of them shared a transfer, so that this has looked at batches at all.
    assert Transfer.objects.filter(kind=Transfer.Kind.USAGE).count() < len(tags)
    check_books(shop, answered)


def test_a_tag_does_not_split_a_budget(shop, client):
    shop.key.budget_day_nanos = 2 * PRICE_NANOS
    shop.key.save()

    answers = [predict(client, headers={"Strongroom-Tag": f"t{number}"}) for number in range(3)]

    assert [one.status_code for one in answers] == [201, 201, 402]
    assert problem_of(answers[2]) == (402, "budget_exceeded")
    assert KeySpend.objects.get(period="day").spent_nanos == 2 * PRICE_NANOS
    check_ledger()


def test_a_receipt_does_not_tell_it(shop, client, settings):
    settings.RECEIPT_KEY = encode_base64(signature.generate_signing_key())
    prediction = predict(client, headers={"Strongroom-Tag": "secret-project"}).json()["id"]
    assert tag_of(prediction) == "secret-project"
    assert seal_receipts() == 1

    for path in (f"/v1/predictions/{prediction}/receipt", f"/v1/predictions/{prediction}"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "secret-project" not in answer.text


@pytest.mark.parametrize("_tag", [EVERY_KIND, LONGEST, "a\n", " a", "ä", "a\x00", *NO_TAGS])
def test_description_and_gateway_agree_on_what_a_tag_is(_tag):
    (parameter,) = [one for one in openapi._PREDICTING if one["name"] == "Strongroom-Tag"]
    # As JSON Schema reads it: the end is the end of the text.
    described = re.search(parameter["schema"]["pattern"].replace("$", r"\Z"), _tag) is not None

    assert is_tag(_tag) == described
    if is_tag(_tag):
        assert read_tag({"strongroom-tag": _tag}) == _tag
    else:
        with pytest.raises(TagInvalidError):
            read_tag({"strongroom-tag": _tag})
    assert read_tag({}) == ""
