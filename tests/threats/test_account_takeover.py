"""Somebody has a creator's password or session, and wants to sell another model in their place.

What they have not is the creator's signing key, which never leaves the creator's machine.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError

from inference.errors import SigningKeyCoolingError
from inference.models import Artifact, SigningKey
from marketplace.models import ModelVersion, User
from marketplace.services import doubt, review
from strongroom.sealing import signature
from tests.factories import PASSWORD
from tests.inference.django.conftest import (  # noqa: F401 - the fixtures
    broker,
    creator,
    enqueued,
    model,
    store,
)
from tests.inference.django.creator import Creator, Sealed
from tests.inference.keybroker.test_release_log import as_insider

MODEL = "acme/digits"
FILES = {"model.onnx": b"weights" * 1000}


@pytest.fixture
def intruder(creator: Creator) -> Creator:  # noqa: F811
    """The creator's session, with a signing key of the intruder's."""
    return Creator(creator.client)


def send_up(machine: Creator, owner: Creator) -> Sealed:
    """Send sealed files in an upload that the owner's key was announced for."""
    begun = owner.begin(MODEL, FILES)
    assert begun.status_code == 201, begun.content
    sealed = machine.seal(begun.json(), FILES, model=MODEL)
    machine.put_parts(sealed)
    return sealed


def code_of(answer: Any) -> str:
    return answer.json().get("code", "")


@pytest.mark.django_db
def test_a_session_without_the_key_signs_nothing(
    creator: Creator,  # noqa: F811
    model: Any,  # noqa: F811
    intruder: Creator,
) -> None:
    # Under a key that nobody knows, and in the name of the one that is known.
    assert code_of(intruder.begin(MODEL, FILES)) == "signing_key_unknown"
    sealed = send_up(intruder, creator)
    assert code_of(intruder.complete(sealed)) == "signature_invalid"
    assert not Artifact.objects.exists()
    # The control: the creator's signature over the same files is what was missing.
    assert creator.complete(sealed).status_code == 202


@pytest.mark.django_db
def test_without_a_look_at_the_signature_the_session_is_enough(
    creator: Creator,  # noqa: F811
    model: Any,  # noqa: F811
    intruder: Creator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control."""
    sealed = send_up(intruder, creator)
    monkeypatch.setattr(signature, "verify", lambda *_: None)

    assert intruder.complete(sealed).status_code == 202


@pytest.mark.django_db
def test_a_key_of_the_intruders_own_sells_nothing_yet(
    creator: Creator,  # noqa: F811
    model: Any,  # noqa: F811
    intruder: Creator,
    platform_admin: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session is enough to register a key; what it signs is held, and the owners are told."""
    assert intruder.register().json()["state"] == "new"
    version_id = intruder.push(MODEL, FILES)["id"]
    ModelVersion.objects.filter(pk=version_id).update(state=ModelVersion.State.IN_REVIEW)

    def approve() -> None:
        version = ModelVersion.objects.get(pk=version_id)
        # Whatever the reviewer was told: in the key's first day an owner has to confirm it.
        review.approve_version(
            version=version, reviewer=platform_admin, reason="Fine.", is_confirmed=True
        )

    with pytest.raises(SigningKeyCoolingError):
        approve()
    # Nor does the session that registered the key confirm it, with the password even.
    key = SigningKey.objects.get(fingerprint=intruder.fingerprint)
    place = f"/dashboard/signing-keys/{key.pk}/confirm"
    assert intruder.client.post(place, {"password": PASSWORD}).status_code == 422
    with pytest.raises(SigningKeyCoolingError):
        approve()
    # The control: nothing else holds the version.
    monkeypatch.setattr(doubt, "_doubters", [])
    approve()
    assert ModelVersion.objects.get(pk=version_id).state == ModelVersion.State.APPROVED


@pytest.mark.django_db(transaction=True)
def test_a_version_that_is_there_is_not_exchanged(
    creator: Creator,  # noqa: F811
    model: Any,  # noqa: F811
    intruder: Creator,
) -> None:
    sealed = send_up(creator, creator)
    assert creator.complete(sealed).status_code == 202
    text = Artifact.objects.get().manifest
    other = intruder.seal(sealed.upload, {"model.onnx": b"another" * 1000}, model=MODEL)

    for (file_index, part), body in other.parts.items():
        upload_id = sealed.upload["upload_id"]
        assert intruder.put_part(upload_id, file_index, part, body).status_code == 409
    assert intruder.complete(other).status_code >= 400
    with pytest.raises(DatabaseError):
        Artifact.objects.update(manifest="{}")
    assert Artifact.objects.get().manifest == text
    # The control: without the table's guard, whoever reaches the row exchanges it.
    as_insider("inference_artifact", "UPDATE inference_artifact SET manifest = '{}'")
    assert Artifact.objects.get().manifest == "{}"
