"""What nobody sends by mistake: refused with a code, quickly, and nothing of it is kept."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.api import upload as api
from inference.api.parsing import UploadParser
from inference.models import Artifact, Upload, UploadPart, WrappedKey
from marketplace.models import ModelVersion
from strongroom.sealing import floe, manifest, signature
from strongroom.sealing.canonical import canonicalize, encode_base64
from strongroom.sealing.errors import CanonicalError
from tests.inference.django.conftest import stored_files
from tests.inference.django.creator import Creator, announce

FILES = {"model.onnx": b"weights" * 1000, "labels.txt": b"zero\none\n"}
MIB = 1024 * 1024


def assert_refused(answer, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.content
    assert answer["Content-Type"] == "application/problem+json"


def assert_nothing_kept() -> None:
    assert not Upload.objects.exists()
    assert not ModelVersion.objects.exists()


def file_of(**changes: Any) -> dict[str, Any]:
    return announce("model.onnx", 7000) | changes


# --- Announcing -------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "//x",
        "C:\\x",
        "a\\..\\x",
        "a\x00b",
        "a\nb",
        "",
        ".",
        "a/./b",
        "a" * 201,
        "é",
        "\ud800",
        "%2e%2e/x",
        None,
        ["a"],
    ],
)
def test_paths_that_lead_elsewhere_are_not_announced(creator, model, path):
    answer = creator.begin("acme/digits", FILES, files=[file_of(path=path)])

    assert_refused(answer, 422, "path_invalid")
    assert_nothing_kept()


@pytest.mark.parametrize(
    "paths",
    [("a", "a"), ("a.onnx", "A.ONNX"), ("a", "a/b"), ("a/b", "a"), ("x/Y/z", "X/y"), ("B/c", "b")],
)
def test_paths_that_collide_are_not_announced(creator, model, paths):
    answer = creator.begin("acme/digits", FILES, files=[file_of(path=one) for one in paths])

    assert_refused(answer, 422, "duplicate_path")
    assert_nothing_kept()


def test_sixty_four_files_are_announced_and_one_more_is_not(creator, model):
    names = [f"f{number}.bin" for number in range(65)]

    too_many = creator.begin("acme/digits", FILES, files=[file_of(path=one) for one in names])
    assert_refused(too_many, 422, "too_many_files")
    assert_nothing_kept()

    files = [file_of(path=one) for one in names[:64]]
    assert creator.begin("acme/digits", FILES, files=files).status_code == 201


@pytest.mark.parametrize("entry", [{}, [], 0, None, "x"])
def test_a_hundred_thousand_files_are_counted_and_not_looked_at(
    creator, model, broker, monkeypatch, entry
):
    looked_at = []
    monkeypatch.setattr(manifest, "_check_file", lambda *args: looked_at.append(args))

    answer = creator.begin("acme/digits", FILES, files=[entry] * 100_000)

    assert_refused(answer, 422, "too_many_files")
    assert looked_at == []
    assert len(answer.content) < 1_000
    assert_nothing_kept()


def test_a_hundred_thousand_described_files_are_not_even_read(creator, model, monkeypatch):
    """Ten megabytes: no more than the limit and a byte of them is read, and nothing is parsed."""
    parsed = []
    real = json.loads
    monkeypatch.setattr("rest_framework.utils.json.loads", lambda text: parsed.append(1))
    body = json.dumps({"files": [file_of()] * 100_000, "signing_key": creator.fingerprint})
    assert len(body) > 2 * UploadParser.body_bytes_max

    answer = creator.client.post(
        "/api/models/acme/digits/uploads", body, content_type="application/json"
    )

    assert (answer.status_code, real(answer.content)["code"]) == (413, "payload_too_large")
    assert parsed == []
    assert_nothing_kept()


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (manifest.MAX_FILE_BYTES + 1, "file_too_large"),
        (2**53 + 1, "file_too_large"),
        (2**63 - 1, "file_too_large"),
        (2**63, "file_too_large"),
        (2**64, "file_too_large"),
        (10**300, "file_too_large"),
        (-1, "member_invalid"),
        (1e3, "member_invalid"),
        (True, "member_invalid"),
        ("7000", "member_invalid"),
        (None, "member_invalid"),
    ],
)
def test_sizes_that_no_file_has_are_not_announced(creator, model, size, code):
    answer = creator.begin("acme/digits", FILES, files=[file_of(plain_size_bytes=size)])

    assert_refused(answer, 422, code)
    assert_nothing_kept()


@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 5000])
def test_numbers_that_python_would_stumble_over_are_refused(creator, model, number):
    body = json.dumps({"files": [file_of(plain_size_bytes=7)], "signing_key": "x"})
    body = body.replace('"plain_size_bytes": 7', f'"plain_size_bytes": {number}')

    answer = creator.client.post(
        "/api/models/acme/digits/uploads", body, content_type="application/json"
    )

    assert answer.status_code in (400, 422)
    assert_nothing_kept()


def test_sizes_that_overflow_together_are_refused(creator, model):
    largest = manifest.MAX_FILE_BYTES
    files = [
        file_of(
            path=f"f{number}",
            plain_size_bytes=largest,
            cipher_size_bytes=floe.PRODUCTION.cipher_size(largest),
        )
        for number in range(64)
    ]

    assert_refused(creator.begin("acme/digits", FILES, files=files), 413, "version_too_large")
    assert_nothing_kept()


# --- Parts --------------------------------------------------------------------------


@pytest.fixture
def upload(creator, model) -> dict[str, Any]:
    return creator.begin("acme/digits", FILES).json()


@pytest.fixture
def sealed(creator, upload):
    return creator.seal(upload, FILES, model="acme/digits")


@pytest.mark.parametrize(
    ("place", "status", "code"),
    [
        (("0", "999999"), 422, "part_out_of_range"),
        (("999999", "0"), 422, "part_out_of_range"),
        (("0", "1000000"), 404, "not_found"),
        (("0", str(2**31)), 404, "not_found"),
        (("0", str(2**64)), 404, "not_found"),
        (("0", "-1"), 404, "not_found"),
        (("0", "0x0"), 404, "not_found"),
        (("0", "\u0660"), 404, "not_found"),
    ],
)
def test_numbers_of_parts_cannot_overflow(creator, upload, sealed, store, place, status, code):
    answer = creator.put_part(upload["upload_id"], *place, sealed.parts[0, 0])

    assert answer.status_code == status
    if status != 404:
        assert answer.json()["code"] == code
    assert not UploadPart.objects.exists()
    assert stored_files(store) == []


# --- Completing -----------------------------------------------------------------------


@pytest.fixture
def sent(creator, sealed):
    creator.put_parts(sealed)
    return sealed


def assert_still_open() -> None:
    assert Upload.objects.get().state == Upload.State.OPEN
    assert not Artifact.objects.exists()
    assert not WrappedKey.objects.exists()
    assert ModelVersion.objects.get().state == "uploading"


@pytest.mark.parametrize("kid", ["", "a\x00b", "\ud800", "é" * 10, "a\nb", " ", "x" * 81, None, 7])
def test_names_of_keys_that_cannot_be_stored_are_refused(creator, sent, kid):
    wraps = [sent.wrapped_keys[0], sent.wrapped_keys[1] | {"kid": kid}]

    assert_refused(creator.complete(sent, wrapped_keys=wraps), 422, "key_wrap_invalid")
    assert_still_open()


def test_the_longest_name_of_a_key_is_taken(creator, sent):
    wraps = [sent.wrapped_keys[0], sent.wrapped_keys[1] | {"kid": "x" * 80}]

    assert creator.complete(sent, wrapped_keys=wraps).status_code == 202


def test_a_million_wraps_are_counted_and_not_looked_at(creator, sent, monkeypatch):
    looked_at = []
    monkeypatch.setattr("strongroom.sealing.wrap.WrappedKey.parse", looked_at.append)
    real = api.serializers.JSONField.to_internal_value
    calls = []
    monkeypatch.setattr(
        api.serializers.JSONField,
        "to_internal_value",
        lambda field, data: (calls.append(1), real(field, data))[1],
    )

    answer = creator.complete(sent, wrapped_keys=[0] * 1_000_000)

    assert_refused(answer, 422, "key_wrap_invalid")
    assert looked_at == []
    assert len(calls) <= 1
    assert_still_open()


@pytest.mark.parametrize("value", [None, {}, "x", 7, True])
def test_wraps_that_are_no_list_are_refused(creator, sent, value):
    answer = creator.complete(sent, wrapped_keys=value)

    assert answer.status_code == 422
    assert answer.json()["code"] in ("validation", "key_wrap_invalid")
    assert_still_open()


# --- Anything -------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["../x", "model.onnx", "\x00", "\ud800", "A" * 44, "onnx"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
FUZZ = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def places(value: Any, at: tuple = ()) -> list[tuple]:
    """Every place in a decoded document, the document itself left out."""
    below = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, one in below:
        found.append((*at, key))
        if isinstance(one, dict | list):
            found += places(one, (*at, key))
    return found


def spoil(document: Any, data: st.DataObject) -> Any:
    """The document with something else, something more or nothing at one or two places."""
    spoiled = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 2))):
        found = places(spoiled)
        if not found:
            break
        *parents, last = data.draw(st.sampled_from(found))
        target = spoiled
        for key in parents:
            target = target[key]
        if data.draw(st.booleans()):
            target[last] = data.draw(JSON)
        elif isinstance(target, dict):
            target[data.draw(st.text(max_size=4))] = target.pop(last)
        else:
            target.insert(last, target[last])
    return spoiled


def send(creator: Creator, path: str, body: Any) -> Any:
    raw = json.dumps(body)  # Half surrogates leave as escapes, as an attacker sends them.
    return creator.client.post(path, raw, content_type="application/json")


@FUZZ
@given(data=st.data())
def test_any_announcement_is_taken_or_refused(creator, model, data):
    good = {
        "files": [announce(path, len(content)) for path, content in FILES.items()],
        "signing_key": creator.fingerprint,
    }
    body = spoil(good, data)
    with transaction.atomic():
        answer = send(creator, "/api/models/acme/digits/uploads", body)
        assert answer.status_code in (201, 400, 413, 422), answer.content
        if answer.status_code == 201:
            manifest.check_files(body["files"])
        else:
            assert answer.json()["code"]
            assert_nothing_kept()
        transaction.set_rollback(True)


@FUZZ
@given(data=st.data())
def test_any_manifest_and_wraps_are_taken_or_refused(creator, sent, data):
    part = data.draw(st.sampled_from(["manifest", "wrapped_keys", "body"]))
    good = json.loads(sent.manifest.canonical_bytes())
    try:
        text = canonicalize(spoil(good, data) if part == "manifest" else good).decode()
    except CanonicalError:
        text = json.dumps(spoil(good, data))
    wraps = sent.wrapped_keys
    if part == "wrapped_keys":
        wraps = spoil({"": wraps}, data).get("")
    signed = signature.sign(creator.signing_key, signature.MANIFEST_TYPE, text.encode())
    body = {"manifest": text, "signature": encode_base64(signed), "wrapped_keys": wraps}
    if part == "body":
        body = spoil(body, data)
    with transaction.atomic():
        answer = send(creator, f"/api/uploads/{sent.upload['upload_id']}/complete", body)
        assert answer.status_code in (202, 400, 409, 413, 422), answer.content
        if answer.status_code != 202:
            assert answer.json()["code"]
            assert_still_open()
        transaction.set_rollback(True)
