"""The manifest: what a sealed model version consists of, signed by its creator.

It lists every sealed file with its size, the hash of each uploaded part and the FLOE
header, and says how the model is called. Its canonical bytes are what the creator signs
and what the version's digest is taken of, so a manifest is only accepted in exactly
those bytes. Wrapped keys stand beside it: they may be replaced without changing it.
"""

from __future__ import annotations

import hashlib
import re
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from strongroom.errors import InputError, InterfaceError
from strongroom.interface import Interface
from strongroom.sealing import floe
from strongroom.sealing.canonical import (
    canonicalize,
    decode_base64,
    encode_base64,
    parse_canonical,
)
from strongroom.sealing.errors import (
    CanonicalError,
    HeaderError,
    ManifestError,
    PolicyError,
)
from strongroom.sealing.policy import Policy

FORMAT = "strongroom-manifest/1"
# Real manifests have a few kilobytes. One part takes about 100 bytes, so that the largest
# models that fit have about 600 GiB.
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_FILES = 64
MAX_PATH_LENGTH = 200
MAX_TEST_VECTORS = 64
MAX_FILE_BYTES = 1024**4
MAX_TASK_LENGTH = 40
MAX_LICENCE_LENGTH = 64
DEFAULT_TOLERANCE = 1e-4

RUNTIMES = ("onnx", "transformers")
KINDS = (
    "onnx",
    "safetensors",
    "config",
    "tokenizer",
    "tokenizer_config",
    "external_data",
    "labels",
)
CHANNELS = ("prod",)

_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}/[a-z0-9][a-z0-9._-]{0,63}")
_TASK = re.compile(r"[a-z0-9][a-z0-9-]*")
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+() -]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

_MEMBERS = frozenset(
    {
        "format",
        "artifact_id",
        "model",
        "content_format",
        "runtime",
        "task",
        "licence",
        "interface",
        "files",
        "test_vectors",
        "publish_channel",
        "created_at",
    }
)
# Left out where a creator demands nothing.
_OPTIONAL_MEMBERS = frozenset({"policy"})
_FILE_MEMBERS = frozenset(
    {"path", "kind", "plain_size_bytes", "cipher_size_bytes", "floe_header", "parts"}
)
_ANNOUNCED_MEMBERS = _FILE_MEMBERS - {"floe_header", "parts"}
_PART_MEMBERS = frozenset({"size_bytes", "sha256"})
_VECTOR_MEMBERS = frozenset({"input", "expected", "tolerance"})


@dataclass(frozen=True, slots=True)
class Part:
    """One uploaded part of a sealed file; the hash is over the sealed bytes."""

    size_bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """The form in the manifest."""
        return {"size_bytes": self.size_bytes, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class SealedFile:
    """One sealed file of the artifact."""

    path: str
    kind: str
    plain_size_bytes: int
    cipher_size_bytes: int
    floe_header: bytes
    parts: tuple[Part, ...]

    def to_json(self) -> dict[str, Any]:
        """The form in the manifest."""
        return {
            "path": self.path,
            "kind": self.kind,
            "plain_size_bytes": self.plain_size_bytes,
            "cipher_size_bytes": self.cipher_size_bytes,
            "floe_header": encode_base64(self.floe_header),
            "parts": [part.to_json() for part in self.parts],
        }


@dataclass(frozen=True, slots=True)
class TestVector:
    """An input and the output that the creator's own run gave for it."""

    __test__ = False  # The name is the domain's; pytest must not collect it.

    input: Mapping[str, Any]
    expected: Mapping[str, Any]
    tolerance: float = DEFAULT_TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """The form in the manifest."""
        return {
            "input": dict(self.input),
            "expected": dict(self.expected),
            "tolerance": self.tolerance,
        }


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest. `parse` checks everything; the constructor is for what we built."""

    artifact_id: str
    model: str
    runtime: str
    task: str
    licence: str
    interface: Mapping[str, Any]
    files: tuple[SealedFile, ...]
    created_at: str
    test_vectors: tuple[TestVector, ...] = ()
    publish_channel: str | None = None
    policy: Policy = field(default_factory=Policy)
    content_format: str = floe.CONTENT_FORMAT
    _interface: Interface | None = field(default=None, repr=False, compare=False)

    @classmethod
    def parse(cls, raw: bytes | str) -> Manifest:
        """Read a manifest from its canonical bytes and check every limit.

        Raises:
            ManifestError: With a reason code and a JSON pointer to the first fault.
        """
        text = raw.encode(errors="surrogatepass") if isinstance(raw, str) else raw
        if len(text) > MAX_MANIFEST_BYTES:
            _fail("manifest_too_large", "", f"At most {MAX_MANIFEST_BYTES} bytes are allowed.")
        try:
            value = parse_canonical(text)
        except CanonicalError as error:
            code = "manifest_not_json" if error.code == "not_json" else "manifest_not_canonical"
            _fail(code, "", error.detail)
        _check_members(value, _MEMBERS, "", optional=_OPTIONAL_MEMBERS)
        if value["format"] != FORMAT:
            _fail("unknown_format", "/format", f"Must be {FORMAT}.")
        if value["content_format"] != floe.CONTENT_FORMAT:
            _fail("unknown_content_format", "/content_format", f"Must be {floe.CONTENT_FORMAT}.")
        interface = _parse_interface(value["interface"])
        return cls(
            artifact_id=_parse_artifact_id(value["artifact_id"]),
            model=_match(value["model"], _MODEL, 200, "/model"),
            runtime=_one_of(value["runtime"], RUNTIMES, "runtime_unknown", "/runtime"),
            task=_match(value["task"], _TASK, MAX_TASK_LENGTH, "/task"),
            licence=_match(value["licence"], _LICENCE, MAX_LICENCE_LENGTH, "/licence"),
            interface=value["interface"],
            files=_parse_files(value["files"]),
            created_at=_parse_time(value["created_at"]),
            test_vectors=_parse_vectors(value["test_vectors"], interface),
            publish_channel=_parse_channel(value["publish_channel"]),
            policy=_parse_policy(value, interface),
            _interface=interface,
        )

    def to_json(self) -> dict[str, Any]:
        """Decoded JSON of the manifest."""
        policy = self.policy.to_json()
        return {
            "format": FORMAT,
            "artifact_id": self.artifact_id,
            "model": self.model,
            "content_format": self.content_format,
            "runtime": self.runtime,
            "task": self.task,
            "licence": self.licence,
            "interface": dict(self.interface),
            "files": [one.to_json() for one in self.files],
            "test_vectors": [one.to_json() for one in self.test_vectors],
            "publish_channel": self.publish_channel,
            "created_at": self.created_at,
            **({"policy": policy} if policy else {}),
        }

    def canonical_bytes(self) -> bytes:
        """The bytes that are signed and hashed."""
        return canonicalize(self.to_json())

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, in hex: the version's digest."""
        return hashlib.sha256(self.canonical_bytes()).hexdigest()

    @property
    def parsed_interface(self) -> Interface:
        """The interface, checked."""
        return self._interface or Interface.parse(dict(self.interface))

    @property
    def plain_size_bytes(self) -> int:
        """Size of all files together, as they are in memory."""
        return sum(one.plain_size_bytes for one in self.files)

    @property
    def cipher_size_bytes(self) -> int:
        """Size of all files together, as they are stored."""
        return sum(one.cipher_size_bytes for one in self.files)

    def file_aad(self, file: SealedFile) -> bytes:
        """The context that this file's FLOE header commits to."""
        return file_aad(
            artifact_id=self.artifact_id,
            path=file.path,
            plain_size_bytes=file.plain_size_bytes,
            content_format=self.content_format,
        )


def file_aad(
    *,
    artifact_id: str,
    path: str,
    plain_size_bytes: int,
    content_format: str = floe.CONTENT_FORMAT,
) -> bytes:
    """The context of one sealed file.

    Each field stands behind its length, so that no path can imitate a separator.
    """
    fields = (artifact_id, path, str(plain_size_bytes), content_format)
    encoded = [one.encode() for one in fields]
    return b"".join(struct.pack(">I", len(one)) + one for one in encoded)


def check_files(files: Any) -> None:
    """Check paths, kinds and sizes of files that are about to be uploaded.

    Args:
        files: Decoded JSON: a list of objects with exactly path, kind,
            plain_size_bytes and cipher_size_bytes.

    Raises:
        ManifestError: With the codes of `Manifest.parse`.
    """
    _check_file_list(files)
    for index, one in enumerate(files):
        _check_members(one, _ANNOUNCED_MEMBERS, f"/files/{index}")
        _check_file(one, f"/files/{index}")
    _check_paths([one["path"] for one in files])


def _fail(code: str, pointer: str, detail: str) -> NoReturn:
    raise ManifestError(code, pointer, detail)


def _check_members(
    value: Any, members: frozenset[str], pointer: str, *, optional: frozenset[str] = frozenset()
) -> None:
    if not isinstance(value, dict):
        _fail("member_invalid", pointer, "Must be an object.")
    for name in sorted(members - set(value)):
        _fail("member_missing", f"{pointer}/{name}", "Is required.")
    for name in sorted(set(value) - members - optional):
        _fail("unknown_member", f"{pointer}/{name[:64]}", "This member is not known here.")


def _match(value: Any, pattern: re.Pattern[str], maximum: int, pointer: str) -> str:
    if not isinstance(value, str) or len(value) > maximum or not pattern.fullmatch(value):
        _fail("member_invalid", pointer, "Is not in the form that this member has.")
    return value


def _one_of(value: Any, allowed: Sequence[str], code: str, pointer: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        _fail(code, pointer, f"Must be one of: {', '.join(allowed)}.")
    return value


def _integer(value: Any, pointer: str) -> int:
    if type(value) is not int or value < 0:
        _fail("member_invalid", pointer, "Must be an integer that is not negative.")
    return value


def _parse_artifact_id(value: Any) -> str:
    try:
        is_canonical = isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        is_canonical = False
    if not is_canonical:
        _fail("member_invalid", "/artifact_id", "Must be a UUID in lower case.")
    return str(value)


def _parse_time(value: Any) -> str:
    text = _match(value, _TIME, 20, "/created_at")
    try:
        datetime.fromisoformat(text)
    except ValueError:
        _fail("member_invalid", "/created_at", "Is no point in time.")
    return text


def _parse_channel(value: Any) -> str | None:
    if value is None:
        return None
    return _one_of(value, CHANNELS, "member_invalid", "/publish_channel")


def _parse_interface(value: Any) -> Interface:
    try:
        return Interface.parse(value)
    except InterfaceError as error:
        detail = f"{error.detail} ({error.code})"
        raise ManifestError("interface_invalid", f"/interface{error.pointer}", detail) from error


def _parse_policy(value: Mapping[str, Any], interface: Interface) -> Policy:
    if "policy" not in value:
        return Policy()
    try:
        policy = Policy.parse(value["policy"], interface)
    except PolicyError as error:
        raise ManifestError(error.code, f"/policy{error.pointer}", error.detail) from error
    if not value["policy"] or policy.to_json() != value["policy"]:
        # One way to say nothing, so that the bytes that were signed can be made again.
        _fail("policy_invalid", "/policy", "Leave out what demands nothing.")
    return policy


def _check_file_list(value: Any) -> None:
    if not isinstance(value, list | tuple):
        _fail("member_invalid", "/files", "Must be a list.")
    if not value:
        _fail("no_files", "/files", "At least one file is required.")
    if len(value) > MAX_FILES:
        _fail("too_many_files", "/files", f"At most {MAX_FILES} files are allowed.")


def _parse_files(value: Any) -> tuple[SealedFile, ...]:
    _check_file_list(value)
    files = tuple(_parse_file(one, f"/files/{index}") for index, one in enumerate(value))
    _check_paths([one.path for one in files])
    return files


def _check_paths(paths: Sequence[str]) -> None:
    """No path twice, also not in other letters, and none that is a folder of another."""
    seen: set[str] = set()
    folders: set[str] = set()
    for index, path in enumerate(paths):
        # Some file systems do not tell upper from lower case.
        folded = path.lower()
        parents = {folded[:at] for at, letter in enumerate(folded) if letter == "/"}
        if folded in seen or folded in folders or parents & seen:
            _fail("duplicate_path", f"/files/{index}/path", "The path is taken by another file.")
        seen.add(folded)
        folders |= parents


def _parse_file(value: Any, pointer: str) -> SealedFile:
    _check_members(value, _FILE_MEMBERS, pointer)
    _check_file(value, pointer)
    try:
        header = decode_base64(value["floe_header"], size_bytes=floe.HEADER_BYTES)
        floe.check_header(header)
    except (CanonicalError, HeaderError) as error:
        raise ManifestError("header_invalid", f"{pointer}/floe_header", error.detail) from error
    return SealedFile(
        path=value["path"],
        kind=value["kind"],
        plain_size_bytes=value["plain_size_bytes"],
        cipher_size_bytes=value["cipher_size_bytes"],
        floe_header=header,
        parts=_parse_parts(value["parts"], value["cipher_size_bytes"], pointer),
    )


def _check_file(value: Mapping[str, Any], pointer: str) -> None:
    path = value["path"]
    if not isinstance(path, str) or len(path) > MAX_PATH_LENGTH or not _PATH.fullmatch(path):
        detail = f"Must be a relative path of at most {MAX_PATH_LENGTH} of A-Za-z0-9._-/."
        _fail("path_invalid", f"{pointer}/path", detail)
    if ".." in path:
        _fail("path_invalid", f"{pointer}/path", "Must not hold two dots in a row.")
    _one_of(value["kind"], KINDS, "kind_unknown", f"{pointer}/kind")
    plain_size = _integer(value["plain_size_bytes"], f"{pointer}/plain_size_bytes")
    if plain_size > MAX_FILE_BYTES:
        detail = f"A file has at most {MAX_FILE_BYTES} bytes."
        _fail("file_too_large", f"{pointer}/plain_size_bytes", detail)
    cipher_size = _integer(value["cipher_size_bytes"], f"{pointer}/cipher_size_bytes")
    if cipher_size != floe.PRODUCTION.cipher_size(plain_size):
        detail = "Is not the sealed size of a file of this plain size."
        _fail("size_mismatch", f"{pointer}/cipher_size_bytes", detail)


def _parse_parts(value: Any, cipher_size_bytes: int, pointer: str) -> tuple[Part, ...]:
    if not isinstance(value, list):
        _fail("member_invalid", f"{pointer}/parts", "Must be a list.")
    sizes = floe.PRODUCTION.part_sizes(cipher_size_bytes)
    if len(value) != len(sizes):
        _fail("size_mismatch", f"{pointer}/parts", f"Must be {len(sizes)} parts.")
    parts = []
    for index, (one, size_bytes) in enumerate(zip(value, sizes, strict=True)):
        place = f"{pointer}/parts/{index}"
        _check_members(one, _PART_MEMBERS, place)
        if _integer(one["size_bytes"], f"{place}/size_bytes") != size_bytes:
            _fail("size_mismatch", f"{place}/size_bytes", f"Must be {size_bytes}.")
        parts.append(Part(size_bytes, _match(one["sha256"], _SHA256, 64, f"{place}/sha256")))
    return tuple(parts)


def _parse_vectors(value: Any, interface: Interface) -> tuple[TestVector, ...]:
    if not isinstance(value, list):
        _fail("member_invalid", "/test_vectors", "Must be a list.")
    if len(value) > MAX_TEST_VECTORS:
        detail = f"At most {MAX_TEST_VECTORS} are allowed."
        _fail("too_many_test_vectors", "/test_vectors", detail)
    return tuple(
        _parse_vector(one, interface, f"/test_vectors/{index}") for index, one in enumerate(value)
    )


def _parse_vector(value: Any, interface: Interface, pointer: str) -> TestVector:
    _check_members(value, _VECTOR_MEMBERS, pointer)
    try:
        interface.check_input(value["input"], pointer=f"{pointer}/input")
    except InputError as error:
        first = error.errors[0]
        raise ManifestError("test_vector_invalid", first["pointer"], first["detail"]) from error
    expected = value["expected"]
    if not isinstance(expected, dict) or not expected:
        _fail("test_vector_invalid", f"{pointer}/expected", "Must name at least one output.")
    known = {one.name for one in interface.outputs}
    for name in sorted(set(expected) - known):
        place = f"{pointer}/expected/{name[:64]}"
        _fail("test_vector_invalid", place, "The model has no such output.")
    tolerance = value["tolerance"]
    if type(tolerance) not in {int, float} or not 0 <= tolerance <= 1:
        _fail("test_vector_invalid", f"{pointer}/tolerance", "Must be a number from 0 to 1.")
    return TestVector(value["input"], expected, tolerance)
