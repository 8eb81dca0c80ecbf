"""Outputs that are sounds and pictures: from the numbers of a tensor to a file in the answer.

The file is made here and not by the model, so that what is answered is always well formed:
a WAV of 16 bits in one channel, or a PNG of 8 bits without any text in it.

Source: RIFF WAVE, "fmt" and "data" chunks; PNG (W3C, third edition), sections 5 and 11.2;
RFC 2397 (data URLs).
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable

import numpy as np

from inference.triton.errors import MediaTooLargeError, OutputError
from strongroom.interface import AUDIO, Output

# Of a whole data URL, the same as in other marketplaces: answers are stored and copied as JSON.
DATA_URL_BYTES_MAX = 256 * 1024
# Of a sound that is kept as a file: three minutes and more of what speech models give, made in tens
# of milliseconds.
FILE_BYTES_MAX = 16 * 1024 * 1024
# Of a picture before it is packed, which takes the gateway tens of milliseconds a megabyte.
PICTURE_BYTES_MAX = 1024 * 1024

# Takes a file that is too large for a data URL, and says where it will be found.
Keep = Callable[[Output, bytes], str]

# RIFF, its size, WAVE; then "fmt ": 16 octets, plain numbers, channels, samples and octets a
# second, octets a sample, bits a sample; then "data" and its size.
_WAV_HEAD = struct.Struct("<4sI4s4sIHHIIHH4sI")
_SAMPLE_BYTES = 2
_SAMPLE_MAX = 32_767
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Width, height, bits, colour, and three zeros: packing, filters and interlacing as usual.
_PNG_HEAD = struct.Struct(">IIBBBBB")
_PNG_COLOURS = {1: 0, 3: 2, 4: 6}
_PNG_BITS = 8


def render(one: Output, array: np.ndarray, keep: Keep | None = None) -> str:
    """What is answered for one row of an output with a media type.

    Args:
        one: Says which file it is.
        array: The row as the model answered it, checked against the interface.
        keep: Takes what is too large for a data URL; without it, that is refused.

    Raises:
        OutputError: There is nothing in it.
        MediaTooLargeError: It is larger than can be sent.
    """
    if not array.size:
        raise OutputError(f"{one.name} is empty")
    if one.media_type == AUDIO:
        # Before anything is made of it: a model may answer millions of samples.
        _require_place(one, _WAV_HEAD.size + _SAMPLE_BYTES * array.size, keep)
        return place(one, to_wav(array, one.sample_rate_hz), keep)
    if array.nbytes > PICTURE_BYTES_MAX:
        limit = PICTURE_BYTES_MAX
        detail = f"{one.name} is a picture of {array.nbytes} bytes; {limit} can be answered."
        raise MediaTooLargeError(detail)
    return place(one, to_png(array), keep)


def place(one: Output, octets: bytes, keep: Keep | None = None) -> str:
    """The address under which the consumer finds the file: it is in the address itself, or kept.

    This alone decides how a file reaches its consumer.

    Raises:
        MediaTooLargeError: It does not fit into a data URL, nor may it be kept.
    """
    _require_place(one, len(octets), keep)
    if keep is not None and not _fits(one, len(octets)):
        return keep(one, octets)
    return _begin(one) + base64.b64encode(octets).decode()


def to_wav(samples: np.ndarray, sample_rate_hz: int) -> bytes:
    """A WAV file of 16 bits in one channel.

    Args:
        samples: One axis; from -1 to 1, what is beyond is cut, or INT16.
        sample_rate_hz: Samples a second.
    """
    if samples.dtype.kind == "f":
        samples = np.rint(np.clip(samples, -1, 1) * _SAMPLE_MAX)
    data = samples.astype("<i2").tobytes()
    head = _WAV_HEAD.pack(
        b"RIFF",
        _WAV_HEAD.size - 8 + len(data),
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        sample_rate_hz,
        sample_rate_hz * _SAMPLE_BYTES,
        _SAMPLE_BYTES,
        8 * _SAMPLE_BYTES,
        b"data",
        len(data),
    )
    return head + data


def to_png(pixels: np.ndarray) -> bytes:
    """A PNG file.

    Args:
        pixels: Height x width x channels (grey, RGB, or RGB with transparency) of UINT8.
    """
    height, width, channels = pixels.shape
    # Each line begins with the number of its filter: none.
    lines = np.zeros((height, 1 + width * channels), np.uint8)
    lines[:, 1:] = pixels.reshape(height, -1)
    head = _PNG_HEAD.pack(width, height, _PNG_BITS, _PNG_COLOURS[channels], 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b"")]
    return _PNG_SIGNATURE + b"".join(_pack_chunk(kind, data) for kind, data in chunks)


def _pack_chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def _begin(one: Output) -> str:
    return f"data:{one.media_type};base64,"


def _fits(one: Output, size_bytes: int) -> bool:
    return _measure_url(one, size_bytes) <= DATA_URL_BYTES_MAX


def _measure_url(one: Output, size_bytes: int) -> int:
    return len(_begin(one)) + 4 * -(-size_bytes // 3)


def _require_place(one: Output, size_bytes: int, keep: Keep | None) -> None:
    if keep is None and not _fits(one, size_bytes):
        url_bytes = _measure_url(one, size_bytes)
        raise MediaTooLargeError(
            f"{one.name} would take {url_bytes} characters; {DATA_URL_BYTES_MAX} can be answered."
        )
    if size_bytes > FILE_BYTES_MAX:
        raise MediaTooLargeError(
            f"{one.name} would be a file of {size_bytes} bytes; {FILE_BYTES_MAX} can be kept."
        )
