"""Completing an upload: what is accepted, and every way in which a manifest is refused."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import pytest
from django.test import Client
from django.utils import timezone

from inference.models import Artifact, OnboardingStep, SigningKey, Upload, WrappedKey
from inference.services import artifact as service
from marketplace.models import ModelVersion
from strongroom.sealing import floe, signature
from strongroom.sealing.canonical import encode_base64
from strongroom.sealing.manifest import MAX_MANIFEST_BYTES, Part, TestVector
from strongroom.sealing.policy import OutputRule, Policy
from tests.factories import AIModelFactory, APIKeyFactory
from tests.inference.django.conftest import stored_files
from tests.inference.django.creator import INTERFACE, Creator, recanonicalize

FILES = {"model.onnx": b"weights" * 1000, "labels.txt": b"zero\none\n"}
NOBODYS_ID = "0190f000-0000-7000-8000-000000000000"
BAD_VECTOR = {"input": {}, "expected": {"y": 1}, "tolerance": 0}
NUL_OUTPUT = {"name": "y", "kind": "number", "description": "\0"}
NUL_INTERFACE = INTERFACE | {"outputs": [NUL_OUTPUT]}
STEPS = ["verify", "validate", "load", "test", "benchmark", "review", "publish"]


@pytest.fixture
def sealed(creator, model):
    upload = creator.begin("acme/digits", FILES).json()
    sealed = creator.seal(upload, FILES, model="acme/digits")
    creator.put_parts(sealed)
    return sealed


def assert_refused(answer, code: str, status: int = 422) -> None:
    """The refusal, and that it left everything as it was."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.content
    assert not Artifact.objects.exists()
    assert not WrappedKey.objects.exists()
    assert not OnboardingStep.objects.exists()
    assert Upload.objects.get().state == Upload.State.OPEN
    version = ModelVersion.objects.get()
    assert (version.state, version.interface, version.manifest_sha256) == ("uploading", {}, "")


def test_a_complete_upload_becomes_an_artifact(
    creator, sealed, store, enqueued, django_capture_on_commit_callbacks
):
    orphan = store / "artifacts" / sealed.upload["version_id"] / "00-000000-orphan"
    orphan.write_bytes(b"stored by a process that was killed before it wrote the row")

    with django_capture_on_commit_callbacks(execute=True):
        answer = creator.complete(sealed)

    assert answer.status_code == 202
    text = sealed.manifest.canonical_bytes()
    row = Artifact.objects.get()
    assert row.manifest.encode() == text
    assert row.manifest_sha256 == hashlib.sha256(text).hexdigest() == sealed.manifest.digest
    assert row.size_bytes == sealed.manifest.cipher_size_bytes
    assert row.signing_key.fingerprint == creator.fingerprint
    version = row.version
    assert (version.state, version.runtime, version.publish_channel) == ("onboarding", "onnx", "")
    assert version.interface == INTERFACE
    assert version.manifest_sha256 == row.manifest_sha256
    assert version.size_bytes == row.size_bytes
    wraps = {one.recipient: one.blob for one in WrappedKey.objects.all()}
    assert wraps == {one["recipient"]: one["blob"] for one in sealed.wrapped_keys}
    assert row.upload.state == Upload.State.COMPLETE
    body = answer.json()
    assert body["id"] == sealed.upload["version_id"]
    assert (body["model"], body["version"], body["state"]) == ("acme/digits", 1, "onboarding")
    assert [(step["name"], step["state"]) for step in body["steps"]] == [
        (name, "pending") for name in STEPS
    ]
    assert enqueued == [body["id"]]
    assert len(stored_files(store)) == 2


def test_completing_again_gives_the_same_version(creator, sealed):
    first = creator.complete(sealed)
    second = creator.complete(sealed)

    assert (first.status_code, second.status_code) == (202, 202)
    assert second.json() == first.json()
    assert Artifact.objects.count() == 1
    assert OnboardingStep.objects.count() == 7


def test_completing_again_with_another_manifest_is_refused(creator, sealed):
    creator.complete(sealed)
    other = replace(sealed, manifest=replace(sealed.manifest, task="another-task"))

    answer = creator.complete(other)

    assert (answer.status_code, answer.json()["code"]) == (409, "upload_closed")
    assert Artifact.objects.get().manifest_sha256 == sealed.manifest.digest


def test_the_channel_of_the_manifest_is_kept(creator, model):
    version = creator.push("acme/digits", FILES, channel="prod")

    assert version["publish_channel"] == "prod"
    assert ModelVersion.objects.get().publish_channel == "prod"


def test_who_may_not_publish_may_not_ask_for_it_in_a_manifest(
    creator, sealed, teammate_client, account, teammate
):
    helper = Creator(teammate_client, signing_key=creator.signing_key)
    wish = replace(sealed, manifest=replace(sealed.manifest, publish_channel="prod"))
    token = APIKeyFactory(
        account=account, mode="token", created_by=teammate, scopes=["read", "push", "publish"]
    )
    bearer = Client(headers={"Authorization": f"Bearer {token.text}"})

    assert_refused(helper.complete(wish), "forbidden", 403)
    assert_refused(
        Creator(bearer, signing_key=creator.signing_key).complete(wish), "forbidden", 403
    )
    assert helper.complete(sealed).status_code == 202


# --- The manifest itself ----------------------------------------------------------


@pytest.mark.parametrize(
    ("_case", "changes", "code"),
    [
        ("another version", {"artifact_id": NOBODYS_ID}, "manifest_mismatch"),
        ("another model", {"model": "acme/other"}, "manifest_mismatch"),
        ("a file less", {"files": 1}, "manifest_mismatch"),
        ("files reordered", {"files": -1}, "manifest_mismatch"),
        ("format", {"format": "strongroom-manifest/2"}, "unknown_format"),
        ("content format", {"content_format": "cobblestone-256"}, "unknown_content_format"),
        ("runtime", {"runtime": "torchscript"}, "runtime_unknown"),
        ("channel", {"publish_channel": "staging"}, "member_invalid"),
        ("member more", {"notes": "x"}, "unknown_member"),
        ("no interface", {"interface": {}}, "interface_invalid"),
        ("65 vectors", {"test_vectors": [{}] * 65}, "too_many_test_vectors"),
        ("bad vector", {"test_vectors": [BAD_VECTOR]}, "test_vector_invalid"),
        ("no files", {"files": []}, "no_files"),
        ("a null character", {"interface": NUL_INTERFACE}, "interface_invalid"),
    ],
)  # fmt: skip
def test_a_manifest_that_breaks_a_rule_is_refused(creator, sealed, _case, changes, code):
    files = [file.to_json() for file in sealed.manifest.files]
    if changes.get("files") == 1:
        changes = {"files": files[:1]}
    elif changes.get("files") == -1:
        changes = {"files": files[::-1]}

    answer = creator.complete_raw(sealed, recanonicalize(sealed.manifest, **changes))

    assert_refused(answer, code)


@pytest.mark.parametrize(("name", "value"), [("path", "other.onnx"), ("kind", "external_data")])
def test_files_must_be_those_that_were_announced(creator, sealed, name, value):
    files = [file.to_json() for file in sealed.manifest.files]
    files[0][name] = value

    answer = creator.complete_raw(sealed, recanonicalize(sealed.manifest, files=files))

    assert_refused(answer, "manifest_mismatch")
    assert answer.json()["errors"][0]["pointer"] == f"/files/0/{name}"


def test_a_file_of_another_size_than_announced_is_refused(creator, sealed):
    files = [file.to_json() for file in sealed.manifest.files]
    size = floe.PRODUCTION.cipher_size(6999)
    files[0] |= {"plain_size_bytes": 6999, "cipher_size_bytes": size}
    files[0]["parts"][0]["size_bytes"] = size

    answer = creator.complete_raw(sealed, recanonicalize(sealed.manifest, files=files))

    assert_refused(answer, "manifest_mismatch")


@pytest.mark.parametrize(
    ("_case", "text", "code"),
    [
        ("no json", "{", "manifest_not_json"),
        ("spaces", '{"format": 1}', "manifest_not_canonical"),
        ("repeated member", '{"a":1,"a":1}', "manifest_not_canonical"),
        ("half a surrogate pair", '"\ud800"', "validation"),
        ("no object", "[]", "member_invalid"),
        ("empty text", "", "validation"),
        ("too large", '"' + "x" * MAX_MANIFEST_BYTES + '"', "manifest_too_large"),
        ("deep", "[" * 70 + "]" * 70, "manifest_not_canonical"),
    ],
)
def test_a_text_that_is_no_manifest_is_refused(creator, sealed, _case, text, code):
    assert_refused(creator.complete_raw(sealed, text), code)


def test_a_manifest_at_its_size_limit_is_read_and_one_byte_more_is_not(creator, sealed):
    # A canonical text of just the limit is refused for its content, not for its size.
    at_limit = '"' + "x" * (MAX_MANIFEST_BYTES - 2) + '"'

    assert_refused(creator.complete_raw(sealed, at_limit), "member_invalid")
    assert_refused(creator.complete_raw(sealed, f" {at_limit}"), "manifest_too_large")


def test_a_manifest_that_was_changed_after_signing_is_refused(creator, sealed):
    signed = signature.sign(
        creator.signing_key, signature.MANIFEST_TYPE, sealed.manifest.canonical_bytes()
    )
    changed = recanonicalize(sealed.manifest, task="another-task")

    assert_refused(
        creator.complete_raw(sealed, changed, signature=encode_base64(signed)), "signature_invalid"
    )


def test_a_manifest_signed_by_another_known_key_is_refused(creator, sealed):
    other = Creator(creator.client)
    assert other.register().status_code == 200

    assert_refused(other.complete(sealed), "signature_invalid")


@pytest.mark.parametrize("text", ["", "AAAA", "?" * 88, encode_base64(bytes(64))])
def test_a_signature_that_is_none_is_refused(creator, sealed, text):
    code = "validation" if not text else "signature_invalid"

    assert_refused(creator.complete(sealed, signature=text), code)


def test_a_signature_over_another_type_of_thing_is_refused(creator, sealed):
    signed = signature.sign(
        creator.signing_key, signature.LEASE_REQUEST_TYPE, sealed.manifest.canonical_bytes()
    )

    assert_refused(creator.complete(sealed, signature=encode_base64(signed)), "signature_invalid")


def test_a_signing_key_that_was_revoked_meanwhile_is_refused(creator, sealed):
    SigningKey.objects.update(revoked_at=timezone.now())

    assert_refused(creator.complete(sealed), "signing_key_revoked")


# --- Parts ------------------------------------------------------------------------


def test_a_missing_part_is_named(creator, model):
    upload = creator.begin("acme/digits", FILES).json()
    sealed = creator.seal(upload, FILES, model="acme/digits")
    creator.put_part(upload["upload_id"], 0, 0, sealed.parts[0, 0])

    answer = creator.complete(sealed)

    assert_refused(answer, "part_missing")
    assert answer.json()["missing"] == [{"file": 1, "part": 0}]
    assert answer.json()["errors"][0]["pointer"] == "/files/1/parts/0"


def test_a_part_of_another_sealing_is_refused(creator, sealed):
    other = creator.seal(sealed.upload, FILES, model="acme/digits")
    creator.put_part(sealed.upload["upload_id"], 1, 0, other.parts[1, 0])

    answer = creator.complete(sealed)

    assert_refused(answer, "part_checksum_mismatch")
    assert answer.json()["errors"][0]["pointer"] == "/files/1/parts/0"


def test_reordered_parts_are_refused(creator, model):
    files = {"model.onnx": os.urandom(128 * 1024 * 1024)}
    upload = creator.begin("acme/digits", files).json()
    sealed = creator.seal(upload, files, model="acme/digits")
    # The first two parts are full, so that each fits the other's place.
    order = {(0, 0): (0, 1), (0, 1): (0, 0), (0, 2): (0, 2)}
    assert sorted(sealed.parts) == sorted(order)
    swapped = replace(sealed, parts={place: sealed.parts[order[place]] for place in order})
    creator.put_parts(swapped)

    answer = creator.complete(sealed)

    assert_refused(answer, "part_reordered")
    assert answer.json()["errors"][0]["pointer"] == "/files/0/parts/0"
    creator.put_parts(sealed)
    assert creator.complete(sealed).status_code == 202


def test_a_manifest_that_lists_other_parts_than_its_sizes_give_is_refused(creator, sealed):
    files = [file.to_json() for file in sealed.manifest.files]
    files[0]["parts"].append(Part(1, "0" * 64).to_json())

    answer = creator.complete_raw(sealed, recanonicalize(sealed.manifest, files=files))

    assert_refused(answer, "size_mismatch")


# --- Wraps ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("_case", "change"),
    [
        ("none", lambda wraps: []),
        ("for the creator only", lambda wraps: wraps[1:]),
        ("twice for the platform", lambda wraps: [wraps[0], wraps[0]]),
        ("three", lambda wraps: [*wraps, wraps[1]]),
        ("another kid", lambda wraps: [wraps[0] | {"kid": "0" * 32}, wraps[1]]),
        ("another suite", lambda wraps: [wraps[0] | {"suite": "rsa"}, wraps[1]]),
        ("a recipient more", lambda wraps: [wraps[0], wraps[1] | {"recipient": "friend"}]),
        ("short", lambda wraps: [wraps[0] | {"blob": "AAAA"}]),
        ("a member more", lambda wraps: [wraps[0] | {"dek": "AAAA"}]),
        ("no object", lambda wraps: ["platform"]),
    ],
)  # fmt: skip
def test_wraps_must_be_one_for_the_platform_and_at_most_one_for_the_creator(
    creator, sealed, _case, change
):
    assert_refused(
        creator.complete(sealed, wrapped_keys=change(sealed.wrapped_keys)), "key_wrap_invalid"
    )


def test_the_wrap_of_another_version_is_refused(creator, sealed):
    other = creator.begin("acme/digits", FILES).json()
    foreign = creator.wrap_keys(other, sealed.dek)

    answer = creator.complete(sealed, wrapped_keys=foreign)

    assert (answer.status_code, answer.json()["code"]) == (422, "key_wrap_invalid")
    assert not Artifact.objects.exists()
    assert not WrappedKey.objects.exists()


def test_the_creators_own_wrap_is_a_choice(creator, sealed):
    assert creator.complete(sealed, wrapped_keys=sealed.wrapped_keys[:1]).status_code == 202
    assert WrappedKey.objects.get().recipient == "platform"


# --- Negative controls: each check is what refuses ---------------------------------


@pytest.mark.parametrize(
    ("check", "spoil"),
    [
        ("_check_signature", lambda creator, sealed: {"signature": encode_base64(bytes(64))}),
        (
            "_check_parts",
            lambda creator, sealed: (
                creator.put_part(
                    sealed.upload["upload_id"],
                    1,
                    0,
                    creator.seal(sealed.upload, FILES, model="acme/digits").parts[1, 0],
                )
                and {}
            ),
        ),
    ],
)
def test_without_its_check_the_fault_would_pass(monkeypatch, creator, sealed, check, spoil):
    changes = spoil(creator, sealed)
    assert creator.complete(sealed, **changes).status_code == 422

    monkeypatch.setattr(service, check, lambda *args: None)

    assert creator.complete(sealed, **changes).status_code == 202


# --- Platform and versions ---------------------------------------------------------


def test_the_platform_tells_its_key_and_limits_to_anybody(db, broker, settings):
    answer = Client().get("/api/platform")

    assert answer.status_code == 200
    body = answer.json()
    assert body["platform_key"] == broker.platform_key()
    assert (body["name"], body["web_url"]) == ("Strongroom", settings.WEB_URL)
    assert body["limits"]["part_size_bytes"] == 64 * 1024 * 1024
    assert body["limits"]["max_files"] == 64


def test_the_platforms_key_is_asked_for_once(db, broker):
    broker.broken_status = 500
    refused = Client().get("/api/platform")
    broker.broken_status = None
    first = Client().get("/api/platform")
    broker.broken_status = 500
    second = Client().get("/api/platform")

    assert (refused.status_code, refused.json()["code"]) == (503, "keybroker_unavailable")
    assert second.json() == first.json()
    assert broker.calls == ["/v1/platform-key"] * 2


def test_versions_are_listed_newest_first_in_few_queries(creator, model, django_assert_num_queries):
    for _ in range(3):
        creator.push("acme/digits", FILES)
    AIModelFactory(account=model.account, name="other")

    # Session and user, the model, the right, the role; versions, steps, channels.
    with django_assert_num_queries(8):
        answer = creator.client.get("/api/models/acme/digits/versions")

    results = answer.json()["results"]
    assert [one["version"] for one in results] == [3, 2, 1]
    assert "next_before" not in answer.json()
    page = creator.client.get("/api/models/acme/digits/versions?before=3").json()["results"]
    assert [one["version"] for one in page] == [2, 1]
    one = creator.client.get(f"/api/versions/{results[0]['id']}")
    assert one.json() == results[0]


@pytest.mark.parametrize("before", ["x", "-1", "1" * 10, ""])
def test_a_page_that_is_no_number_is_refused(creator, model, before):
    answer = creator.client.get("/api/models/acme/digits/versions", {"before": before})

    assert (answer.status_code, answer.json()["code"]) == (422, "validation")


def test_a_platform_admin_reads_the_versions_of_all(creator, model, admin_client):
    version = creator.push("acme/digits", FILES)

    listed = admin_client.get("/api/models/acme/digits/versions")

    assert [one["id"] for one in listed.json()["results"]] == [version["id"]]
    assert admin_client.get(f"/api/versions/{version['id']}").status_code == 200


def test_test_vectors_of_the_manifest_are_kept(creator, model):
    vector = TestVector({"x": [1, 2]}, {"y": 3.0})

    creator.push("acme/digits", FILES, vectors=(vector,))

    assert '"test_vectors":[{"expected":{"y":3}' in Artifact.objects.get().manifest


def test_what_of_an_answer_leaves_is_kept_with_the_version(creator, model):
    rule = OutputRule(top_k=5, decimals=3)
    creator.push("acme/digits", FILES, policy=Policy(output={"y": rule}))

    assert ModelVersion.objects.get().output_policy == {"y": {"top_k": 5, "decimals": 3}}


def test_a_rule_for_an_output_that_is_not_there_is_refused(creator, sealed):
    policy = Policy(output={"z": OutputRule(decimals=3)})
    bad = replace(sealed, manifest=replace(sealed.manifest, policy=policy))

    answer = creator.complete(bad)

    assert (answer.status_code, answer.json()["code"]) == (422, "policy_invalid")
    assert not Artifact.objects.exists()
