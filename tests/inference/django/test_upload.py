"""Announcing, receiving parts, aborting, expiring: over HTTP, with what is left behind."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from datetime import timedelta

import pytest
from django.core.files.storage import storages
from django.db import connections
from django.test import Client
from django.utils import timezone

from inference.models import Artifact, SigningKey, Upload, UploadPart
from inference.services import object_store
from inference.services import upload as service
from marketplace.core.ids import new_id
from marketplace.models import AuditEvent, Membership, ModelVersion
from strongroom.sealing import floe
from strongroom.sealing.suite import X25519
from tests.factories import AIModelFactory, APIKeyFactory, MembershipFactory, UserFactory
from tests.inference.django.conftest import stored_files
from tests.inference.django.creator import Creator, announce, recanonicalize

MIB = 1024 * 1024
FILES = {"model.onnx": b"weights" * 1000, "labels.txt": b"zero\none\n"}


@pytest.fixture
def upload(creator, model) -> dict:
    answer = creator.begin("acme/digits", FILES)
    assert answer.status_code == 201, answer.content
    return answer.json()


@pytest.fixture
def sealed(creator, upload):
    return creator.seal(upload, FILES, model="acme/digits")


def assert_refused(answer, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.content
    assert answer["Content-Type"] == "application/problem+json"


# --- Signing keys -----------------------------------------------------------------


def test_registering_a_signing_key_twice_gives_the_same_row(creator):
    first, second = creator.register(), creator.register()

    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()
    assert first.json()["fingerprint"] == creator.fingerprint
    assert SigningKey.objects.count() == 1
    assert AuditEvent.objects.filter(action="signing_key.register").count() == 1


@pytest.mark.parametrize(
    ("_case", "public_key"),
    [("short", "AAAA"), ("no base64", "!" * 44), ("urlsafe", "_" * 43 + "=")],
)
def test_a_signing_key_that_is_none_is_refused(creator, _case, public_key):
    answer = creator.post("/api/signing-keys", {"account": "acme", "public_key": public_key})

    assert_refused(answer, 422, "signing_key_invalid")
    assert SigningKey.objects.count() == 1


def test_a_revoked_signing_key_does_not_come_back(creator):
    SigningKey.objects.update(revoked_at=timezone.now())

    assert_refused(creator.register(), 409, "signing_key_revoked")


def test_signing_keys_have_a_limit(creator, account):
    SigningKey.objects.bulk_create(
        SigningKey(account=account, public_key="k", fingerprint=str(number)) for number in range(18)
    )

    assert Creator(creator.client).register().status_code == 200  # the twentieth
    assert_refused(Creator(creator.client).register(), 409, "too_many_signing_keys")
    assert SigningKey.objects.count() == 20


# --- Beginning --------------------------------------------------------------------


def test_beginning_gives_the_version_and_a_signed_key(creator, model, broker):
    answer = creator.begin("acme/digits", FILES)

    assert answer.status_code == 201
    body = answer.json()
    row = Upload.objects.get()
    assert body["upload_id"] == str(row.pk)
    assert body["version_id"] == str(row.version_id)
    assert body["version"] == 1
    assert body["part_size_bytes"] == 64 * MIB
    assert body["parts"] == []
    assert body["kem"] == row.kem
    assert sorted(body["kem"]) == ["expires_at", "kid", "public_key", "signature", "suite"]
    assert row.version.state == ModelVersion.State.UPLOADING
    assert row.version.created_by.email == "owner@example.com"
    assert broker.calls == ["/v1/upload-keys"]


def test_the_broker_learns_which_wraps_a_client_can_make(creator, model, broker):
    assert creator.begin("acme/digits", FILES).status_code == 201
    assert broker.suites is None

    answer = creator.begin("acme/digits", FILES, suites=[X25519.name])
    assert (answer.status_code, broker.suites) == (201, [X25519.name])

    for suites in ([], ["x"] * 9, ["x" * 41], "x"):
        answer = creator.begin("acme/digits", FILES, suites=suites)
        assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert creator.begin("acme/digits", FILES, suites=["x" * 40] * 8).status_code == 201


def test_a_manifest_is_checked_and_nothing_kept(creator, model):
    begun = creator.begin("acme/digits", FILES).json()
    manifest = creator.seal(begun, FILES, model="acme/digits").manifest
    batch = {"max_size": 8, "leading_axis": True, "coalesce": True}
    text = recanonicalize(manifest, interface=manifest.to_json()["interface"] | {"batch": batch})

    answer = creator.post("/api/manifest-checks", {"manifest": text})

    assert answer.status_code == 200, answer.content
    # In the form that the command line writes, too.
    assert answer.json() == {"interface": manifest.parsed_interface.to_json()}
    assert "coalesce" in text
    assert Artifact.objects.count() == 0


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"interface": {}}, "interface_invalid", "/interface/inputs"),
        ({"task": "No Task"}, "member_invalid", "/task"),
        ({"test_vectors": [{"input": {}, "expected": {}, "tolerance": 0}]}, None, None),
        ({"more": 1}, "unknown_member", "/more"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_told_where(creator, model, changes, code, pointer):
    begun = creator.begin("acme/digits", FILES).json()
    manifest = creator.seal(begun, FILES, model="acme/digits").manifest

    answer = creator.post("/api/manifest-checks", {"manifest": recanonicalize(manifest, **changes)})

    assert answer.status_code == 422
    assert answer.json()["code"] == (code or "test_vector_invalid")
    assert answer.json()["errors"][0]["pointer"] == (pointer or "/test_vectors/0/input/x")


def test_only_who_is_known_may_have_a_manifest_checked(creator, client):
    answer = client.post("/api/manifest-checks", {"manifest": "{}"}, "application/json")

    assert answer.status_code == 401
    assert creator.post("/api/manifest-checks", {"manifest": "{}"}).status_code == 422


@pytest.mark.parametrize(
    ("_case", "files", "code"),
    [
        ("none", [], "no_files"),
        ("no list", "model.onnx", "member_invalid"),
        ("65", [announce(f"f{n}.onnx", 1) for n in range(65)], "too_many_files"),
        ("upwards", [announce("../model.onnx", 1)], "path_invalid"),
        ("absolute", [announce("/model.onnx", 1)], "path_invalid"),
        ("twice", [announce("a.onnx", 1), announce("A.onnx", 1)], "duplicate_path"),
        ("kind", [announce("a.onnx", 1) | {"kind": "pickle"}], "kind_unknown"),
        ("sizes", [announce("a.onnx", 9) | {"cipher_size_bytes": 9}], "size_mismatch"),
        ("huge", [announce("a.onnx", 1024**4 + 1)], "file_too_large"),
        ("a member more", [announce("a.onnx", 1) | {"url": "x"}], "unknown_member"),
        ("negative", [announce("a.onnx", 1) | {"plain_size_bytes": -1}], "member_invalid"),
    ],
)
def test_files_that_break_a_rule_are_not_announced(creator, model, broker, _case, files, code):
    answer = creator.begin("acme/digits", FILES, files=files)

    assert_refused(answer, 422, code)
    assert answer.json()["errors"][0]["pointer"].startswith("/files")
    assert not Upload.objects.exists()
    assert not ModelVersion.objects.exists()
    assert broker.calls == []


def test_a_version_at_its_size_limit_is_taken_and_one_byte_more_is_not(creator, model, settings):
    size = floe.PRODUCTION.cipher_size(5000)
    settings.INFERENCE_VERSION_BYTES_MAX = size
    assert creator.begin("acme/digits", {"a.onnx": bytes(5000)}).status_code == 201

    answer = creator.begin("acme/digits", {"a.onnx": bytes(5001)})

    assert_refused(answer, 413, "version_too_large")
    assert Upload.objects.count() == 1


def test_the_storage_quota_counts_open_and_complete_uploads(creator, model, settings, sealed):
    size = floe.PRODUCTION.cipher_size(5000)
    taken = sum(
        announce(path, len(content))["cipher_size_bytes"] for path, content in FILES.items()
    )
    settings.INFERENCE_ACCOUNT_STORAGE_BYTES_MAX = taken + size
    creator.put_parts(sealed)
    assert creator.complete(sealed).status_code == 202

    refused = creator.begin("acme/digits", {"a.onnx": bytes(5001)})

    assert_refused(refused, 409, "storage_quota_exceeded")
    assert refused.json()["used_bytes"] == taken
    assert creator.begin("acme/digits", {"a.onnx": bytes(5000)}).status_code == 201
    assert_refused(creator.begin("acme/digits", {"a.onnx": b""}), 409, "storage_quota_exceeded")


def test_five_uploads_may_be_open_and_expired_ones_do_not_count(creator, model):
    for _ in range(5):
        assert creator.begin("acme/digits", FILES).status_code == 201

    assert_refused(creator.begin("acme/digits", FILES), 409, "too_many_uploads")

    assert Upload.objects.count() == 5
    first = Upload.objects.order_by("pk")[0]
    Upload.objects.filter(pk=first.pk).update(expires_at=timezone.now())
    assert creator.begin("acme/digits", FILES).status_code == 201


@pytest.mark.django_db(transaction=True)
def test_uploads_that_begin_at_once_keep_to_the_limit(creator, model):
    barrier = threading.Barrier(7)
    statuses = []

    def begin() -> None:
        barrier.wait()
        statuses.append(creator.begin("acme/digits", FILES).status_code)
        connections.close_all()

    threads = [threading.Thread(target=begin) for _ in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(statuses) == [201] * 5 + [409] * 2
    assert Upload.objects.count() == 5
    assert sorted(ModelVersion.objects.values_list("number", flat=True)) == [1, 2, 3, 4, 5]


def test_an_unknown_or_revoked_signing_key_begins_nothing(creator, model):
    unknown = creator.begin("acme/digits", FILES, signing_key="SHA256:nobody")
    SigningKey.objects.update(revoked_at=timezone.now())
    revoked = creator.begin("acme/digits", FILES)

    assert_refused(unknown, 422, "signing_key_unknown")
    assert_refused(revoked, 409, "signing_key_revoked")
    assert not Upload.objects.exists()


@pytest.mark.parametrize(("_case", "status"), [("ill", 500), ("our token is wrong", 401)])
def test_a_broker_that_fails_leaves_nothing_behind(creator, model, broker, _case, status):
    broker.broken_status = status

    answer = creator.begin("acme/digits", FILES)

    assert_refused(answer, 503, "keybroker_unavailable")
    assert answer["Retry-After"] == "5"
    assert not Upload.objects.exists()
    assert not ModelVersion.objects.exists()


def test_a_broker_that_is_gone_leaves_nothing_behind(creator, model, settings):
    settings.KEYBROKER_URL = "http://127.0.0.1:9"

    assert_refused(creator.begin("acme/digits", FILES), 503, "keybroker_unavailable")
    assert not ModelVersion.objects.exists()


def test_a_body_over_the_limit_is_refused_unread(creator, model):
    answer = creator.begin("acme/digits", FILES, padding="x" * (3 * MIB))

    assert_refused(answer, 413, "payload_too_large")
    assert not Upload.objects.exists()


@pytest.mark.parametrize(
    ("_case", "body", "status", "code"),
    [
        ("no json", b"{", 400, "bad_request"),
        ("no object", b"[]", 422, "validation"),
        ("nan", b'{"files": NaN, "signing_key": "x"}', 400, "bad_request"),
        ("deep", b'{"files":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "bad_request"),
        ("members missing", b"{}", 422, "validation"),
    ],
)
def test_a_body_that_is_no_request_is_refused(creator, model, _case, body, status, code):
    answer = creator.client.post(
        "/api/models/acme/digits/uploads", body, content_type="application/json"
    )

    assert_refused(answer, status, code)
    assert not Upload.objects.exists()


# --- Parts ------------------------------------------------------------------------


def test_a_part_is_stored_as_it_was_sent(creator, upload, sealed, store):
    body = sealed.parts[0, 0]

    answer = creator.put_part(upload["upload_id"], 0, 0, body)

    digest = hashlib.sha256(body).hexdigest()
    assert (answer.status_code, answer.json()) == (200, {"size_bytes": len(body), "sha256": digest})
    row = UploadPart.objects.get()
    assert (row.file_index, row.part, row.size_bytes, row.sha256) == (0, 0, len(body), digest)
    path = store / row.storage_name
    assert path.read_bytes() == body
    assert path.stat().st_mode & 0o777 == 0o600
    assert stored_files(store) == [row.storage_name]
    listed = creator.client.get(f"/api/uploads/{upload['upload_id']}").json()
    assert listed["parts"] == [{"file": 0, "part": 0, "size_bytes": len(body), "sha256": digest}]


def test_sending_a_part_again_changes_nothing(
    creator, upload, sealed, store, django_capture_on_commit_callbacks
):
    first = creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0]).json()
    before = UploadPart.objects.get()

    with django_capture_on_commit_callbacks(execute=True):
        second = creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0]).json()

    assert second == first
    after = UploadPart.objects.get()
    assert after.storage_name == before.storage_name
    assert stored_files(store) == [before.storage_name]


def test_a_part_that_was_sealed_anew_replaces_the_first(
    creator, upload, sealed, store, django_capture_on_commit_callbacks
):
    creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0])
    again = creator.seal(upload, FILES, model="acme/digits").parts[0, 0]

    with django_capture_on_commit_callbacks(execute=True):
        assert creator.put_part(upload["upload_id"], 0, 0, again).status_code == 200

    row = UploadPart.objects.get()
    assert row.sha256 == hashlib.sha256(again).hexdigest()
    assert stored_files(store) == [row.storage_name]
    assert (store / row.storage_name).read_bytes() == again


def _flipped(body: bytes) -> bytes:
    return bytes([body[0] ^ 1]) + body[1:]


@pytest.mark.parametrize(
    ("_case", "place", "change", "status", "code"),
    [
        (
            "wrong checksum",
            (0, 0),
            {"headers": {"X-Part-SHA256": "0" * 64}},
            422,
            "part_checksum_mismatch",
        ),
        ("no checksum", (0, 0), {"headers": {"X-Part-SHA256": ""}}, 422, "part_checksum_missing"),
        (
            "checksum in capitals",
            (0, 0),
            {"headers": {"X-Part-SHA256": "A" * 64}},
            422,
            "part_checksum_missing",
        ),
        ("no such file", (2, 0), {}, 422, "part_out_of_range"),
        ("no such part", (0, 1), {}, 422, "part_out_of_range"),
        ("another size", (1, 0), {}, 422, "part_size_mismatch"),
        ("no length", (0, 0), {"CONTENT_LENGTH": ""}, 411, "length_required"),
        ("odd length", (0, 0), {"CONTENT_LENGTH": "-5"}, 411, "length_required"),
        ("too large", (0, 0), {"CONTENT_LENGTH": str(64 * MIB + 1)}, 413, "payload_too_large"),
        ("100 MB", (0, 0), {"CONTENT_LENGTH": str(100_000_000)}, 413, "payload_too_large"),
    ],
)
def test_a_part_that_is_not_as_announced_is_not_kept(
    creator, upload, sealed, store, _case, place, change, status, code
):
    answer = creator.put_part(upload["upload_id"], *place, sealed.parts[0, 0], **change)

    assert_refused(answer, status, code)
    assert not UploadPart.objects.exists()
    assert stored_files(store) == []


def test_a_flipped_bit_on_the_way_is_noticed(creator, upload, sealed, store):
    body = sealed.parts[0, 0]
    promised = hashlib.sha256(body).hexdigest()

    answer = creator.put_part(
        upload["upload_id"], 0, 0, _flipped(body), headers={"X-Part-SHA256": promised}
    )

    assert_refused(answer, 422, "part_checksum_mismatch")
    assert stored_files(store) == []


@pytest.mark.parametrize(("_case", "missing"), [("a byte", 1), ("nearly all", 7000)])
def test_a_truncated_body_is_noticed(creator, upload, sealed, store, _case, missing):
    body = sealed.parts[0, 0]

    answer = creator.put_part(
        upload["upload_id"], 0, 0, body, **{"wsgi.input": io.BytesIO(body[:-missing])}
    )

    assert_refused(answer, 422, "part_size_mismatch")
    assert not UploadPart.objects.exists()
    assert stored_files(store) == []


def test_a_part_goes_through_in_small_pieces(monkeypatch, creator, model, store):
    # 33 MiB would show in the size of a read if the body were taken whole.
    files = {"model.onnx": os.urandom(33 * MIB)}
    upload = creator.begin("acme/digits", files).json()
    sealed = creator.seal(upload, files, model="acme/digits")
    sizes = []

    class Watched(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            sizes.append(size)
            return super().read(size)

    body = sealed.parts[0, 0]
    answer = creator.put_part(upload["upload_id"], 0, 0, body, **{"wsgi.input": Watched(body)})

    assert answer.status_code == 200
    assert max(sizes) == MIB
    assert len(sizes) >= 33


def test_a_full_disk_is_an_answer_and_leaves_nothing(monkeypatch, creator, upload, sealed, store):
    def save(name, content, max_length=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storages["artifacts"], "save", save)

    answer = creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0])

    assert_refused(answer, 503, "object_store_unavailable")
    assert not UploadPart.objects.exists()
    assert stored_files(store) == []


def test_what_was_stored_is_deleted_when_it_cannot_be_recorded(
    monkeypatch, creator, upload, sealed, store
):
    def record(*args):
        raise RuntimeError("killed")

    monkeypatch.setattr(service, "_record_part", record)

    with pytest.raises(RuntimeError, match="killed"):
        creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0])

    assert stored_files(store) == []


@pytest.mark.django_db(transaction=True)
def test_the_same_part_twice_at_once_is_kept_once(creator, upload, sealed, store):
    statuses = []

    def put() -> None:
        answer = creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0])
        statuses.append(answer.status_code)
        connections.close_all()

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [200] * 4
    assert stored_files(store) == [UploadPart.objects.get().storage_name]


@pytest.mark.parametrize(
    ("state", "is_overdue", "status", "code"),
    [
        (Upload.State.ABORTED, False, 409, "upload_closed"),
        (Upload.State.COMPLETE, True, 409, "upload_closed"),
        (Upload.State.EXPIRED, True, 410, "upload_expired"),
        (Upload.State.OPEN, True, 410, "upload_expired"),
    ],
)
def test_a_closed_upload_takes_no_part(
    creator, upload, sealed, store, state, is_overdue, status, code
):
    Upload.objects.update(state=state)
    if is_overdue:
        Upload.objects.update(expires_at=timezone.now())

    answer = creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0])

    assert_refused(answer, status, code)
    assert not UploadPart.objects.exists()
    assert stored_files(store) == []


def test_an_upload_that_closes_while_a_part_is_on_its_way_keeps_nothing(
    monkeypatch, creator, upload, sealed, store
):
    original = object_store.store_part

    def store_and_close(*args):
        name = original(*args)
        Upload.objects.update(state=Upload.State.ABORTED)
        return name

    monkeypatch.setattr(object_store, "store_part", store_and_close)

    answer = creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0])

    assert_refused(answer, 409, "upload_closed")
    assert not UploadPart.objects.exists()
    assert stored_files(store) == []


# --- Ends -------------------------------------------------------------------------


def test_aborting_deletes_the_parts_and_may_be_repeated(
    creator, upload, sealed, store, django_capture_on_commit_callbacks
):
    creator.put_parts(sealed)
    path = f"/api/uploads/{upload['upload_id']}"

    with django_capture_on_commit_callbacks(execute=True):
        first = creator.client.delete(path)
    second = creator.client.delete(path)

    assert (first.status_code, second.status_code) == (204, 204)
    assert creator.client.get(path).json()["state"] == "aborted"
    assert not UploadPart.objects.exists()
    assert stored_files(store) == []
    assert ModelVersion.objects.get().state == ModelVersion.State.FAILED
    assert AuditEvent.objects.filter(action="upload.abort").count() == 1


def test_a_complete_upload_is_not_aborted(creator, upload, sealed, store):
    creator.put_parts(sealed)
    assert creator.complete(sealed).status_code == 202

    answer = creator.client.delete(f"/api/uploads/{upload['upload_id']}")

    assert_refused(answer, 409, "upload_closed")
    assert UploadPart.objects.count() == 2
    assert len(stored_files(store)) == 2


def test_the_sweep_closes_what_is_overdue_and_nothing_else(
    creator, upload, sealed, store, django_capture_on_commit_callbacks
):
    creator.put_parts(sealed)
    orphan = store / "artifacts" / upload["version_id"] / "00-000000-orphan"
    orphan.write_bytes(b"stored by a process that was killed before it wrote the row")
    other = creator.begin("acme/digits", FILES).json()
    Upload.objects.filter(pk=upload["upload_id"]).update(expires_at=timezone.now())

    with django_capture_on_commit_callbacks(execute=True):
        assert service.expire_uploads() == 1
        assert service.expire_uploads() == 0

    assert Upload.objects.get(pk=upload["upload_id"]).state == Upload.State.EXPIRED
    assert Upload.objects.get(pk=other["upload_id"]).state == Upload.State.OPEN
    assert not UploadPart.objects.exists()
    assert stored_files(store) == []
    assert not (store / "artifacts" / upload["version_id"]).exists()
    version = ModelVersion.objects.get(pk=upload["version_id"])
    assert (version.state, version.refusal_reason) == ("failed", "upload_expired")


@pytest.mark.parametrize(
    ("state", "age_days", "parts_left"),
    [
        ("failed", 8, 0),
        ("failed", 6, 2),
        ("refused", 8, 0),
        ("approved", 8, 2),
        ("in_review", 8, 2),
    ],
)
def test_ciphertext_of_versions_that_will_never_serve_is_freed(
    creator, sealed, store, django_capture_on_commit_callbacks, state, age_days, parts_left
):
    creator.put_parts(sealed)
    creator.complete(sealed)
    created_at = timezone.now() - timedelta(days=age_days)
    ModelVersion.objects.update(state=state, created_at=created_at)

    with django_capture_on_commit_callbacks(execute=True):
        service.expire_uploads()

    assert UploadPart.objects.count() == parts_left
    assert len(stored_files(store)) == parts_left


def test_half_received_parts_of_killed_processes_are_freed(db, store):
    incoming = store / "incoming"
    incoming.mkdir(parents=True)
    old, young = incoming / "old", incoming / "young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (0, 0))

    service.expire_uploads()

    assert stored_files(store) == ["incoming/young"]


# --- Whose it is ------------------------------------------------------------------


def _calls(upload_id: str, version_id: str) -> list[tuple[str, str]]:
    upload = f"/api/uploads/{upload_id}"
    return [
        ("POST", "/api/models/acme/digits/uploads"),
        ("GET", upload),
        ("DELETE", upload),
        ("PUT", f"{upload}/files/0/parts/0"),
        ("POST", f"{upload}/complete"),
        ("GET", "/api/models/acme/digits/versions"),
        ("GET", f"/api/versions/{version_id}"),
    ]


@pytest.mark.parametrize("number", range(7))
def test_an_outsider_finds_nothing_of_another_account(
    creator, model, upload, outsider_client, store, number
):
    type(model).objects.update(visibility="private")
    method, path = _calls(upload["upload_id"], upload["version_id"])[number]
    before = Upload.objects.values().get()

    answer = outsider_client.generic(method, path, b"{}", content_type="application/json")

    assert_refused(answer, 404, "not_found")
    assert Upload.objects.values().get() == before
    assert stored_files(store) == []


@pytest.mark.parametrize("number", range(7))
def test_nobody_is_asked_for_a_key(creator, model, upload, number):
    method, path = _calls(upload["upload_id"], upload["version_id"])[number]

    answer = Client().generic(method, path, b"{}", content_type="application/json")

    assert_refused(answer, 401, "unauthenticated")
    assert Upload.objects.get().state == Upload.State.OPEN


def test_an_outsider_may_see_a_public_model_but_not_push_to_it(creator, model, outsider_client):
    begun = Creator(outsider_client).begin("acme/digits", FILES)
    listed = outsider_client.get("/api/models/acme/digits/versions")

    assert_refused(begun, 403, "forbidden")
    assert_refused(listed, 403, "forbidden")
    assert not Upload.objects.exists()


def test_an_outsider_registers_no_key_for_another_account(creator, outsider_client):
    answer = Creator(outsider_client).register("acme")

    assert_refused(answer, 404, "not_found")
    assert SigningKey.objects.count() == 1


def test_a_teammate_carries_an_upload_on(creator, upload, sealed, teammate_client):
    helper = Creator(teammate_client, signing_key=creator.signing_key)

    helper.put_parts(sealed)

    assert helper.complete(sealed).status_code == 202


@pytest.mark.parametrize("number", range(5))
def test_a_viewer_sees_and_changes_nothing(creator, model, account, upload, store, number):
    viewer = UserFactory()
    MembershipFactory(account=account, user=viewer, role=Membership.Role.VIEWER)
    client = Client()
    client.force_login(viewer)
    method, path = _calls(upload["upload_id"], upload["version_id"])[number]

    answer = client.generic(method, path, b"{}", content_type="application/json")

    assert_refused(answer, 403, "forbidden")
    assert Upload.objects.get().state == Upload.State.OPEN
    assert client.get("/api/models/acme/digits/versions").status_code == 200


def test_a_token_needs_the_scope_to_push(creator, model, account, owner):
    full = APIKeyFactory(account=account, mode="token", created_by=owner)
    reading = APIKeyFactory(account=account, mode="token", created_by=owner, scopes=["read"])

    def begin(api_key):
        client = Client(headers={"Authorization": f"Bearer {api_key.text}"})
        return Creator(client, signing_key=creator.signing_key).begin("acme/digits", FILES)

    assert_refused(begin(reading), 403, "forbidden")
    assert begin(full).status_code == 201


def test_a_key_of_one_account_does_not_push_to_another_of_the_same_person(creator, model, owner):
    other = AIModelFactory(name="other")
    MembershipFactory(account=other.account, user=owner, role=Membership.Role.OWNER)
    api_key = APIKeyFactory(account=model.account, mode="token", created_by=owner)
    client = Client(headers={"Authorization": f"Bearer {api_key.text}"})

    answer = Creator(client).begin(str(other), FILES)

    assert_refused(answer, 403, "forbidden")
    assert not Upload.objects.exists()


def test_ids_that_do_not_exist_are_not_found(creator, model):
    for method, path in _calls(str(new_id()), str(new_id()))[1:5]:
        answer = creator.client.generic(method, path, b"{}", content_type="application/json")
        assert_refused(answer, 404, "not_found")


def test_a_suspended_account_pushes_nothing(creator, model, account):
    type(account).objects.update(suspended_at=timezone.now())

    assert_refused(creator.begin("acme/digits", FILES), 403, "forbidden")
    assert not Upload.objects.exists()
