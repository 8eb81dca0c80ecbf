from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from inference.keybroker.kms import LocalKms
from inference.models import KeyRelease, Lease, LeaseChallenge, Node, Replica, WrappedKey
from marketplace.core.ids import new_id
from marketplace.models import ModelVersion
from strongroom.errors import StrongroomError
from strongroom.sealing import signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from tests.inference.keybroker.conftest import (
    Broker,
    EnrolledNode,
    SealedVersion,
    enrol,
    seal_version,
)

pytestmark = pytest.mark.django_db(transaction=True)


def refusals() -> list[str]:
    return list(KeyRelease.objects.filter(outcome="refused").values_list("reason_code", flat=True))


def assert_nothing_released() -> None:
    assert not Lease.objects.exists()
    assert not KeyRelease.objects.exclude(outcome="refused").exists()
    assert not KeyRelease.objects.exclude(lease_id=None).exists()


def test_an_assigned_node_gets_the_key_sealed_to_the_serving_process(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    answer = broker.post("/v1/leases", node.request(broker, replica), token=None)

    assert answer.status_code == 200, answer.text
    lease = answer.json()
    blob = decode_base64(lease["sealed_dek"])
    assert wrap.unseal(blob, node.ephemeral, lease["info"]) == sealed.dek
    with pytest.raises(StrongroomError):
        wrap.unseal(blob, node.ephemeral, {**lease["info"], "replica_id": str(new_id())})
    with pytest.raises(StrongroomError):
        wrap.unseal(blob, wrap.generate_private_key(), lease["info"])
    release = KeyRelease.objects.get()
    assert (release.outcome, str(release.lease_id)) == ("released", lease["lease_id"])
    assert sealed.dek.hex() not in answer.text
    assert Lease.objects.get().expires_at - datetime.now(UTC) < timedelta(seconds=601)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"artifact_id": "fresh"}, 403, "not_assigned"),
        ({"replica_id": "fresh"}, 403, "not_assigned"),
        ({"purpose": "serve"}, 403, "not_assigned"),
        ({"loader_digest": "cd" * 32}, 403, "loader_not_allowed"),
        ({"evidence": {"type": "tdx"}}, 403, "evidence_insufficient"),
        ({"evidence": None}, 403, "evidence_insufficient"),
        ({"nonce": "made up"}, 409, "nonce_replayed"),
        ({"purpose": "steal"}, 422, "validation"),
        ({"ephemeral_public_key": "AAAA"}, 422, "validation"),
        ({"node_id": "fresh"}, 401, "signature_invalid"),
    ],
)
def test_a_wrong_request_is_refused_and_logged(
    broker: Broker,
    node: EnrolledNode,
    replica: Replica,
    changes: dict[str, Any],
    status: int,
    code: str,
) -> None:
    changes = {
        name: str(new_id()) if value == "fresh" else value for name, value in changes.items()
    }

    answer = broker.post("/v1/leases", node.request(broker, replica, **changes), token=None)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert_nothing_released()
    if code != "validation":
        assert refusals() == [code]


def test_a_nonce_works_once(broker: Broker, node: EnrolledNode, replica: Replica) -> None:
    request = node.request(broker, replica)

    first = broker.post("/v1/leases", request, token=None)
    second = broker.post("/v1/leases", request, token=None)

    assert first.status_code == 200
    assert (second.status_code, second.json()["code"]) == (409, "nonce_replayed")
    assert Lease.objects.count() == 1


def test_a_nonce_of_another_node_or_an_old_one_is_refused(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    other = enrol("node-2")
    stolen = node.request(broker, replica, nonce=other.nonce(broker))
    late = node.request(broker, replica)
    LeaseChallenge.objects.filter(nonce=late["nonce"]).update(
        expires_at=datetime(2020, 1, 1, tzinfo=UTC)
    )

    for request in (stolen, late):
        assert broker.post("/v1/leases", request, token=None).json()["code"] == "nonce_replayed"


def test_a_request_changed_after_signing_is_refused(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    request = node.request(broker, replica)
    thief = wrap.derive_public_key(wrap.generate_private_key())
    request["ephemeral_public_key"] = encode_base64(thief)

    answer = broker.post("/v1/leases", request, token=None)

    assert (answer.status_code, answer.json()["code"]) == (401, "signature_invalid")
    assert not Lease.objects.exists()


def test_another_enrolled_node_gets_nothing(
    broker: Broker, replica: Replica, node: EnrolledNode
) -> None:
    other = enrol("node-2")

    answer = broker.post("/v1/leases", other.request(broker, replica), token=None)

    assert (answer.status_code, answer.json()["code"]) == (403, "not_assigned")
    assert_nothing_released()


def test_a_revoked_node_gets_nothing(broker: Broker, node: EnrolledNode, replica: Replica) -> None:
    Node.objects.update(revoked_at=datetime.now(UTC))

    answer = broker.post("/v1/leases", node.request(broker, replica), token=None)

    assert (answer.status_code, answer.json()["code"]) == (403, "node_revoked")


@pytest.mark.parametrize(
    ("purpose", "state", "code"),
    [
        ("scan", "approved", "version_not_approved"),
        ("scan", "withdrawn", "version_not_approved"),
        ("serve", "onboarding", "version_not_approved"),
        ("serve", "in_review", "version_not_approved"),
        ("serve", "refused", "version_not_approved"),
        ("serve", "approved", None),
    ],
)
def test_the_versions_state_decides(
    broker: Broker,
    node: EnrolledNode,
    replica: Replica,
    purpose: str,
    state: str,
    code: str | None,
) -> None:
    ModelVersion.objects.update(state=state)
    Replica.objects.update(purpose=purpose)
    replica.refresh_from_db()

    answer = broker.post("/v1/leases", node.request(broker, replica), token=None)

    assert answer.json().get("code") == code


def test_a_replica_that_is_not_wanted_any_more_gets_nothing(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    Replica.objects.update(wanted=False)

    answer = broker.post("/v1/leases", node.request(broker, replica), token=None)

    assert answer.json()["code"] == "not_assigned"


def test_another_versions_wrap_does_not_open(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    other = seal_version(broker, sealed.account, sealed.model, number=2)
    stolen = WrappedKey.objects.get(version=other.version)
    mine = WrappedKey.objects.filter(version=sealed.version)

    for changes in ({"blob": stolen.blob}, {"blob": stolen.blob, "kid": stolen.kid}):
        mine.update(**changes)
        answer = broker.post("/v1/leases", node.request(broker, replica), token=None)
        assert (answer.status_code, answer.json()["code"]) == (422, "key_wrap_invalid")
        check = broker.post("/v1/upload-keys/check", {"artifact_id": str(sealed.version.pk)})
        assert (check.status_code, check.json()["code"]) == (422, "key_wrap_invalid")
    # Written is that it was refused, and nothing else; a check asks for no key.
    assert_nothing_released()
    assert refusals() == ["key_wrap_invalid", "key_wrap_invalid"]


def test_a_key_that_cannot_be_sealed_is_refused_without_a_lease(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    # A point of small order: well-formed, and only found when the key is sealed to it.
    request = node.request(broker, replica, ephemeral_public_key=encode_base64(bytes(32)))

    answer = broker.post("/v1/leases", request, token=None)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert_nothing_released()
    assert refusals() == ["validation"]


def test_check_proves_that_the_key_fits_the_files(broker: Broker, sealed: SealedVersion) -> None:
    body = {"artifact_id": str(sealed.version.pk)}
    assert broker.post("/v1/upload-keys/check", body).json() == {"ok": True}

    # A well-formed wrap of some other key: it opens, and fits no header.
    wrapped = wrap.wrap_dek(
        os.urandom(32),
        artifact_id=str(sealed.version.pk),
        recipient="platform",
        kid=sealed.kem["kid"],
        public_key=decode_base64(sealed.kem["public_key"]),
    )
    WrappedKey.objects.update(blob=encode_base64(wrapped.blob))

    answer = broker.post("/v1/upload-keys/check", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "header_tag_invalid")


def test_upload_keys_are_signed_and_stay_the_same(broker: Broker, sealed: SealedVersion) -> None:
    platform = broker.post("/v1/upload-keys/check", {}, token=None)
    assert platform.status_code == 401
    key = broker.get("/v1/platform-key")
    payload = signature.upload_key_payload(
        upload_id=str(sealed.upload_id),
        artifact_id=str(sealed.version.pk),
        **{name: sealed.kem[name] for name in ("kid", "suite", "public_key", "expires_at")},
    )
    signature.verify(
        decode_base64(key["public_key"]),
        signature.UPLOAD_KEY_TYPE,
        payload,
        decode_base64(sealed.kem["signature"]),
    )
    again = broker.post(
        "/v1/upload-keys",
        {
            "upload_id": str(sealed.upload_id),
            "artifact_id": str(sealed.version.pk),
            "account_id": str(sealed.account.pk),
            "model_id": str(sealed.model.pk),
            "expires_at": "2030-01-01T00:00:00+00:00",
        },
    )
    assert again.json() == sealed.kem


def test_renew_moves_the_end_and_stops_when_the_replica_is_unwanted(
    broker: Broker, node: EnrolledNode, replica: Replica
) -> None:
    lease = broker.post("/v1/leases", node.request(broker, replica), token=None).json()
    Lease.objects.update(expires_at=datetime.now(UTC) + timedelta(seconds=5))
    path = f"/v1/leases/{lease['lease_id']}/renew"

    def renew() -> Any:
        body = node.sign({"node_id": str(node.row.pk), "nonce": node.nonce(broker)})
        return broker.post(path, body, token=None)

    assert renew().status_code == 200
    assert Lease.objects.get().expires_at > datetime.now(UTC) + timedelta(seconds=500)

    Replica.objects.update(wanted=False)
    answer = renew()
    assert (answer.status_code, answer.json()["code"]) == (403, "lease_lost")
    assert Lease.objects.get().ended_at is not None
    ended = KeyRelease.objects.get(outcome="ended")
    assert (ended.reason_code, str(ended.lease_id)) == ("not_assigned", lease["lease_id"])
    assert ended.lease_expires_at == Lease.objects.get().ended_at

    Replica.objects.update(wanted=True)
    assert renew().json()["code"] == "lease_lost"


def test_release_ends_the_lease(broker: Broker, node: EnrolledNode, replica: Replica) -> None:
    lease = broker.post("/v1/leases", node.request(broker, replica), token=None).json()
    body = node.sign({"node_id": str(node.row.pk), "nonce": node.nonce(broker)})

    assert broker.post(f"/v1/leases/{lease['lease_id']}/release", body, token=None).json() == {}

    assert Lease.objects.get().ended_at is not None
    log = KeyRelease.objects.order_by("seq").values_list("outcome", "reason_code")
    assert list(log) == [("released", ""), ("ended", "given_back")]


@pytest.mark.parametrize("action", ["renew", "release"])
def test_another_node_neither_renews_nor_releases_a_lease(
    broker: Broker, node: EnrolledNode, replica: Replica, action: str
) -> None:
    lease = broker.post("/v1/leases", node.request(broker, replica), token=None).json()
    before = list(Lease.objects.values()), list(KeyRelease.objects.values())
    other = enrol("node-2")
    path = f"/v1/leases/{lease['lease_id']}/{action}"

    def call(signer: EnrolledNode, named: EnrolledNode) -> tuple[int, str]:
        body = {"node_id": str(named.row.pk), "nonce": named.nonce(broker)}
        answer = broker.post(path, signer.sign(body), token=None)
        return answer.status_code, answer.json().get("code")

    assert call(other, other) == (403, "lease_lost")
    # Nor in the name of the node that has it.
    assert call(other, node) == (401, "signature_invalid")
    assert (list(Lease.objects.values()), list(KeyRelease.objects.values())) == before
    assert call(node, node) == (200, None)


@pytest.mark.parametrize("action", ["renew", "release"])
@pytest.mark.parametrize(
    ("lease_id", "status"), [(str(UUID(int=0)), 403), ("-" * 36, 404), ("0" * 36, 404)]
)
def test_a_lease_that_never_was_is_lost(
    broker: Broker, node: EnrolledNode, action: str, lease_id: str, status: int
) -> None:
    body = node.sign({"node_id": str(node.row.pk), "nonce": node.nonce(broker)})

    assert broker.post(f"/v1/leases/{lease_id}/{action}", body, token=None).status_code == status


def test_a_destroyed_key_is_gone(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    LocalKms(broker.kms_dir).destroy(f"model-{sealed.model.pk}")

    answer = broker.post("/v1/leases", node.request(broker, replica), token=None)

    assert (answer.status_code, answer.json()["code"]) == (410, "shredded")
    assert_nothing_released()


@pytest.mark.parametrize(
    ("_case", "content", "status"),
    [
        ("not JSON", b"{", 400),
        ("not an object", b"[1]", 400),
        ("too large", b'"' + b"x" * (256 * 1024) + b'"', 413),
    ],
)
def test_unreadable_bodies(broker: Broker, _case: str, content: bytes, status: int) -> None:
    with broker.client() as client:
        answer = client.post("/v1/leases/challenge", content=content)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_broker_cannot_touch_money_or_accounts(
    transactional_db: None, database_urls: dict[str, str]
) -> None:
    with psycopg.connect(database_urls["keybroker"], autocommit=True) as database:
        for statement in (
            "SELECT * FROM marketplace_user",
            "SELECT * FROM billing_ledgeraccount",
            "UPDATE inference_replica SET wanted = true",
            "UPDATE marketplace_modelversion SET state = 'approved'",
            "DELETE FROM inference_keyrelease",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                database.execute(statement)


def test_secrets_are_not_in_the_log(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    broker.post("/v1/leases", node.request(broker, replica), token=None)
    broker.post("/v1/leases", node.request(broker, replica, loader_digest="x"), token=None)

    text = broker.log_path.read_text()
    assert "loader_not_allowed" in text
    for secret in (sealed.dek.hex(), encode_base64(sealed.dek), "t" * 40):
        assert secret not in text
