"""Whether the demo models answer right: each by what is known to be true of its input."""

from __future__ import annotations

import base64
import wave
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import numpy as np

from embedded.demo.platform import DemoError

Predict = Callable[[Mapping[str, Any]], dict[str, Any]]
Verify = Callable[[Predict, Mapping[str, Any], Mapping[str, Any]], str]

# Unrelated sentences are near 0, paraphrases well above: half way is a clear difference.
_MARGIN = 0.2
_LENGTH_TOLERANCE = 1e-3
# Another processor may round the length of a sound otherwise.
_SPEECH_TOLERANCE = 0.05
_SPEECH_PARTS = 4
_SAMPLE_MAX = 32_767
# Of samples from -1 to 1: speech is ten times as loud on average, also with its pauses.
_SILENCE = 0.005


def verify_digit(predict: Predict, example: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """A digit that was held out of the training, against its true label."""
    answer = predict(example)["digit"]
    _require(answer["label"] == facts["label"], f"read {answer['label']}, not {facts['label']}")
    return f"a held-out {facts['label']} is read as {answer['label']} ({answer['score']:.0%})"


def verify_file_type(predict: Predict, example: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Python source."""
    answer = predict(example)["file_type"]
    _require(answer["label"] == facts["label"], f"said {answer['label']}, not {facts['label']}")
    return f"Python source is {answer['label']} ({answer['score']:.0%})"


def verify_embedding(predict: Predict, example: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Two sentences that mean nearly the same, and one that does not."""
    texts = (example["text"], facts["alike"], facts["unlike"])
    first, alike, unlike = (predict({"text": text})["embedding"] for text in texts)
    for vector in (first, alike, unlike):
        _require(abs(_dot(vector, vector) - 1) < _LENGTH_TOLERANCE, "a vector is not of length 1")
    near, far = _dot(first, alike), _dot(first, unlike)
    _require(near > far + _MARGIN, f"alike {near:.2f}, unlike {far:.2f}")
    return f"alike sentences {near:.2f}, unlike ones {far:.2f}"


def verify_answer(predict: Predict, example: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """A question that even a small model knows."""
    text = predict(example)["text"].strip()
    _require(facts["contains"] in text, f"answered {text!r}")
    return f"{example['prompt']} {text}"


def verify_speech(predict: Predict, example: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """A sentence, whose length is known and which is heard to its end."""
    head, _, encoded = predict(example)["speech"].partition(",")
    _require(head == "data:audio/wav;base64", f"answered {head[:40]!r}")
    with wave.open(BytesIO(base64.b64decode(encoded))) as sound:
        rate_hz, count = sound.getframerate(), sound.getnframes()
        samples = np.frombuffer(sound.readframes(count), "<i2") / _SAMPLE_MAX
    _require(rate_hz == facts["sample_rate_hz"], f"{rate_hz} samples a second")
    seconds, promised_s = count / rate_hz, facts["seconds"]
    wrong = f"takes {seconds:.2f} s, not {promised_s:.2f} s"
    _require(abs(seconds - promised_s) <= _SPEECH_TOLERANCE * promised_s, wrong)
    quietest = min(float(np.abs(part).mean()) for part in np.array_split(samples, _SPEECH_PARTS))
    _require(quietest > _SILENCE, f"a part of it is silent ({quietest:.4f})")
    return f"{example['text']!r} is {seconds:.1f} s of speech"


def _dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _require(condition: bool, detail: str) -> None:
    if not condition:
        raise DemoError(detail)
