import base64
import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from embedded.demo import seed, verify
from embedded.demo.catalogue import MODELS
from embedded.demo.digits import SEED
from embedded.demo.platform import DemoError, Platform, wait_for
from embedded.demo.state import SeedState
from embedded.demo.wheel_data import find_package
from embedded.environment import ROOT
from embedded.home import Home
from inference.triton.media import to_wav
from strongroom.client import ApiError
from strongroom.inspect import read_folder
from strongroom.listing import Listing


def build(module, folder):
    output = subprocess.run(
        [sys.executable, "-P", "-m", f"embedded.demo.{module}", str(folder)],
        env={
            "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}",
            "HF_HUB_OFFLINE": "1",
            "ORT_DISABLE_TELEMETRY": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(output.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return folder, build("digits", folder)


def test_the_digits_are_trained_alike_every_time(digits, tmp_path):
    folder, found = digits

    assert build("digits", tmp_path) == found
    assert (tmp_path / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()


def test_the_digits_card_tells_the_accuracy_on_held_out_rows(digits):
    folder, _ = digits
    card = (folder / "card.md").read_text()
    data = load_digits()
    _, images, _, labels = train_test_split(
        data.data, data.target, test_size=0.2, random_state=SEED, stratify=data.target
    )
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))

    (scores,) = session.run(["probabilities"], {"image": images.astype(np.float32)})
    accuracy = (scores.argmax(1) == labels).mean()

    assert accuracy > 0.97
    assert f'accuracy: "{accuracy:.1%} of 360 held-out digits"' in card
    assert card.startswith("---\n")
    assert card.count("---\n") == 2


def test_the_digits_graph_answers_what_its_test_vectors_say(digits):
    folder, found = digits
    listing = Listing.load(folder)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))

    assert read_folder(folder, ignore={listing.card}).runtime == "onnx"
    assert len(listing.test_vectors) == 5
    for vector in listing.test_vectors:
        image = [[float(pixel) for pixel in vector.input["image"]]]
        (scores,) = session.run(["probabilities"], {"image": image})
        assert str(scores[0].argmax()) == vector.expected["digit"]["label"]
    labels = {vector.expected["digit"]["label"] for vector in listing.test_vectors}
    assert labels == {"0", "1", "2", "3", "4"}
    assert found["facts"]["label"] in labels


def test_file_types_are_taken_from_the_package(tmp_path):
    found = build("file_type", tmp_path)
    listing = Listing.load(tmp_path)

    expected = [one.expected["file_type"]["label"] for one in listing.test_vectors]
    assert expected == ["python", "html", "shell"]
    assert len(listing.interface.outputs[0].labels) == 214
    assert len(found["example"]["bytes"]) == 2048
    assert listing.licence == "Apache-2.0"


def test_short_and_long_files_become_the_numbers_that_magika_takes():
    from embedded.demo.file_type import to_input

    config = {"block_size": 4096, "beg_size": 4, "end_size": 3, "padding_token": 256}

    assert to_input(b"  ab ", config) == [97, 98, 32, 256, 32, 97, 98]
    assert to_input(b"abcdefgh", config) == [97, 98, 99, 100, 102, 103, 104]
    assert to_input(b"", config) == [256] * 7


def test_a_package_that_is_not_there_is_named():
    assert (find_package("magika") / "models").is_dir()
    assert "magika" not in sys.modules
    with pytest.raises(FileNotFoundError, match="package no_such_package is not installed"):
        find_package("no_such_package")


def test_the_voice_says_words_of_the_dictionary(tmp_path):
    found = build("speech", tmp_path)
    listing = Listing.load(tmp_path)

    assert read_folder(tmp_path, ignore={listing.card}).runtime == "onnx"
    assert listing.interface.outputs[0].media_type == "audio/wav"
    assert listing.interface.outputs[0].sample_rate_hz == found["facts"]["sample_rate_hz"] == 22050
    assert [one.expected["seconds"] for one in listing.test_vectors] == [
        pytest.approx(found["facts"]["seconds"], abs=0.2),
        pytest.approx(2.3, abs=0.7),
    ]
    assert listing.licence == "CC0-1.0"
    assert "lessac" in (tmp_path / "card.md").read_text()


def test_words_sound_as_the_dictionary_has_them():
    from embedded.demo.speech import read_sounds

    sounds = read_sounds()

    assert sounds["hello"] == " həlˈoʊ"  # noqa: RUF001 - the letters of phonetics
    assert sounds["o'clock"] == " əklˈɑːk"  # noqa: RUF001 - the letters of phonetics
    assert sounds["8"] == sounds["eight"]
    assert sounds["?"] == "?"
    # Other ways to say it are numbered, and are no words.
    assert not any("(" in word for word in sounds)


VECTORS = {"a": [1.0, 0.0], "b": [0.8, 0.6], "c": [0.0, 1.0], "long": [2.0, 0.0]}


SPOKEN = {"seconds": 1.0, "sample_rate_hz": 8000}


def speak(seconds=1.0, rate_hz=8000, silent_from=1.0, head="data:audio/wav;base64"):
    """Predicts a hum that is silent from some part of its length on."""
    samples = (np.sin(np.arange(int(seconds * rate_hz))) * 9000).astype(np.int16)
    samples[int(silent_from * len(samples)) :] = 0
    encoded = base64.b64encode(to_wav(samples, rate_hz)).decode()
    return lambda values: {"speech": f"{head},{encoded}"}


def embed(values):
    return {"embedding": VECTORS[values["text"]]}


@pytest.mark.parametrize(
    ("_case", "check", "predict", "example", "facts"),
    [
        (
            "digit",
            verify.verify_digit,
            lambda values: {"digit": {"label": "4", "score": 0.9}},
            {},
            {"label": "4"},
        ),
        (
            "file type",
            verify.verify_file_type,
            lambda values: {"file_type": {"label": "python", "score": 0.9}},
            {},
            {"label": "python"},
        ),
        ("embedding", verify.verify_embedding, embed, {"text": "a"}, {"alike": "b", "unlike": "c"}),
        (
            "answer",
            verify.verify_answer,
            lambda values: {"text": "It is Paris."},
            {"prompt": "?"},
            {"contains": "Paris"},
        ),
        ("speech", verify.verify_speech, speak(), {"text": "Hi"}, SPOKEN),
    ],
)
def test_a_right_answer_is_right(_case, check, predict, example, facts):
    assert check(predict, example, facts)


@pytest.mark.parametrize(
    ("_case", "check", "predict", "example", "facts", "reason"),
    [
        (
            "digit",
            verify.verify_digit,
            lambda values: {"digit": {"label": "9", "score": 0.9}},
            {},
            {"label": "4"},
            "read 9, not 4",
        ),
        (
            "file type",
            verify.verify_file_type,
            lambda values: {"file_type": {"label": "html", "score": 0.9}},
            {},
            {"label": "python"},
            "said html, not python",
        ),
        (
            "unlike is nearer",
            verify.verify_embedding,
            embed,
            {"text": "a"},
            {"alike": "c", "unlike": "b"},
            "alike 0.00, unlike 0.80",
        ),
        (
            "not a unit vector",
            verify.verify_embedding,
            embed,
            {"text": "long"},
            {"alike": "b", "unlike": "c"},
            "a vector is not of length 1",
        ),
        (
            "answer",
            verify.verify_answer,
            lambda values: {"text": "London"},
            {"prompt": "?"},
            {"contains": "Paris"},
            "answered 'London'",
        ),
        (
            "short speech",
            verify.verify_speech,
            speak(seconds=0.9),
            {"text": "Hi"},
            SPOKEN,
            "takes 0.90 s, not 1.00 s",
        ),
        (
            "speech that ends early",
            verify.verify_speech,
            speak(silent_from=0.7),
            {"text": "Hi"},
            SPOKEN,
            "a part of it is silent",
        ),
        (
            "speech too slow",
            verify.verify_speech,
            speak(rate_hz=16000),
            {"text": "Hi"},
            SPOKEN,
            "16000 samples a second",
        ),
        (
            "no speech",
            verify.verify_speech,
            speak(head="data:text/html;base64"),
            {"text": "Hi"},
            SPOKEN,
            "answered 'data:text/html;base64'",
        ),
    ],
)
def test_a_wrong_answer_is_found(_case, check, predict, example, facts, reason):
    with pytest.raises(DemoError, match=reason):
        check(predict, example, facts)


def test_the_state_survives_and_is_private(tmp_path):
    state = SeedState.load(Home(tmp_path))
    assert state.accounts == {}
    state.models["demo/digits"] = {"version": 1}
    state.api_key = "sk_live_x"

    state.save()

    again = SeedState.load(Home(tmp_path))
    assert (again.models, again.api_key, again.has_credit) == (
        {"demo/digits": {"version": 1}},
        "sk_live_x",
        False,
    )
    assert (tmp_path / "seed.json").stat().st_mode & 0o777 == 0o600


def test_what_is_seeded_is_not_seeded_again(tmp_path, monkeypatch):
    calls = []
    state = SeedState.load(Home(tmp_path))
    state.accounts = {"creator": {"account": "demo", "api_token": "srt_x"}}
    state.consumer_token = state.api_key = "x"
    state.has_credit = state.has_search_key = True
    state.models = {model.name: {"approved": True} for model in MODELS}
    platform = Platform(Home(tmp_path), "http://w", "http://g", "", has_stand_in=True)
    monkeypatch.setattr(Platform, "manage", lambda self, *words: calls.append(words[0]))
    monkeypatch.setattr(seed, "_push", lambda *arguments: calls.append("push"))
    monkeypatch.setattr(seed, "_approve", lambda *arguments: calls.append("approve"))
    monkeypatch.setattr(Platform, "strongroom", lambda self, *words, **more: calls.append(words[0]))

    # A start that was killed while it sealed left plain weights behind.
    left = tmp_path / "left"
    (left / "model").mkdir(parents=True)
    state.scratch = str(left)

    seed.seed(platform, state)
    assert calls == ["login"]
    assert not left.exists()

    # A model that was pushed but not approved goes on from there.
    state.models["demo/smollm2"] = {}
    seed.seed(platform, state)
    assert calls == ["login", "login", "approve"]

    # A home from before the catalogue had a key gets one.
    state.models["demo/smollm2"] = {"approved": True}
    state.has_search_key = False
    seed.seed(platform, state)
    assert calls[3:] == ["login", "put_search_key"]
    assert SeedState.load(Home(tmp_path)).has_search_key


def test_waiting_outlasts_a_restart_but_not_a_refusal():
    answers = iter([ApiError("unavailable", "", status=503), ApiError("unreachable", ""), True])

    def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    wait_for("it", ask, 30)

    def refuse():
        raise ApiError("forbidden", "no", status=403)

    with pytest.raises(ApiError, match="no"):
        wait_for("it", refuse, 30)
    with pytest.raises(DemoError, match="it: not within 0 s"):
        wait_for("it", lambda: False, 0)
