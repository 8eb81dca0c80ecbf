"""Who may have keys destroyed, what must be said for it, and what is recorded of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference.models import KeyShred
from inference.selectors import shredding as selectors
from inference.services import shredding as services
from marketplace.core import limits
from marketplace.core.errors import ForbiddenError, InvalidInputError
from marketplace.errors import VersionStateError
from marketplace.models import AIModel, AuditEvent, ModelVersion
from marketplace.selectors.access import Actor
from tests.factories import AccountFactory, AIModelFactory, ModelVersionFactory

# The broker is another process: it sees only what was committed.
pytestmark = pytest.mark.django_db(transaction=True)

State = ModelVersion.State
REASON = "The contract has ended."


@pytest.fixture
def versions(model: AIModel, broker) -> list[ModelVersion]:
    return [
        ModelVersionFactory(model=model, number=1, state=State.WITHDRAWN),
        ModelVersionFactory(model=model, number=2, state=State.APPROVED),
    ]


def post(client, path: str, body: dict[str, Any]) -> Any:
    return client.post(path, json.dumps(body), content_type="application/json")


def shred(client, subject: AIModel | ModelVersion, **changes: Any) -> Any:
    place = "" if isinstance(subject, AIModel) else f"/versions/{subject.number}"
    model = subject if isinstance(subject, AIModel) else subject.model
    body = {"confirm": str(subject), "reason": REASON}
    return post(client, f"/api/models/{model}{place}/shred", body | changes)


def code_of(answer) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


def test_a_version_is_shredded_and_the_proof_is_answered(owner_client, owner, versions) -> None:
    gone, stays = versions

    answer = shred(owner_client, gone)

    assert answer.status_code == 200, answer.content
    proof = KeyShred.objects.get()
    assert answer.json() == selectors.describe_shred(proof)
    assert (proof.artifact_id, proof.by, proof.reason) == (gone.pk, f"user:{owner.email}", REASON)
    assert selectors.find_shred(gone) == proof
    assert selectors.find_shred(stays) is None
    assert list(selectors.list_shreds(gone.model)) == [proof]
    # Again: the same, and recorded once.
    assert shred(owner_client, gone).json() == answer.json()
    event = AuditEvent.objects.get(action="version.shred")
    assert event.payload == {"subject": str(gone), "reason": REASON}
    assert (event.account_id, event.object_id) == (gone.model.account_id, str(gone.pk))


def test_a_model_is_shredded_once_all_its_versions_are_withdrawn(owner_client, versions) -> None:
    gone, stays = versions
    assert code_of(shred(owner_client, gone.model)) == (409, "version_state")
    assert not KeyShred.objects.exists()
    withdrawn = post(owner_client, f"/api/models/{stays.model}/versions/2/withdraw", {})
    assert withdrawn.json() == {"model": str(stays.model), "version": 2, "state": "withdrawn"}

    answer = shred(owner_client, gone.model)

    assert answer.status_code == 200, answer.content
    assert answer.json()["artifact_id"] is None
    proof = KeyShred.objects.get()
    assert selectors.find_model_shred(gone.model) == proof
    assert [selectors.find_shred(one) for one in versions] == [proof, proof]
    assert AuditEvent.objects.filter(action="model.shred").count() == 1


@pytest.mark.parametrize("confirm", [None, "", 1, "acme/digits", "acme/digits:2", "acme/digits:01"])
def test_it_must_be_confirmed_by_its_name(owner_client, versions, confirm) -> None:
    changes = {} if confirm is None else {"confirm": confirm}
    body = {"reason": REASON} | changes

    answer = post(owner_client, "/api/models/acme/digits/versions/1/shred", body)

    assert code_of(answer) == (422, "confirmation_missing")
    assert answer.json()["errors"][0]["pointer"] == "/confirm"
    assert not KeyShred.objects.exists()
    assert code_of(shred(owner_client, versions[0].model, confirm="acme/digits:1")) == (
        422,
        "confirmation_missing",
    )


@pytest.mark.parametrize("reason", ["", "   ", None, "x" * (limits.REASON_LENGTH_MAX + 1)])
def test_it_needs_a_reason(owner_client, versions, reason) -> None:
    assert code_of(shred(owner_client, versions[0], reason=reason)) == (422, "validation")
    assert not KeyShred.objects.exists()


def test_the_longest_reason_is_accepted(owner_client, versions) -> None:
    reason = "x" * limits.REASON_LENGTH_MAX
    assert shred(owner_client, versions[0], reason=reason).status_code == 200


@pytest.mark.parametrize(
    "state", [State.UPLOADING, State.ONBOARDING, State.IN_REVIEW, State.APPROVED]
)
def test_what_could_be_served_is_not_shredded(owner_client, broker, versions, state) -> None:
    ModelVersion.objects.filter(pk=versions[0].pk).update(state=state)

    assert code_of(shred(owner_client, versions[0])) == (409, "version_state")
    assert "/v1/shred" not in broker.calls


def test_strangers_and_teammates_may_not(
    client, outsider_client, teammate_client, versions
) -> None:
    for who, expected in (
        (client, (401, 403)),
        (outsider_client, (403, 404)),
        (teammate_client, (403,)),
    ):
        for subject in (versions[0], versions[0].model):
            assert shred(who, subject).status_code in expected
        assert post(who, "/api/models/acme/digits/versions/2/withdraw", {}).status_code in expected
    assert not KeyShred.objects.exists()
    assert ModelVersion.objects.get(number=2).state == State.APPROVED


def test_what_is_not_there(owner_client, versions) -> None:
    body = {"confirm": "acme/digits:9", "reason": REASON}
    assert post(owner_client, "/api/models/acme/digits/versions/9/shred", body).status_code == 404
    assert post(owner_client, "/api/models/acme/other/shred", body).status_code == 404
    assert post(owner_client, "/api/models/acme/digits/versions/9/withdraw", {}).status_code == 404


@pytest.mark.parametrize("status", [500, 503, 401])
def test_an_outage_of_the_broker_is_said_and_can_be_repeated(
    owner_client, broker, versions, status
) -> None:
    broker.broken_status = status

    answer = shred(owner_client, versions[0])

    assert code_of(answer) == (503, "keybroker_unavailable")
    assert answer["Retry-After"] == "5"
    assert not AuditEvent.objects.filter(action="version.shred").exists()
    broker.broken_status = None
    assert shred(owner_client, versions[0]).status_code == 200


def test_an_admin_may_and_an_owner_of_another_account_may_not(
    platform_admin, outsider, versions, broker
) -> None:
    with pytest.raises(ForbiddenError):
        services.shred_version(version=versions[0], actor=Actor(user=outsider), reason=REASON)
    with pytest.raises(ForbiddenError):
        services.shred_model(model=versions[0].model, actor=Actor(user=outsider), reason=REASON)
    with pytest.raises(InvalidInputError):
        services.shred_version(version=versions[0], actor=Actor(user=platform_admin), reason=" ")
    with pytest.raises(VersionStateError):
        services.shred_version(version=versions[1], actor=Actor(user=platform_admin), reason="x")

    proof = services.shred_version(
        version=versions[0], actor=Actor(user=platform_admin), reason=REASON
    )

    assert proof.by == f"user:{platform_admin.email}"


def test_proofs_of_other_models_are_not_mixed_in(owner_client, versions) -> None:
    shred(owner_client, versions[0])
    other = ModelVersionFactory(
        model=AIModelFactory(account=AccountFactory(slug="other")), state=State.WITHDRAWN
    )

    assert selectors.find_shred(other) is None
    assert not selectors.list_shreds(other.model).exists()


def test_the_admin_console_shreds_with_a_reason(
    admin_client, creator, model, versions, enqueued
) -> None:
    done = creator.push("acme/digits", {"model.onnx": b"weights" * 100})
    version = ModelVersion.objects.get(pk=done["id"])
    answers = {"_selected_action": [str(version.pk)], "confirmed": "1", "reason": REASON}
    url = "/admin/inference/artifact/"

    admin_client.post(url, answers | {"action": "shred"})
    assert not KeyShred.objects.exists()  # It could still be served.
    ModelVersion.objects.update(state=State.WITHDRAWN)
    asked = admin_client.post(url, {"_selected_action": [str(version.pk)], "action": "shred"})
    assert b"cannot be undone" in asked.content
    assert not KeyShred.objects.exists()
    admin_client.post(url, answers | {"action": "shred"})
    admin_client.post(url, answers | {"action": "shred_models"})

    assert {one.artifact_id for one in KeyShred.objects.all()} == {version.pk, None}
    shown = admin_client.get("/admin/inference/keyshred/")
    assert str(version.pk).encode() in shown.content
