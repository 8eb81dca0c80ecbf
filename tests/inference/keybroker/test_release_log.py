"""The release log as a real broker writes it: whole, signed, in a chain per version."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from django.db import connection

from inference.errors import KeyBrokerUnavailableError, ReleaseLogTooLongError
from inference.models import KeyRelease, Lease, Replica
from inference.selectors import release_log as entries
from inference.services import keybroker_client, platform
from inference.services import release_log as services
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import new_id
from marketplace.models import AuditEvent, ModelVersion
from strongroom.sealing import release_log
from strongroom.sealing.canonical import decode_base64
from tests.inference.keybroker.conftest import (
    TOKEN,
    Broker,
    EnrolledNode,
    SealedVersion,
    enrol,
    start_broker,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def web(broker: Broker, settings: Any) -> Any:
    """The web's side, which asks this broker."""
    settings.KEYBROKER_URL, settings.KEYBROKER_TOKEN = broker.url, TOKEN
    settings.KEYBROKER_CA = str(broker.ca)
    yield settings
    keybroker_client._client().close()
    keybroker_client._client.cache_clear()
    platform._cached = None


def platform_key(broker: Broker) -> bytes:
    return decode_base64(platform.get_platform()["platform_key"]["public_key"])


def ask(broker: Broker, node: EnrolledNode, replica: Replica, **changes: Any) -> Any:
    return broker.post("/v1/leases", node.request(broker, replica, **changes), token=None)


def end(broker: Broker, node: EnrolledNode, lease_id: str) -> Any:
    body = node.sign({"node_id": str(node.row.pk), "nonce": node.nonce(broker)})
    return broker.post(f"/v1/leases/{lease_id}/release", body, token=None)


def as_insider(table: str, statement: str, *values: str) -> None:
    """What the owner of the tables can do: the guard is only a trigger."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        cursor.execute(statement, values or None)
        cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


def listed(artifact_id: UUID | None) -> list[tuple[str, str]]:
    return list(entries.list_entries(artifact_id).values_list("outcome", "reason_code"))


def test_the_log_of_a_version_is_whole_and_can_be_checked_offline(
    broker: Broker, web: Any, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    lease = ask(broker, node, replica).json()
    assert ask(broker, node, replica, loader_digest="cd" * 32).status_code == 403
    assert end(broker, node, lease["lease_id"]).status_code == 200
    assert end(broker, node, lease["lease_id"]).status_code == 200

    document = services.export(sealed.version)

    found = release_log.verify_export(
        document, [platform_key(broker)], version_id=str(sealed.version.pk)
    )
    assert (found.entries, found.released, found.refused) == (3, 1, 1)
    assert listed(sealed.version.pk) == [
        ("released", ""),
        ("refused", "loader_not_allowed"),
        ("ended", "given_back"),
    ]
    first = document["entries"][0]
    assert (first["node_name"], first["purpose"], first["evidence"]) == (
        "node-1",
        "scan",
        "none-dev",
    )
    assert datetime.fromisoformat(first["lease_expires_at"]) == datetime.fromisoformat(
        lease["expires_at"]
    )
    assert sealed.dek.hex() not in str(document)


@pytest.mark.parametrize("_case", ["stranger", "unknown version"])
def test_nobody_writes_into_the_log_of_a_version_who_is_not_a_node_with_that_version(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, replica: Replica, _case: str
) -> None:
    if _case == "stranger":
        stranger = EnrolledNode(node.row, enrol("other").private_key)
        answer = ask(broker, stranger, replica)
        assert answer.json()["code"] == "signature_invalid"
    else:
        answer = ask(broker, node, replica, artifact_id=str(new_id()))
        assert answer.json()["code"] == "not_assigned"

    assert [code for _, code in listed(None)] == [answer.json()["code"]]
    assert KeyRelease.objects.count() == 1
    call_command("release_log_check")


def test_a_lease_that_ran_out_without_a_word_is_in_the_log(
    broker: Broker, web: Any, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    lease = ask(broker, node, replica).json()
    end_of_it = datetime.now(UTC) - timedelta(seconds=5)
    Lease.objects.update(expires_at=end_of_it)

    document = services.export(sealed.version)

    last = document["entries"][-1]
    assert (last["outcome"], last["reason_code"]) == ("ended", "lease_expired")
    assert last["lease_id"] == lease["lease_id"]
    assert datetime.fromisoformat(last["lease_expires_at"]) == end_of_it
    assert len(services.export(sealed.version)["entries"]) == 2


def test_the_export_of_a_shredded_version_holds_the_proof(
    broker: Broker, web: Any, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    ask(broker, node, replica)
    ModelVersion.objects.filter(pk=sealed.version.pk).update(state="withdrawn")
    wanted = {"artifact_ids": [str(sealed.version.pk)], "by": "ada", "reason": "leaked"}
    answer = broker.post("/v1/shred", {"model_id": str(sealed.model.pk), **wanted})
    assert answer.status_code == 200, answer.text

    document = services.export(sealed.version)

    found = release_log.verify_export(document, [platform_key(broker)])
    assert found.shredded_at == answer.json()["shreds"][0]["at"]
    assert listed(sealed.version.pk) == [("released", ""), ("ended", "shredded")]
    document["shreds"][0]["reason"] = "another"
    with pytest.raises(release_log.ReleaseLogError, match="not signed"):
        release_log.verify_export(document, [platform_key(broker)])


def test_requests_at_the_same_time_stay_in_one_chain(
    broker: Broker, web: Any, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    requests = [node.request(broker, replica) for _ in range(12)]

    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda body: broker.post("/v1/leases", body, token=None).status_code, requests)
        )

    assert answers == [200] * 12
    document = services.export(sealed.version)
    assert release_log.verify_export(document, [platform_key(broker)]).released == 12


INSIDER = {
    "altered": "UPDATE inference_keyrelease SET node_name = 'other' WHERE seq = 2",
    "moved": "UPDATE inference_keyrelease SET seq = seq + 10 WHERE seq >= 2",
    "removed": "DELETE FROM inference_keyrelease WHERE seq = 2",
    "renumbered": "DELETE FROM inference_keyrelease WHERE seq = 2;"
    " UPDATE inference_keyrelease SET seq = seq - 1 WHERE seq > 2",
}


@pytest.mark.parametrize("case", list(INSIDER))
def test_what_an_insider_does_to_the_log_is_found_at_its_place(
    broker: Broker,
    web: Any,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
    case: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(3):
        ask(broker, node, replica)
    call_command("release_log_check")
    assert "ok     3 entries" in capsys.readouterr().out
    as_insider("inference_keyrelease", INSIDER[case])

    with pytest.raises(SystemExit):
        call_command("release_log_check")

    assert f"BROKEN at entry 2 of version {sealed.version.pk}" in capsys.readouterr().out
    with pytest.raises(release_log.ReleaseLogError) as refused:
        release_log.verify_export(services.export(sealed.version), [platform_key(broker)])
    assert refused.value.seq == 2


def test_what_is_cut_off_after_an_anchor_is_missed(
    broker: Broker,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        ask(broker, node, replica)
    assert services.anchor() == 1
    assert services.anchor() == 0
    ask(broker, node, replica)
    assert services.anchor() == 1
    assert AuditEvent.objects.filter(action="release_log.anchor").count() == 2
    call_command("release_log_check")
    call_command("audit_check")
    as_insider("inference_keyrelease", "DELETE FROM inference_keyrelease WHERE seq = 3")
    # The negative control: what is left is a right chain by itself.
    assert entries.find_first_break() is None

    with pytest.raises(SystemExit):
        call_command("release_log_check")

    assert f"CUT OFF at entry 3 of version {sealed.version.pk}" in capsys.readouterr().out


def test_a_key_that_is_asked_for_unusually_often_raises_one_alarm_and_stops_nobody(
    broker: Broker,
    database_urls: dict[str, str],
    tmp_path: Path,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
) -> None:
    broker.process.terminate()
    broker.process.wait(10)
    setting = {"STRONGROOM_KEYBROKER_RELEASE_ALARM_PER_HOUR": "3"}
    watchful = start_broker(tmp_path, database_urls["keybroker"], **setting)
    try:
        for _ in range(3):
            assert ask(watchful, node, replica).status_code == 200
        assert ("alarm", "release_rate") not in listed(sealed.version.pk)
        for _ in range(3):
            assert ask(watchful, node, replica).status_code == 200
    finally:
        watchful.process.terminate()
        watchful.process.wait(10)

    assert listed(sealed.version.pk) == [
        *[("released", "")] * 4,
        ("alarm", "release_rate"),
        *[("released", "")] * 2,
    ]
    assert f"alarm: version {sealed.version.pk}" in watchful.log_path.read_text()


def test_refusals_count_for_the_alarm_too(
    broker: Broker,
    database_urls: dict[str, str],
    tmp_path: Path,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
) -> None:
    broker.process.terminate()
    broker.process.wait(10)
    setting = {"STRONGROOM_KEYBROKER_RELEASE_ALARM_PER_HOUR": "1"}
    watchful = start_broker(tmp_path, database_urls["keybroker"], **setting)
    try:
        for _ in range(2):
            ask(watchful, node, replica, loader_digest="cd" * 32)
    finally:
        watchful.process.terminate()
        watchful.process.wait(10)

    assert listed(sealed.version.pk)[-1] == ("alarm", "release_rate")


def test_a_log_nobody_asked_for_and_a_broker_that_is_away(
    broker: Broker, web: Any, sealed: SealedVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError) as refused:
        services.export(sealed.version)
    assert refused.value.code == "not_found"
    web.KEYBROKER_URL = "http://127.0.0.1:9"
    with pytest.raises(KeyBrokerUnavailableError):
        services.export(sealed.version)


@pytest.mark.parametrize(("limit", "is_exported"), [(2, True), (1, False)])
def test_an_export_has_a_limit(
    broker: Broker,
    web: Any,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
    is_exported: bool,
) -> None:
    monkeypatch.setattr(services, "EXPORT_ENTRIES_MAX", limit)
    for _ in range(2):
        ask(broker, node, replica)

    if is_exported:
        assert len(services.export(sealed.version)["entries"]) == 2
    else:
        with pytest.raises(ReleaseLogTooLongError):
            services.export(sealed.version)


def test_only_the_web_may_ask_for_a_checkpoint(broker: Broker, sealed: SealedVersion) -> None:
    body = {"artifact_id": str(sealed.version.pk)}

    assert broker.post("/v1/release-log/checkpoint", body, token=None).status_code == 401
    assert broker.post("/v1/release-log/checkpoint", body, token="x" * 40).status_code == 401
    assert broker.post("/v1/release-log/checkpoint", {}).status_code == 422


@pytest.mark.parametrize(
    ("demanded", "status"), [(None, 200), ("none-dev", 200), ("tpm", 403), ("tdx+nvidia", 403)]
)
def test_a_creators_demand_for_evidence_is_heeded(
    broker: Broker,
    node: EnrolledNode,
    sealed: SealedVersion,
    replica: Replica,
    demanded: str | None,
    status: int,
) -> None:
    if demanded is not None:
        # Where the member stands in canonical JSON.
        after = '"publish_channel"'
        as_insider(
            "inference_artifact",
            "UPDATE inference_artifact SET manifest = replace(manifest, %s, %s)",
            after,
            f'"policy":{{"evidence":"{demanded}"}},{after}',
        )

    answer = ask(broker, node, replica)

    assert answer.status_code == status, answer.text
    if status == 403:
        assert answer.json()["code"] == "evidence_insufficient"
        assert listed(sealed.version.pk) == [("refused", "evidence_insufficient")]
        assert not Lease.objects.exists()
