"""FLOE: random-access authenticated encryption of files, in segments.

A message is a header and segments. The header commits to the key, the parameters, a
random iv and the context (aad); each segment is AES-256-GCM over its position and over
whether it is the last one. So a segment can be read alone and in parallel, and no
segment can be changed, moved, dropped, repeated or taken from another message.

The header of a file stands in the signed manifest; its object holds segments only.
With segments of 1 MiB, segment k begins at k MiB, and a part of 64 MiB is 64 segments:
parts can be sealed, sent, checked and opened without their neighbours.

Source: C2SP, FLOE (AES-256-GCM, HKDF-Expand with SHA-384); ePrint 2025/2275.
"""

from __future__ import annotations

import hmac
import os
import struct
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from strongroom.sealing.errors import HeaderError, SourceChangedError, TamperedError

CONTENT_FORMAT = "floe-gcm256-hkdf384-1m"
KEY_BYTES = 32
IV_BYTES = 32
HEADER_TAG_BYTES = 32
PARAMETERS_BYTES = 10
HEADER_BYTES = PARAMETERS_BYTES + IV_BYTES + HEADER_TAG_BYTES
NONCE_BYTES = 12
# Of each segment: length word, nonce, GCM tag.
OVERHEAD_BYTES = 4 + NONCE_BYTES + 16
SEGMENT_BYTES = 1024 * 1024
SEGMENTS_PER_PART = 64
PART_BYTES = SEGMENTS_PER_PART * SEGMENT_BYTES
# More threads than this wait for memory, not for AES.
MAX_THREADS = 64

_NOT_FINAL = 0xFFFFFFFF
_ZERO_CHUNK_BYTES = 1024 * 1024

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Parameters:
    """Sizes of a message. Only tests use others than `PRODUCTION`.

    Args:
        segment_bytes: Length of a sealed segment; the last may be shorter.
        rotation_bits: A new AES key is derived every 2**rotation_bits segments.
        segments_per_part: How many segments are sent in one upload part.
    """

    segment_bytes: int = SEGMENT_BYTES
    rotation_bits: int = 20
    segments_per_part: int = SEGMENTS_PER_PART

    @property
    def plain_bytes(self) -> int:
        """Plain bytes in a full segment."""
        return self.segment_bytes - OVERHEAD_BYTES

    @property
    def part_bytes(self) -> int:
        """Sealed bytes in a full part."""
        return self.segments_per_part * self.segment_bytes

    @property
    def encoded(self) -> bytes:
        """The first ten bytes of a header: AES-256-GCM with SHA-384, and the sizes."""
        return bytes([0, 0]) + struct.pack(">II", self.segment_bytes, IV_BYTES)

    def count_segments(self, plain_size_bytes: int) -> int:
        """Number of segments; an empty file has one, which says that it ended."""
        return max(1, -(-plain_size_bytes // self.plain_bytes))

    def cipher_size(self, plain_size_bytes: int) -> int:
        """Sealed size of a file, in bytes, without the header."""
        return plain_size_bytes + OVERHEAD_BYTES * self.count_segments(plain_size_bytes)

    def plain_size(self, cipher_size_bytes: int) -> int:
        """Plain size of a sealed file, in bytes.

        Raises:
            TamperedError: If no message has this size.
        """
        segments = -(-cipher_size_bytes // self.segment_bytes)
        last = cipher_size_bytes - (segments - 1) * self.segment_bytes
        if segments < 1 or last < OVERHEAD_BYTES:
            raise TamperedError("The sealed file was cut or extended.")
        return cipher_size_bytes - OVERHEAD_BYTES * segments

    def part_sizes(self, cipher_size_bytes: int) -> list[int]:
        """Sizes of the parts of a sealed file, in order; all but the last are full."""
        full, rest = divmod(cipher_size_bytes, self.part_bytes)
        return [self.part_bytes] * full + ([rest] if rest else [])


PRODUCTION = Parameters()


class Source(Protocol):
    """A plain file, opened for reading in binary."""

    def seek(self, offset: int, /) -> int: ...

    def read(self, size_bytes: int, /) -> bytes: ...


class Message:
    """One FLOE message under one key: its header, and its segments by position.

    Make one with `start` (to seal) or `open` (to read). Methods may be called from
    several threads at once. Call `wipe` when done.
    """

    def __init__(self, key: Buffer, aad: bytes, iv: bytes, parameters: Parameters) -> None:
        assert len(key) == KEY_BYTES
        assert len(iv) == IV_BYTES
        self.parameters = parameters
        self._info = parameters.encoded + iv
        self._aad = aad
        # Bytes cannot be overwritten in Python; a bytearray can.
        self._message_key = bytearray(48)
        self._derive_into(key, b"MESSAGE_KEY:", self._message_key)
        tag = bytearray(HEADER_TAG_BYTES)
        self._derive_into(key, b"HEADER_TAG:", tag)
        self.header = parameters.encoded + iv + bytes(tag)
        self._ciphers: dict[int, AESGCM] = {}

    @classmethod
    def start(
        cls, key: Buffer, aad: bytes, *, iv: bytes = b"", parameters: Parameters = PRODUCTION
    ) -> Message:
        """Begin a message.

        Args:
            key: The 32-byte data key.
            aad: The context; the same bytes are needed to open the message.
            iv: Empty for a fresh one. Give the old one to seal parts of the same,
                unchanged file again: nonces are random, so that is harmless.
            parameters: Sizes.
        """
        return cls(key, aad, iv or os.urandom(IV_BYTES), parameters)

    @classmethod
    def open(
        cls, key: Buffer, aad: bytes, header: bytes, *, parameters: Parameters = PRODUCTION
    ) -> Message:
        """Open a message; no segment is touched before its header has been checked.

        Raises:
            HeaderError: `header_invalid` for another length or other parameters,
                `header_tag_invalid` for another key, context or iv.
        """
        check_header(header, parameters)
        message = cls(key, aad, header[PARAMETERS_BYTES:][:IV_BYTES], parameters)
        if not hmac.compare_digest(message.header, header):
            message.wipe()
            raise HeaderError(
                "header_tag_invalid", "The header was made with another key or context."
            )
        return message

    def seal_segment(self, position: int, plain: Buffer, *, is_final: bool) -> bytearray:
        """Seal one segment with a fresh nonce."""
        size_bytes = len(plain) + OVERHEAD_BYTES
        assert is_final or size_bytes == self.parameters.segment_bytes
        assert size_bytes <= self.parameters.segment_bytes
        nonce = os.urandom(NONCE_BYTES)
        sealed = bytearray(size_bytes)
        sealed[:4] = struct.pack(">I", size_bytes if is_final else _NOT_FINAL)
        sealed[4:16] = nonce
        self._cipher(position).encrypt_into(
            nonce, plain, _segment_aad(position, is_final), memoryview(sealed)[16:]
        )
        return sealed

    def open_segment(
        self, position: int, sealed: Buffer, out: memoryview, *, is_final: bool
    ) -> None:
        """Decrypt one segment into `out`, which must have exactly its plain size.

        Raises:
            TamperedError: `out` may then hold bytes that nobody vouches for; the
                caller must overwrite them.
        """
        size_bytes = len(sealed)
        if is_final:
            fits = OVERHEAD_BYTES <= size_bytes <= self.parameters.segment_bytes
        else:
            fits = size_bytes == self.parameters.segment_bytes
        if not fits:
            raise TamperedError(f"Segment {position} has the wrong length.")
        (word,) = struct.unpack(">I", sealed[:4])
        if word != (size_bytes if is_final else _NOT_FINAL):
            raise TamperedError(f"Segment {position} has the wrong length word.")
        try:
            self._cipher(position).decrypt_into(
                sealed[4:16], sealed[16:], _segment_aad(position, is_final), out
            )
        except InvalidTag:
            raise TamperedError(f"Segment {position} is not what was sealed.") from None

    def wipe(self) -> None:
        """Overwrite the message key and forget the keys derived from it."""
        self._message_key[:] = bytes(len(self._message_key))
        self._ciphers.clear()

    def _cipher(self, position: int) -> AESGCM:
        first = position >> self.parameters.rotation_bits << self.parameters.rotation_bits
        cipher = self._ciphers.get(first)
        if cipher is None:
            # Two threads may both derive it; they derive the same.
            key = bytearray(KEY_BYTES)
            self._derive_into(self._message_key, b"DEK:" + first.to_bytes(8, "big"), key)
            cipher = self._ciphers[first] = AESGCM(key)
            key[:] = bytes(KEY_BYTES)
        return cipher

    def _derive_into(self, key: Buffer, purpose: bytes, out: bytearray) -> None:
        info = self._info + purpose + self._aad
        HKDFExpand(hashes.SHA384(), len(out), info).derive_into(key, out)


def check_header(header: bytes, parameters: Parameters = PRODUCTION) -> None:
    """Check what can be checked of a header without its key.

    Raises:
        HeaderError: `header_invalid`.
    """
    if len(header) != HEADER_BYTES:
        raise HeaderError("header_invalid", f"A header has {HEADER_BYTES} bytes.")
    if header[:PARAMETERS_BYTES] != parameters.encoded:
        raise HeaderError("header_invalid", "The header names other parameters than allowed.")


def encrypt_part(
    message: Message, source: Source, plain_size_bytes: int, part: int
) -> Iterator[bytearray]:
    """Seal one part of a file, segment by segment.

    Args:
        message: The file's message.
        source: The plain file; moved to the part.
        plain_size_bytes: Size of the whole file.
        part: Number of the part, from 0.

    Yields:
        Sealed segments in order: 64 of 1 MiB, fewer and a shorter one at the end.

    Raises:
        SourceChangedError: If the file ends early.
    """
    parameters = message.parameters
    segments = parameters.count_segments(plain_size_bytes)
    first = part * parameters.segments_per_part
    assert 0 <= first < segments
    source.seek(first * parameters.plain_bytes)
    for position in range(first, min(first + parameters.segments_per_part, segments)):
        begin = position * parameters.plain_bytes
        size_bytes = min(parameters.plain_bytes, plain_size_bytes - begin)
        plain = source.read(size_bytes)
        if len(plain) != size_bytes:
            raise SourceChangedError("The file became shorter while it was being sealed.")
        yield message.seal_segment(position, plain, is_final=position == segments - 1)


def decrypt_into(
    message: Message,
    out: bytearray | memoryview,
    parts: Sequence[Buffer],
    *,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Decrypt a whole file from its parts, without joining them, into one buffer.

    Args:
        message: The opened message.
        out: Writable, of exactly the plain size: anonymous memory, a tensor's memory.
        parts: The sealed parts in order (memory maps, buffers). Each but the last
            holds whole segments.
        threads: How many threads decrypt; AES runs outside of the GIL.
        progress: Called with the number of plain bytes of each finished segment,
            from any of the threads.

    Raises:
        TamperedError: After whatever was decrypted has been overwritten with zeros.
    """
    views = [memoryview(part).cast("B") for part in parts]
    decrypt_segments_into(
        message,
        out,
        _segments_of(views, message.parameters),
        sum(len(view) for view in views),
        threads=threads,
        progress=progress,
    )


def decrypt_segments_into(
    message: Message,
    out: bytearray | memoryview,
    read_segment: Callable[[int], Buffer],
    cipher_size_bytes: int,
    *,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Decrypt a whole file whose sealed segments are read one by one.

    Args:
        message: The opened message.
        out: Writable, of exactly the plain size.
        read_segment: Gives the sealed segment at a position; called from any of the
            threads.
        cipher_size_bytes: Size of all segments together.
        threads: How many threads decrypt.
        progress: Called with the number of plain bytes of each finished segment.

    Raises:
        TamperedError: After whatever was decrypted has been overwritten with zeros.
            Errors of `read_segment` pass through, also after that.
    """
    parameters = message.parameters
    target = memoryview(out).cast("B")
    assert not target.readonly
    assert 1 <= threads <= MAX_THREADS
    if parameters.plain_size(cipher_size_bytes) != len(target):
        raise TamperedError("The sealed file has another size than promised.")
    segments = -(-cipher_size_bytes // parameters.segment_bytes)
    positions = count()  # Taking the next one is a single step under the GIL.
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for position in positions:
                if position >= segments or errors:
                    return
                begin = position * parameters.plain_bytes
                chunk = target[begin : begin + parameters.plain_bytes]
                message.open_segment(
                    position, read_segment(position), chunk, is_final=position == segments - 1
                )
                if progress is not None:
                    progress(len(chunk))
        except BaseException as error:  # noqa: BLE001 - carried to the calling thread
            errors.append(error)

    helpers = [threading.Thread(target=work) for _ in range(min(threads, segments) - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if errors:
        _zero(target)
        raise errors[0]


def seal_bytes(
    key: Buffer, aad: bytes, plain: Buffer, *, parameters: Parameters = PRODUCTION
) -> tuple[bytes, bytes]:
    """Seal a small content at once: its header and its segments."""
    message = Message.start(key, aad, parameters=parameters)
    view = memoryview(plain)
    segments = parameters.count_segments(len(view))
    body = bytearray()
    for position in range(segments):
        begin = position * parameters.plain_bytes
        body += message.seal_segment(
            position,
            view[begin : begin + parameters.plain_bytes],
            is_final=position == segments - 1,
        )
    message.wipe()
    return message.header, bytes(body)


def open_bytes(
    key: Buffer, aad: bytes, header: bytes, body: Buffer, *, parameters: Parameters = PRODUCTION
) -> bytearray:
    """Open a small content at once.

    Raises:
        HeaderError: As `Message.open`.
        TamperedError: If a segment was changed, moved, dropped or added.
    """
    message = Message.open(key, aad, header, parameters=parameters)
    try:
        plain = bytearray(parameters.plain_size(len(body)))
        decrypt_segments_into(
            message,
            plain,
            _segments_of([memoryview(body)], parameters),
            len(body),
        )
    finally:
        message.wipe()
    return plain


def _segments_of(
    parts: Sequence[memoryview], parameters: Parameters
) -> Callable[[int], memoryview]:
    """Segments by position, out of parts that each begin at a segment's edge."""
    size_bytes = parameters.segment_bytes
    if any(not len(part) or len(part) % size_bytes for part in parts[:-1]):
        raise TamperedError("A part does not hold whole segments.")
    firsts = [0, *accumulate(len(part) // size_bytes for part in parts[:-1])]

    def read_segment(position: int) -> memoryview:
        index = bisect_right(firsts, position) - 1
        begin = (position - firsts[index]) * size_bytes
        return parts[index][begin : begin + size_bytes]

    return read_segment


def _segment_aad(position: int, is_final: bool) -> bytes:
    return position.to_bytes(8, "big") + bytes([is_final])


def _zero(target: memoryview) -> None:
    # In chunks: a second buffer of the model's size may not fit.
    zeros = bytes(_ZERO_CHUNK_BYTES)
    for begin in range(0, len(target), _ZERO_CHUNK_BYTES):
        chunk = target[begin : begin + _ZERO_CHUNK_BYTES]
        chunk[:] = zeros[: len(chunk)]
