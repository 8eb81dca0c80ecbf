"""The bucket of the object store is made once, closed, and only where it is ours."""

from __future__ import annotations

import boto3
import pytest
from django.core.management import CommandError, call_command
from moto.server import ThreadedMotoServer

from inference.services import bucket
from inference.services.s3_storage import S3ArtifactStorage


@pytest.fixture
def store(monkeypatch):
    """An S3-compatible store and a client of it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "two")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    yield client
    for name in [one["Name"] for one in client.list_buckets()["Buckets"]]:
        client.delete_bucket(Bucket=name)
    client.close()
    server.stop()


@pytest.fixture
def storage(store, settings, monkeypatch):
    """The settings of an installation that keeps ciphertext there."""
    storage = S3ArtifactStorage(
        bucket_name="sealed", endpoint_url=store.meta.endpoint_url, region_name="us-east-1"
    )
    settings.OBJECT_BUCKET = "sealed"
    command = "inference.management.commands.make_bucket.storages"
    monkeypatch.setattr(command, {"artifacts": storage})
    return storage


def test_it_is_made_once(store, storage, capsys) -> None:
    call_command("make_bucket")
    assert capsys.readouterr().out == "bucket sealed: made\n"
    assert [one["Name"] for one in store.list_buckets()["Buckets"]] == ["sealed"]

    call_command("make_bucket")
    assert capsys.readouterr().out == "bucket sealed: there already\n"
    assert [one["Name"] for one in store.list_buckets()["Buckets"]] == ["sealed"]


def test_it_is_closed_to_the_public_and_keeps_no_versions(store) -> None:
    # As somebody made it by hand.
    store.create_bucket(Bucket="sealed")
    with pytest.raises(store.exceptions.ClientError):
        store.get_public_access_block(Bucket="sealed")

    assert bucket.ensure_bucket(store, "sealed") is False
    block = store.get_public_access_block(Bucket="sealed")["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    assert "Status" not in store.get_bucket_versioning(Bucket="sealed")


def test_one_that_keeps_old_versions_is_refused(store) -> None:
    store.create_bucket(Bucket="sealed")
    store.put_bucket_versioning(Bucket="sealed", VersioningConfiguration={"Status": "Enabled"})
    with pytest.raises(bucket.BucketError, match="keeps old versions"):
        bucket.ensure_bucket(store, "sealed")

    store.put_bucket_versioning(Bucket="sealed", VersioningConfiguration={"Status": "Suspended"})
    assert bucket.ensure_bucket(store, "sealed") is False


def test_it_is_made_in_the_region_of_the_client(store) -> None:
    other = boto3.client("s3", endpoint_url=store.meta.endpoint_url, region_name="eu-west-1")

    assert bucket.ensure_bucket(other, "far") is True
    assert other.get_bucket_location(Bucket="far")["LocationConstraint"] == "eu-west-1"
    other.close()


class Refusing:
    """A client whose calls fail as a store's do."""

    def __init__(self, client, **failures: tuple[int, str]) -> None:
        self.client, self.failures = client, failures
        self.meta = client.meta

    def __getattr__(self, name: str):
        if name not in self.failures:
            return getattr(self.client, name)
        status, code = self.failures[name]

        def fail(**_: object) -> None:
            answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise self.client.exceptions.ClientError(answer, name)

        return fail


def test_one_that_is_somebody_elses_is_refused(store) -> None:
    with pytest.raises(bucket.BucketError, match="somebody else's"):
        bucket.ensure_bucket(Refusing(store, head_bucket=(403, "403")), "sealed")
    assert store.list_buckets()["Buckets"] == []


def test_a_store_that_knows_less_is_enough(store, caplog) -> None:
    simple = Refusing(
        store,
        put_public_access_block=(501, "NotImplemented"),
        get_bucket_versioning=(501, "NotImplemented"),
    )
    assert bucket.ensure_bucket(simple, "sealed") is True
    assert "no blocks against public access" in caplog.text
    # The control: another answer of theirs is a fault.
    broken = Refusing(store, put_public_access_block=(500, "InternalError"))
    with pytest.raises(bucket.BucketError, match="InternalError"):
        bucket.ensure_bucket(broken, "sealed")


def test_a_bucket_that_another_one_made_meanwhile_is_ours(store) -> None:
    store.create_bucket(Bucket="sealed")
    late = Refusing(store, head_bucket=(404, "404"), create_bucket=(409, "BucketAlreadyOwnedByYou"))
    assert bucket.ensure_bucket(late, "sealed") is True
    taken = Refusing(store, head_bucket=(404, "404"), create_bucket=(409, "BucketAlreadyExists"))
    with pytest.raises(bucket.BucketError, match="BucketAlreadyExists"):
        bucket.ensure_bucket(taken, "sealed")


def test_a_store_that_is_away_is_told(storage, monkeypatch) -> None:
    away = S3ArtifactStorage(
        bucket_name="sealed", endpoint_url="http://127.0.0.1:1", region_name="us-east-1"
    )
    command = "inference.management.commands.make_bucket.storages"
    monkeypatch.setattr(command, {"artifacts": away})
    with pytest.raises(CommandError, match="the bucket sealed: Could not connect"):
        call_command("make_bucket")


def test_without_a_bucket_there_is_nothing_to_make(settings) -> None:
    settings.OBJECT_BUCKET = "none"
    with pytest.raises(CommandError, match="STRONGROOM_OBJECT_BUCKET is not set"):
        call_command("make_bucket")
