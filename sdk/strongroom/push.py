"""Seal plain files and upload them, in parts, in parallel, and again after a cut.

Order matters: the platform's key for this upload is checked against the pinned key
before anything is sealed to it, and nothing leaves this machine that is not sealed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from strongroom.client import ApiError, UnreachableError, WebClient
from strongroom.config import Identity
from strongroom.errors import StrongroomError
from strongroom.sealing import floe, signature, wrap
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.errors import (
    CanonicalError,
    SignatureError,
    SourceChangedError,
    WrapError,
)
from strongroom.sealing.manifest import Manifest, Part, SealedFile, file_aad
from strongroom.sealing.suite import Suite, find_suite
from strongroom.sealing.wrap import WrappedKey
from strongroom.source import PlainFile, Sources
from strongroom.upload_state import SavedUpload, SentPart, UploadStore

DEFAULT_THREADS = 4
# Each thread holds one sealed part of 64 MiB in memory.
MAX_THREADS = 16
# The artifact of a manifest that is still a draft.
NOBODY = "00000000-0000-7000-8000-000000000000"
_GONE_STATUSES = frozenset({403, 404, 410})


class PushError(StrongroomError):
    """The push cannot go on."""


class Reporter:
    """Receives what a push is doing; this one is silent. Called from several threads."""

    def begin(self, total_bytes: int, done_bytes: int) -> None:
        """The sealed size of everything, and how much of it was sent before."""

    def advance(self, size_bytes: int) -> None:
        """So many more bytes were sent; negative if an attempt failed."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


@dataclass(frozen=True, slots=True)
class _Kem:
    """The key that the platform made for this upload."""

    kid: str
    public_key: bytes
    suite: Suite


@dataclass(slots=True)
class _Upload:
    """One upload in progress."""

    upload_id: str
    version_id: str
    kem: _Kem
    dek: bytearray = field(repr=False)
    dek_for_creator: WrappedKey = field(repr=False)
    messages: list[floe.Message] = field(repr=False)
    sent: dict[tuple[int, int], SentPart] = field(default_factory=dict)

    def wipe(self) -> None:
        self.dek[:] = bytes(len(self.dek))
        for message in self.messages:
            message.wipe()


class _ChangedError(Exception):
    """The saved upload cannot be gone on with; the text says why."""


class Push:
    """One push of one version.

    Args:
        api: The platform, logged in.
        platform_keys: The platform's pinned Ed25519 public key, and those it had before.
        identity: The creator's keys.
        draft: The manifest, but for its files, its artifact and its time.
        sources: Where the plain bytes are.
        state_folder: Where interrupted pushes are remembered.
        threads: Parts sealed and sent at the same time.
        reporter: Told about progress.
    """

    def __init__(
        self,
        api: WebClient,
        *,
        platform_keys: Sequence[bytes],
        identity: Identity,
        draft: Manifest,
        sources: Sources,
        state_folder: Path,
        threads: int = DEFAULT_THREADS,
        reporter: Reporter | None = None,
    ) -> None:
        assert 1 <= threads <= MAX_THREADS
        self._api = api
        self._platform_keys = platform_keys
        self._identity = identity
        self._draft = draft
        self._sources = sources
        self._threads = threads
        self._reporter = reporter or Reporter()
        self._store = UploadStore(
            state_folder,
            web_url=api.transport.base_url,
            model=draft.model,
            root=sources.name,
        )
        self._stop = threading.Event()

    def run(self, *, is_fresh: bool = False) -> dict[str, Any]:
        """Upload, or go on with what was begun; the version as the platform describes it.

        Args:
            is_fresh: Start over even if a begun upload could be gone on with.

        Raises:
            ApiError: The platform refused, or did not answer. What was sent stays.
            PushError: `platform_signature_invalid`, `part_size_unsupported`,
                `answer_invalid`.
            SourceChangedError: A file changed during the push.
        """
        self._check_manifest()
        described = self._sources.describe()
        sizes = [one.size_bytes for one in self._sources.files]
        if [one["size_bytes"] for one in described] != sizes:
            raise SourceChangedError("A file changed while the folder was read. Push again.")
        saved = self._store.load()
        upload: _Upload | None = None
        if saved is not None:
            if is_fresh:
                self._give_up(saved)
            else:
                finished, upload = self._try_resume(saved)
                if finished is not None:
                    return finished
        upload = upload or self._begin(described)
        try:
            self._send_parts(upload)
            if self._sources.describe() != described:
                self._give_up(upload)
                raise SourceChangedError("A file changed during the push. Push again.")
            version = self._complete(upload)
        finally:
            upload.wipe()
        self._store.forget()
        return version

    # --- Begin or go on -----------------------------------------------------------

    def _check_manifest(self) -> None:
        """Find every fault of the manifest before a byte is sent."""
        header = floe.Message.start(bytes(floe.KEY_BYTES), b"").header
        files = tuple(
            _sealed_file(one, header, ["0" * 64] * _count_parts(one)) for one in self._sources.files
        )
        Manifest.parse(self._manifest(NOBODY, files).canonical_bytes())

    def _begin(self, described: tuple[dict[str, Any], ...]) -> _Upload:
        announced = [
            {
                "path": one.path,
                "kind": one.kind,
                "plain_size_bytes": one.size_bytes,
                "cipher_size_bytes": floe.PRODUCTION.cipher_size(one.size_bytes),
            }
            for one in self._sources.files
        ]
        answer = self._api.begin_upload(self._draft.model, announced, self._identity.fingerprint)
        if answer.get("part_size_bytes") != floe.PART_BYTES:
            raise PushError(
                "part_size_unsupported", "The platform wants parts of another size than 64 MiB."
            )
        upload_id, version_id = _text(answer, "upload_id"), _text(answer, "version_id")
        kem = self._check_kem(answer.get("kem"), upload_id, version_id)
        dek = bytearray(os.urandom(floe.KEY_BYTES))
        dek_for_creator = wrap.wrap_dek(
            dek,
            artifact_id=version_id,
            recipient="creator",
            kid=self._identity.recovery_kid,
            public_key=self._identity.public_recovery_key,
        )
        messages = [
            floe.Message.start(dek, self._aad(version_id, one)) for one in self._sources.files
        ]
        headers = tuple(message.header for message in messages)
        self._store.begin(SavedUpload(upload_id, version_id, dek_for_creator, headers, described))
        return _Upload(upload_id, version_id, kem, dek, dek_for_creator, messages)

    def _try_resume(self, saved: SavedUpload) -> tuple[dict[str, Any] | None, _Upload | None]:
        """The finished version, or the upload to go on with, or neither."""
        try:
            remote = self._api.get_upload(saved.upload_id)
        except ApiError as error:
            if error.status not in _GONE_STATUSES:
                raise
            self._store.forget()
            return None, None
        if remote.get("state") == "complete" and saved.sources != self._sources.describe():
            self._store.forget()
            self._reporter.note("The files are others than in the last push: a new version.")
            return None, None
        if remote.get("state") == "complete":
            # The cut fell between the platform's last answer and our taking note of it.
            self._store.forget()
            self._reporter.note("The upload was complete already.")
            return self._api.get_version(saved.version_id), None
        try:
            return None, self._resume(saved, remote)
        except _ChangedError as reason:
            self._reporter.note(f"Starting over: {reason}.")
            self._give_up(saved)
            return None, None

    def _resume(self, saved: SavedUpload, remote: dict[str, Any]) -> _Upload:
        if remote.get("state") != "open":
            raise _ChangedError("the upload is no longer open")
        unchanging = ("path", "kind", "size_bytes")
        now = [{key: one[key] for key in unchanging} for one in self._sources.describe()]
        if now != [{key: one.get(key) for key in unchanging} for one in saved.sources]:
            raise _ChangedError("the files are others than before")
        try:
            dek = wrap.unwrap_dek(
                saved.dek, self._identity.recovery_key, artifact_id=saved.version_id
            )
        except WrapError:
            raise _ChangedError("the data key was sealed to another identity") from None
        kem = self._check_kem(remote.get("kem"), saved.upload_id, saved.version_id)
        messages = [
            floe.Message.start(dek, self._aad(saved.version_id, one), iv=header[10:42])
            for one, header in zip(self._sources.files, saved.headers, strict=True)
        ]
        upload = _Upload(saved.upload_id, saved.version_id, kem, dek, saved.dek, messages)
        upload.sent = self._find_sent(remote)
        return upload

    def _find_sent(self, remote: dict[str, Any]) -> dict[tuple[int, int], SentPart]:
        """Parts that the platform holds as we sealed them, of sources that are the same.

        A version must never be sealed from two states of a file.
        """
        known = self._store.load_parts()
        sent: dict[tuple[int, int], SentPart] = {}
        for one in remote.get("parts") or []:
            key = (one.get("file"), one.get("part"))
            if key in known and known[key].sha256 == one.get("sha256"):
                sent[key] = known[key]
        for (file_index, part), hashes in sorted(sent.items()):
            if not self._sources.is_same(file_index, part, hashes.plain_sha256):
                raise _ChangedError("a file has changed since")
        if sent:
            self._reporter.note(f"Going on: {len(sent)} parts are there already.")
        return sent

    def _give_up(self, upload: SavedUpload | _Upload) -> None:
        # The platform sweeps forgotten uploads anyway.
        with suppress(ApiError):
            self._api.abort_upload(upload.upload_id)
        self._store.forget()

    def _check_kem(self, value: Any, upload_id: str, version_id: str) -> _Kem:
        """The upload's key, if the pinned platform key signed it for this upload."""
        try:
            payload = signature.upload_key_payload(
                kid=value["kid"],
                suite=value["suite"],
                public_key=value["public_key"],
                upload_id=upload_id,
                artifact_id=version_id,
                expires_at=value["expires_at"],
            )
            self._verify_any(payload, decode_base64(value["signature"]))
        except (KeyError, TypeError, CanonicalError, SignatureError):
            raise PushError(
                "platform_signature_invalid",
                "The key for this upload is not signed by the pinned platform key. "
                "Nothing was sealed to it.",
            ) from None
        suite = find_suite(value["suite"])
        if suite is None:
            raise PushError("suite_unsupported", "The platform wants a wrap that is not known.")
        # What the platform signed is its own fault if it is no key.
        public_key = decode_base64(value["public_key"], size_bytes=suite.public_key_bytes)
        return _Kem(value["kid"], public_key, suite)

    def _verify_any(self, payload: bytes, signed: bytes) -> None:
        """Signed by the platform's key, or by one that was its key when the upload began."""
        for key in self._platform_keys:
            with suppress(SignatureError):
                return signature.verify(key, signature.UPLOAD_KEY_TYPE, payload, signed)
        raise SignatureError

    # --- Parts --------------------------------------------------------------------

    def _send_parts(self, upload: _Upload) -> None:
        tasks = [
            (file_index, part)
            for file_index, one in enumerate(self._sources.files)
            for part in range(_count_parts(one))
        ]
        sizes = {key: self._part_size(*key) for key in tasks}
        done_bytes = sum(sizes[key] for key in tasks if key in upload.sent)
        self._reporter.begin(sum(sizes.values()), done_bytes)
        self._stop.clear()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="push") as pool:
            futures = [
                pool.submit(self._send_part, upload, *key)
                for key in tasks
                if key not in upload.sent
            ]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                # Also on Ctrl-C: parts that have not begun are not begun any more.
                self._stop.set()
                for future in futures:
                    future.cancel()
        for future in futures:
            if not future.cancelled():
                future.result()

    def _send_part(self, upload: _Upload, file_index: int, part: int) -> None:
        if self._stop.is_set():
            return
        try:
            self._seal_and_put(upload, file_index, part)
        except BaseException:
            # At once, not when the main thread wakes: no further part shall begin.
            self._stop.set()
            raise

    def _seal_and_put(self, upload: _Upload, file_index: int, part: int) -> None:
        one = self._sources.files[file_index]
        with self._sources.open(file_index, part) as file:
            source = _HashingReader(file)
            segments = list(
                floe.encrypt_part(upload.messages[file_index], source, one.size_bytes, part)
            )
        sealed = hashlib.sha256()
        for segment in segments:
            sealed.update(segment)
        hashes = SentPart(sealed.hexdigest(), source.hexdigest())
        self._store.add_part(file_index, part, hashes)
        body = _Body(segments, self._reporter)
        try:
            self._api.put_part(
                upload.upload_id,
                file_index,
                part,
                content=body.start,
                size_bytes=self._part_size(file_index, part),
                sha256=hashes.sha256,
            )
        except BaseException:
            body.take_back()
            raise
        upload.sent[file_index, part] = hashes

    def _part_size(self, file_index: int, part: int) -> int:
        cipher_size = floe.PRODUCTION.cipher_size(self._sources.files[file_index].size_bytes)
        return min(floe.PART_BYTES, cipher_size - part * floe.PART_BYTES)

    # --- Complete -----------------------------------------------------------------

    def _complete(self, upload: _Upload) -> dict[str, Any]:
        files = tuple(
            _sealed_file(
                one,
                upload.messages[index].header,
                [upload.sent[index, part].sha256 for part in range(_count_parts(one))],
            )
            for index, one in enumerate(self._sources.files)
        )
        raw = self._manifest(upload.version_id, files).canonical_bytes()
        signed = signature.sign(self._identity.signing_key, signature.MANIFEST_TYPE, raw)
        for_platform = wrap.wrap_dek(
            upload.dek,
            artifact_id=upload.version_id,
            recipient="platform",
            kid=upload.kem.kid,
            public_key=upload.kem.public_key,
            suite=upload.kem.suite,
        )
        wrapped_keys = [for_platform.to_json(), upload.dek_for_creator.to_json()]
        try:
            return self._api.complete_upload(
                upload.upload_id, raw.decode(), encode_base64(signed), wrapped_keys
            )
        except UnreachableError:
            # The answer may have been lost on its way back.
            if self._api.get_upload(upload.upload_id).get("state") != "complete":
                raise
            return self._api.get_version(upload.version_id)

    def _manifest(self, version_id: str, files: tuple[SealedFile, ...]) -> Manifest:
        created_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return replace(self._draft, artifact_id=version_id, files=files, created_at=created_at)

    def _aad(self, version_id: str, one: PlainFile) -> bytes:
        return file_aad(artifact_id=version_id, path=one.path, plain_size_bytes=one.size_bytes)


class _HashingReader:
    """A file that hashes what is read of it, so that the plain bytes are read once."""

    def __init__(self, file: floe.Source) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def read(self, size_bytes: int) -> bytes:
        data = self._file.read(size_bytes)
        self._hash.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class _Body:
    """The body of one part, made afresh for each attempt, with its progress."""

    def __init__(self, segments: list[bytearray], reporter: Reporter) -> None:
        self._segments = segments
        self._reporter = reporter
        self._reported_bytes = 0

    def start(self) -> Iterator[bytes]:
        self.take_back()
        for segment in self._segments:
            yield bytes(segment)
            self._reported_bytes += len(segment)
            self._reporter.advance(len(segment))

    def take_back(self) -> None:
        """Report that the attempt failed: what left this machine did not arrive."""
        if self._reported_bytes:
            self._reporter.advance(-self._reported_bytes)
            self._reported_bytes = 0


def _count_parts(one: PlainFile) -> int:
    return -(-floe.PRODUCTION.cipher_size(one.size_bytes) // floe.PART_BYTES)


def _sealed_file(one: PlainFile, header: bytes, hashes: list[str]) -> SealedFile:
    cipher_size = floe.PRODUCTION.cipher_size(one.size_bytes)
    sizes = floe.PRODUCTION.part_sizes(cipher_size)
    parts = tuple(Part(size, sha256) for size, sha256 in zip(sizes, hashes, strict=True))
    return SealedFile(one.path, one.kind, one.size_bytes, cipher_size, header, parts)


def _text(answer: dict[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise PushError("answer_invalid", f"The platform's answer has no {name}.")
    return value
