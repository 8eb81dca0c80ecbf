"""Keys are replaced and destroyed, at whatever moment it is cut off, in each key store."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from django.utils import timezone

from inference.keybroker import shredding
from inference.keybroker.errors import KmsUnavailableError, ShreddedError
from inference.keybroker.generations import kek_ref, tombstone_ref
from inference.keybroker.kms import Kms, LocalKms
from inference.keybroker.platform_keys import PlatformKeys
from inference.keybroker.rotation import Rotation
from inference.keybroker.shredding import ARTIFACTS_MAX, Shredder, ShredRequest
from inference.keybroker.upload_keys import UploadKeys
from inference.models import KeyRelease, KeyShred, Lease, ModelKey, Replica, UploadKey
from inference.selectors.shredding import describe_shred
from marketplace.core import limits
from marketplace.core.errors import InvalidInputError
from marketplace.core.ids import new_id
from marketplace.models import Account, AIModel, ModelVersion
from strongroom.errors import StrongroomError
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import canonicalize, decode_base64
from strongroom.sealing.manifest import file_aad
from strongroom.sealing.suite import HYBRID, X25519
from tests.inference.keybroker import key_stores
from tests.inference.keybroker.conftest import (
    CONTENT,
    Broker,
    EnrolledNode,
    SealedVersion,
    enrol,
    seal_version,
    start_broker,
)
from tests.inference.keybroker.key_stores import AWS_IDENTITY, KeyStore
from tests.inference.keybroker.meddler import Answer

pytestmark = pytest.mark.django_db(transaction=True)

TABLES = ("inference_uploadkey", "inference_modelkey", "inference_keyshred", "inference_lease")
REASON = "The customer's contract has ended."


@pytest.fixture(params=key_stores.NAMES)
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KeyStore]:
    for name, value in AWS_IDENTITY.items():
        monkeypatch.setenv(name, value)
    with key_stores.provide(request.param, tmp_path) as store:
        yield store


@pytest.fixture
def held(
    transactional_db: None, database_urls: dict[str, str], tmp_path: Path, store: KeyStore
) -> Iterator[Broker]:
    """A broker whose keys are in the key store of the test."""
    running = start_broker(tmp_path, database_urls["keybroker"], **store.settings)
    yield running
    running.process.terminate()
    running.process.wait(10)


@dataclass
class Sealed:
    """A model with two versions that are served, one of which shall go."""

    gone: SealedVersion
    stays: SealedVersion
    node: EnrolledNode

    @property
    def model(self) -> AIModel:
        return self.gone.model

    def lease(self, broker: Broker, version: SealedVersion) -> httpx.Response:
        replica, _ = Replica.objects.get_or_create(
            version=version.version, node=self.node.row, purpose=Replica.Purpose.SERVE
        )
        Replica.objects.filter(pk=replica.pk).update(wanted=True)
        request = self.node.request(broker, replica)
        return broker.post("/v1/leases", request, token=None)

    def renew(self, broker: Broker, lease_id: str) -> httpx.Response:
        body = {"node_id": str(self.node.row.pk), "nonce": self.node.nonce(broker)}
        return broker.post(f"/v1/leases/{lease_id}/renew", self.node.sign(body), token=None)


def make_two(broker: Any) -> Sealed:
    account = Account.objects.create(slug="creator", name="Creator")
    model = AIModel.objects.create(account=account, name="echo", title="Echo")
    versions = [seal_version(broker, account, model, number=number) for number in (1, 2)]
    ModelVersion.objects.update(state=ModelVersion.State.APPROVED)
    return Sealed(*versions, node=enrol("node-1"))


def withdraw(*versions: SealedVersion) -> None:
    rows = ModelVersion.objects.filter(pk__in=[one.version.pk for one in versions])
    rows.update(state=ModelVersion.State.WITHDRAWN)


def shred(broker: Broker, model: AIModel, *versions: SealedVersion, **changes: Any) -> Any:
    ids = [str(one.version.pk) for one in versions] or None
    body = {"model_id": str(model.pk), "artifact_ids": ids, "by": "user:a@b.c", "reason": REASON}
    return broker.post("/v1/shred", body | changes)


def check(broker: Broker, version: SealedVersion) -> tuple[int, str | None]:
    answer = broker.post("/v1/upload-keys/check", {"artifact_id": str(version.version.pk)})
    return answer.status_code, answer.json().get("code")


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


def back_up(url: str) -> dict[str, list[tuple]]:
    with psycopg.connect(url, autocommit=True) as database:
        return {table: database.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}


def restore(url: str, backup: dict[str, list[tuple]]) -> None:
    """Put the broker's tables back as they were, as from last night's dump."""
    with psycopg.connect(url, autocommit=True) as database:
        for table, rows in backup.items():
            database.execute(f"TRUNCATE {table}")
            for row in rows:
                places = ", ".join(["%s"] * len(row))
                values = [psycopg.types.json.Jsonb(v) if isinstance(v, list) else v for v in row]
                database.execute(f"INSERT INTO {table} VALUES ({places})", values)
    ModelVersion.objects.update(state=ModelVersion.State.APPROVED)


OPEN, SHREDDED = (200, None), (410, "shredded")


class TestInEveryKeyStore:
    def test_a_shredded_version_is_lost_and_the_others_are_not(
        self, held: Broker, store: KeyStore, database_urls: dict[str, str]
    ) -> None:
        sealed = make_two(held)
        lease_id = sealed.lease(held, sealed.gone).json()["lease_id"]
        kept_id = sealed.lease(held, sealed.stays).json()["lease_id"]
        backup = back_up(database_urls["owner"])
        withdraw(sealed.gone)

        answer = shred(held, sealed.model, sealed.gone)

        assert answer.status_code == 200, answer.text
        assert check(held, sealed.gone) == SHREDDED
        assert told(sealed.lease(held, sealed.gone)) == SHREDDED
        assert told(sealed.renew(held, lease_id)) == SHREDDED
        assert check(held, sealed.stays) == OPEN
        assert told(sealed.renew(held, kept_id)) == OPEN
        assert told(sealed.lease(held, sealed.stays)) == OPEN
        row = UploadKey.objects.get(artifact_id=sealed.gone.version.pk)
        assert (row.sealed_private_key, row.shredded_at is not None) == (None, True)
        ended = KeyRelease.objects.filter(lease_id=lease_id, outcome="ended").get()
        assert ended.reason_code == "shredded"
        # Again: the same proof.
        assert shred(held, sealed.model, sealed.gone).json() == answer.json()
        assert_proof(held, store, answer.json()["shreds"][0])
        # Not even with last night's tables: nor can it be undone by uploading again.
        restore(database_urls["owner"], backup)
        assert check(held, sealed.gone) == SHREDDED
        assert told(sealed.lease(held, sealed.gone)) == SHREDDED
        third = seal_version(held, sealed.gone.account, sealed.model, number=3)
        assert check(held, third) == OPEN

    def test_a_shredded_model_is_lost_for_ever(
        self, held: Broker, store: KeyStore, database_urls: dict[str, str]
    ) -> None:
        sealed = make_two(held)
        backup = back_up(database_urls["owner"])
        empty = {table: [] for table in backup}
        withdraw(sealed.gone, sealed.stays)

        answer = shred(held, sealed.model)

        assert answer.status_code == 200, answer.text
        assert_proof(held, store, answer.json()["shreds"][0])
        assert not ModelKey.objects.filter(destroyed_at=None).exists()
        for tables in (None, backup, empty):
            if tables is not None:
                restore(database_urls["owner"], tables)
            if tables is not empty:
                for one in (sealed.gone, sealed.stays):
                    assert check(held, one) == SHREDDED
                    assert told(sealed.lease(held, one)) == SHREDDED
            # No other key is ever made for this model, whatever the database remembers.
            body = upload_body(sealed.model)
            assert told(held.post("/v1/upload-keys", body)) == SHREDDED
        other = AIModel.objects.create(account=sealed.gone.account, name="other", title="Other")
        assert told(held.post("/v1/upload-keys", upload_body(other))) == OPEN

    def test_a_restored_backup_opens_what_was_not_shredded(
        self, held: Broker, database_urls: dict[str, str]
    ) -> None:
        """The control of the two above."""
        sealed = make_two(held)
        backup = back_up(database_urls["owner"])
        UploadKey.objects.update(sealed_private_key=None, shredded_at=timezone.now())
        assert check(held, sealed.gone) == SHREDDED

        restore(database_urls["owner"], backup)

        assert check(held, sealed.gone) == OPEN

    def test_a_rotation_moves_every_key_pair(
        self, held: Broker, store: KeyStore, database_urls: dict[str, str], tmp_path: Path
    ) -> None:
        sealed = make_two(held)
        before = {bytes(one) for one in UploadKey.objects.values_list("sealed_private_key", flat=1)}

        done = rotate_by_command(held, store, database_urls, tmp_path)

        assert done.returncode == 0, done.stderr
        assert "1 models rotated, 2 key pairs moved, 0 lost before, 0 failed" in done.stdout
        after = {bytes(one) for one in UploadKey.objects.values_list("sealed_private_key", flat=1)}
        assert not before & after
        assert set(UploadKey.objects.values_list("kek_ref", flat=True)) == {
            kek_ref(sealed.model.pk, 2)
        }
        assert store.open().is_destroyed(kek_ref(sealed.model.pk, 1))
        for one in (sealed.gone, sealed.stays):
            assert check(held, one) == OPEN
        third = seal_version(held, sealed.gone.account, sealed.model, number=3)
        assert UploadKey.objects.get(artifact_id=third.version.pk).kek_ref.endswith("-2")


def upload_body(model: AIModel) -> dict[str, str]:
    ids = {name: str(new_id()) for name in ("upload_id", "artifact_id", "account_id")}
    expires_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    return ids | {"model_id": str(model.pk), "expires_at": expires_at}


def rotate_by_command(
    broker: Broker, store: KeyStore, database_urls: dict[str, str], folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **broker.environment,
        "STRONGROOM_ENV": "production",
        **store.settings,
    }
    command = [sys.executable, "-m", "inference.keybroker", "rotate-keks", *options]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def assert_proof(broker: Broker, store: KeyStore, proof: dict[str, Any]) -> None:
    """It is signed by the platform, kept as it was answered, and true."""
    row = KeyShred.objects.get(pk=proof["id"])
    assert describe_shred(row) == proof
    said = {name: value for name, value in proof.items() if name != "signature"}
    public_key = decode_base64(broker.get("/v1/platform-key")["public_key"])
    signed = decode_base64(proof["signature"])
    signature.verify(public_key, signature.SHRED_TYPE, canonicalize(said), signed)
    forged = canonicalize(said | {"reason": "another"})
    with pytest.raises(StrongroomError):
        signature.verify(public_key, signature.SHRED_TYPE, forged, signed)
    assert (proof["provider"], proof["by"], proof["reason"]) == (store.name, "user:a@b.c", REASON)
    kms = store.open()
    assert proof["kek_refs"]
    assert all(kms.is_destroyed(ref) for ref in proof["kek_refs"])
    days = (row.final_at - row.at) / timedelta(days=1)
    assert 6.9 < days < 7.1 if store.name == "aws" else abs(days) < 0.001


@pytest.mark.parametrize("table", ["inference_keyshred"])
def test_nobody_changes_a_proof(broker: Broker, table: str, database_urls: dict[str, str]) -> None:
    sealed = make_two(broker)
    withdraw(sealed.gone)
    assert shred(broker, sealed.model, sealed.gone).status_code == 200

    for role in ("app", "gateway", "keybroker", "owner"):
        for statement in (f"UPDATE {table} SET reason = 'x'", f"DELETE FROM {table}"):
            with (
                psycopg.connect(database_urls[role], autocommit=True) as database,
                pytest.raises(psycopg.Error),
            ):
                database.execute(statement)


def test_the_creators_own_key_opens_what_was_shredded(broker: Broker) -> None:
    sealed = make_two(broker)
    version = sealed.gone
    recovery = wrap.generate_private_key()
    artifact_id = str(version.version.pk)
    own = wrap.wrap_dek(
        version.dek,
        artifact_id=artifact_id,
        recipient="creator",
        kid=wrap.derive_kid(wrap.derive_public_key(recovery)),
        public_key=wrap.derive_public_key(recovery),
    )
    aad = file_aad(artifact_id=artifact_id, path="model.onnx", plain_size_bytes=len(CONTENT))
    header, body = floe.seal_bytes(version.dek, aad, CONTENT)
    withdraw(version)

    assert shred(broker, sealed.model, version).status_code == 200

    dek = wrap.unwrap_dek(own, recovery, artifact_id=artifact_id)
    assert floe.open_bytes(dek, aad, header, body) == CONTENT


# --- What is refused ---


@pytest.mark.parametrize("state", ["uploading", "onboarding", "in_review", "approved"])
def test_what_could_be_served_is_not_shredded(broker: Broker, state: str) -> None:
    sealed = make_two(broker)
    withdraw(sealed.stays)
    ModelVersion.objects.filter(pk=sealed.gone.version.pk).update(state=state)

    assert told(shred(broker, sealed.model, sealed.gone)) == (409, "version_state")
    assert told(shred(broker, sealed.model)) == (409, "version_state")

    assert_untouched(broker, sealed)
    assert not LocalKms(broker.kms_dir).is_destroyed(tombstone_ref(sealed.model.pk))


@pytest.mark.parametrize("state", ["withdrawn", "refused", "failed"])
def test_what_can_not_be_served_is(broker: Broker, state: str) -> None:
    sealed = make_two(broker)
    ModelVersion.objects.filter(pk=sealed.gone.version.pk).update(state=state)

    assert shred(broker, sealed.model, sealed.gone).status_code == 200


def assert_untouched(broker: Broker, sealed: Sealed) -> None:
    assert [check(broker, one) for one in (sealed.gone, sealed.stays)] == [OPEN, OPEN]
    assert not KeyShred.objects.exists()
    assert ModelKey.objects.get().destroyed_at is None


@pytest.mark.parametrize(
    "changes",
    [
        {"model_id": "x"},
        {"artifact_ids": "x"},
        {"artifact_ids": []},
        {"artifact_ids": [None]},
        {"artifact_ids": [str(UUID(int=n)) for n in range(ARTIFACTS_MAX + 1)]},
        {"by": ""},
        {"by": "x" * (shredding.ACTOR_LENGTH_MAX + 1)},
        {"by": None},
        {"reason": "  "},
        {"reason": "x" * (limits.REASON_LENGTH_MAX + 1)},
        {"reason": "a\x00b"},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_malformed_request_changes_nothing(changes: dict[str, Any]) -> None:
    body = {"model_id": str(new_id()), "artifact_ids": None, "by": "a", "reason": "b"}

    with pytest.raises(InvalidInputError):
        ShredRequest.parse(body | changes)


def test_the_limits_themselves_are_accepted() -> None:
    request = ShredRequest.parse(
        {
            "model_id": str(new_id()),
            "artifact_ids": [str(UUID(int=n)) for n in range(ARTIFACTS_MAX)],
            "by": "x" * shredding.ACTOR_LENGTH_MAX,
            "reason": "x" * limits.REASON_LENGTH_MAX,
        }
    )
    assert len(request.artifact_ids) == ARTIFACTS_MAX


def test_only_the_web_may_ask_and_only_for_what_there_is(broker: Broker) -> None:
    sealed = make_two(broker)
    withdraw(sealed.gone)
    other = AIModel.objects.create(account=sealed.gone.account, name="other", title="Other")
    never = ModelVersion.objects.create(model=sealed.model, number=9, state="failed")

    body = {"model_id": str(sealed.model.pk), "artifact_ids": None, "by": "a", "reason": "b"}
    assert told(broker.post("/v1/shred", body, token=None)) == (401, "unauthenticated")
    assert told(broker.post("/v1/shred", body, token="x" * 40)) == (401, "unauthenticated")
    assert told(shred(broker, other, sealed.gone)) == (404, "not_found")
    assert told(shred(broker, sealed.model, artifact_ids=[str(never.pk)])) == (404, "not_found")
    assert_untouched(broker, sealed)


# --- At whatever moment it is cut off ---


class CrashError(Exception):
    """What is left of a process that was killed: nothing of ours runs after it."""


@dataclass
class Crash:
    """Ends the work after its n-th step: a call of the KMS, or a transaction."""

    steps_left: int
    steps: list[str] = field(default_factory=list)

    def step(self, name: str) -> None:
        self.steps.append(name)
        if self.steps_left == 0:
            raise CrashError(name)
        self.steps_left -= 1


class CrashingKms(Kms):
    def __init__(self, provider: Any, crash: Crash) -> None:
        super().__init__(provider)
        self._crash = crash

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        answer = await super()._run(call, *arguments)
        self._crash.step(call.__name__)
        return answer


@dataclass
class Workshop:
    """The broker's parts without its process."""

    url: str
    provider: LocalKms
    crash: Crash = field(default_factory=lambda: Crash(-1))

    @property
    def kms(self) -> Kms:
        return CrashingKms(self.provider, self.crash)

    @property
    def keys(self) -> UploadKeys:
        kms = self.kms
        return UploadKeys(kms, PlatformKeys(kms), X25519)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[psycopg.AsyncConnection]:
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            yield connection
        self.crash.step("transaction")

    async def open(self) -> None:
        """Make the platform's own keys, as a broker does when it starts."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            await PlatformKeys(Kms(self.provider)).ensure(connection)

    def rotate(self, model: AIModel) -> Any:
        rotation = Rotation(self.connect, self.kms, self.keys)
        return asyncio.run(rotation.rotate(model.pk))

    def shred(self, model: AIModel, *versions: SealedVersion) -> Any:
        ids = tuple(one.version.pk for one in versions) or None
        shredder = Shredder(self.connect, self.kms, self.keys)
        return asyncio.run(shredder.shred(ShredRequest(model.pk, ids, "a", "b")))

    def opens(self, version: SealedVersion) -> bool:
        async def run() -> bytes:
            async with await psycopg.AsyncConnection.connect(self.url) as connection:
                kms = Kms(self.provider)
                keys = UploadKeys(kms, PlatformKeys(kms), X25519)
                return bytes(await keys.open_dek(connection, version.version.pk))

        try:
            return asyncio.run(run()) == version.dek
        except ShreddedError:
            return False

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """As much of the broker as `seal_version` needs."""
        assert path == "/v1/upload-keys"

        async def run() -> dict[str, str]:
            async with await psycopg.AsyncConnection.connect(self.url) as connection:
                kms = Kms(self.provider)
                keys = UploadKeys(kms, PlatformKeys(kms), X25519)
                names = ("upload_id", "artifact_id", "account_id", "model_id")
                return await keys.make(
                    connection,
                    expires_at=datetime.fromisoformat(body["expires_at"]),
                    **{name: UUID(body[name]) for name in names},
                )

        return httpx.Response(200, json=asyncio.run(run()))


@pytest.fixture
def workshop(
    transactional_db: None,
    database_urls: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Workshop:
    # Hundreds of keys are made here, and no power is cut.
    monkeypatch.setattr("inference.keybroker.kms.local.os.fsync", lambda descriptor: None)
    workshop = Workshop(database_urls["keybroker"], LocalKms(tmp_path / "kms"))
    asyncio.run(workshop.open())
    return workshop


def two_in(workshop: Workshop, name: str) -> tuple[AIModel, SealedVersion, SealedVersion]:
    account, _ = Account.objects.get_or_create(slug="creator", name="Creator")
    model = AIModel.objects.create(account=account, name=name, title=name)
    gone, stays = (seal_version(workshop, account, model, number=one) for one in (1, 2))
    withdraw(gone)
    return model, gone, stays


def test_a_rotation_that_is_cut_off_anywhere_is_finished_by_the_next(workshop: Workshop) -> None:
    steps = 0
    while True:
        model, one, other = two_in(workshop, f"echo-{steps}")
        workshop.crash = Crash(steps)
        try:
            moved = workshop.rotate(model)
        except CrashError:
            assert workshop.opens(one)
            assert workshop.opens(other)
        else:
            break
        workshop.crash = Crash(-1)
        workshop.rotate(model)
        assert workshop.opens(one)
        assert workshop.opens(other)
        live = ModelKey.objects.filter(model_id=model.pk, destroyed_at=None)
        assert [row.kek_ref for row in live] == list(
            UploadKey.objects.filter(model_id=model.pk).values_list("kek_ref", flat=True).distinct()
        )
        for row in ModelKey.objects.filter(model_id=model.pk):
            assert workshop.provider.is_destroyed(row.kek_ref) == (row.destroyed_at is not None)
        steps += 1
    assert (moved.key_pairs, moved.destroyed, moved.lost) == (2, 1, 0)
    # So many places to be cut off at there are; fewer would mean that some were not tried.
    assert steps > 12


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_shred_that_is_cut_off_anywhere_is_finished_by_the_next(
    workshop: Workshop, is_whole: bool
) -> None:
    steps = 0
    while True:
        model, gone, stays = two_in(workshop, f"echo-{steps}")
        if is_whole:
            withdraw(stays)
        chosen = () if is_whole else (gone,)
        workshop.crash = Crash(steps)
        try:
            proofs = workshop.shred(model, *chosen)
        except CrashError:
            proofs = None
            assert is_whole or workshop.opens(stays)
        is_over, workshop.crash = proofs is not None, Crash(-1)
        if steps % 3 == 1 and not is_whole and not is_over:
            workshop.rotate(model)  # Somebody else comes between.
        again = workshop.shred(model, *chosen)
        assert proofs in (None, again)
        assert not workshop.opens(gone)
        assert workshop.opens(stays) == (not is_whole)
        assert len(again) == 1
        assert KeyShred.objects.filter(model_id=model.pk).count() == 1
        assert all(workshop.provider.is_destroyed(ref) for ref in again[0].kek_refs)
        if is_over:
            break
        steps += 1
    assert steps > 6


def test_a_key_store_that_lies_costs_no_key(workshop: Workshop) -> None:
    """It opens with what is not the pair's private half: nothing is moved or destroyed."""
    model, one, other = two_in(workshop, "echo")

    class Liar(LocalKms):
        def unwrap(self, *arguments: Any) -> bytes:
            return os.urandom(len(super().unwrap(*arguments)))

    honest = workshop.provider
    workshop.provider = Liar(honest._folder)
    with pytest.raises(KmsUnavailableError):
        workshop.rotate(model)
    with pytest.raises(KmsUnavailableError):
        workshop.shred(model, one)

    workshop.provider = honest
    assert workshop.opens(one)
    assert workshop.opens(other)
    assert not ModelKey.objects.exclude(destroyed_at=None).exists()


def test_a_damaged_pair_keeps_the_old_key_from_being_destroyed(workshop: Workshop) -> None:
    model, one, other = two_in(workshop, "echo")
    rows = UploadKey.objects.filter(artifact_id=one.version.pk)
    good = bytes(rows.get().sealed_private_key)
    rows.update(sealed_private_key=good[:-1] + bytes([good[-1] ^ 1]))

    with pytest.raises(Exception, match="does not open under") as caught:
        workshop.rotate(model)

    assert caught.value.code == "key_wrap_invalid"
    rows.update(sealed_private_key=good)
    assert workshop.opens(one)
    assert workshop.rotate(model).lost == 0
    assert workshop.opens(one)
    assert workshop.opens(other)


def test_after_a_restored_backup_the_model_takes_uploads_again(
    workshop: Workshop, database_urls: dict[str, str]
) -> None:
    """What the backup holds is lost with the keys of then; that is said, and work goes on."""
    model, one, _ = two_in(workshop, "echo")
    backup = back_up(database_urls["owner"])
    workshop.rotate(model)
    workshop.rotate(model)
    restore(database_urls["owner"], backup)

    assert not workshop.opens(one)
    third = seal_version(workshop, one.account, model, number=3)
    assert UploadKey.objects.get(artifact_id=third.version.pk).kek_ref.endswith("-3")
    assert workshop.opens(third)
    assert workshop.rotate(model).lost == 2
    assert workshop.opens(third)


def test_a_version_is_shredded_whose_key_was_destroyed_before(
    workshop: Workshop, database_urls: dict[str, str]
) -> None:
    model, gone, _ = two_in(workshop, "echo")
    backup = back_up(database_urls["owner"])
    workshop.rotate(model)
    restore(database_urls["owner"], backup)
    withdraw(gone)
    assert not workshop.opens(gone)

    [proof] = workshop.shred(model, gone)

    assert kek_ref(model.pk, 1) in proof.kek_refs
    assert UploadKey.objects.get(artifact_id=gone.version.pk).sealed_private_key is None


def test_a_version_of_a_shredded_model_has_a_proof_of_its_own_as_well(workshop: Workshop) -> None:
    model, gone, stays = two_in(workshop, "echo")
    withdraw(stays)
    [whole] = workshop.shred(model)

    [own] = workshop.shred(model, gone)

    assert own.kek_refs == whole.kek_refs
    assert own.artifact_id == gone.version.pk


def test_more_pairs_than_a_batch(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.keybroker.rotation.BATCH_SIZE", 3)
    model, one, _ = two_in(workshop, "echo")
    row = UploadKey.objects.get(artifact_id=one.version.pk)
    extra = [seal_version(workshop, one.account, model, number=number) for number in (3, 4, 5)]

    assert workshop.rotate(model).key_pairs == 5
    assert workshop.opens(extra[-1])
    row.refresh_from_db()
    assert row.kek_ref.endswith("-2")


def test_hybrid_pairs_are_moved_too(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.inference.keybroker.test_shredding.X25519", HYBRID)
    model, one, other = two_in(workshop, "echo")

    workshop.rotate(model)

    assert one.kem["suite"] == HYBRID.name
    assert workshop.opens(one)
    assert workshop.opens(other)


# --- While others work ---


def test_leases_go_on_during_a_rotation(
    broker: Broker, database_urls: dict[str, str], tmp_path: Path
) -> None:
    sealed = make_two(broker)
    told_by_checks: list[tuple[int, str | None]] = []
    is_over = threading.Event()

    def keep_checking() -> None:
        while not is_over.is_set():
            told_by_checks.append(check(broker, sealed.gone))

    workers = [threading.Thread(target=keep_checking) for _ in range(3)]
    for worker in workers:
        worker.start()
    workshop = Workshop(database_urls["keybroker"], LocalKms(broker.kms_dir))
    try:
        for _ in range(4):
            workshop.rotate(sealed.model)
    finally:
        is_over.set()
        for worker in workers:
            worker.join()

    assert set(told_by_checks) == {OPEN}
    assert ModelKey.objects.filter(destroyed_at=None).get().generation == 5


def test_uploads_and_rotations_at_once_lose_nothing(
    broker: Broker, database_urls: dict[str, str]
) -> None:
    sealed = make_two(broker)
    bodies = [upload_body(sealed.model) for _ in range(12)]
    answers: list[tuple[int, str | None]] = []

    def upload() -> None:
        answers.extend(told(broker.post("/v1/upload-keys", body)) for body in bodies)

    worker = threading.Thread(target=upload)
    worker.start()
    workshop = Workshop(database_urls["keybroker"], LocalKms(broker.kms_dir))
    while worker.is_alive():
        workshop.rotate(sealed.model)
    worker.join()

    assert set(answers) == {OPEN}
    used = set(UploadKey.objects.values_list("kek_ref", flat=True))
    assert not any(workshop.provider.is_destroyed(ref) for ref in used)


@pytest.mark.parametrize("store", ["vault"], indirect=True)
def test_a_key_store_that_hangs_keeps_nobody_else_waiting(held: Broker, store: KeyStore) -> None:
    sealed = make_two(held)
    lease_id = sealed.lease(held, sealed.stays).json()["lease_id"]
    count = ModelKey.objects.count(), UploadKey.objects.count(), Lease.objects.count()
    store.meddler.calls.clear()
    store.meddler.hold = threading.Event()
    answers: list[httpx.Response] = []

    def ask() -> None:
        body = {"artifact_id": str(sealed.gone.version.pk)}
        headers = {"Authorization": "Bearer " + "t" * 40}
        with held.client() as client:
            path = "/v1/upload-keys/check"
            answers.append(client.post(path, json=body, headers=headers, timeout=60))

    workers = [threading.Thread(target=ask) for _ in range(12)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 30
    while len(store.meddler.calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    # All of these come back while none of those has.
    for _ in range(5):
        assert sealed.renew(held, lease_id).status_code == 200
        assert held.get("/health") == {"status": "ok"}
    assert answers == []
    for worker in workers:
        worker.join()

    assert {told(one) for one in answers} == {(503, "kms_unavailable")}
    assert {one.headers["Retry-After"] for one in answers} == {"5"}
    assert count == (ModelKey.objects.count(), UploadKey.objects.count(), Lease.objects.count())
    store.meddler.hold.set()
    store.meddler.hold = None
    assert check(held, sealed.gone) == OPEN


@pytest.mark.parametrize("store", ["vault"], indirect=True)
def test_a_lease_that_the_key_store_kept_waiting_does_not_outlive_a_shred(
    held: Broker, store: KeyStore
) -> None:
    """The key was opened before the shred and would be handed out after it."""
    sealed = make_two(held)
    sealed.lease(held, sealed.stays)  # So that the next one is only a decryption.
    first, second = threading.Event(), threading.Event()

    def keep_waiting(called: str, real: Answer) -> None:
        if store.decrypt_call in called and not first.is_set():
            first.set()
            assert second.wait(30)

    answers: list[httpx.Response] = []
    worker = threading.Thread(target=lambda: answers.append(sealed.lease(held, sealed.gone)))
    store.meddler.change = keep_waiting
    worker.start()
    assert first.wait(30)
    # As the last step of a shred in another process would.
    UploadKey.objects.filter(artifact_id=sealed.gone.version.pk).update(
        sealed_private_key=None, shredded_at=timezone.now()
    )
    second.set()
    worker.join()

    assert [told(one) for one in answers] == [SHREDDED]
    assert not Lease.objects.filter(artifact_id=sealed.gone.version.pk).exists()


# --- The command ---


@pytest.mark.parametrize("store", ["local"], indirect=True)
def test_the_command_says_what_it_could_not_do(
    held: Broker, store: KeyStore, database_urls: dict[str, str], tmp_path: Path
) -> None:
    sealed = make_two(held)
    unknown = str(new_id())

    done = rotate_by_command(
        held, store, database_urls, tmp_path, "--model", unknown, "--model", str(sealed.model.pk)
    )

    assert done.returncode == 1
    assert f"{unknown}: has no key" in done.stdout
    assert "1 models rotated, 2 key pairs moved, 0 lost before, 1 failed" in done.stdout
    for options, word in ((["--model", "x"], "invalid UUID"), ([], "")):
        wrong = rotate_by_command(held, store, database_urls, tmp_path, *options)
        assert (wrong.returncode, word in wrong.stderr) == (2 if options else 0, True)
    store.settings["STRONGROOM_KEYBROKER_KMS"] = "gcp"
    wrong = rotate_by_command(held, store, database_urls, tmp_path)
    assert (wrong.returncode, "one of local, vault, aws" in wrong.stderr) == (2, True)


# --- Suspension ---


@pytest.mark.parametrize("whose", ["model", "account"])
def test_what_is_suspended_gets_no_lease_and_no_renewal(broker: Broker, whose: str) -> None:
    sealed = make_two(broker)
    lease_id = sealed.lease(broker, sealed.stays).json()["lease_id"]
    subject = sealed.model if whose == "model" else sealed.gone.account
    subject.suspended_at = timezone.now()
    subject.save()
    # Although the desired state wanted it, as it would before the worker has looked.
    Replica.objects.update(wanted=True)

    assert told(sealed.lease(broker, sealed.stays)) == (403, "version_not_approved")
    Replica.objects.update(wanted=True)
    assert told(sealed.renew(broker, lease_id)) == (403, "lease_lost")
    assert Lease.objects.filter(pk=lease_id, ended_at=None).count() == 0

    subject.suspended_at = None
    subject.save()
    assert told(sealed.lease(broker, sealed.stays)) == OPEN
