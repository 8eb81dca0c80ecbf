"""Sketches of inputs and outputs: what lands where, adding up, and telling drift from chance."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.core import drift
from inference.core.drift import MISSING, OTHER, Measure, Plan
from strongroom.interface import Interface

INTERFACE = Interface.parse(
    {
        "inputs": [
            {"name": "age", "kind": "number", "minimum": 0, "maximum": 128},
            {"name": "amount", "kind": "number", "allow_nan": True},
            {"name": "stars", "kind": "integer", "minimum": 1, "maximum": 5},
            {"name": "mode", "kind": "choice", "choices": ["fast", "good", "é" * 200]},
            {"name": "is_new", "kind": "boolean"},
            {"name": "text", "kind": "text"},
            {
                "name": "pixels",
                "kind": "tensor",
                "datatype": "FP32",
                "shape": [-1],
                "allow_nan": True,
            },
        ],
        "outputs": [
            {"name": "scores", "kind": "tensor", "datatype": "FP32", "shape": [3], "hidden": True},
            {"name": "kind", "kind": "label", "source": "scores", "labels": ["a", "b", "c"]},
            {"name": "embedding", "kind": "tensor", "datatype": "FP64", "shape": [4]},
        ],
    }
)
PLAN = Plan(INTERFACE)
LOG = Measure("input", "amount", "value", drift.LOG)


def texts(*values: str | bytes) -> np.ndarray:
    array = np.empty((len(values), 1), dtype=np.object_)
    array[:, 0] = [one if isinstance(one, bytes) else one.encode() for one in values]
    return array


def arrays(**changes) -> tuple[dict, dict]:
    inputs = {
        "age": np.array([[40.0]], dtype=np.float32),
        "amount": np.array([[12.5]], dtype=np.float32),
        "stars": np.array([[5]], dtype=np.int64),
        "mode": texts("good"),
        "is_new": np.array([[True]]),
        "text": texts("a few words"),
        "pixels": np.array([[1.0, 2.0, 3.0]], dtype=np.float32),
    }
    outputs = {
        "scores": np.array([[0.1, 0.8, 0.1]], dtype=np.float32),
        "embedding": np.zeros((1, 4)),
    }
    for name, value in changes.items():
        (inputs if name in inputs else outputs)[name] = value
    return inputs, outputs


def read(**changes) -> dict[str, int]:
    inputs, outputs = arrays(**changes)
    return dict(PLAN.read(PLAN.clip(inputs, outputs, 0)))


def test_each_field_has_its_measures() -> None:
    found = read()

    assert set(found) == {one.key for one in PLAN.measures}
    assert found["input:age:value"] == 10  # 40 of 128, in 32 bins
    assert found["input:stars:value"] == 4
    assert found["input:mode:choice"] == 1
    assert found["input:is_new:value"] == 1
    assert found["input:text:writing"] == drift.WRITINGS.index("Latin")
    assert found["output:kind:label"] == 1
    assert found["output:kind:score"] == 16
    # A source of labels is told by them.
    assert not [key for key in found if "scores" in key]


@pytest.mark.parametrize(
    ("text", "writing"),
    [
        ("Hello, world 123", "Latin"),
        ("Grüße, café naïve", "Latin"),
        ("Привет, мир", "Cyrillic"),
        ("Καλημέρα κόσμε", "Greek"),
        ("مرحبا بالعالم", "Arabic"),
        ("שלום עולם", "Hebrew"),
        ("नमस्ते दुनिया", "Indic"),
        ("สวัสดีชาวโลก", "Thai"),
        ("你好世界", "Chinese"),
        ("こんにちは", "Kana"),
        ("안녕하세요", "Hangul"),
        ("0123456 789", "digits"),
        ("{}[]();,", "signs"),
        ("🙂🚀🎉", "emoji"),
        (" \n\t", "space"),
    ],
)
def test_writings_are_told_apart(text: str, writing: str) -> None:
    assert drift.WRITINGS[drift.find_writing(text.encode())] == writing


@pytest.mark.parametrize(
    ("change", "key", "place"),
    [
        ({"amount": np.array([[math.nan]])}, "input:amount:value", MISSING),
        ({"amount": np.array([[math.inf]])}, "input:amount:value", 241),
        ({"amount": np.array([[-math.inf]])}, "input:amount:value", -241),
        ({"amount": np.array([[1e-300]])}, "input:amount:value", 0),
        ({"age": np.array([[1e30]])}, "input:age:value", 31),
        ({"age": np.array([[-5.0]])}, "input:age:value", 0),
        ({"age": np.zeros((1, 0))}, "input:age:value", MISSING),
        ({"stars": np.array([[2**62]])}, "input:stars:value", OTHER),
        ({"stars": np.array([[0]])}, "input:stars:value", OTHER),
        ({"mode": texts("neither")}, "input:mode:choice", OTHER),
        ({"mode": texts("é" * 200)}, "input:mode:choice", 2),
        ({"text": texts("")}, "input:text:length", MISSING),
        ({"text": texts(b"\xff\xfe")}, "input:text:writing", drift.WRITINGS.index("signs")),
        ({"text": texts("x" * 10_000_000)}, "input:text:length", 174),
        ({"pixels": np.full((1, 3), math.nan)}, "input:pixels:mean", MISSING),
        ({"pixels": np.array([[math.nan, 2.0]])}, "input:pixels:mean", 85),
        ({"pixels": np.zeros((1, 0))}, "input:pixels:mean", MISSING),
        ({"embedding": np.full((1, 4), 1.7e308)}, "output:embedding:mean", 241),
        ({"scores": np.array([[5.0, -3.0, 1.0]])}, "output:kind:score", 1090),
        ({"scores": np.array([[-5.0, -3.0, -4.0]])}, "output:kind:score", -87),
    ],
)
def test_hostile_values_have_a_place(change: dict, key: str, place: int) -> None:
    assert read(**change)[key] == place


def test_what_is_missing_or_odd_is_left_out() -> None:
    inputs, outputs = arrays()
    assert PLAN.clip({}, {}, 0) == {}
    assert PLAN.clip(inputs, outputs, 7) == {}
    assert PLAN.read({}) == []
    odd = np.empty((1, 1), dtype=np.object_)
    odd[0, 0] = {"a": [1]}
    assert dict(PLAN.read(PLAN.clip({"text": odd}, {}, 0)))["input:text:length"] == MISSING


def test_a_clip_is_small_whatever_comes() -> None:
    inputs, outputs = arrays(
        pixels=np.zeros((1, 3_000_000), dtype=np.float32), text=texts("x" * 10_000_000)
    )
    clips = PLAN.clip(inputs, outputs, 0)

    assert clips["input", "pixels"].size == 3_000_000
    assert clips["input", "pixels"].size_bytes <= drift.ELEMENTS_MAX * 4
    assert len(clips["input", "text"].text) == drift.TEXT_BYTES
    # It holds nothing of what it was taken of.
    assert clips["input", "pixels"].elements.base is None


# --- Adding up --------------------------------------------------------------------

places = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(-300, 300)), max_size=60)


@settings(deadline=None)
@given(st.lists(places, max_size=6), st.randoms())
def test_sketches_add_up_in_any_order(several, rng: random.Random) -> None:
    parts = []
    for one in several:
        sketch: drift.Sketch = {}
        drift.count(sketch, one)
        parts.append(sketch)
    together: drift.Sketch = {}
    drift.count(together, [place for one in several for place in one])
    shuffled = parts[:]
    rng.shuffle(shuffled)
    cut = rng.randint(0, len(parts))

    assert drift.merge(parts) == together
    assert drift.merge(shuffled) == together
    assert drift.merge([drift.merge(parts[:cut]), drift.merge(parts[cut:])]) == together
    # As it comes back from Postgres.
    assert drift.merge([json.loads(json.dumps(together))]) == together


def test_a_merge_that_forgets_is_noticed() -> None:
    def merge_badly(sketches):
        total: drift.Sketch = {}
        for one in sketches:
            total |= {key: dict(counts) for key, counts in one.items()}
        return total

    parts = [{"a": {1: 2}}, {"a": {2: 3}}]
    assert merge_badly(parts) != drift.merge(parts) == {"a": {1: 2, 2: 3}}


@settings(deadline=None)
@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_bins_keep_the_order_of_numbers(first: float, second: float) -> None:
    low, high = sorted((first, second))
    for bins in (LOG, Measure("output", "kind", "score", drift.SCORE)):
        assert bins.find_bin(low) <= bins.find_bin(high)


@settings(deadline=None)
@given(st.floats(1e-5, 1e11))
def test_a_bin_is_described_by_what_lies_in_it(value: float) -> None:
    place = LOG.find_bin(value)
    low, _, high = LOG.describe(place, place).replace(",", "").partition(" to ")
    assert float(low) * 0.994 <= value <= float(high) * 1.006
    # The same on the other side of zero.
    assert LOG.find_bin(-value) == -place


# --- Comparing --------------------------------------------------------------------


def test_known_distributions_have_the_known_distance() -> None:
    # (0.3 - 0.5) ln(0.3/0.5) + (0.7 - 0.5) ln(0.7/0.5) = 0.16946
    found = drift.measure_distance([(500_000, 300_000), (500_000, 700_000)])
    assert found == pytest.approx(0.169460, abs=1e-5)
    assert drift.measure_distance([(10, 100), (20, 200)]) == pytest.approx(0, abs=0.001)


def test_the_chance_is_that_of_a_chi_square() -> None:
    # Tables: 27.877 with nine degrees of freedom, 10.828 with one.
    assert drift._find_chi_square(9) == pytest.approx(27.877, rel=0.01)
    assert drift._find_chi_square(1) == pytest.approx(10.828, rel=0.05)
    assert drift._find_chi_square(0) == 0


def sketch_of(measure: Measure, values) -> dict[int, int]:
    sketch: drift.Sketch = {}
    drift.count(sketch, [("x", measure.find_bin(float(one))) for one in values])
    return sketch.get("x", {})


def compare(before, now, measure: Measure = LOG) -> drift.Comparison:
    return drift.compare(measure, sketch_of(measure, before), sketch_of(measure, now))


def test_a_shift_is_found_and_no_shift_is_not() -> None:
    rng = np.random.default_rng(7)
    before = rng.lognormal(3, 1, 2_000)

    assert compare(before, rng.lognormal(3, 1, 2_000)).state == drift.STABLE
    assert compare(before, rng.lognormal(3.4, 1, 2_000)).state == drift.MOVED
    assert compare(before, rng.lognormal(4, 1, 2_000)).state == drift.SHIFTED
    # All at one place before, and at another now.
    assert compare([5.0] * 100, [50.0] * 100).state == drift.SHIFTED
    assert compare([5.0] * 100, [5.0] * 100).state == drift.STABLE
    # What was never missing is.
    assert compare(before, [math.nan] * 500 + [*before[:500]]).state == drift.SHIFTED


def draw(count: int, times: int):
    """Pairs of samples of one distribution, as they are counted; the seed is fixed."""
    rng = np.random.default_rng(20_261_122)
    pool = np.array([LOG.find_bin(float(one)) for one in rng.normal(100, 30, 50_000)])
    for _ in range(times):
        sides = (np.unique(one, return_counts=True) for one in rng.choice(pool, (2, count)))
        before, now = (dict(zip(*map(np.ndarray.tolist, one), strict=True)) for one in sides)
        yield drift.compare(LOG, before, now)


@pytest.mark.parametrize("count", [50, 200, 1_000, 5_000])
def test_no_more_false_alarms_than_said(count: int) -> None:
    """One in a thousand is said; of two thousand, seven or more would be very odd."""
    states = [one.state for one in draw(count, 2_000)]
    assert sum(one in (drift.MOVED, drift.SHIFTED) for one in states) < 7


def test_without_the_chance_there_are_many_false_alarms() -> None:
    """The control of the one above: the plain limits, with samples of fifty."""
    assert sum(one.distance >= drift.SHIFTED_AT for one in draw(50, 200)) > 40


def test_too_little_is_said_to_be_so() -> None:
    rng = np.random.default_rng(1)
    assert compare([], [1.0]).state == drift.TOO_LITTLE
    assert compare([1.0], []).state == drift.TOO_LITTLE
    assert compare(rng.normal(100, 30, 50), rng.normal(103, 30, 50)).state == drift.TOO_LITTLE
    # A shift that cannot be chance is told of, however few there are.
    assert compare(rng.normal(100, 30, 50), rng.normal(900, 30, 50)).state == drift.SHIFTED


@pytest.mark.parametrize(
    ("distance", "state"),
    [
        (math.nextafter(0.1, 0), drift.STABLE),
        (0.1, drift.MOVED),
        (math.nextafter(0.25, 0), drift.MOVED),
        (0.25, drift.SHIFTED),
    ],
)
def test_states_begin_at_their_limits(distance: float, state: str) -> None:
    assert drift.Comparison(LOG, (), 9_999, 9_999, distance, 0.01).state == state


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(-50, 50), st.integers(1, 100), max_size=40),
    st.dictionaries(st.integers(-50, 50), st.integers(1, 100), max_size=40),
)
def test_groups_hold_everything_once(before: dict[int, int], now: dict[int, int]) -> None:
    names = Measure("input", "mode", "choice", drift.NAMED, names=("a", "b"))
    for measure in (LOG, names):
        found = drift.compare(measure, before, now)
        assert sum(one.baseline for one in found.groups) == sum(before.values())
        assert sum(one.current for one in found.groups) == sum(now.values())
        assert measure.bins == drift.NAMED or len(found.groups) <= drift.GROUPS + 2
        assert found.distance >= 0


def test_a_rare_choice_is_not_shown_by_itself() -> None:
    names = Measure("input", "mode", "choice", drift.NAMED, names=("a", "b", "c"))
    found = drift.compare(names, {0: 960, 1: 40}, {0: 940, 1: 20, OTHER: 40})
    assert [one.label for one in found.groups] == ["a", "others"]
    found = drift.compare(names, {0: 950, 1: 50}, {0: 1000})
    assert [one.label for one in found.groups] == ["a", "b"]
