"""The manifest: accepted in one form only, with every limit at and past its edge."""

import copy
import hashlib

import pytest

from strongroom.sealing import floe, manifest
from strongroom.sealing.canonical import canonicalize, encode_base64
from strongroom.sealing.errors import ManifestError
from strongroom.sealing.manifest import Manifest, Part, SealedFile, TestVector, file_aad

ARTIFACT = "01890000-0000-7000-8000-000000000001"
INTERFACE = {
    "inputs": [{"name": "x", "kind": "tensor", "datatype": "FP32", "shape": [2]}],
    "outputs": [{"name": "y", "kind": "number"}],
    "batch": {"max_size": 4, "leading_axis": True},
}
HEADER = floe.Message.start(bytes(32), b"").header


def sealed_file(path="model.onnx", size=100, kind="onnx"):
    cipher_size = floe.PRODUCTION.cipher_size(size)
    return {
        "path": path,
        "kind": kind,
        "plain_size_bytes": size,
        "cipher_size_bytes": cipher_size,
        "floe_header": encode_base64(HEADER),
        "parts": [
            {"size_bytes": part, "sha256": "0" * 64}
            for part in floe.PRODUCTION.part_sizes(cipher_size)
        ],
    }


GOOD = {
    "format": "strongroom-manifest/1",
    "artifact_id": ARTIFACT,
    "model": "acme/digits",
    "content_format": "floe-gcm256-hkdf384-1m",
    "runtime": "onnx",
    "task": "image-classification",
    "licence": "Apache-2.0",
    "interface": INTERFACE,
    "files": [sealed_file()],
    "test_vectors": [{"input": {"x": [1, 2]}, "expected": {"y": 3}, "tolerance": 0.0001}],
    "publish_channel": "prod",
    "created_at": "2026-11-21T03:42:00Z",
}


def changed(path, value):
    description = copy.deepcopy(GOOD)
    *steps, last = path
    place = description
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return description


def refusal(raw):
    with pytest.raises(ManifestError) as refused:
        Manifest.parse(raw)
    return refused.value.code, refused.value.pointer


def test_a_manifest_survives_its_own_bytes():
    raw = canonicalize(GOOD)

    parsed = Manifest.parse(raw)

    assert parsed.canonical_bytes() == raw
    assert parsed.digest == hashlib.sha256(raw).hexdigest()
    assert Manifest.parse(raw.decode()) == parsed
    assert parsed.parsed_interface.inputs[0].name == "x"
    assert (parsed.plain_size_bytes, parsed.cipher_size_bytes) == (100, 132)


def test_a_manifest_need_not_be_published():
    parsed = Manifest.parse(canonicalize(changed(["publish_channel"], None)))

    assert parsed.publish_channel is None


def test_the_text_of_a_refusal_names_code_and_place():
    with pytest.raises(ManifestError) as refused:
        Manifest.parse(canonicalize(changed(["runtime"], "x")))

    assert str(refused.value) == "runtime_unknown at /runtime: Must be one of: onnx, transformers."


def test_a_built_manifest_equals_the_parsed_one():
    built = Manifest(
        artifact_id=ARTIFACT,
        model="acme/digits",
        runtime="onnx",
        task="image-classification",
        licence="Apache-2.0",
        interface=INTERFACE,
        files=(SealedFile("model.onnx", "onnx", 100, 132, HEADER, (Part(132, "0" * 64),)),),
        created_at="2026-11-21T03:42:00Z",
        test_vectors=(TestVector({"x": [1, 2]}, {"y": 3}),),
        publish_channel="prod",
    )

    assert built.canonical_bytes() == canonicalize(GOOD)
    assert Manifest.parse(built.canonical_bytes()) == built
    assert built.parsed_interface == Manifest.parse(canonicalize(GOOD)).parsed_interface


@pytest.mark.parametrize(
    ("_case", "path", "value", "code", "pointer"),
    [
        ("format", ["format"], "strongroom-manifest/2", "unknown_format", "/format"),
        (
            "content format",
            ["content_format"],
            "cobblestone-256",
            "unknown_content_format",
            "/content_format",
        ),
        ("unknown member", ["note"], "x", "unknown_member", "/note"),
        ("missing member", ["task"], ..., "member_missing", "/task"),
        (
            "id upper case",
            ["artifact_id"],
            ARTIFACT.replace("-8", "-A"),
            "member_invalid",
            "/artifact_id",
        ),
        ("id short", ["artifact_id"], "1", "member_invalid", "/artifact_id"),
        ("id number", ["artifact_id"], 1, "member_invalid", "/artifact_id"),
        ("model", ["model"], "digits", "member_invalid", "/model"),
        ("model dots", ["model"], "../digits", "member_invalid", "/model"),
        ("runtime", ["runtime"], "pickle", "runtime_unknown", "/runtime"),
        ("runtime list", ["runtime"], [], "runtime_unknown", "/runtime"),
        ("task", ["task"], "Image Classification", "member_invalid", "/task"),
        ("licence", ["licence"], "x\ny", "member_invalid", "/licence"),
        ("licence long", ["licence"], "x" * 65, "member_invalid", "/licence"),
        ("interface", ["interface", "inputs"], [], "interface_invalid", "/interface/inputs"),
        ("time", ["created_at"], "2026-13-21T03:42:00Z", "member_invalid", "/created_at"),
        ("time zone", ["created_at"], "2026-11-21T03:42:00+01:00", "member_invalid", "/created_at"),
        ("channel", ["publish_channel"], "latest", "member_invalid", "/publish_channel"),
        ("no files", ["files"], [], "no_files", "/files"),
        ("files object", ["files"], {}, "member_invalid", "/files"),
        ("file text", ["files", 0], "model.onnx", "member_invalid", "/files/0"),
        ("kind", ["files", 0, "kind"], "pickle", "kind_unknown", "/files/0/kind"),
        (
            "size negative",
            ["files", 0, "plain_size_bytes"],
            -1,
            "member_invalid",
            "/files/0/plain_size_bytes",
        ),
        (
            "size true",
            ["files", 0, "plain_size_bytes"],
            True,
            "member_invalid",
            "/files/0/plain_size_bytes",
        ),
        (
            "sizes differ",
            ["files", 0, "cipher_size_bytes"],
            133,
            "size_mismatch",
            "/files/0/cipher_size_bytes",
        ),
        ("parts object", ["files", 0, "parts"], {}, "member_invalid", "/files/0/parts"),
        ("part missing", ["files", 0, "parts"], [], "size_mismatch", "/files/0/parts"),
        (
            "part size",
            ["files", 0, "parts", 0, "size_bytes"],
            131,
            "size_mismatch",
            "/files/0/parts/0/size_bytes",
        ),
        (
            "part hash upper case",
            ["files", 0, "parts", 0, "sha256"],
            "A" * 64,
            "member_invalid",
            "/files/0/parts/0/sha256",
        ),
        (
            "header short",
            ["files", 0, "floe_header"],
            encode_base64(HEADER[:-1]),
            "header_invalid",
            "/files/0/floe_header",
        ),
        (
            "header of other segments",
            ["files", 0, "floe_header"],
            encode_base64(b"\0\0\0\0\1\0" + HEADER[6:]),
            "header_invalid",
            "/files/0/floe_header",
        ),
        (
            "vector input",
            ["test_vectors", 0, "input", "x"],
            [1],
            "test_vector_invalid",
            "/test_vectors/0/input/x",
        ),
        (
            "vector of nothing",
            ["test_vectors", 0, "expected"],
            {},
            "test_vector_invalid",
            "/test_vectors/0/expected",
        ),
        (
            "vector output",
            ["test_vectors", 0, "expected"],
            {"z": 1},
            "test_vector_invalid",
            "/test_vectors/0/expected/z",
        ),
        (
            "tolerance",
            ["test_vectors", 0, "tolerance"],
            2,
            "test_vector_invalid",
            "/test_vectors/0/tolerance",
        ),
        ("vectors object", ["test_vectors"], {}, "member_invalid", "/test_vectors"),
    ],
)
def test_a_faulty_manifest_is_refused_with_its_reason(_case, path, value, code, pointer):
    assert refusal(canonicalize(changed(path, value))) == (code, pointer)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../model.onnx",
        "a/../b",
        "a..b",
        "./a",
        "a//b",
        "a/",
        ".hidden",
        "a/.hidden",
        "a\\b",
        "a b",
        "a\nb",
        "a\n",
        "é.onnx",
        "x" * 201,
        None,
        7,
    ],
)
def test_paths_that_are_refused(path):
    raw = canonicalize(changed(["files", 0, "path"], path))

    assert refusal(raw) == ("path_invalid", "/files/0/path")


def test_a_path_of_the_longest_length_is_accepted():
    raw = canonicalize(changed(["files", 0, "path"], "x" * 200))

    assert Manifest.parse(raw).files[0].path == "x" * 200


@pytest.mark.parametrize(
    ("first", "second"),
    [("a.onnx", "a.onnx"), ("a.onnx", "A.ONNX"), ("a", "a/b"), ("a/b/c", "a/b"), ("A/b", "a")],
)
def test_paths_that_collide_are_refused(first, second):
    raw = canonicalize(changed(["files"], [sealed_file(first), sealed_file(second)]))

    assert refusal(raw) == ("duplicate_path", "/files/1/path")


def test_files_are_limited():
    def raw(count):
        return canonicalize(changed(["files"], [sealed_file(f"f{i}") for i in range(count)]))

    assert len(Manifest.parse(raw(64)).files) == 64
    assert refusal(raw(65)) == ("too_many_files", "/files")


def test_test_vectors_are_limited():
    def raw(count):
        return canonicalize(changed(["test_vectors"], GOOD["test_vectors"] * count))

    assert len(Manifest.parse(raw(64)).test_vectors) == 64
    assert refusal(raw(65)) == ("too_many_test_vectors", "/test_vectors")


def test_the_size_of_a_file_is_limited():
    announced = {
        "path": "a",
        "kind": "onnx",
        "plain_size_bytes": manifest.MAX_FILE_BYTES,
        "cipher_size_bytes": floe.PRODUCTION.cipher_size(manifest.MAX_FILE_BYTES),
    }

    manifest.check_files([announced])

    announced["plain_size_bytes"] += 1
    announced["cipher_size_bytes"] += 1
    with pytest.raises(ManifestError) as refused:
        manifest.check_files([announced])
    assert refused.value.code == "file_too_large"


def test_the_size_of_a_manifest_is_limited():
    """One description filled up until the manifest has exactly the allowed size."""
    many = [
        {"input": {"x": [1, 2]}, "expected": {"y": "x" * 16_000}, "tolerance": 0} for _ in range(64)
    ]
    description = changed(["test_vectors"], many)
    room = manifest.MAX_MANIFEST_BYTES - len(canonicalize(description))
    many[0]["expected"]["y"] += "x" * room

    assert len(canonicalize(description)) == manifest.MAX_MANIFEST_BYTES
    assert Manifest.parse(canonicalize(description)).test_vectors[0].tolerance == 0
    many[0]["expected"]["y"] += "x"
    assert refusal(canonicalize(description)) == ("manifest_too_large", "")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"not json", "manifest_not_json"),
        ("\ud800", "manifest_not_json"),
        (canonicalize(GOOD) + b"\n", "manifest_not_canonical"),
        (b" " + canonicalize(GOOD), "manifest_not_canonical"),
        (canonicalize(GOOD)[:-1] + b',"task":"other"}', "manifest_not_canonical"),
        (b"[]", "member_invalid"),
    ],
)
def test_other_texts_are_refused(raw, code):
    assert refusal(raw) == (code, "")


@pytest.mark.parametrize("files", [None, "x", [None], [{}], [{"path": "a"}]])
def test_malformed_announcements_are_refused(files):
    with pytest.raises(ManifestError):
        manifest.check_files(files)


def test_file_aad_cannot_be_imitated():
    fields = {"artifact_id": "a", "path": "b", "plain_size_bytes": 1}

    assert file_aad(**fields) == (b"\0\0\0\1a\0\0\0\1b\0\0\0\0011\0\0\0\x16floe-gcm256-hkdf384-1m")
    others = [
        {"artifact_id": "ab", "path": ""},
        {"path": "b2"},
        {"plain_size_bytes": 11},
        {"content_format": "x"},
    ]
    assert len({file_aad(**(fields | other)) for other in others} | {file_aad(**fields)}) == 5


def test_a_file_of_one_manifest_does_not_open_under_another():
    parsed = Manifest.parse(canonicalize(GOOD))
    header, body = floe.seal_bytes(bytes(32), parsed.file_aad(parsed.files[0]), bytes(100))
    other = Manifest.parse(canonicalize(changed(["artifact_id"], ARTIFACT[:-1] + "2")))

    assert floe.open_bytes(bytes(32), parsed.file_aad(parsed.files[0]), header, body) == bytes(100)
    with pytest.raises(floe.HeaderError):
        floe.open_bytes(bytes(32), other.file_aad(other.files[0]), header, body)
