"""Open the data key, and decrypt every file into memory of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.serving import memory
from inference.serving.errors import LoadError
from strongroom.sealing import floe, wrap
from strongroom.sealing.canonical import decode_base64
from strongroom.sealing.errors import CanonicalError
from strongroom.sealing.manifest import Manifest, SealedFile
from strongroom.sealing.suite import X25519

# A message for every twentieth of the way is enough for a progress bar.
_PROGRESS_STEPS = 20
NOT_LOCKED = "none"
_LEASE_MEMBERS = ("lease_id", "node_id", "expires_at", "sealed_dek")


@dataclass(frozen=True, slots=True)
class PlainFile:
    """One decrypted file."""

    path: str
    kind: str
    buffer: memory.PlainBuffer

    @property
    def data(self) -> memoryview:
        """Its content."""
        return self.buffer.view


@dataclass(frozen=True, slots=True)
class Decrypted:
    """All files of an artifact, and how it went."""

    files: tuple[PlainFile, ...]
    total_bytes: int
    duration_s: float
    # What cannot be swapped out: the whole process, the weights only, or nothing.
    lock_scope: str

    def wipe(self) -> None:
        """Overwrite everything."""
        for one in self.files:
            one.buffer.wipe()


def open_lease(
    lease: Mapping[str, Any], *, private_key: bytes, replica_id: str, artifact_id: str
) -> bytearray:
    """Open the data key that the broker sealed to this process.

    The context is put together from what this process knows, not from what the node
    says: a key released for another replica, artifact or lease does not open.

    Returns:
        The data key; overwrite it after use.

    Raises:
        LoadError: `lease_invalid`.
        WrapError: `key_wrap_invalid`.
    """
    members = {name: lease.get(name) for name in _LEASE_MEMBERS}
    if not all(isinstance(value, str) for value in members.values()):
        raise LoadError("lease_invalid", "The lease lacks a member.")
    info = wrap.lease_info(
        lease_id=str(members["lease_id"]),
        node_id=str(members["node_id"]),
        replica_id=replica_id,
        artifact_id=artifact_id,
        expires_at=str(members["expires_at"]),
    )
    try:
        sealed = decode_base64(
            members["sealed_dek"], size_bytes=X25519.sealed_bytes(wrap.DEK_BYTES)
        )
    except CanonicalError as error:
        raise LoadError("lease_invalid", f"The sealed key is malformed: {error.detail}") from None
    dek = wrap.unseal(sealed, private_key, info)
    if len(dek) != floe.KEY_BYTES:
        memory.wipe(dek)
        raise LoadError("lease_invalid", "The data key has the wrong length.")
    return dek


def allocate(manifest: Manifest) -> list[memory.PlainBuffer]:
    """Memory for every file of an artifact, in the manifest's order.

    Raises:
        LoadError: `out_of_memory`: it cannot fit, whatever else is freed.
    """
    available = memory.available_bytes()
    if manifest.plain_size_bytes > available:
        detail = f"The model has {manifest.plain_size_bytes} bytes; {available} are free."
        raise LoadError("out_of_memory", detail)
    return [memory.PlainBuffer(one.plain_size_bytes) for one in manifest.files]


def decrypt_files(
    manifest: Manifest,
    handles: Sequence[int],
    dek: bytearray,
    buffers: Sequence[memory.PlainBuffer],
    *,
    threads: int,
    report: Callable[[float], None],
) -> Decrypted:
    """Decrypt all files of an artifact.

    Every header is checked before the first segment of any file is touched.

    Args:
        manifest: Says which file has which header and how many parts.
        handles: Descriptors of all parts, in the manifest's order.
        dek: The data key.
        buffers: From `allocate`; overwritten again if anything fails.
        threads: How many decrypt at once.
        report: Called with the finished share, a few times.

    Raises:
        HeaderError: Another key, or another artifact's file.
        TamperedError: A part is not what was sealed.
    """
    is_process_locked = memory.lock_process()
    begin = time.monotonic()
    progress = _Progress(manifest.plain_size_bytes, report)
    opened: list[tuple[SealedFile, floe.Message]] = []
    try:
        for file in manifest.files:
            message = floe.Message.open(dek, manifest.file_aad(file), file.floe_header)
            opened.append((file, message))
        left = iter(handles)
        for (file, message), buffer in zip(opened, buffers, strict=True):
            parts = [next(left) for _ in file.parts]
            floe.decrypt_segments_into(
                message,
                buffer.view,
                _SegmentReader(parts).read,
                file.cipher_size_bytes,
                threads=threads,
                progress=progress.advance,
            )
    except BaseException:
        for one in buffers:
            one.wipe()
        raise
    finally:
        for _, message in opened:
            message.wipe()
    scope = NOT_LOCKED
    if is_process_locked or all(one.is_locked for one in buffers):
        scope = "process" if is_process_locked else "weights"
    files = tuple(
        PlainFile(file.path, file.kind, buffer)
        for file, buffer in zip(manifest.files, buffers, strict=True)
    )
    return Decrypted(files, manifest.plain_size_bytes, time.monotonic() - begin, scope)


def part_sizes(manifest: Manifest) -> Iterator[int]:
    """Sizes of all parts of all files, in the order of their descriptors."""
    for file in manifest.files:
        for part in file.parts:
            yield part.size_bytes


class _SegmentReader:
    """Reads sealed segments of one file, each thread into a buffer of its own.

    Not a memory map: a part that someone cuts while it is mapped would kill the process,
    and a process that locks its memory would lock the ciphertext, too.
    """

    def __init__(self, parts: Sequence[int]) -> None:
        self._parts = parts
        self._own = threading.local()

    def read(self, position: int) -> memoryview:
        buffer = getattr(self._own, "buffer", None)
        if buffer is None:
            buffer = self._own.buffer = bytearray(floe.SEGMENT_BYTES)
        part, segment = divmod(position, floe.SEGMENTS_PER_PART)
        offset = segment * floe.SEGMENT_BYTES
        return memoryview(buffer)[: os.preadv(self._parts[part], [buffer], offset)]


class _Progress:
    """Adds up what the threads finish, and reports it in steps."""

    def __init__(self, total_bytes: int, report: Callable[[float], None]) -> None:
        self._total_bytes = max(total_bytes, 1)
        self._report = report
        self._done_bytes = 0
        self._reported = 0
        self._lock = threading.Lock()

    def advance(self, size_bytes: int) -> None:
        with self._lock:
            self._done_bytes += size_bytes
            step = self._done_bytes * _PROGRESS_STEPS // self._total_bytes
            if step <= self._reported:
                return
            self._reported = step
        self._report(min(1.0, step / _PROGRESS_STEPS))
