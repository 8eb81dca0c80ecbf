"""What goes into a version and comes out of it, as counts in fixed bins.

A measure is one thing that is counted of a field: where a number lies, how long a text is and in
which writing, which choice was taken, the mean and the spread of a tensor, the label and its
score. All bins are fixed by the version's interface, so a sketch is a bag of counts: the sum of
two is the sketch of both, in any order. No value is kept, and none can be made of a bin but the
choice or the label that the creator has written into the interface.

Numbers lie in bins that grow by 19 % (four to a doubling), or in 32 equal ones where the
interface bounds them. Two sketches are compared by the population stability index over about ten
groups that hold equal shares of the baseline. By chance alone the index is about
(1/n + 1/m) times a chi-square with a degree less than groups, so what that explains in one of a
thousand cases is no drift.

Source: Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal
of Risk Model Validation 2020; Wilson and Hilferty, "The distribution of chi-square", 1931.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from strongroom.interface import RANGES, Input, Interface, Output

# Of the bins below. Sketches of another scheme cannot be added to these.
SCHEME = 1
# Not a number, an empty text, a tensor without a finite element.
MISSING = -10_000
# A choice or a label that has no bin of its own.
OTHER = -10_001

# Four bins to a doubling, from 2**-20 to 2**40; what is nearer to nothing counts as zero.
_PER_DOUBLING = 4
_LEAST, _MOST = -20, 40
_LAST = (_MOST - _LEAST) * _PER_DOUBLING + 1
_RANGE_BINS = 32
_SCORE_BINS = 20
_ABOVE_ONE = 1_000
# Labels and choices that are counted by themselves.
NAMED_MAX = 1_024
# What is looked at of a text and of a tensor, whatever its size is.
TEXT_BYTES = 256
ELEMENTS_MAX = 4_096

LOG, RANGE, NAMED, SCORE = "log", "range", "named", "score"

# What a text is written in, for most of its beginning.
WRITINGS = (
    *("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Indic", "Thai", "Chinese", "Kana"),
    *("Hangul", "other letters", "digits", "signs", "emoji", "space"),
)
_LATIN, _OTHER_LETTERS, _DIGITS, _SIGNS, _EMOJI, _SPACE = 0, 10, 11, 12, 13, 14
# From which code point on, and what stands there. Source: Unicode, "Blocks.txt".
_BLOCKS = (
    *((0x00A0, _SIGNS), (0x00C0, _LATIN), (0x0250, _OTHER_LETTERS), (0x02B0, _SIGNS)),
    *((0x0370, 2), (0x0400, 1), (0x0530, _OTHER_LETTERS), (0x0590, 4), (0x0600, 3)),
    *((0x0700, _OTHER_LETTERS), (0x0750, 3), (0x0780, _OTHER_LETTERS), (0x08A0, 3), (0x0900, 5)),
    *((0x0E00, 6), (0x0E80, _OTHER_LETTERS), (0x1100, 9), (0x1200, _OTHER_LETTERS)),
    *((0x1E00, _LATIN), (0x1F00, 2), (0x2000, _SIGNS), (0x2600, _EMOJI), (0x27C0, _SIGNS)),
    *((0x2C00, _OTHER_LETTERS), (0x2C60, _LATIN), (0x2C80, _OTHER_LETTERS), (0x2E00, _SIGNS)),
    *((0x2E80, 7), (0x3000, _SIGNS), (0x3040, 8), (0x3100, _OTHER_LETTERS), (0x3130, 9)),
    *((0x3190, 7), (0x31F0, 8), (0x3200, _SIGNS), (0x3400, 7), (0xA000, _OTHER_LETTERS)),
    *((0xAC00, 9), (0xD800, _SIGNS), (0xF900, 7), (0xFB00, _LATIN), (0xFB13, _OTHER_LETTERS)),
    *((0xFB1D, 4), (0xFB50, 3), (0xFE00, _SIGNS), (0xFE70, 3), (0xFF00, _SIGNS)),
    *((0x10000, _OTHER_LETTERS), (0x1F000, _EMOJI), (0x20000, 7), (0xE0000, _SIGNS)),
)
_BLOCK_STARTS = [start for start, _ in _BLOCKS]
_ASCII = (
    (_LATIN, bytes(code for code in range(128) if not chr(code).isalpha())),
    (_DIGITS, bytes(code for code in range(128) if not chr(code).isdigit())),
    (_SPACE, bytes(code for code in range(128) if not (code <= 0x20 or code == 0x7F))),
)

# How far apart two distributions are before it is said. Source: Siddiqi, "Credit Risk Scorecards".
MOVED_AT, SHIFTED_AT = 0.1, 0.25
GROUPS = 10
# A choice or a label of less than this share of both sides is shown with all others.
_SHARE_MIN = 0.05
# What chance exceeds once in a thousand comparisons, in standard deviations.
_CHANCE_Z = 3.0902
_SMOOTHING = 0.5

TOO_LITTLE, STABLE, MOVED, SHIFTED = "too_little", "stable", "moved", "shifted"

# Of one measure, by bin; and of all measures, by their keys.
Counts = Mapping[int, int]
Sketch = dict[str, dict[int, int]]


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is counted of a field."""

    side: str
    name: str
    what: str
    bins: str
    # Of equal bins: their edges; and of named ones: their names.
    low: float = 0.0
    high: float = 0.0
    names: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What its counts are kept under."""
        return f"{self.side}:{self.name}:{self.what}"

    def find_bin(self, value: float) -> int:
        """Where a number counts; total, whatever it is."""
        if math.isnan(value):
            return MISSING
        if self.bins == LOG:
            return _find_log(value)
        if self.bins == SCORE:
            if 0 <= value <= 1:
                return min(_SCORE_BINS - 1, int(value * _SCORE_BINS))
            return _find_log(value) + (_ABOVE_ONE if value > 1 else 0)
        if self.bins == NAMED:
            place = min(max(value, self.low - 1), self.low + len(self.names)) - self.low
            return int(place) if 0 <= place < len(self.names) else OTHER
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return min(_RANGE_BINS - 1, int(share * _RANGE_BINS))

    def describe(self, first: int, last: int) -> str:
        """Bins from one to another, for people."""
        if first == MISSING:
            return "missing"
        if self.bins == NAMED:
            return self.names[first] if 0 <= first < len(self.names) else "others"
        low, high = self._read_edges(first)[0], self._read_edges(last)[1]
        if low == high:
            return _show(low)
        if low == -math.inf:
            return f"below {_show(high)}"
        return f"{_show(low)} or more" if high == math.inf else f"{_show(low)} to {_show(high)}"

    def _read_edges(self, place: int) -> tuple[float, float]:
        if self.bins == RANGE:
            step = (self.high - self.low) / _RANGE_BINS
            return self.low + place * step, self.low + (place + 1) * step
        if self.bins == SCORE:
            if 0 <= place < _SCORE_BINS:
                return place / _SCORE_BINS, (place + 1) / _SCORE_BINS
            place -= _ABOVE_ONE if place > 0 else 0
        if place == 0:
            return 0.0, 0.0
        size = abs(place)
        low = 2 ** ((size - 1) / _PER_DOUBLING + _LEAST)
        high = math.inf if size == _LAST else 2 ** (size / _PER_DOUBLING + _LEAST)
        return (low, high) if place > 0 else (-high, -low)


def _find_log(value: float) -> int:
    size = abs(value)
    if size < 2**_LEAST:
        return 0
    if size >= 2**_MOST:
        place = _LAST
    else:
        place = min(_LAST - 1, int((math.log2(size) - _LEAST) * _PER_DOUBLING) + 1)
    return place if value > 0 else -place


def _show(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.3g}"


# --- Reading ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clip:
    """What is looked at of one value: a small copy, so that nothing large is held."""

    elements: np.ndarray | None = None
    size: int = 0
    text: bytes = b""

    @property
    def size_bytes(self) -> int:
        """How much memory it holds."""
        return len(self.text) if self.elements is None else int(self.elements.nbytes)


@dataclass(frozen=True, slots=True)
class _Reader:
    """A field, and what is counted of it."""

    side: str
    # The tensor that it is read of.
    source: str
    kind: str
    measures: tuple[Measure, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is counted of a version; made once of its interface."""

    interface: Interface
    measures: tuple[Measure, ...] = field(init=False)
    _readers: tuple[_Reader, ...] = field(init=False)
    _sources: Mapping[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        readers = tuple(_list_readers(self.interface))
        sources = {
            side: tuple({one.source: None for one in readers if one.side == side})
            for side in ("input", "output")
        }
        object.__setattr__(self, "_readers", readers)
        object.__setattr__(self, "_sources", sources)
        measures = tuple(measure for one in readers for measure in one.measures)
        object.__setattr__(self, "measures", measures)

    def clip(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], row: int
    ) -> dict[tuple[str, str], Clip]:
        """Take of one row what will be looked at; in bounded time and memory."""
        clips = {}
        for side, arrays in (("input", inputs), ("output", outputs)):
            for name in self._sources[side]:
                array = arrays.get(name)
                if array is not None and row < len(array):
                    clips[side, name] = clip(array[row])
        return clips

    def read(self, clips: Mapping[tuple[str, str], Clip]) -> list[tuple[str, int]]:
        """Where it counts: the keys of measures, and the bins."""
        found: list[tuple[str, int]] = []
        for one in self._readers:
            value = clips.get((one.side, one.source))
            if value is not None:
                bins = _READERS[one.kind](one.measures, value)
                keys = (measure.key for measure in one.measures)
                found += zip(keys, bins, strict=True)
        return found


def clip(value: Any) -> Clip:
    """What is looked at of a value of one row."""
    array = np.asarray(value)
    if array.dtype == np.object_:
        text = array.flat[0] if array.size else b""
        text = text if isinstance(text, bytes) else b""
        return Clip(text=text[:TEXT_BYTES], size=len(text))
    flat = array.reshape(-1)
    step = -(-flat.size // ELEMENTS_MAX) or 1
    return Clip(elements=flat[::step].copy(), size=int(flat.size))


def _list_readers(interface: Interface) -> Iterable[_Reader]:
    for one in interface.inputs:
        yield _Reader("input", one.name, _read_kind(one), tuple(_list_measures("input", one)))
    labelled = {one.source for one in interface.outputs if one.kind == "label"}
    for output in interface.outputs:
        if output.kind == "label":
            names = output.labels[:NAMED_MAX]
            measures: tuple[Measure, ...] = (
                Measure("output", output.name, "label", NAMED, names=names),
                Measure("output", output.name, "score", SCORE),
            )
            yield _Reader("output", output.source, "label", measures)
        elif output.name not in labelled:
            measures = tuple(_list_measures("output", output))
            yield _Reader("output", output.name, _read_kind(output), measures)


def _read_kind(one: Input | Output) -> str:
    if one.kind == "tensor":
        return "tensor" if one.shape else "number"
    return "number" if one.kind == "integer" else one.kind


def _list_measures(side: str, one: Input | Output) -> Iterable[Measure]:
    kind = _read_kind(one)
    if kind == "text":
        yield Measure(side, one.name, "length", LOG)
        yield Measure(side, one.name, "writing", NAMED, names=WRITINGS)
    elif kind == "choice":
        assert isinstance(one, Input)
        yield Measure(side, one.name, "choice", NAMED, names=one.choices[:NAMED_MAX])
    elif kind == "boolean":
        yield Measure(side, one.name, "value", NAMED, names=("false", "true"))
    elif kind == "number":
        yield _make_numeric(side, one, "value")
    else:
        yield _make_numeric(side, one, "mean")
        yield Measure(side, one.name, "spread", LOG)
        # Always there, so that all tensors are read alike; a fixed one never moves.
        yield Measure(side, one.name, "size", LOG)


def _make_numeric(side: str, one: Input | Output, what: str) -> Measure:
    low = getattr(one, "minimum", None)
    high = getattr(one, "maximum", None)
    if low is not None and high is not None and high > low:
        if one.kind == "integer" and high - low < _RANGE_BINS:
            names = tuple(str(number) for number in range(int(low), int(high) + 1))
            return Measure(side, one.name, what, NAMED, float(low), names=names)
        if math.isfinite(float(high) - float(low)):
            return Measure(side, one.name, what, RANGE, float(low), float(high))
    if one.datatype == "BOOL":
        return Measure(side, one.name, what, RANGE, 0.0, 1.0)
    if one.datatype == "UINT8":
        least, most = RANGES["UINT8"]
        return Measure(side, one.name, what, RANGE, float(least), float(most))
    return Measure(side, one.name, what, LOG)


def _read_text(measures: Sequence[Measure], value: Clip) -> list[int]:
    if not value.size:
        return [MISSING, MISSING]
    return [measures[0].find_bin(value.size), find_writing(value.text)]


def find_writing(text: bytes) -> int:
    """What most of a text is written in; its words are not looked at."""
    if text.isascii():
        counts = {kind: len(text.translate(None, others)) for kind, others in _ASCII}
        counts[_SIGNS] = len(text) - sum(counts.values())
    else:
        counts = {}
        for character in text.decode("utf-8", "ignore"):
            kind = _find_kind(ord(character))
            counts[kind] = counts.get(kind, 0) + 1
    # Space stands between the words of any writing.
    seen = {kind: number for kind, number in counts.items() if number and kind != _SPACE}
    if not seen:
        return _SPACE if counts else _SIGNS
    return max(seen, key=lambda kind: (seen[kind], -kind))


def _find_kind(code: int) -> int:
    if code >= 0xA0:
        return _BLOCKS[bisect_right(_BLOCK_STARTS, code) - 1][1]
    if code <= 0x20 or code >= 0x7F:
        return _SPACE
    character = chr(code)
    return _LATIN if character.isalpha() else _DIGITS if character.isdigit() else _SIGNS


def _read_choice(measures: Sequence[Measure], value: Clip) -> list[int]:
    if not value.size:
        return [MISSING]
    return [_index_names(measures[0].names).get(value.text, OTHER)]


@lru_cache(maxsize=256)
def _index_names(names: tuple[str, ...]) -> dict[bytes, int]:
    # Of two that begin alike, the first.
    return {name.encode()[:TEXT_BYTES]: at for at, name in reversed(list(enumerate(names)))}


def _read_boolean(_: Sequence[Measure], value: Clip) -> list[int]:
    elements = value.elements
    return [MISSING if elements is None or not elements.size else int(bool(elements[0]))]


def _read_number(measures: Sequence[Measure], value: Clip) -> list[int]:
    elements = value.elements
    if elements is None or not elements.size:
        return [MISSING]
    return [measures[0].find_bin(float(elements[0]))]


def _read_tensor(measures: Sequence[Measure], value: Clip) -> list[int]:
    size = measures[2].find_bin(value.size)
    elements = value.elements
    if elements is None:
        return [MISSING, MISSING, size]
    with np.errstate(all="ignore"):
        numbers = elements.astype(np.float64)
        total = float(np.add.reduce(numbers))
        if not math.isfinite(total):
            numbers = numbers[np.isfinite(numbers)]
            total = float(np.add.reduce(numbers))
        if not numbers.size:
            return [MISSING, MISSING, size]
        mean = total / numbers.size
        numbers -= mean
        spread = math.sqrt(float(np.dot(numbers, numbers)) / numbers.size)
    return [measures[0].find_bin(mean), measures[1].find_bin(spread), size]


def _read_label(measures: Sequence[Measure], value: Clip) -> list[int]:
    elements = value.elements
    if elements is None or not elements.size:
        return [MISSING, MISSING]
    best = int(elements.argmax())
    label = best if best < len(measures[0].names) else OTHER
    return [label, measures[1].find_bin(float(elements[best]))]


_READERS = {
    "text": _read_text,
    "choice": _read_choice,
    "boolean": _read_boolean,
    "number": _read_number,
    "tensor": _read_tensor,
    "label": _read_label,
}


# --- Adding up --------------------------------------------------------------------


def count(sketch: Sketch, found: Iterable[tuple[str, int]]) -> None:
    """Add one prediction to a sketch."""
    for key, place in found:
        counts = sketch.setdefault(key, {})
        counts[place] = counts.get(place, 0) + 1


def merge(sketches: Iterable[Mapping[str, Mapping[Any, int]]]) -> Sketch:
    """One sketch of several; also of those that were read from JSON."""
    total: Sketch = {}
    for sketch in sketches:
        for key, counts in sketch.items():
            into = total.setdefault(key, {})
            for place, number in counts.items():
                into[int(place)] = into.get(int(place), 0) + number
    return total


# --- Comparing --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """Some bins, and how many predictions lay in them before and now."""

    label: str
    baseline: int
    current: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure, before and now."""

    measure: Measure
    groups: tuple[Group, ...]
    baseline_count: int
    current_count: int
    # The population stability index, and what chance alone exceeds once in a thousand times.
    distance: float
    chance: float

    @property
    def state(self) -> str:
        """What is said of it."""
        if self.distance >= max(SHIFTED_AT, self.chance):
            return SHIFTED
        # So few that not even a shift could be told from chance.
        if not self.baseline_count or not self.current_count or self.chance > SHIFTED_AT:
            return TOO_LITTLE
        return MOVED if self.distance >= max(MOVED_AT, self.chance) else STABLE


def compare(measure: Measure, baseline: Counts, current: Counts) -> Comparison:
    """How far a measure is from its baseline."""
    groups = [
        Group(
            measure.describe(bins[0], bins[-1]), *(_sum(one, bins) for one in (baseline, current))
        )
        for bins in _group(measure, baseline, current)
    ]
    before, now = sum(baseline.values()), sum(current.values())
    if not before or not now:
        return Comparison(measure, tuple(groups), before, now, 0.0, math.inf)
    distance = measure_distance([(one.baseline, one.current) for one in groups])
    chance = (1 / before + 1 / now) * _find_chi_square(len(groups) - 1)
    return Comparison(measure, tuple(groups), before, now, distance, chance)


def measure_distance(pairs: Sequence[tuple[int, int]]) -> float:
    """The population stability index of counts before and now, by group."""
    before = sum(one for one, _ in pairs) + _SMOOTHING * len(pairs)
    now = sum(one for _, one in pairs) + _SMOOTHING * len(pairs)
    total = 0.0
    for first, second in pairs:
        share, other = (first + _SMOOTHING) / before, (second + _SMOOTHING) / now
        total += (other - share) * math.log(other / share)
    return total


def _find_chi_square(degrees: int) -> float:
    """What a chi-square exceeds once in a thousand times, after Wilson and Hilferty."""
    if degrees < 1:
        return 0.0
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + _CHANCE_Z * math.sqrt(part)) ** 3)


def _sum(counts: Counts, bins: Iterable[int]) -> int:
    return sum(counts.get(place, 0) for place in bins)


def _group(measure: Measure, baseline: Counts, current: Counts) -> list[list[int]]:
    places = sorted({*baseline, *current} - {MISSING})
    groups = _group_named if measure.bins == NAMED else _group_ordered
    missing = [[MISSING]] if MISSING in baseline or MISSING in current else []
    return [*groups(places, baseline, current), *missing]


def _group_named(places: Sequence[int], baseline: Counts, current: Counts) -> list[list[int]]:
    """The frequent ones by themselves, and all others together."""
    before, now = max(1, sum(baseline.values())), max(1, sum(current.values()))

    def is_frequent(place: int) -> bool:
        shares = baseline.get(place, 0) / before, current.get(place, 0) / now
        return place != OTHER and max(shares) >= _SHARE_MIN

    frequent = [[place] for place in places if is_frequent(place)]
    rare = [place for place in places if not is_frequent(place)]
    return [*frequent, [OTHER, *rare]] if rare else frequent


def _group_ordered(places: Sequence[int], baseline: Counts, current: Counts) -> list[list[int]]:
    """About ten of equal shares of the baseline, and what lies below and above all of it."""
    known = [place for place in places if place in baseline]
    if not known:
        return [list(places)] if places else []
    size = sum(baseline[place] for place in known)
    below = [place for place in places if place < known[0]]
    above = [place for place in places if place > known[-1]]
    groups: list[list[int]] = []
    inner: list[int] = []
    seen, wanted = 0, 1
    for place in places:
        if not known[0] <= place <= known[-1]:
            continue
        inner.append(place)
        seen += baseline.get(place, 0)
        if seen * GROUPS >= size * wanted:
            groups.append(inner)
            inner = []
            # A bin may hold the shares of several groups.
            wanted = seen * GROUPS // size + 1
    return [one for one in (below, *groups, above) if one]
