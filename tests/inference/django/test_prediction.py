from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from inference.models import APIRequest, Prediction
from inference.services import prediction
from inference.services.prediction import RETENTION, forget_predictions
from marketplace.core.ids import new_id
from tests.factories import ModelVersionFactory

pytestmark = pytest.mark.django_db


def make(age: timedelta) -> Prediction:
    created_at = timezone.now() - age
    prediction = Prediction.objects.create(
        pk=new_id(),
        account_id=new_id(),
        version=ModelVersionFactory(),
        state="succeeded",
        input={"x": 1},
        output={"y": 2},
        cost_nanos=5,
        created_at=created_at,
    )
    APIRequest.objects.create(
        account_id=prediction.account_id,
        idempotency_key="k",
        fingerprint=bytes(32),
        prediction_id=prediction.pk,
        created_at=created_at,
        claimed_until=created_at,
    )
    return prediction


def test_old_contents_and_keys_are_forgotten_and_the_booking_stays() -> None:
    old = make(RETENTION + timedelta(minutes=1))
    young = make(RETENTION - timedelta(minutes=1))

    assert forget_predictions() == 2
    assert forget_predictions() == 0

    old.refresh_from_db()
    young.refresh_from_db()
    assert (old.input, old.output, old.cost_nanos) == (None, None, 5)
    assert young.output == {"y": 2}
    assert APIRequest.objects.get().prediction_id == young.pk


def test_one_sweep_takes_all_that_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "BATCH_SIZE", 2)
    for _ in range(5):
        make(RETENTION + timedelta(minutes=1))

    assert forget_predictions() == 10
    assert not APIRequest.objects.exists()
    assert not Prediction.objects.filter(output__isnull=False).exists()
