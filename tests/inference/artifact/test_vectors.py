from __future__ import annotations

import math

import pytest

from inference.artifact.vectors import MAX_MISMATCHES, compare


def pointers(expected: dict, actual: dict, tolerance: float | None = None) -> list[str]:
    return [one.pointer for one in compare(expected, actual, tolerance=tolerance)]


def test_more_may_be_answered_than_expected():
    assert pointers({"a": 1}, {"a": 1, "b": 2}) == []


def test_every_difference_has_its_place():
    expected = {"a": [1.0, 2.0], "b/c": {"label": "cat"}, "d": 1}
    actual = {"a": [1.0, 2.5], "b/c": {"label": "dog"}}

    assert pointers(expected, actual) == ["/a/1", "/b~1c/label", "/d"]


@pytest.mark.parametrize(
    ("_expected", "_actual", "_tolerance", "_fits"),
    [
        (1.0, 1.25, 0.25, True),
        (1.0, 1.2501, 0.25, False),
        (1000.0, 1009.0, 0.01, True),
        (0.0, 0.01, 0.01, True),
        (1, 1.0, 0.0, True),
        (1.0, 1.00009, None, True),
        (1.0, 1.0002, None, False),
        (math.nan, math.nan, 1.0, False),
        (math.inf, math.inf, 0.0, True),
        (1.0, math.inf, 1.0, False),
        (1, True, 1.0, False),
        (True, True, 0.0, True),
        ("a", "a", 0.0, True),
        ("a", "A", 1.0, False),
        ("1", 1, 1.0, False),
        (None, None, 0.0, True),
        (None, 0, 1.0, False),
    ],
)
def test_values(_expected, _actual, _tolerance, _fits):
    assert (pointers({"x": _expected}, {"x": _actual}, _tolerance) == []) is _fits


def test_lists_must_have_the_same_length():
    [found] = compare({"x": [1, 2]}, {"x": [1, 2, 3]})

    assert (found.pointer, found.detail) == ("/x", "Has 3 values, not 2.")


@pytest.mark.parametrize("_actual", [1, "text", None, {}])
def test_other_shapes_of_answer_are_differences(_actual):
    assert pointers({"x": [1]}, {"x": _actual}) == ["/x"]
    assert pointers({"x": {"y": 1}}, {"x": [_actual]}) == ["/x"]


def test_number_of_differences_has_a_limit():
    assert len(compare({"x": [0] * 100}, {"x": [1] * 100})) == MAX_MISMATCHES


def test_detail_is_short():
    [found] = compare({"x": "a" * 1000}, {"x": "b" * 1000})

    assert len(found.detail) < 200
