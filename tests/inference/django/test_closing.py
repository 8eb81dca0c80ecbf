"""Sealed models of an account that is deleted: their keys are destroyed, with a proof."""

from __future__ import annotations

import pytest
from django.utils import timezone

from inference.errors import KeyBrokerUnavailableError
from inference.models import KeyShred
from inference.services.closing import REASON, destroy_keys
from marketplace.models import AccountDeletion, AuditEvent
from marketplace.services.own_closing import unlist_models

# The broker is another process: it sees only what was committed.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def deletion(account) -> AccountDeletion:
    return AccountDeletion.objects.create(
        account=account, state="running", execute_at=timezone.now()
    )


def test_keys_are_destroyed_once_and_the_proof_stays(creator, model, deletion) -> None:
    creator.push(str(model), {"model.onnx": b"x" * 100})
    unlist_models(deletion)

    assert destroy_keys(deletion) == "The keys of 1 model are destroyed."
    assert destroy_keys(deletion) == "The keys of 1 model are destroyed."

    proof = KeyShred.objects.get()
    assert (proof.model_id, proof.artifact_id, proof.reason) == (model.pk, None, REASON)
    assert proof.by == "system:deletion"
    assert AuditEvent.objects.filter(action="model.shred").count() == 1


def test_a_broker_that_is_away_is_waited_for(creator, model, deletion, settings) -> None:
    creator.push(str(model), {"model.onnx": b"x" * 100})
    unlist_models(deletion)
    url, settings.KEYBROKER_URL = settings.KEYBROKER_URL, "http://127.0.0.1:9"

    with pytest.raises(KeyBrokerUnavailableError):
        destroy_keys(deletion)
    assert not KeyShred.objects.exists()
    settings.KEYBROKER_URL = url
    destroy_keys(deletion)

    assert KeyShred.objects.exists()


def test_what_could_still_be_served_keeps_its_key(creator, model, deletion) -> None:
    # The control: the order of the steps counts.
    creator.push(str(model), {"model.onnx": b"x" * 100})
    model.versions.update(state="approved")

    with pytest.raises(Exception, match="withdraw it first"):
        destroy_keys(deletion)
    assert not KeyShred.objects.exists()
