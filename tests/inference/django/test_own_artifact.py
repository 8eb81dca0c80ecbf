"""A creator's own ciphertext, over HTTP: who gets it, in which pieces, and until when."""

from __future__ import annotations

import pytest
from django.test import Client

from inference.api import artifact as api
from inference.models import Artifact
from marketplace.models import AIModel, Membership
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.manifest import Manifest
from tests.factories import APIKeyFactory, MembershipFactory, UserFactory
from tests.inference.django.conftest import stored_files

FILES = {"model.onnx": b"weights" * 1000, "labels.txt": b"zero\none\n"}
URL = "/api/models/acme/digits/versions/1/artifact"


@pytest.fixture
def sealed(creator, model):
    sealed = creator.seal(creator.begin("acme/digits", FILES).json(), FILES, model="acme/digits")
    creator.put_parts(sealed)
    assert creator.complete(sealed).status_code == 202
    return sealed


def body_of(answer) -> bytes:
    return b"".join(answer.streaming_content)


def assert_refused(answer, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.content


def test_the_creator_gets_back_what_was_signed(creator, owner_client, sealed):
    answer = owner_client.get(URL)

    assert answer.status_code == 200
    assert answer["Cache-Control"] == "private, no-store"
    told = answer.json()
    assert told["manifest"].encode() == sealed.manifest.canonical_bytes()
    public_key = decode_base64(told["signing_key"]["public_key"])
    signature.verify(
        public_key,
        signature.MANIFEST_TYPE,
        told["manifest"].encode(),
        decode_base64(told["signature"]),
    )
    assert (told["model"], told["version"]) == ("acme/digits", 1)
    assert told["version_id"] == sealed.manifest.artifact_id
    assert [(one["file"], one["part"]) for one in told["parts"]] == sorted(sealed.parts)


def test_only_the_creators_own_wrap_is_given(creator, owner_client, sealed):
    (wrapped,) = owner_client.get(URL).json()["wrapped_keys"]

    assert wrapped["recipient"] == "creator"
    dek = wrap.unwrap_dek(
        wrap.WrappedKey.parse(wrapped),
        creator.backup_key,
        artifact_id=sealed.manifest.artifact_id,
    )
    assert dek == sealed.dek


def test_what_is_downloaded_opens(owner_client, sealed):
    manifest = Manifest.parse(owner_client.get(URL).json()["manifest"])
    for index, file in enumerate(manifest.files):
        answer = owner_client.get(f"{URL}/files/{index}/parts/0")
        body = body_of(answer)
        assert answer["ETag"] == f'"{file.parts[0].sha256}"'
        assert int(answer["Content-Length"]) == len(body)
        plain = floe.open_bytes(sealed.dek, manifest.file_aad(file), file.floe_header, body)
        assert plain == FILES[file.path]


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=100-", 100, None), ("bytes=7031-99999", 7031, None)],
)
def test_a_range_is_given(owner_client, sealed, asked, first, last):
    whole = sealed.parts[0, 0]
    last = len(whole) - 1 if last is None else last

    answer = owner_client.get(f"{URL}/files/0/parts/0", headers={"Range": asked})

    assert answer.status_code == 206
    assert answer["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"
    body = body_of(answer)
    assert body == whole[first : last + 1]
    assert int(answer["Content-Length"]) == len(body)


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-1,5-6"},
        {"Range": "bytes=-5"},
        {"Range": "lines=0-1"},
        {"Range": "bytes=0-" + "9" * 13},
        {"Range": "bytes=5-", "If-Range": '"another"'},
    ],
)
def test_a_range_that_is_not_understood_gives_the_whole(owner_client, sealed, headers):
    answer = owner_client.get(f"{URL}/files/0/parts/0", headers=headers)

    assert answer.status_code == 200
    assert body_of(answer) == sealed.parts[0, 0]


@pytest.mark.parametrize("asked", ["bytes=7032-", "bytes=9-8", "bytes=999999999999-"])
def test_a_range_outside_the_part_is_refused(owner_client, sealed, asked):
    assert len(sealed.parts[0, 0]) == 7032

    answer = owner_client.get(f"{URL}/files/0/parts/0", headers={"Range": asked})

    assert_refused(answer, 416, "range_not_satisfiable")


def test_a_part_is_streamed_and_its_file_closed(owner_client, sealed, monkeypatch):
    """Negative control of the memory: no read asks for more than a chunk."""
    asked, closed = [], []
    read, close = api.Slice.read, api.Slice.close
    monkeypatch.setattr(api.Slice, "read", lambda s, size: (asked.append(size), read(s, size))[1])
    monkeypatch.setattr(api.Slice, "close", lambda s: (closed.append(1), close(s))[1])

    answer = owner_client.get(f"{URL}/files/0/parts/0")
    assert body_of(answer) == sealed.parts[0, 0]
    answer.close()

    assert max(asked) <= api.PartResponse.block_size == floe.SEGMENT_BYTES
    assert closed


@pytest.mark.parametrize("url", [f"{URL}/files/0/parts/1", f"{URL}/files/2/parts/0"])
def test_no_other_part_is_found(owner_client, sealed, url):
    assert_refused(owner_client.get(url), 404, "not_found")


@pytest.mark.parametrize("number", [2, 0, 999_999])
def test_no_other_version_is_found(owner_client, sealed, number):
    url = URL.replace("versions/1", f"versions/{number}")

    assert_refused(owner_client.get(url), 404, "not_found")


def test_an_upload_that_is_not_complete_has_no_artifact(creator, owner_client, model):
    creator.begin("acme/digits", FILES)

    assert_refused(owner_client.get(URL), 404, "not_found")


@pytest.mark.parametrize("url", [URL, f"{URL}/files/0/parts/0"])
def test_what_was_deleted_is_gone(owner_client, sealed, url):
    Artifact.objects.get().upload.parts.all().delete()

    assert_refused(owner_client.get(url), 410, "ciphertext_gone")


def test_a_part_that_is_not_in_the_store_is_gone(owner_client, sealed, store):
    for name in stored_files(store):
        (store / name).unlink()

    assert_refused(owner_client.get(f"{URL}/files/0/parts/0"), 410, "ciphertext_gone")


@pytest.mark.parametrize("url", [URL, f"{URL}/files/0/parts/0"])
@pytest.mark.parametrize(
    ("who", "status"),
    [
        ("nobody", 401),
        ("outsider", 403),
        ("viewer", 403),
        ("billing", 403),
        ("platform_admin", 403),
        ("consumer_key", 403),
        ("reading_token", 403),
        ("developer", 200),
    ],
)
def test_it_is_for_those_who_may_push(request, account, owner, sealed, url, who, status):
    """The model is public: everybody sees that it is there."""
    client = Client()
    if who in ("outsider", "platform_admin"):
        client.force_login(request.getfixturevalue(who))
    elif who in Membership.Role.values:
        person = UserFactory()
        MembershipFactory(account=account, user=person, role=who)
        client.force_login(person)
    elif who == "consumer_key":
        key = APIKeyFactory(account=account, created_by=owner, mode="live", scopes=["predict"])
        client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {key.text}"
    elif who == "reading_token":
        key = APIKeyFactory(account=account, created_by=owner, mode="token", scopes=["read"])
        client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {key.text}"

    answer = client.get(url)

    assert answer.status_code == status


def test_a_private_model_is_not_even_seen(outsider, sealed, model):
    AIModel.objects.filter(pk=model.pk).update(visibility="private")
    client = Client()
    client.force_login(outsider)

    assert_refused(client.get(URL), 404, "not_found")
