"""Sounds and pictures of an answer as files."""

from __future__ import annotations

import base64

import pytest

from strongroom.media_file import save_media


def url(media_type, octets):
    return f"data:{media_type};base64,{base64.b64encode(octets).decode()}"


def test_sounds_and_pictures_become_files_and_the_rest_stays(tmp_path):
    output = {
        "speech": url("audio/wav", b"RIFF"),
        "drawing": url("image/png", b"PNG"),
        "seconds": 1.5,
        "text": "data:",
        "scores": [0.5],
        "none": None,
    }

    saved = save_media(output, tmp_path / "new", "01a2")

    speech, drawing = tmp_path / "new/01a2-speech.wav", tmp_path / "new/01a2-drawing.png"
    assert saved == {
        "speech": str(speech),
        "drawing": str(drawing),
        "seconds": 1.5,
        "text": "data:",
        "scores": [0.5],
        "none": None,
    }
    assert (speech.read_bytes(), drawing.read_bytes()) == (b"RIFF", b"PNG")


@pytest.mark.parametrize("_name", ["../../x", "/etc/x", "a/b", "..", ".bashrc", "a:b\\c"])
def test_no_name_leads_out_of_the_folder(tmp_path, _name):
    folder = tmp_path / "in/here"

    save_media({_name: url("audio/wav", b"RIFF")}, folder, "../01a2")

    [made] = [one for one in tmp_path.rglob("*") if one.is_file()]
    assert made.parent == folder
    assert made.suffix == ".wav"
    assert not made.name.startswith(".")


@pytest.mark.parametrize(
    "_value",
    [
        "data:audio/wav;base64,UklG!",
        "data:audio/wav;base64,UklGR",
        "data:audio/wav;base64,UklGRé==",
        "data:text/html;base64,UklGRg==",
        "data:image/svg+xml;base64,UklGRg==",
        " data:audio/wav;base64,UklGRg==",
        "https://elsewhere.example/a.wav",
    ],
)
def test_what_is_no_such_file_stays_as_it_is(tmp_path, _value):
    assert save_media({"speech": _value}, tmp_path, "01a2") == {"speech": _value}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("_output", [None, "data:audio/wav;base64,UklGRg==", []])
def test_an_output_without_names_stays_as_it_is(tmp_path, _output):
    assert save_media(_output, tmp_path, "01a2") == _output
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_kept(tmp_path):
    (tmp_path / "01a2-speech.wav").write_bytes(b"mine")

    with pytest.raises(FileExistsError):
        save_media({"speech": url("audio/wav", b"RIFF")}, tmp_path, "01a2")

    assert (tmp_path / "01a2-speech.wav").read_bytes() == b"mine"
