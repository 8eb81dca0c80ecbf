"""An own version as the platform keeps it: fetched, checked, and opened with the creator's key.

What the platform answers is believed in nothing. The manifest must bear the signature of a
key that the creator knows, the data key must come out of the creator's own wrap, and each
part must be the one that was signed. Only one segment is in memory in plain at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from strongroom.client import WebClient
from strongroom.errors import StrongroomError
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.errors import CanonicalError, TamperedError, WrapError
from strongroom.sealing.manifest import Manifest, SealedFile
from strongroom.sealing.wrap import WrappedKey


class RecoveryError(StrongroomError):
    """A version cannot be opened or written down."""


class SealedVersion:
    """One version, opened. Methods may be called from several threads; call `wipe` when done."""

    def __init__(
        self, api: WebClient, number: int, manifest: Manifest, messages: list[floe.Message]
    ) -> None:
        self.number = number
        self.manifest = manifest
        self._api = api
        self._messages = messages

    @classmethod
    def open(
        cls,
        api: WebClient,
        model: str,
        number: int,
        *,
        recovery_key: bytes,
        signers: Collection[str],
    ) -> SealedVersion:
        """Fetch a version and open it.

        Args:
            api: The platform, logged in.
            model: `owner/name`.
            number: The version's.
            recovery_key: The creator's own, raw.
            signers: Fingerprints of the keys that may have signed the manifest.

        Raises:
            ApiError: The platform refused; `ciphertext_gone` if there is nothing left.
            RecoveryError: `signer_unknown`, `version_mismatch`, `recovery_key_wrong`,
                `creator_wrap_missing`, `answer_invalid`.
            SignatureError, ManifestError, HeaderError: It is not what was signed.
        """
        answer = api.get_artifact(model, number)
        manifest = _check_manifest(answer, signers)
        if (manifest.model, manifest.artifact_id) != (model, answer.get("version_id")):
            detail = f"The platform gave a version of {manifest.model} for {model}:{number}."
            raise RecoveryError("version_mismatch", detail)
        dek = _open_dek(answer, manifest, recovery_key)
        try:
            messages = [
                floe.Message.open(dek, manifest.file_aad(file), file.floe_header)
                for file in manifest.files
            ]
        finally:
            dek[:] = bytes(len(dek))
        return cls(api, number, manifest, messages)

    def read_part(self, file_index: int, part: int) -> Iterator[bytearray]:
        """The plain segments of one part, while it is downloaded.

        Raises:
            ApiError: The platform refused, or sent another number of bytes.
            TamperedError: A segment or the part is not what was signed. What came before
                from this part must not be used.
        """
        file, message = self.manifest.files[file_index], self._messages[file_index]
        wanted = file.parts[part]
        chunks = self._api.read_part(
            self.manifest.model, self.number, file_index, part, size_bytes=wanted.size_bytes
        )
        digest = hashlib.sha256()
        position = part * floe.SEGMENTS_PER_PART
        last = floe.PRODUCTION.count_segments(file.plain_size_bytes) - 1
        for sealed in _cut_into_segments(chunks):
            digest.update(sealed)
            if len(sealed) < floe.OVERHEAD_BYTES:
                raise TamperedError(f"Segment {position} of {file.path} was cut.")
            plain = bytearray(len(sealed) - floe.OVERHEAD_BYTES)
            is_final = position == last
            message.open_segment(position, sealed, memoryview(plain), is_final=is_final)
            yield plain
            position += 1
        if digest.hexdigest() != wanted.sha256:
            raise TamperedError(f"Part {part} of {file.path} is not the one that was signed.")

    def wipe(self) -> None:
        """Forget the keys."""
        for message in self._messages:
            message.wipe()


def _check_manifest(answer: dict[str, Any], signers: Collection[str]) -> Manifest:
    try:
        raw = str(answer["manifest"]).encode()
        public_key = decode_base64(answer["signing_key"]["public_key"])
        signed = decode_base64(answer["signature"])
    except (KeyError, TypeError, CanonicalError):
        raise RecoveryError("answer_invalid", "The platform's answer is no artifact.") from None
    shown = signature.fingerprint(public_key)
    if shown not in signers:
        raise RecoveryError(
            "signer_unknown",
            f"The version was signed by {shown}, which is no key of this machine. If it is "
            f"yours, say so with --signed-by {shown}.",
        )
    signature.verify(public_key, signature.MANIFEST_TYPE, raw, signed)
    return Manifest.parse(raw)


def _open_dek(answer: dict[str, Any], manifest: Manifest, recovery_key: bytes) -> bytearray:
    found = [
        one
        for one in answer.get("wrapped_keys") or []
        if isinstance(one, dict) and one.get("recipient") == "creator"
    ]
    if not found:
        detail = "The data key of this version was not sealed to its creator when it was pushed."
        raise RecoveryError("creator_wrap_missing", detail)
    try:
        wrapped = WrappedKey.parse(found[0])
        return wrap.unwrap_dek(wrapped, recovery_key, artifact_id=manifest.artifact_id)
    except WrapError:
        kid = wrap.derive_kid(wrap.derive_public_key(recovery_key))
        raise RecoveryError(
            "recovery_key_wrong",
            f"The data key was sealed to the recovery key {found[0].get('kid')}; this one is "
            f"{kid}. Give the other with --recovery-file.",
        ) from None


def _cut_into_segments(chunks: Iterator[bytes]) -> Iterator[bytearray]:
    segment = bytearray()
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            wanted = floe.SEGMENT_BYTES - len(segment)
            segment += view[:wanted]
            view = view[wanted:]
            if len(segment) == floe.SEGMENT_BYTES:
                yield segment
                segment = bytearray()
    if segment:
        yield segment


class _SegmentReader:
    """Segments as a file that is read from its present place on, a segment at a time."""

    def __init__(self, segments: Iterator[bytearray]) -> None:
        self._segments = segments

    def seek(self, offset: int) -> int:
        return offset  # Where the part begins, and that is where it stands.

    def read(self, size_bytes: int) -> bytes:
        return bytes(next(self._segments, b""))

    def finish(self) -> None:
        """Read to the end, where the part's own checksum is compared."""
        for _ in self._segments:
            raise TamperedError("The part holds more than was signed.")


class SealedSources:
    """The plain files of an earlier version, opened segment by segment as they come.

    Nothing of them is written anywhere; see `strongroom.source.Sources`.
    """

    def __init__(self, version: SealedVersion) -> None:
        self._version = version
        self.name = f"version:{version.manifest.artifact_id}"
        self.files = [_SealedPlainFile(one) for one in version.manifest.files]

    def describe(self) -> tuple[dict[str, Any], ...]:
        """Paths, kinds, sizes, and the hashes that were signed."""
        return tuple(
            {
                "path": one.path,
                "kind": one.kind,
                "size_bytes": one.plain_size_bytes,
                "sha256": hashlib.sha256("".join(p.sha256 for p in one.parts).encode()).hexdigest(),
            }
            for one in self._version.manifest.files
        )

    @contextmanager
    def open(self, file_index: int, part: int) -> Iterator[_SegmentReader]:
        """One part, to be read once from its beginning to its end."""
        reader = _SegmentReader(self._version.read_part(file_index, part))
        yield reader
        reader.finish()

    def is_same(self, file_index: int, part: int, plain_sha256: str) -> bool:
        """A signed version never changes."""
        return True


class _SealedPlainFile:
    """What a sealed file is once it is opened."""

    def __init__(self, file: SealedFile) -> None:
        self.path, self.kind, self.size_bytes = file.path, file.kind, file.plain_size_bytes
