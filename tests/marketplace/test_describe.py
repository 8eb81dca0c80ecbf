from __future__ import annotations

import pytest

from marketplace.core.describe import (
    describe_inputs,
    describe_outputs,
    describe_policy,
)

INTERFACE = {
    "inputs": [
        {"name": "image", "kind": "tensor", "datatype": "FP32", "shape": [2, 2], "minimum": 0},
        {"name": "big", "kind": "tensor", "datatype": "INT64", "shape": [-1, 512]},
        {"name": "text", "kind": "text", "max_length": 100, "description": "What to read."},
        {"name": "mode", "kind": "choice", "choices": ["fast", "good"]},
        {"name": "flag", "kind": "boolean"},
        {"name": "n", "kind": "integer", "minimum": 3, "maximum": 9},
        {"name": "x", "kind": "number", "required": False, "default": 0.5},
        {"name": "long", "kind": "text", "example": "y" * 5_000},
    ],
    "outputs": [
        {"name": "digit", "kind": "label", "labels": [str(i) for i in range(12)]},
        {"name": "raw", "kind": "tensor", "datatype": "FP32", "shape": [12], "hidden": True},
        {"name": "score", "kind": "number"},
    ],
}


def test_inputs_in_words():
    rows = {row.name: (row.type, row.rules) for row in describe_inputs(INTERFACE)}

    assert rows == {
        "image": ("FP32[2, 2]", "at least 0"),
        "big": ("INT64[n, 512]", ""),
        "text": ("text", "at most 100 characters"),
        "mode": ("choice", "one of fast, good"),
        "flag": ("boolean", ""),
        "n": ("integer", "at least 3, at most 9"),
        "x": ("number", "optional, default 0.5"),
        "long": ("text", ""),
    }
    assert describe_inputs(INTERFACE)[2].description == "What to read."


def test_outputs_in_words_without_the_hidden_ones():
    rows = [(row.name, row.type, row.rules) for row in describe_outputs(INTERFACE)]

    assert rows == [
        ("digit", "label", "12 labels: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 …"),
        ("score", "number", ""),
    ]


def test_sounds_and_pictures_in_words():
    speech = {"name": "speech", "kind": "tensor", "datatype": "FP32", "shape": [-1]}
    drawing = {"name": "drawing", "kind": "tensor", "datatype": "UINT8", "shape": [8, 8, 3]}
    outputs = [
        speech | {"media_type": "audio/wav", "sample_rate_hz": 22_050},
        drawing | {"media_type": "image/png"},
    ]

    rows = describe_outputs({"outputs": outputs})

    assert [row.type for row in rows] == ["audio/wav, 22050 Hz", "image/png"]


def test_nothing_is_described_as_nothing():
    assert describe_inputs({}) == []
    assert describe_outputs({}) == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"as": "probabilities", "top_k": 5}, "the 5 most likely classes"),
        ({"as": "probabilities", "top_k": 1}, "the most likely class"),
        ({"as": "probabilities", "decimals": 1}, "probabilities, rounded to 1 decimal"),
        ({"as": "label"}, "the most likely class only"),
        ({"top_k": 2}, "the 2 largest values"),
        ({"top_k": 1, "decimals": 0}, "the largest value, rounded to whole numbers"),
        ({"decimals": 2}, "values, rounded to 2 decimals"),
    ],
)
def test_a_rule_of_an_output_in_words(rule, words):
    assert describe_policy({"y": rule}) == f"Answers show {words}."
    both = describe_policy({"y": rule, "z": {"decimals": 4}})
    assert both == f"y shows {words}. z shows values, rounded to 4 decimals."


def test_no_rule_is_no_sentence():
    assert describe_policy({}) == ""
