"""The custody page: who was given a version's key, for its creator's eyes only."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from inference.models import Artifact, KeyRelease, KeyShred, Lease, Node, Replica
from inference.selectors import custody, release_log
from inference.services import keybroker_client
from inference.views.custody import ENTRIES_SHOWN
from marketplace.core.ids import new_id
from marketplace.models import ModelVersion
from tests.factories import UserFactory

FILES = {"model.onnx": b"weights" * 1000}


@pytest.fixture
def version(creator, model) -> ModelVersion:
    return ModelVersion.objects.get(pk=creator.push("acme/digits", FILES)["id"])


def path(version: ModelVersion, page: str = "custody") -> str:
    return f"/dashboard/models/{version.model}/versions/{version.number}/{page}"


def write(version: ModelVersion, seq: int, outcome: str = "released", **fields: Any) -> KeyRelease:
    return KeyRelease.objects.create(
        artifact_id=version.pk,
        seq=seq,
        at=timezone.now(),
        outcome=outcome,
        node_name="gpu-7",
        purpose="serve",
        evidence="tpm 0123456789abcdef",
        hash="00" * 32,
        **fields,
    )


def hold(version: ModelVersion, **report: Any) -> Replica:
    node = Node.objects.create(
        name="gpu-7", public_key="", token_digest=b"1", triton_http_url="", triton_grpc_url=""
    )
    replica = Replica.objects.create(
        version=version, node=node, purpose="serve", state="ready", report=report
    )
    now = timezone.now()
    Lease.objects.create(
        node_id=node.pk,
        replica_id=replica.pk,
        artifact_id=version.pk,
        purpose="serve",
        issued_at=now,
        expires_at=now + timedelta(minutes=10),
    )
    return replica


def test_before_anybody_asked(owner_client: Client, version: ModelVersion) -> None:
    text = owner_client.get(path(version)).content.decode()

    assert "Nobody has asked for the key yet" in text
    assert "Loaded nowhere" in text
    assert "your own recovery key" in text
    assert "Export the log" not in text


def test_the_log_and_the_live_replicas_are_shown(
    owner_client: Client, version: ModelVersion
) -> None:
    write(version, 1, lease_expires_at=timezone.now())
    write(version, 2, "refused", reason_code="loader_not_allowed")
    hold(version, load={"sandbox": {"landlock_abi": 7}, "locked": True, "swap": False})

    text = owner_client.get(path(version)).content.decode()

    assert text.index("loader_not_allowed") < text.index("Released")
    assert "tpm 0123456789abcdef" in text
    assert "Landlock and seccomp, memory locked" in text
    assert "no key held" not in text
    assert "unusually often" not in text


def test_what_is_withdrawn_is_followed_until_it_is_loaded_nowhere(
    owner_client: Client, version: ModelVersion
) -> None:
    ended_at = timezone.now() - timedelta(days=400)
    ModelVersion.objects.filter(pk=version.pk).update(state="withdrawn")
    replica = hold(version)

    leaving = owner_client.get(path(version)).content.decode()
    Replica.objects.filter(pk=replica.pk).update(state="unloaded")
    write(version, 1, "ended", reason_code="given_back", lease_expires_at=ended_at)
    gone = owner_client.get(path(version)).content.decode()

    assert "1 copy is being unloaded" in leaving
    assert "every 3s" in leaving
    assert "loaded nowhere" in gone
    assert f"{ended_at:%Y-%m-%d %H:%M:%S} UTC (entry 1)" in gone
    assert "every 3s" not in gone


def test_an_alarm_stands_out(owner_client: Client, version: ModelVersion) -> None:
    write(version, 1, "alarm", reason_code="release_rate")

    assert "unusually often" in owner_client.get(path(version)).content.decode()


def test_a_long_log_has_pages(owner_client: Client, version: ModelVersion) -> None:
    for seq in range(1, ENTRIES_SHOWN + 2):
        write(version, seq)

    first = owner_client.get(path(version)).content.decode()
    second = owner_client.get(path(version) + "?page=2").content.decode()

    assert f'<td class="num">{ENTRIES_SHOWN + 1}</td>' in first
    assert '<td class="num">1</td>' not in first
    assert '<td class="num">1</td>' in second


@pytest.mark.parametrize("page", ["custody", "release-log"])
def test_it_is_nobody_elses_business(client: Client, version: ModelVersion, page: str) -> None:
    write(version, 1)
    assert client.get(path(version, page)).status_code == 302
    client.force_login(UserFactory())

    answer = client.get(path(version, page))

    assert answer.status_code == 403
    assert "gpu-7" not in answer.content.decode()
    assert client.get(f"/api/versions/{version.pk}/release-log").status_code == 404


def test_the_log_is_a_file(
    owner_client: Client, version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(version, 1)
    said = {"seq": 1, "hash": "00" * 32}
    monkeypatch.setattr(keybroker_client, "sign_checkpoint", lambda artifact_id: said)

    answer = owner_client.get(path(version, "release-log"))

    assert answer["Content-Disposition"].endswith('"acme-digits-1-release-log.json"')
    assert [one["node_name"] for one in answer.json()["entries"]] == ["gpu-7"]
    assert answer.json() == owner_client.get(f"/api/versions/{version.pk}/release-log").json()


def test_replicas_that_are_over_and_leases_that_ended_do_not_count(version: ModelVersion) -> None:
    replica = hold(version)
    Lease.objects.update(ended_at=timezone.now())
    assert [lease for _, lease in release_log.list_held_replicas(version.pk)] == [None]
    Lease.objects.update(ended_at=None, expires_at=timezone.now())
    assert [lease for _, lease in release_log.list_held_replicas(version.pk)] == [None]
    Replica.objects.filter(pk=replica.pk).update(state="unloaded")
    assert release_log.list_held_replicas(version.pk) == []
    assert release_log.list_held_replicas(new_id()) == []


def test_what_was_demanded_is_said_in_words(version: ModelVersion) -> None:
    assert custody.list_demands(None) == []
    assert custody.list_demands(version.artifact) == []
    assert custody.list_demands(Artifact(manifest="{}")) == []


@pytest.mark.parametrize(
    ("canary", "words"),
    [
        (None, ""),
        ("no canary", "no canary"),
        ({"asked": 0}, ""),
        ({"asked": 3, "right": 3, "healthy": True}, "right 3 of 3 times"),
        ({"asked": 9, "right": 4, "healthy": False}, "right 4 of 9 times; no answer lately"),
        (7, ""),
    ],
)
def test_canaries_are_told_as_the_node_reported_them(canary: Any, words: str) -> None:
    assert custody.describe_canary({"canary": canary}) == words


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ({}, ""),
        ({"load": {"left_out": True}}, ""),
        (
            {"load": {"sandbox": {"landlock_abi": 0}, "locked": True}},
            "seccomp alone, memory locked",
        ),
        (
            {"load": {"sandbox": {"landlock_abi": 7}, "locked": False, "swap": True}},
            "Landlock and seccomp, memory not locked (this node has swap)",
        ),
    ],
)
def test_confinement_is_told_as_the_loader_reported_it(report: Any, words: str) -> None:
    assert custody.describe_confinement(report) == words


def test_everybody_may_read_what_sealing_does_not_protect_from(client: Client, db: None) -> None:
    text = client.get("/sealing").content.decode()

    assert "What it does not protect from" in text
    assert "The platform&#x27;s operator" in text or "The platform's operator" in text


@pytest.fixture
def shredded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the key broker was asked to destroy."""
    asked: list[dict[str, Any]] = []

    def shred(**request: Any) -> None:
        asked.append(request)
        KeyShred.objects.create(
            model_id=request["model_id"],
            artifact_id=request["artifact_ids"][0],
            kek_refs=["model-1"],
            provider="local",
            by=request["by"],
            reason=request["reason"],
            at=timezone.now(),
            final_at=timezone.now(),
            signature="c2lnbmF0dXJl",
        )

    monkeypatch.setattr(keybroker_client, "shred", shred)
    return asked


def test_shredding_needs_the_name_and_a_reason(
    owner_client: Client, version: ModelVersion, shredded: list[dict[str, Any]]
) -> None:
    ModelVersion.objects.filter(pk=version.pk).update(state="withdrawn")
    assert "Shred …" in owner_client.get(path(version)).content.decode()
    assert "Nobody can take this back" in owner_client.get(path(version, "shred")).content.decode()

    for confirm, reason in (("acme/digits:2", "leaked"), ("acme/digits:1", ""), ("", "leaked")):
        body = {"confirm": confirm, "reason": reason}
        assert owner_client.post(path(version, "shred"), body).status_code == 422
    assert shredded == []
    body = {"confirm": "acme/digits:1", "reason": "leaked"}
    answer = owner_client.post(path(version, "shred"), body)

    assert (answer.status_code, answer["Location"]) == (302, path(version))
    assert [(one["artifact_ids"], one["reason"]) for one in shredded] == [([version.pk], "leaked")]
    page = owner_client.get(path(version)).content.decode()
    assert "Proof that the key was destroyed" in page
    assert "Shred …" not in page
    assert "nothing left to shred" in owner_client.get(path(version, "shred")).content.decode()


def test_what_may_still_be_served_is_not_shredded(
    owner_client: Client, version: ModelVersion, shredded: list[dict[str, Any]]
) -> None:
    body = {"confirm": "acme/digits:1", "reason": "leaked"}

    assert "Shred …" not in owner_client.get(path(version)).content.decode()
    assert "Withdraw it first" in owner_client.get(path(version, "shred")).content.decode()
    assert owner_client.post(path(version, "shred"), body).status_code == 422
    assert shredded == []


def test_strangers_shred_nothing(
    client: Client, version: ModelVersion, shredded: list[dict[str, Any]]
) -> None:
    ModelVersion.objects.filter(pk=version.pk).update(state="withdrawn")
    client.force_login(UserFactory())
    body = {"confirm": "acme/digits:1", "reason": "mine"}

    assert client.post(path(version, "shred"), body).status_code == 403
    assert shredded == []


def test_a_broker_that_is_away_is_said_so_and_nothing_is_recorded(
    owner_client: Client, version: ModelVersion, settings: Any
) -> None:
    ModelVersion.objects.filter(pk=version.pk).update(state="withdrawn")
    settings.KEYBROKER_URL = "http://127.0.0.1:9"
    body = {"confirm": "acme/digits:1", "reason": "leaked"}

    answer = owner_client.post(path(version, "shred"), body)

    assert answer.status_code == 422
    assert "key broker" in answer.content.decode()
    assert not KeyShred.objects.exists()
