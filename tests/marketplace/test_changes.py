from __future__ import annotations

import pytest

from marketplace.core.changes import CHANGES_MAX, list_changes

ONE = {"name": "x", "kind": "number", "maximum": 5, "description": "a"}
BASE = {
    "runtime": "onnx",
    "interface": {
        "inputs": [ONE],
        "outputs": [{"name": "y", "kind": "number"}],
        "batch": {"max_size": 8},
    },
    "output_policy": {},
    "size_bytes": 1_000,
}


def changed(**interface):
    return BASE | {"interface": BASE["interface"] | interface}


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (changed(inputs=[ONE | {"maximum": 9}]), ["Input x, maximum: 5 → 9."]),
        (changed(inputs=[ONE | {"required": False}]), ["Input x, required: none → false."]),
        (
            changed(inputs=[ONE, {"name": "z", "kind": "text"}]),
            ["Input z is new and required."],
        ),
        (
            changed(inputs=[ONE, {"name": "z", "kind": "text", "required": False}]),
            ["Input z is new and optional."],
        ),
        (
            changed(outputs=[{"name": "w", "kind": "text"}]),
            ["Output y is gone.", "Output w is new."],
        ),
        (changed(batch={"max_size": 1}), ["Rows of one call: 8 → 1."]),
        (BASE | {"runtime": "transformers"}, ["Runtime: onnx → transformers."]),
        (BASE | {"size_bytes": 1_500}, ["Sealed size: +50 %."]),
        (BASE | {"size_bytes": 500}, ["Sealed size: -50 %."]),
        (BASE | {"size_bytes": 1_009}, []),
        (
            BASE | {"output_policy": {"y": {"decimals": 1}}},
            ["What answers show has changed. Answers show values, rounded to 1 decimal."],
        ),
        # Words about an input change nothing for who calls.
        (changed(inputs=[ONE | {"description": "b", "example": 3}]), []),
        # What callers never see is the creator's own business.
        (changed(outputs=[*BASE["interface"]["outputs"], {"name": "h", "hidden": True}]), []),
        (BASE, []),
    ],
)
def test_what_callers_notice_is_told(new, told):
    assert list_changes(new, BASE) == told


def test_many_changes_are_cut():
    many = [{"name": f"n{n}", "kind": "number"} for n in range(CHANGES_MAX + 5)]

    told = list_changes(changed(inputs=[ONE, *many]), BASE)

    assert len(told) == CHANGES_MAX + 1
    assert told[-1] == "And 5 more."


def test_long_values_are_cut():
    (told,) = list_changes(changed(inputs=[ONE | {"choices": ["x" * 500]}]), BASE)

    assert len(told) < 120
