"""Outputs that are answered as sounds and pictures: what a description may say."""

from __future__ import annotations

import copy
import json

import pytest

from strongroom.errors import InterfaceError
from strongroom.interface import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, Interface
from strongroom.listing import Listing

SOUND = {
    "name": "speech",
    "kind": "tensor",
    "datatype": "FP32",
    "shape": [-1],
    "media_type": "audio/wav",
    "sample_rate_hz": 22_050,
}
PICTURE = {
    "name": "picture",
    "kind": "tensor",
    "datatype": "UINT8",
    "shape": [-1, 64, 3],
    "media_type": "image/png",
}


def describe(*outputs):
    return {
        "inputs": [{"name": "text", "kind": "text"}],
        "outputs": list(outputs),
        "batch": {"max_size": 1, "leading_axis": True},
    }


def test_sounds_and_pictures_survive_their_own_json():
    described = describe(SOUND, PICTURE)

    parsed = Interface.parse(described)

    assert parsed.to_json() == described
    assert Interface.parse(json.loads(json.dumps(parsed.to_json()))) == parsed
    assert [(one.media_type, one.sample_rate_hz) for one in parsed.outputs] == [
        ("audio/wav", 22_050),
        ("image/png", 0),
    ]


def test_a_tensor_without_a_media_type_is_described_as_ever():
    plain = {name: SOUND[name] for name in ("name", "kind", "datatype", "shape")}

    parsed = Interface.parse(describe(plain))

    assert parsed.to_json() == describe(plain)
    assert parsed.outputs[0].media_type == ""


def test_a_listing_keeps_them(tmp_path):
    interface = Interface.parse(describe(SOUND, PICTURE))
    listing = Listing(
        owner="acme",
        name="voice",
        title="Voice",
        summary="",
        task="text-to-speech",
        licence="CC0-1.0",
        price_nanos=1_000_000,
        interface=interface,
    )
    (tmp_path / "strongroom.toml").write_text(listing.to_toml())

    assert Listing.load(tmp_path).interface == interface


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT16"])
def test_samples_may_be_of_three_types(datatype):
    [one] = Interface.parse(describe({**SOUND, "datatype": datatype})).outputs

    assert one.datatype == datatype


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_may_have_these_channels(channels):
    [one] = Interface.parse(describe({**PICTURE, "shape": [-1, -1, channels]})).outputs

    assert one.shape == (-1, -1, channels)


@pytest.mark.parametrize("rate_hz", [MIN_SAMPLE_RATE_HZ, MAX_SAMPLE_RATE_HZ])
def test_sample_rates_at_their_limits_pass(rate_hz):
    [one] = Interface.parse(describe({**SOUND, "sample_rate_hz": rate_hz})).outputs

    assert one.sample_rate_hz == rate_hz


@pytest.mark.parametrize(
    ("_case", "base", "members", "member", "code"),
    [
        ("unknown", SOUND, {"media_type": "audio/mpeg"}, "media_type", "media_type_unknown"),
        ("script", PICTURE, {"media_type": "image/svg+xml"}, "media_type", "media_type_unknown"),
        ("not a text", SOUND, {"media_type": ["audio/wav"]}, "media_type", "media_type_unknown"),
        ("empty", SOUND, {"media_type": ""}, "media_type", "media_type_unknown"),
        ("bytes as samples", SOUND, {"datatype": "UINT8"}, "datatype", "media_invalid"),
        ("bool as samples", SOUND, {"datatype": "BOOL"}, "datatype", "media_invalid"),
        ("floats as shades", PICTURE, {"datatype": "FP32"}, "datatype", "media_invalid"),
        ("two axes of samples", SOUND, {"shape": [-1, 2]}, "shape", "media_invalid"),
        ("one sample", SOUND, {"shape": []}, "shape", "media_invalid"),
        ("no channels", PICTURE, {"shape": [8, 8]}, "shape", "media_invalid"),
        ("two channels", PICTURE, {"shape": [8, 8, 2]}, "shape", "media_invalid"),
        ("five channels", PICTURE, {"shape": [8, 8, 5]}, "shape", "media_invalid"),
        ("channels first", PICTURE, {"shape": [3, 8, 8]}, "shape", "media_invalid"),
        ("channels unknown", PICTURE, {"shape": [8, 8, -1]}, "shape", "media_invalid"),
        ("rate missing", SOUND, {"sample_rate_hz": ...}, "sample_rate_hz", "required"),
        ("rate a text", SOUND, {"sample_rate_hz": "22050"}, "sample_rate_hz", "type_mismatch"),
        ("rate too low", SOUND, {"sample_rate_hz": 7_999}, "sample_rate_hz", "out_of_range"),
        ("rate too high", SOUND, {"sample_rate_hz": 48_001}, "sample_rate_hz", "out_of_range"),
        ("rate of a picture", PICTURE, {"sample_rate_hz": 1}, "sample_rate_hz", "media_invalid"),
        ("rate of numbers", SOUND, {"media_type": ...}, "sample_rate_hz", "media_invalid"),
    ],
)
def test_a_faulty_description_is_refused_with_its_place(_case, base, members, member, code):
    output = {name: value for name, value in {**base, **members}.items() if value is not ...}

    with pytest.raises(InterfaceError) as refused:
        Interface.parse(describe(output))

    assert (refused.value.pointer, refused.value.code) == (f"/outputs/0/{member}", code)


@pytest.mark.parametrize("kind", ["text", "number", "label"])
def test_other_kinds_have_no_media_type(kind):
    output = {"name": "speech", "kind": kind, "media_type": "audio/wav"}

    with pytest.raises(InterfaceError) as refused:
        Interface.parse(describe(output))

    assert refused.value.code == "unknown_member"


def test_inputs_have_no_media_type():
    described = copy.deepcopy(describe(SOUND))
    described["inputs"] = [{**PICTURE, "name": "image"}]

    with pytest.raises(InterfaceError) as refused:
        Interface.parse(described)

    assert (refused.value.pointer, refused.value.code) == (
        "/inputs/0/media_type",
        "unknown_member",
    )
