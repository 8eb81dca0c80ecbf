"""Ciphertext in an S3-compatible store: the same way as on a disk, and the same answers."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from uuid import UUID

import pytest
from django.core.files.storage import storages
from storages.backends.s3 import S3Storage

from inference.errors import ObjectStoreUnavailableError
from inference.models import Artifact, OnboardingStep, Replica, Upload, UploadPart
from inference.services import object_store, onboarding, s3_storage
from inference.services import upload as upload_service
from marketplace import settings as product_settings
from marketplace.models import ModelVersion
from tests.inference.django import bucket as bucket_server
from tests.inference.django.bucket import Bucket
from tests.inference.django.creator import Sealed
from tests.inference.django.scripted_node import ScriptedNode

pytestmark = pytest.mark.django_db(transaction=True)

# The first part is read in more than one piece.
FILES = {"model.onnx": b"weights!" * (256 * 1024), "labels.txt": b"zero\none\n"}
# What an outage looks like from here.
OUTAGES = {
    "answers 503": {"broken_status": 503},
    "answers 403": {"broken_status": 403},
    "hangs up": {"hangs_up": True},
    "is not there": {"url": "http://127.0.0.1:9"},
}


@pytest.fixture
def store(settings, monkeypatch) -> Iterator[Bucket]:
    """The bucket in place of the folder, configured as the product's settings do it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "tests")
    monkeypatch.setenv("STRONGROOM_OBJECT_BUCKET", bucket_server.NAME)
    # One failure is enough: how often botocore tries is not what is tested.
    monkeypatch.setattr(s3_storage, "ATTEMPTS_MAX", 1)
    with bucket_server.serve() as bucket:
        use(settings, monkeypatch, bucket.url)
        yield bucket


def use(settings, monkeypatch, url: str) -> None:
    monkeypatch.setenv("STRONGROOM_OBJECT_ENDPOINT", url)
    configured = runpy.run_path(product_settings.__file__)["STORAGES"]["artifacts"]
    settings.STORAGES = settings.STORAGES | {"artifacts": configured}


@pytest.fixture
def break_store(store, settings, monkeypatch):
    """Play one of `OUTAGES` from now on."""

    def play(outage: str) -> None:
        for name, value in OUTAGES[outage].items():
            setattr(store, name, value)
        use(settings, monkeypatch, store.url)

    return play


@pytest.fixture
def mend_store(store, settings, monkeypatch):
    """End the outage; the bucket holds what it held."""
    url = store.url

    def mend() -> None:
        store.broken_status, store.hangs_up = None, False
        use(settings, monkeypatch, url)

    return mend


@pytest.fixture
def upload(creator, model) -> dict:
    return creator.begin("acme/digits", FILES).json()


@pytest.fixture
def sealed(creator, upload) -> Sealed:
    return creator.seal(upload, FILES, model="acme/digits")


@pytest.fixture
def version(creator, model) -> ModelVersion:
    return ModelVersion.objects.get(pk=creator.push("acme/digits", FILES)["id"])


@pytest.fixture
def node(version) -> ScriptedNode:
    node = ScriptedNode("node-1")
    assert node.enrol().status_code == 201
    Replica.objects.create(version=version, node_id=node.node_id, purpose="serve")
    return node


def assert_unavailable(answer) -> None:
    found = (answer.status_code, answer.json()["code"])
    assert found == (503, "object_store_unavailable"), answer.content
    assert answer["Retry-After"] == str(object_store.RETRY_AFTER_S)


def fetch(node: ScriptedNode, version: ModelVersion):
    return node.call("GET", f"artifacts/{version.pk}/files/0/parts/0")


def step(version: ModelVersion) -> OnboardingStep:
    return OnboardingStep.objects.get(version=version, name="verify")


def test_what_is_stored_is_what_a_node_gets_and_what_is_verified(version, node, store):
    rows = UploadPart.objects.order_by("file_index")
    onboarding.advance(version_id=version.pk)

    answer = fetch(node, version)

    assert sorted(store.objects) == sorted(row.storage_name for row in rows)
    assert b"".join(answer.streaming_content) == store.objects[rows[0].storage_name]
    assert answer["Content-Length"] == str(rows[0].size_bytes)
    assert step(version).state == "succeeded"


def test_a_bucket_with_uniform_access_takes_what_is_stored(creator, upload, sealed, store):
    store.refuses_acls = True

    answer = creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0])

    assert answer.status_code < 300
    assert list(store.objects.values()) == [sealed.parts[0, 0]]


def test_a_list_of_an_objects_own_would_be_refused(creator, upload, sealed, store, settings):
    """The control: the same part, sent with what such a bucket does not take."""
    store.refuses_acls = True
    artifacts = settings.STORAGES["artifacts"]
    options = artifacts["OPTIONS"] | {"default_acl": "private"}
    settings.STORAGES = settings.STORAGES | {"artifacts": artifacts | {"OPTIONS": options}}

    assert_unavailable(creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0]))

    assert store.objects == {}


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_part_in_an_outage_is_refused_and_not_recorded(
    creator, upload, sealed, store, break_store, outage
):
    break_store(outage)

    assert_unavailable(creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0]))

    assert (store.objects, UploadPart.objects.count()) == ({}, 0)
    # Whoever completes now is told what is missing.
    assert creator.complete(sealed).json()["code"] == "part_missing"
    assert not Artifact.objects.exists()


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_node_in_an_outage_is_told_to_come_back(version, node, break_store, outage):
    break_store(outage)

    assert_unavailable(fetch(node, version))


def test_a_node_gets_no_body_that_the_store_has_cut(version, node, store):
    store.cuts_bodies = True

    assert_unavailable(fetch(node, version))


def test_an_object_that_is_gone_is_not_found_and_no_outage(version, node, store):
    store.objects.clear()

    answer = fetch(node, version)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    with pytest.raises(FileNotFoundError):
        object_store.hash_part(UploadPart.objects.first().storage_name)


@pytest.mark.parametrize("outage", OUTAGES)
def test_onboarding_waits_for_the_store_and_goes_on(version, break_store, mend_store, outage):
    break_store(outage)
    for _ in range(2):
        onboarding.advance(version_id=version.pk)

    waiting = step(version)
    assert (waiting.state, waiting.reason_code) == ("running", "")
    assert waiting.detail["waiting_for"] == "object_store_unavailable"
    assert waiting.log.count("The object store does not answer.") == 1
    assert ModelVersion.objects.get().state == ModelVersion.State.ONBOARDING

    mend_store()
    onboarding.advance(version_id=version.pk)
    assert step(version).state == "succeeded"


def test_another_object_in_its_place_fails_the_version(version, store):
    store.objects[UploadPart.objects.get(file_index=1).storage_name] += b"!"

    onboarding.advance(version_id=version.pk)

    assert step(version).reason_code == "part_checksum_mismatch"


def test_an_aborted_upload_takes_its_parts_out_of_the_bucket(creator, upload, sealed, store):
    creator.put_parts(sealed)
    orphan = f"artifacts/{upload['version_id']}/00-000000-orphan"
    others = f"artifacts/{UUID(int=1)}/00-000000-kept"
    store.objects |= {orphan: b"of a killed process", others: b"of another version"}

    assert creator.client.delete(f"/api/uploads/{upload['upload_id']}").status_code == 204

    assert list(store.objects) == [others]


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_upload_that_ends_in_an_outage_is_freed_by_a_later_sweep(
    creator, upload, sealed, store, break_store, outage, mend_store
):
    creator.put_parts(sealed)
    break_store(outage)

    assert creator.client.delete(f"/api/uploads/{upload['upload_id']}").status_code == 204
    upload_service.expire_uploads()

    assert Upload.objects.get().state == Upload.State.ABORTED
    assert (len(store.objects), UploadPart.objects.count()) == (2, 2)

    mend_store()
    upload_service.expire_uploads()
    assert (len(store.objects), UploadPart.objects.count()) == (0, 0)


def test_a_sweep_in_an_outage_asks_the_store_once(creator, model, store):
    for _ in range(3):
        begun = creator.begin("acme/digits", FILES).json()
        creator.put_parts(creator.seal(begun, FILES, model="acme/digits"))
    Upload.objects.update(state=Upload.State.ABORTED)
    store.broken_status = 503
    store.calls.clear()

    upload_service.expire_uploads()

    assert len(store.calls) == 1


def test_a_part_that_is_read_stays_out_of_memory(version, store):
    name = UploadPart.objects.get(file_index=0).storage_name

    with object_store.open_part(name) as opened:
        # Python's spooled file, which says in `_rolled` whether it went to the disk.
        assert opened.file._rolled

    assert len(store.objects[name]) > s3_storage.READ_MEMORY_BYTES_MAX


def test_without_the_translation_an_outage_would_be_a_fault_of_ours(
    creator, upload, sealed, store, monkeypatch
):
    """The checks above can fail: with the library's own storage they do."""
    for name in ("_open", "_save", "delete", "listdir"):
        monkeypatch.setattr(s3_storage.S3ArtifactStorage, name, getattr(S3Storage, name))
    store.broken_status = 503
    creator.client.raise_request_exception = False

    answer = creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0])

    assert answer.status_code == 500


def test_botocore_waits_a_bounded_time(store):
    config = storages["artifacts"].client_config

    assert (config.connect_timeout, config.read_timeout) == (5, 30)
    assert config.retries["total_max_attempts"] == s3_storage.ATTEMPTS_MAX


def test_an_outage_is_tried_again_a_few_times(monkeypatch, settings, store):
    monkeypatch.setattr(s3_storage, "ATTEMPTS_MAX", 2)
    use(settings, monkeypatch, store.url)
    store.broken_status = 503

    with pytest.raises(ObjectStoreUnavailableError):
        object_store.open_part("artifacts/x")

    assert store.calls == ["HEAD", "HEAD"]
