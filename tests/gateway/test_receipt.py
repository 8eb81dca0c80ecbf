"""`GET /v1/predictions/{id}/receipt`: a consumer gets proof of what it paid for, and of no more."""

from __future__ import annotations

import pytest

from billing.services.receipt import seal_receipts
from inference.models import Prediction
from marketplace.core.ids import from_public, new_id, to_public
from strongroom import receipts
from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests.factories import APIKeyFactory
from tests.gateway.conftest import predict, problem_of

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def receipt_key(settings) -> bytes:
    private_key = signature.generate_signing_key()
    settings.RECEIPT_KEY = encode_base64(private_key)
    return signature.derive_public_key(private_key)


def test_a_prediction_has_a_receipt_once_its_batch_is_sealed(shop, client, receipt_key):
    answer = predict(client)
    prediction = answer.json()["id"]
    address = f"/v1/predictions/{prediction}/receipt"

    early = client.get(address)
    assert problem_of(early) == (409, "receipt_pending")
    assert int(early.headers["retry-after"]) > 0
    assert seal_receipts() == 1

    document = client.get(address).json()
    found = receipts.verify(document, [receipt_key], consumer_id=str(shop.consumer.pk))
    assert found.prediction == prediction
    # What the answer itself said.
    assert found.gross_nanos == int(answer.headers["x-cost-nano-usd"])
    assert document["model"] == "maker/echo:1"


def test_another_account_and_unknown_ids_get_none(shop, client, receipt_key):
    prediction = predict(client).json()["id"]
    seal_receipts()
    other = APIKeyFactory()

    for one, key in ((prediction, other.text), (to_public(new_id()), None), ("nonsense", None)):
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        answer = client.get(f"/v1/predictions/{one}/receipt", headers=headers)
        assert problem_of(answer) == (404, "not_found")


def test_what_failed_was_not_booked_and_has_none(shop, client, receipt_key):
    prediction = predict(client).json()["id"]
    failed = Prediction.objects.get(pk=from_public(prediction))
    failed.pk, failed.state = new_id(), "failed"
    failed.save(force_insert=True)

    answer = client.get(f"/v1/predictions/{to_public(failed.pk)}/receipt")

    assert problem_of(answer) == (404, "not_found")
    assert "Nothing was booked" in answer.json()["detail"]
