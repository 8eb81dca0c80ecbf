"""Sounds and pictures out of tensors, read back by programs that are not ours."""

from __future__ import annotations

import base64
import io
import wave

import numpy as np
import pytest
from PIL import Image

from inference.gateway.protocols import schema
from inference.gateway.protocols.mcp_content import split_media
from inference.triton import media
from inference.triton.errors import MediaTooLargeError, OutputError
from inference.triton.media import DATA_URL_BYTES_MAX, PICTURE_BYTES_MAX, to_png, to_wav
from inference.triton.tensors import decode
from strongroom.interface import Interface

RATE_HZ = 8_000
# What fits beside the head of a WAV file into a data URL.
SAMPLES_MAX = (DATA_URL_BYTES_MAX - len("data:audio/wav;base64,")) // 4 * 3 // 2 - 22


def sound(datatype="FP32", shape=(-1,), **members):
    return {
        "name": "sound",
        "kind": "tensor",
        "datatype": datatype,
        "shape": list(shape),
        "media_type": "audio/wav",
        "sample_rate_hz": RATE_HZ,
    } | members


def picture(*shape, **members):
    return {
        "name": "picture",
        "kind": "tensor",
        "datatype": "UINT8",
        "shape": list(shape or (-1, -1, 3)),
        "media_type": "image/png",
    } | members


def interface(*outputs):
    return Interface.parse(
        {
            "inputs": [{"name": "text", "kind": "text"}],
            "outputs": list(outputs),
            "batch": {"max_size": 4},
        }
    )


def answer(output, array):
    rows = decode(interface(output), {output["name"]: array})
    return [row[output["name"]] for row in rows]


def read_wav(url):
    head, encoded = url.split(",")
    assert head == "data:audio/wav;base64"
    with wave.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE_HZ)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def read_png(url):
    head, encoded = url.split(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as image:
        image.verify()
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        assert image.format == "PNG"
        return image.mode, np.asarray(image)


def test_floats_become_a_sound_that_is_cut_where_it_is_too_loud():
    samples = np.array([[0, 1, -1, 0.5, 2, -3]], np.float32)

    [url] = answer(sound(), samples)

    assert read_wav(url).tolist() == [0, 32767, -32767, 16384, 32767, -32767]


def test_doubles_are_as_good_as_floats():
    samples = np.linspace(-1, 1, 100)

    [url] = answer(sound("FP64"), samples[np.newaxis])

    assert np.abs(read_wav(url) / 32767 - samples).max() < 1 / 32767


def test_integers_are_the_samples_themselves():
    samples = np.array([[0, -32768, 32767, 5]], np.int16)

    [url] = answer(sound("INT16"), samples)

    assert read_wav(url).tolist() == samples[0].tolist()


def test_each_row_is_a_sound_of_its_own():
    rows = np.array([[0.0, 0.5], [1.0, 0.0]], np.float32)

    first, second = answer(sound(), rows)

    assert read_wav(first).tolist() == [0, 16384]
    assert read_wav(second).tolist() == [32767, 0]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pixels_become_a_picture(channels, mode):
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, channels), np.uint8)

    [url] = answer(picture(5, -1, channels), pixels[np.newaxis])

    found_mode, found = read_png(url)
    assert found_mode == mode
    assert np.array_equal(found.reshape(5, 7, channels), pixels)


def test_pixels_that_do_not_lie_in_order_are_read_in_order():
    pixels = np.arange(24, dtype=np.uint8).reshape(3, 2, 4).transpose(2, 1, 0)

    _, found = read_png(answer(picture(), pixels[np.newaxis])[0])

    assert np.array_equal(found, pixels)


def test_a_sound_at_its_limit_is_answered_and_one_sample_more_is_not():
    [url] = answer(sound("INT16"), np.zeros((1, SAMPLES_MAX), np.int16))

    assert DATA_URL_BYTES_MAX - 4 < len(url) <= DATA_URL_BYTES_MAX
    assert len(read_wav(url)) == SAMPLES_MAX
    with pytest.raises(MediaTooLargeError) as refused:
        answer(sound("INT16"), np.zeros((1, SAMPLES_MAX + 1), np.int16))
    assert refused.value.code == "media_too_large"
    assert refused.value.http_status == 422
    assert str(DATA_URL_BYTES_MAX) in refused.value.detail


def test_millions_of_samples_are_refused_before_anything_is_made_of_them(monkeypatch):
    made = []
    monkeypatch.setattr(media, "to_wav", lambda *arguments: made.append(arguments) or b"")

    with pytest.raises(MediaTooLargeError):
        answer(sound(), np.zeros((1, 4_000_000), np.float32))

    assert made == []
    # And a short one does come there.
    answer(sound(), np.zeros((1, 4), np.float32))
    assert len(made) == 1


def test_a_picture_at_its_limit_is_answered_and_a_line_more_is_not():
    limit = np.zeros((1, 512, 512, 4), np.uint8)
    assert limit.nbytes == PICTURE_BYTES_MAX

    [url] = answer(picture(-1, 512, 4), limit)

    assert read_png(url)[1].shape == (512, 512, 4)
    with pytest.raises(MediaTooLargeError, match=r"1050624 bytes; 1048576"):
        answer(picture(-1, 512, 4), np.zeros((1, 513, 512, 4), np.uint8))


def test_a_picture_that_cannot_be_packed_small_is_refused():
    noise = np.random.default_rng(2).integers(0, 256, (1, 300, 300, 3), np.uint8)

    with pytest.raises(MediaTooLargeError, match=f"{DATA_URL_BYTES_MAX} can be answered"):
        answer(picture(), noise)


@pytest.mark.parametrize(
    ("output", "array"),
    [
        (sound(), np.zeros((1, 0), np.float32)),
        (picture(), np.zeros((1, 0, 5, 3), np.uint8)),
        (picture(), np.zeros((1, 5, 0, 3), np.uint8)),
    ],
)
def test_nothing_is_no_answer(output, array):
    with pytest.raises(OutputError, match="is empty") as refused:
        answer(output, array)

    assert refused.value.code == "output_invalid"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(value):
    with pytest.raises(OutputError, match="NaN or infinity"):
        answer(sound(), np.array([[0, value]], np.float32))


def test_another_shape_or_type_than_promised_is_refused():
    with pytest.raises(OutputError, match="not FP32"):
        answer(sound(), np.zeros((1, 4), np.float64))
    with pytest.raises(OutputError, match="has the shape"):
        answer(sound(), np.zeros((1, 4, 2), np.float32))
    with pytest.raises(OutputError, match="has the shape"):
        answer(picture(), np.zeros((1, 4, 4, 4), np.uint8))


def test_hidden_ones_are_left_out_and_labels_stand_beside():
    described = interface(sound(hidden=True), {"name": "seconds", "kind": "number"})
    arrays = {"sound": np.zeros((1, 3), np.float32), "seconds": np.ones((1, 1), np.float32)}

    assert decode(described, arrays) == [{"seconds": 1.0}]
    [whole] = decode(described, arrays, include_hidden=True)
    assert len(read_wav(whole["sound"])) == 3


def test_the_heads_of_files_are_exact():
    wav = to_wav(np.array([1, -2], np.int16), 22_050)
    assert wav[:4] + wav[8:16] + wav[36:40] == b"RIFFWAVEfmt data"
    assert int.from_bytes(wav[4:8], "little") == len(wav) - 8
    assert wav[44:] == b"\x01\x00\xfe\xff"

    png = to_png(np.zeros((2, 3, 1), np.uint8))
    assert png.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x03\0\0\0\x02\x08\0\0\0\0")
    assert png.endswith(b"\0\0\0\0IEND\xaeB`\x82")


def test_a_reader_notices_a_broken_file():
    """What the tests above believe does not believe anything."""
    png = bytearray(to_png(np.zeros((2, 3, 1), np.uint8)))
    png[20] ^= 1
    broken = "data:image/png;base64," + base64.b64encode(bytes(png)).decode()

    with pytest.raises((OSError, SyntaxError)):
        read_png(broken)


def test_the_schema_says_that_it_is_a_file():
    described = schema.render_schema(interface(sound(), picture(description="What was drawn.")))

    assert described["components"]["schemas"]["Output"]["properties"] == {
        "sound": {
            "type": "string",
            "format": "uri",
            "x-media-type": "audio/wav",
            "x-sample-rate-hz": RATE_HZ,
            "title": "sound",
        },
        "picture": {
            "type": "string",
            "format": "uri",
            "x-media-type": "image/png",
            "description": "What was drawn.",
            "title": "picture",
        },
    }


def test_language_models_get_them_as_content():
    [url] = answer(sound(), np.zeros((1, 4), np.float32))

    kept, content = split_media({"sound": url})

    assert kept == {
        "sound": {"content": "audio", "mime_type": "audio/wav", "size_bytes": 52},
    }
    assert content[0]["type"] == "audio"
