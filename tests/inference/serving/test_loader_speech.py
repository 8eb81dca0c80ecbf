"""The demo's voice, sealed, in a real tritonserver: from a text to a sound that is heard."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedded.environment import ROOT
from inference.triton import tensors
from strongroom.interface import Interface
from strongroom.listing import Listing
from tests.inference.serving.sealed import SealedModel, seal

RATE_HZ = 22_050


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The voice as the demo pushes it."""
    folder = tmp_path_factory.mktemp("speech")
    subprocess.run(
        [sys.executable, "-P", "-m", "embedded.demo.speech", str(folder)],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}", "ORT_DISABLE_TELEMETRY": "1"},
        capture_output=True,
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def sealed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SealedModel:
    listing = Listing.load(folder)
    return seal(
        tmp_path_factory.mktemp("parts"),
        {"model.onnx": ("onnx", (folder / "model.onnx").read_bytes())},
        runtime="onnx",
        interface=listing.interface.to_json(),
        task="text-to-speech",
        vectors=listing.test_vectors,
    )


def say(triton: Any, name: str, interface: Interface, text: str, **given: Any) -> dict[str, Any]:
    row = interface.check_input({"text": text} | given)
    inputs = {one.name: one.data for one in tensors.encode(interface, [row])}
    [answer] = tensors.decode(interface, triton.infer(name, **inputs), include_hidden=True)
    return answer


def hear(url: str) -> np.ndarray:
    """The samples of an answer, from -1 to 1."""
    head, _, encoded = url.partition(",")
    assert head == "data:audio/wav;base64"
    with wave.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE_HZ)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32_767


def find_pitch_hz(samples: np.ndarray) -> float:
    """How often the loudest part of a sound repeats itself in a second, by autocorrelation."""
    width = RATE_HZ // 10
    parts = np.array_split(samples, max(1, len(samples) // width))
    part = max(parts, key=lambda one: float(np.square(one).sum()))
    part = part - part.mean()
    repeats = np.correlate(part, part, "full")[len(part) - 1 :]
    low, high = RATE_HZ // 400, RATE_HZ // 60
    return RATE_HZ / (low + int(repeats[low:high].argmax()))


def test_the_sealed_voice_speaks(triton, load, sealed):
    """Also its test vectors were answered: else it would not have loaded."""
    name, peer = load(sealed)
    interface = sealed.manifest.parsed_interface

    answer = say(triton, name, interface, "Your model stays sealed while it speaks.")
    samples = hear(answer["speech"])

    assert peer.find("loaded")["vectors_compared"] == 2
    seconds = len(samples) / RATE_HZ
    assert seconds == pytest.approx(answer["seconds"], abs=1e-3)
    assert 1.5 < seconds < 4
    # Loud, not clipped, and with the pitch of a man's voice; noise or a hum has none of that.
    assert 0.85 < np.abs(samples).max() < 0.95
    assert 0.02 < np.abs(samples).mean() < 0.3
    assert 60 < find_pitch_hz(samples) < 220
    # Syllables: loud and quiet take turns.
    heights = [np.abs(one).mean() for one in np.array_split(samples, 40)]
    assert max(heights) > 5 * min(heights)

    # The same text gives the same sound, twice the pace about half the length.
    again = say(triton, name, interface, "Your model stays sealed while it speaks.")
    assert again["speech"] == answer["speech"]
    fast = say(triton, name, interface, "Your model stays sealed while it speaks.", speed=2.0)
    assert 0.4 < fast["seconds"] / answer["seconds"] < 0.65

    # As it is written does not matter, what is written does.
    plain = say(triton, name, interface, "your MODEL stays sealed while it speaks.")
    assert plain["sounds"] == answer["sounds"]
    other = say(triton, name, interface, "Your model sleeps sealed while it speaks.")
    assert other["sounds"] != answer["sounds"]

    # What is in no dictionary is spelled; numbers are said digit by digit.
    spelled = say(triton, name, interface, "xq 42")
    assert spelled["sounds"] == say(triton, name, interface, "X Q four two")["sounds"]
    # Nothing to say is a pause, and no failure.
    for text in ("", "…", "日本語", "'''", "\0"):
        assert 0 < say(triton, name, interface, text)["seconds"] < 0.5


def test_the_scanner_has_nothing_against_it(load, sealed):
    """As onboarding loads it: a list of words is no program, and no longer than it reads."""
    _, peer = load(sealed, purpose="scan")

    opinion = peer.find("validation")["second_opinion"]
    assert {one["severity"] for one in opinion["findings"]} == {"info"}
    assert opinion["scanner"] == "modelaudit"


def test_another_answer_than_the_vectors_say_does_not_load(refuse, sealed):
    first, second = sealed.manifest.test_vectors
    wrong = type(first)(
        first.input, first.expected | {"sounds": first.expected["sounds"][:-1]}, first.tolerance
    )

    reason_code, _ = refuse(sealed.with_manifest(test_vectors=(wrong, second)))

    assert reason_code == "canary_mismatch"


def test_a_pitch_is_found_where_there_is_one():
    times_s = np.arange(RATE_HZ) / RATE_HZ
    buzz = np.sign(np.sin(2 * np.pi * 110 * times_s))

    assert find_pitch_hz(buzz) == pytest.approx(110, rel=0.02)
    assert find_pitch_hz(np.sin(2 * np.pi * 350 * times_s)) > 300
