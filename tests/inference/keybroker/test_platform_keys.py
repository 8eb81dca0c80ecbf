"""The platform's own keys: where they come from, how one follows another, who reads them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import psycopg
import pytest
from psycopg import AsyncConnection

from inference.keybroker.errors import TooManyPlatformKeysError
from inference.keybroker.kms import Kms, LocalKms, UnwrapError
from inference.keybroker.platform_keys import KMS_REF, PlatformKeys
from inference.models import PlatformKey, Replica
from inference.selectors.release_log import describe_entry, list_entries
from strongroom.config import ConfigError, ConfigFolder, Pin
from strongroom.platform_key import SUCCESSIONS_MAX, follow
from strongroom.sealing import release_log, signature
from strongroom.sealing.canonical import decode_base64, encode_base64
from tests.inference.keybroker.conftest import (
    Broker,
    EnrolledNode,
    SealedVersion,
    seal_version,
    start_broker,
)

pytestmark = pytest.mark.django_db(transaction=True)

URL = "https://strongroom.example.com"


def key_of(described: dict) -> bytes:
    return decode_base64(described["public_key"])


def assert_signed_by(public_key: bytes, version: SealedVersion) -> None:
    payload = signature.upload_key_payload(
        upload_id=str(version.upload_id),
        artifact_id=str(version.version.pk),
        **{name: version.kem[name] for name in ("kid", "suite", "public_key", "expires_at")},
    )
    signed = decode_base64(version.kem["signature"])
    signature.verify(public_key, signature.UPLOAD_KEY_TYPE, payload, signed)


def test_a_new_installation_makes_its_keys_once(
    broker: Broker, database_urls: dict[str, str], tmp_path: Path
) -> None:
    first = broker.get("/v1/platform-key"), broker.get("/v1/node-ca")
    assert first[0]["successions"] == []
    assert first[0]["fingerprint"] == signature.fingerprint(key_of(first[0]))
    assert first[1]["certificate"].startswith("-----BEGIN CERTIFICATE-----")

    broker.stop()
    again = start_broker(tmp_path, database_urls["keybroker"])
    try:
        assert (again.get("/v1/platform-key"), again.get("/v1/node-ca")) == first
    finally:
        again.stop()
    rows = PlatformKey.objects.values_list("purpose", "state")
    assert sorted(rows) == [("node_ca", "current"), ("signing", "current")]


def test_brokers_that_start_at_once_have_the_same_keys(
    transactional_db: None, database_urls: dict[str, str], tmp_path: Path
) -> None:
    LocalKms(tmp_path).ensure_key(KMS_REF)

    async def start() -> str:
        keys = PlatformKeys(Kms(LocalKms(tmp_path)))
        async with await AsyncConnection.connect(database_urls["keybroker"]) as connection:
            await keys.ensure(connection)
            await connection.commit()
            authority = await keys.node_authority(connection)
            return (await keys.describe(connection))["kid"] + authority.certificate

    async def start_all() -> list[str]:
        return await asyncio.gather(*(start() for _ in range(4)))

    assert len(set(asyncio.run(start_all()))) == 1
    assert PlatformKey.objects.count() == 2


def test_an_older_installation_keeps_the_key_that_clients_have_pinned(
    transactional_db: None, database_urls: dict[str, str], tmp_path: Path
) -> None:
    pinned = signature.derive_public_key(LocalKms(tmp_path / "kms").signing_key())

    broker = start_broker(tmp_path, database_urls["keybroker"])
    try:
        assert key_of(broker.get("/v1/platform-key")) == pinned
    finally:
        broker.stop()


def test_private_halves_lie_sealed_and_bound_to_their_place(broker: Broker) -> None:
    kms = LocalKms(broker.kms_dir)
    signing = PlatformKey.objects.get(purpose="signing")
    context = {"purpose": "platform-key/signing", "kid": signing.kid}

    opened = kms.unwrap(KMS_REF, bytes(signing.sealed_private_key), context)

    assert encode_base64(signature.derive_public_key(opened)) == signing.public_key
    assert opened not in bytes(signing.sealed_private_key)
    for other in ({"purpose": "platform-key/node_ca"}, {"kid": "other"}):
        with pytest.raises(UnwrapError):
            kms.unwrap(KMS_REF, bytes(signing.sealed_private_key), context | other)


def test_a_row_of_another_platform_does_not_open(
    broker: Broker, database_urls: dict[str, str], tmp_path: Path
) -> None:
    """Who can write the table, but not seal, makes the broker sign with no key of theirs."""
    stranger = LocalKms(tmp_path / "stranger")
    stranger.ensure_key(KMS_REF)
    row = PlatformKey.objects.get(purpose="signing")
    context = {"purpose": "platform-key/signing", "kid": row.kid}
    row.sealed_private_key = stranger.wrap(KMS_REF, signature.generate_signing_key(), context)
    row.save()

    async def read() -> None:
        async with await AsyncConnection.connect(database_urls["keybroker"]) as connection:
            await PlatformKeys(Kms(LocalKms(broker.kms_dir))).signer(connection)

    with pytest.raises(UnwrapError):
        asyncio.run(read())


def test_a_key_that_follows_another_is_named_by_it(
    broker: Broker, sealed: SealedVersion, tmp_path: Path
) -> None:
    config = ConfigFolder(tmp_path / "config")
    first = key_of(broker.get("/v1/platform-key"))
    config.pin_platform(URL, first)

    for _ in range(2):
        done = broker.run("rotate-signing-key")
        assert done.returncode == 0, done.stderr

    # The broker was not started again.
    shown = broker.get("/v1/platform-key")
    assert shown["fingerprint"] == json.loads(done.stdout)["fingerprint"]
    assert [one["signed_by"] for one in shown["successions"]] == [
        row.kid for row in PlatformKey.objects.filter(state="retired").order_by("id")
    ]
    assert len(follow(first, key_of(shown), shown["successions"])) == 3
    assert config.pin_platform(URL, key_of(shown), shown["successions"]) is Pin.FOLLOWED
    # What was begun under the first key is good, what is begun now has the third one's signature.
    kept = config.list_pins(URL)
    assert_signed_by(kept[-1], sealed)
    later = seal_version(broker, sealed.account, sealed.model, number=2)
    assert_signed_by(kept[0], later)
    with pytest.raises(signature.SignatureError):
        assert_signed_by(first, later)


def test_the_release_log_goes_on_under_the_new_key(
    broker: Broker, node: EnrolledNode, sealed: SealedVersion, replica: Replica
) -> None:
    first = broker.get("/v1/platform-key")
    body = {"artifact_id": str(sealed.version.pk)}
    for _ in range(2):
        asked = broker.post("/v1/leases", node.request(broker, replica), token=None)
        assert asked.status_code == 200, asked.text
        assert broker.run("rotate-signing-key").returncode == 0
    shown = broker.get("/v1/platform-key")
    checkpoint = broker.post("/v1/release-log/checkpoint", body).json()
    document = {
        "format": release_log.FORMAT,
        "artifact_id": str(sealed.version.pk),
        "entries": [describe_entry(one) for one in list_entries(sealed.version.pk)],
        "checkpoint": checkpoint,
    }

    kids = {one["kid"] for one in document["entries"]} | {checkpoint["kid"]}
    assert kids == set(PlatformKey.objects.filter(purpose="signing").values_list("kid", flat=True))
    keys = follow(key_of(first), key_of(shown), shown["successions"])
    assert release_log.verify_export(document, keys).released == 2
    # Each of the keys is needed: the new one does not vouch for what it has not signed.
    for missing in keys:
        with pytest.raises(release_log.ReleaseLogError):
            release_log.verify_export(document, [one for one in keys if one != missing])


def test_a_chain_that_was_tampered_with_leads_nowhere(broker: Broker, tmp_path: Path) -> None:
    """What a database, or the web, could change in it."""
    config = ConfigFolder(tmp_path / "config")
    config.pin_platform(URL, key_of(broker.get("/v1/platform-key")))
    for _ in range(2):
        assert broker.run("rotate-signing-key").returncode == 0
    newest = PlatformKey.objects.get(state="current", purpose="signing")
    signed = newest.succession_signature
    PlatformKey.objects.filter(pk=newest.pk).update(succession_signature="AAAA")

    shown = broker.get("/v1/platform-key")
    with pytest.raises(ConfigError, match="did not name it"):
        config.pin_platform(URL, key_of(shown), shown["successions"])

    PlatformKey.objects.filter(pk=newest.pk).update(succession_signature=signed)
    shown = broker.get("/v1/platform-key")
    assert config.pin_platform(URL, key_of(shown), shown["successions"]) is Pin.FOLLOWED


def test_a_key_is_changed_so_often_and_no_more(
    transactional_db: None, database_urls: dict[str, str], tmp_path: Path
) -> None:
    async def rotate_all() -> list[dict]:
        keys = PlatformKeys(Kms(LocalKms(tmp_path)))
        async with await AsyncConnection.connect(database_urls["keybroker"]) as connection:
            await keys.ensure(connection)
            first = await keys.describe(connection)
            for _ in range(SUCCESSIONS_MAX):
                last = await keys.rotate(connection)
            with pytest.raises(TooManyPlatformKeysError):
                await keys.rotate(connection)
            return [first, last, await keys.describe(connection)]

    first, last, after = asyncio.run(rotate_all())

    assert after == last
    assert follow(key_of(first), key_of(last), last["successions"])


def test_only_the_broker_reads_the_sealed_halves(
    broker: Broker, database_urls: dict[str, str]
) -> None:
    query = "SELECT sealed_private_key FROM inference_platformkey"
    for role in ("app", "gateway"):
        with (
            psycopg.connect(database_urls[role], autocommit=True) as database,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            database.execute(query)
    with psycopg.connect(database_urls["keybroker"], autocommit=True) as database:
        assert len(database.execute(query).fetchall()) == 2
        # Nor does it rewrite what it once wrote.
        for change in ("public_key = ''", "succession_signature = ''", "sealed_private_key = ''"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                database.execute(f"UPDATE inference_platformkey SET {change}")


def test_the_command_says_what_it_does(broker: Broker) -> None:
    done = broker.run("--help")

    assert done.returncode == 0
    assert "rotate-signing-key" in done.stdout
    assert "revoke-node" in done.stdout
    assert broker.run("rotate").returncode == 2
    assert PlatformKey.objects.filter(purpose="signing").count() == 1
