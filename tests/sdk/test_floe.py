"""FLOE: the published answers, every kind of tampering, and any size."""

import hashlib
import io
import itertools
import math
import mmap
import struct
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import example, given, settings
from hypothesis import strategies as st

from strongroom.sealing import floe
from strongroom.sealing.errors import HeaderError, SourceChangedError, TamperedError
from strongroom.sealing.floe import Message, Parameters, open_bytes, seal_bytes

VECTORS = Path(__file__).parent.parent / "vectors" / "floe"
NAMES = sorted(path.name.removesuffix("_ct.txt") for path in VECTORS.glob("*_ct.txt"))

KEY = bytes(range(32))
AAD = b"artifact|model.safetensors"
# Small segments so that a test holds many; two segments are one part.
SMALL = Parameters(segment_bytes=256, rotation_bits=2, segments_per_part=2)
PLAIN = hashlib.shake_256(b"plain").digest(5 * SMALL.plain_bytes + 100)


def read_vector(name):
    message = bytes.fromhex((VECTORS / f"{name}_ct.txt").read_text().strip())
    plain = bytes.fromhex((VECTORS / f"{name}_pt.txt").read_text().strip())
    (segment_bytes,) = struct.unpack(">I", message[2:6])
    rotation_bits = 2 if "rotation" in name else 20
    parameters = Parameters(segment_bytes, rotation_bits, segments_per_part=3)
    return message[: floe.HEADER_BYTES], message[floe.HEADER_BYTES :], plain, parameters


def split(body, size_bytes):
    return [body[begin : begin + size_bytes] for begin in range(0, len(body), size_bytes)]


def test_every_set_of_published_answers_is_here():
    assert len(NAMES) == 17


@pytest.mark.parametrize("name", NAMES)
def test_published_answers_open(name):
    header, body, plain, parameters = read_vector(name)

    opened = open_bytes(bytes(32), b"This is AAD", header, body, parameters=parameters)

    assert opened == plain


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("threads", [1, 3])
def test_published_answers_open_from_parts(name, threads):
    header, body, plain, parameters = read_vector(name)
    message = Message.open(bytes(32), b"This is AAD", header, parameters=parameters)
    out = bytearray(len(plain))

    floe.decrypt_into(message, out, split(body, parameters.part_bytes), threads=threads)

    assert out == plain


def test_production_segments_match_a_second_implementation(monkeypatch):
    counter = itertools.count()
    monkeypatch.setattr(
        floe.os,
        "urandom",
        lambda n: hashlib.shake_256(b"strongroom floe vector %d" % next(counter)).digest(n),
    )
    plain = hashlib.shake_256(b"plain").digest(2 * floe.PRODUCTION.plain_bytes + 12345)

    header, body = seal_bytes(KEY, b"strongroom", plain)

    assert hashlib.sha256(header).hexdigest() == (
        "263ab229e785b1da20ac54015858f95475cc3aa54e0f0d3be93e90509cedee4e"
    )
    assert hashlib.sha256(body).hexdigest() == (
        "e30d263e34efe88c7ac7472aa9e3d91cdbb661b68440f8194e8fae1a12c72852"
    )


def test_production_sizes():
    assert floe.PRODUCTION.plain_bytes == 1_048_544
    assert floe.PRODUCTION.part_bytes == 64 * 2**20
    assert floe.PRODUCTION.cipher_size(0) == 32
    assert floe.PRODUCTION.cipher_size(1_048_544) == 2**20
    assert floe.PRODUCTION.cipher_size(1_048_545) == 2**20 + 33
    assert floe.PRODUCTION.part_sizes(64 * 2**20) == [64 * 2**20]
    assert floe.PRODUCTION.part_sizes(64 * 2**20 + 33) == [64 * 2**20, 33]


# --- Tampering --------------------------------------------------------------------


def tampered_messages():
    """Name to (key, aad, header, body); `untouched` is the only good one."""
    header, body = seal_bytes(KEY, AAD, PLAIN, parameters=SMALL)
    other_header, other = seal_bytes(KEY, AAD, PLAIN, parameters=SMALL)
    parts, others = split(body, 256), split(other, 256)
    flip = lambda part, at: part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :]  # noqa: E731
    smaller = b"\0\0" + struct.pack(">I", 128) + header[6:]
    larger = b"\0\0" + struct.pack(">I", 512) + header[6:]
    bodies = {
        "bit flipped in the ciphertext": [parts[0], flip(parts[1], 50), *parts[2:]],
        "bit flipped in the nonce": [flip(parts[0], 5), *parts[1:]],
        "bit flipped in the length word": [flip(parts[0], 3), *parts[1:]],
        "bit flipped in the tag": [*parts[:-1], flip(parts[-1], len(parts[-1]) - 1)],
        "two segments swapped": [parts[1], parts[0], *parts[2:]],
        "middle segment dropped": parts[:2] + parts[3:],
        "first segment dropped": parts[1:],
        "cut at a segment edge": parts[:-1],
        "cut inside the last segment": [*parts[:-1], parts[-1][:-7]],
        "cut to less than a segment can be": [*parts[:-1], parts[-1][:31]],
        "one byte appended": [*parts, b"x"],
        "a segment's worth appended": [*parts, bytes(256)],
        "last segment twice": [*parts, parts[-1]],
        "middle segment twice": [*parts[:3], parts[2], *parts[3:]],
        "no segment at all": [],
        "segment of another message under the same key": [parts[0], others[1], *parts[2:]],
        "last segment said not to be last": [
            *parts[:-1],
            b"\xff\xff\xff\xff" + parts[-1][4:],
        ],
        "middle segment said to be last": [
            *parts[:2],
            struct.pack(">I", 256) + parts[2][4:],
        ],
    }
    messages = {name: (KEY, AAD, header, b"".join(parts)) for name, parts in bodies.items()}
    return messages | {
        "untouched": (KEY, AAD, header, body),
        "header of another message under the same key": (KEY, AAD, other_header, body),
        "header one byte short": (KEY, AAD, header[:-1], body),
        "header empty": (KEY, AAD, b"", body),
        "bit flipped in the iv": (KEY, AAD, flip(header, 20), body),
        "bit flipped in the header tag": (KEY, AAD, flip(header, 73), body),
        "segment size lowered in the header": (KEY, AAD, smaller, body),
        "segment size raised in the header": (KEY, AAD, larger, body),
        "algorithm changed in the header": (KEY, AAD, b"\1" + header[1:], body),
        "another context": (KEY, AAD + b"2", header, body),
        "another key": (bytes(32), AAD, header, body),
    }


def open_whole(key, aad, header, body):
    return bytes(open_bytes(key, aad, header, body, parameters=SMALL))


def open_parts(key, aad, header, body):
    """As the loader does: the plain size is known, the parts arrive apart."""
    message = Message.open(key, aad, header, parameters=SMALL)
    out = bytearray(len(PLAIN))
    try:
        floe.decrypt_into(message, out, split(body, SMALL.part_bytes), threads=3)
    except TamperedError:
        assert out == bytes(len(out))
        raise
    return bytes(out)


def open_parts_of_any_size(key, aad, header, body):
    """With a buffer that fits whatever came: only the segments can tell."""
    message = Message.open(key, aad, header, parameters=SMALL)
    out = bytearray(SMALL.plain_size(len(body)))
    try:
        floe.decrypt_into(message, out, split(body, SMALL.part_bytes), threads=2)
    except TamperedError:
        assert out == bytes(len(out))
        raise
    return bytes(out)


OPENERS = [open_whole, open_parts, open_parts_of_any_size]


def accepted(opener):
    names = set()
    for name, (key, aad, header, body) in tampered_messages().items():
        try:
            opener(key, aad, header, body)
        except (HeaderError, TamperedError):
            continue
        names.add(name)
    return names


@pytest.mark.parametrize("opener", OPENERS)
def test_every_change_is_refused(opener):
    assert accepted(opener) == {"untouched"}


def test_a_changed_header_is_refused_before_any_segment():
    _, _, header, _ = tampered_messages()["untouched"]

    with pytest.raises(HeaderError) as refused:
        Message.open(KEY, b"other", header, parameters=SMALL)
    assert refused.value.code == "header_tag_invalid"

    with pytest.raises(HeaderError) as refused:
        Message.open(KEY, AAD, header)
    assert refused.value.code == "header_invalid"


class CipherWithoutTag:
    """AES-GCM that decrypts and never looks at the tag."""

    def __init__(self, key):
        self.key = bytes(key)
        self.real = AESGCM_AS_SHIPPED(self.key)

    def encrypt_into(self, *args):
        return self.real.encrypt_into(*args)

    def decrypt_into(self, nonce, data, aad, out):
        counter = modes.CTR(bytes(nonce) + b"\0\0\0\2")
        out[:] = Cipher(algorithms.AES(self.key), counter).decryptor().update(bytes(data[:-16]))


AESGCM_AS_SHIPPED = floe.AESGCM


@pytest.mark.parametrize("opener", OPENERS)
def test_the_matrix_notices_a_tag_that_is_not_checked(opener, monkeypatch):
    monkeypatch.setattr(floe, "AESGCM", CipherWithoutTag)

    assert accepted(opener) >= {
        "bit flipped in the ciphertext",
        "bit flipped in the nonce",
        "bit flipped in the tag",
        "two segments swapped",
        "segment of another message under the same key",
    }


def test_the_matrix_notices_positions_that_are_not_bound(monkeypatch):
    monkeypatch.setattr(floe, "_segment_aad", lambda position, is_final: b"")

    assert "two segments swapped" in accepted(open_parts)


def test_the_matrix_notices_a_header_that_is_not_checked(monkeypatch):
    monkeypatch.setattr(floe.hmac, "compare_digest", lambda one, other: True)

    assert "bit flipped in the header tag" in accepted(open_parts)


def test_an_error_of_the_reader_passes_through_and_leaves_nothing():
    key, aad, header, body = tampered_messages()["untouched"]
    message = Message.open(key, aad, header, parameters=SMALL)
    out = bytearray(len(PLAIN))

    def read_segment(position):
        if position == 3:
            raise OSError("cut")
        return body[position * 256 : (position + 1) * 256]

    with pytest.raises(OSError, match="cut"):
        floe.decrypt_segments_into(message, out, read_segment, len(body), threads=2)
    assert out == bytes(len(out))


def test_a_reader_that_gives_too_little_is_noticed():
    key, aad, header, body = tampered_messages()["untouched"]
    message = Message.open(key, aad, header, parameters=SMALL)
    out = bytearray(len(PLAIN))

    with pytest.raises(TamperedError, match="wrong length"):
        floe.decrypt_segments_into(
            message, out, lambda at: body[at * 256 : at * 256 + 255], len(body)
        )
    assert out == bytes(len(out))


def test_parts_must_hold_whole_segments():
    key, aad, header, body = tampered_messages()["untouched"]
    message = Message.open(key, aad, header, parameters=SMALL)

    with pytest.raises(TamperedError, match="whole segments"):
        floe.decrypt_into(message, bytearray(len(PLAIN)), [body[:300], body[300:]])


# --- Round trips ------------------------------------------------------------------

SIZES = st.one_of(
    st.integers(0, 3 * SMALL.plain_bytes),
    st.builds(
        lambda segments, off: max(0, segments * SMALL.plain_bytes + off),
        st.integers(0, 9),
        st.integers(-2, 2),
    ),
)


@settings(deadline=None)
@given(size_bytes=SIZES, threads=st.integers(1, 4), part_segments=st.integers(1, 5))
@example(size_bytes=0, threads=1, part_segments=1)
@example(size_bytes=4 * SMALL.plain_bytes, threads=2, part_segments=4)
def test_what_was_sealed_in_parts_opens_from_parts(size_bytes, threads, part_segments):
    parameters = Parameters(256, 2, part_segments)
    plain = hashlib.shake_256(b"%d" % size_bytes).digest(size_bytes)
    message = Message.start(KEY, AAD, parameters=parameters)
    cipher_size_bytes = parameters.cipher_size(size_bytes)
    sizes = parameters.part_sizes(cipher_size_bytes)

    # In any order, as threads of an upload would.
    parts = {
        part: b"".join(floe.encrypt_part(message, io.BytesIO(plain), size_bytes, part))
        for part in reversed(range(len(sizes)))
    }
    ordered = [parts[part] for part in range(len(sizes))]
    out = bytearray(size_bytes)
    finished = []
    opened = Message.open(KEY, AAD, message.header, parameters=parameters)
    floe.decrypt_into(opened, out, ordered, threads=threads, progress=finished.append)

    assert [len(part) for part in ordered] == sizes
    assert out == plain
    assert sum(finished) == size_bytes
    assert len(finished) == parameters.count_segments(size_bytes)


@settings(deadline=None)
@given(size_bytes=SIZES, data=st.data())
def test_any_flipped_bit_is_refused(size_bytes, data):
    header, body = seal_bytes(KEY, AAD, bytes(size_bytes), parameters=SMALL)
    at = data.draw(st.integers(0, len(body) * 8 - 1))
    changed = bytearray(body)
    changed[at // 8] ^= 1 << at % 8

    with pytest.raises(TamperedError):
        open_bytes(KEY, AAD, header, changed, parameters=SMALL)


@settings(deadline=None)
@given(size_bytes=SIZES, data=st.data())
def test_any_cut_is_refused(size_bytes, data):
    header, body = seal_bytes(KEY, AAD, bytes(size_bytes), parameters=SMALL)
    length = data.draw(st.integers(0, len(body) - 1))

    with pytest.raises(TamperedError):
        open_bytes(KEY, AAD, header, body[:length], parameters=SMALL)


@given(size_bytes=st.integers(0, 2**41))
def test_sizes_agree(size_bytes):
    cipher_size_bytes = floe.PRODUCTION.cipher_size(size_bytes)

    assert floe.PRODUCTION.plain_size(cipher_size_bytes) == size_bytes
    assert sum(floe.PRODUCTION.part_sizes(cipher_size_bytes)) == cipher_size_bytes


@pytest.mark.parametrize("cipher_size_bytes", [-1, 0, 1, 31, 256 + 31])
def test_sizes_that_no_message_has(cipher_size_bytes):
    with pytest.raises(TamperedError):
        SMALL.plain_size(cipher_size_bytes)


def test_sealing_a_part_again_with_the_old_iv_fits_its_neighbours():
    first = Message.start(KEY, AAD, parameters=SMALL)
    parts = [
        b"".join(floe.encrypt_part(first, io.BytesIO(PLAIN), len(PLAIN), part)) for part in range(3)
    ]
    iv = first.header[10:42]

    again = Message.start(KEY, AAD, iv=iv, parameters=SMALL)
    middle = b"".join(floe.encrypt_part(again, io.BytesIO(PLAIN), len(PLAIN), 1))

    assert again.header == first.header
    assert middle != parts[1]
    assert open_parts(KEY, AAD, first.header, parts[0] + middle + parts[2]) == PLAIN


def test_a_file_that_became_shorter_is_noticed():
    message = Message.start(KEY, AAD, parameters=SMALL)

    with pytest.raises(SourceChangedError):
        list(floe.encrypt_part(message, io.BytesIO(PLAIN[:-1]), len(PLAIN), 2))


def test_decrypts_into_anonymous_memory_and_tensors_memory():
    header, body = seal_bytes(KEY, AAD, PLAIN[:1024], parameters=SMALL)
    message = Message.open(KEY, AAD, header, parameters=SMALL)
    memory = mmap.mmap(-1, 1024)
    # A view of four-byte items, as numpy and torch give them.
    floats = memoryview(bytearray(1024)).cast("f")

    floe.decrypt_into(message, memoryview(memory), split(body, SMALL.part_bytes))
    floe.decrypt_into(message, floats, split(body, SMALL.part_bytes))

    assert memory[:] == PLAIN[:1024]
    assert floats.tobytes() == PLAIN[:1024]


def test_wipe_overwrites_the_message_key():
    message = Message.start(KEY, AAD)
    kept = message._message_key
    assert any(kept)

    message.wipe()

    assert kept == bytearray(48)


def test_nonces_are_fresh_for_each_segment():
    _, body = seal_bytes(KEY, AAD, bytes(len(PLAIN)), parameters=SMALL)

    nonces = {part[4:16] for part in split(body, 256)}

    assert len(nonces) == math.ceil(len(body) / 256)
