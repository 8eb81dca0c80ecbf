"""Where the points of small charts lie; what draws them is SVG, made on the server.

Values may be None where nothing was measured: a line is broken there, never drawn at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from math import isfinite
from typing import Any

Value = float | int | None

# Rows of a chart's table: whoever needs all of them takes the export.
ROWS_MAX = 300
# Colours of lines; more lines than these cannot be told apart.
SERIES_MAX = 6
# The drawing that stands until the script has made its own, in units of its own.
LINE_WIDTH, LINE_HEIGHT = 800.0, 200.0

# Around the drawing, so that a line at its edge is not cut in half.
PADDING = 2.0


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: where it lies in the drawing, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    label: str
    value: float | int


def bounds(series: Sequence[Sequence[Value]], *, from_zero: bool = False) -> tuple[float, float]:
    """The smallest and the largest value of all; never the same, so that one may divide."""
    values = [float(value) for line in series for value in line if value is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def line_path(
    values: Sequence[Value],
    *,
    width: float,
    height: float,
    low: float,
    high: float,
    positions: Sequence[float] | None = None,
) -> str:
    """The `d` of an SVG path through the values; each gap begins a new piece.

    `positions` says where each value lies from left (0) to right (1); evenly without it.
    """
    count = len(values)
    where = positions or [index / max(count - 1, 1) for index in range(count)]
    pieces: list[list[str]] = []
    is_drawing = False
    for share, value in zip(where, values, strict=True):
        if value is None:
            is_drawing = False
            continue
        x = PADDING + share * (width - 2 * PADDING)
        y = PADDING + (high - float(value)) / (high - low) * (height - 2 * PADDING)
        if not is_drawing:
            pieces.append([])
        pieces[-1].append(f"{x:.1f} {y:.1f}")
        is_drawing = True
    # A value between two gaps is a dot: a line of next to no length, with round ends.
    return " ".join(
        "M" + " L".join(piece) if len(piece) > 1 else f"M{piece[0]} h0.01" for piece in pieces
    )


def keep_lone(values: Sequence[Value]) -> list[Value]:
    """The values that have a gap, or an end, on both sides; None in place of the others."""
    around = [None, *values, None]
    return [
        value if around[place] is None and around[place + 2] is None else None
        for place, value in enumerate(values)
    ]


def lay_bars(
    items: Sequence[tuple[str, float | int]],
    *,
    width: float,
    height: float,
    gap: float,
    most: float = 0,
) -> list[Bar]:
    """Bars side by side, from zero upwards; a value below zero counts as zero.

    `most` is a value that reaches the top; else the highest of them does.
    """
    highest = max(most, *(value for _, value in items), 0) or 1
    step = width / max(len(items), 1)
    bars = []
    for index, (label, value) in enumerate(items):
        tall = max(float(value), 0.0) / float(highest) * height
        # What is not nothing is seen, however small.
        tall = max(tall, 1.0) if value > 0 else 0.0
        x = index * step + gap / 2
        bars.append(
            Bar(
                x=round(x, 2),
                y=round(height - tall, 2),
                width=round(max(step - gap, 0.5), 2),
                height=round(tall, 2),
                label=label,
                value=value,
            )
        )
    return bars


def shares_of_time(times: Sequence[int]) -> list[float]:
    """Where each time lies between the first and the last one, from 0 to 1."""
    if not times:
        return []
    first, span = times[0], (times[-1] - times[0]) or 1
    return [(time - first) / span for time in times]


def format_value(value: Value) -> str:
    """A number for people: four digits that say something, thousands apart."""
    if value is None:
        return "—"
    number = float(value)
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    # A cost of 2e-05 is nothing that people read.
    return f"{number:,.2f}" if abs(number) >= 100 else f"{Decimal(f'{number:.4g}'):f}"


@dataclass(frozen=True)
class Line:
    """One line of a chart: its name, its values, its path in the server's drawing."""

    label: str
    values: Sequence[Value]
    path: str
    # Of values between two gaps, which are drawn larger than the line is thick.
    dots: str


@dataclass(frozen=True)
class LineChart:
    """All that a line chart shows, in a picture, in words and in numbers."""

    lines: Sequence[Line]
    times: Sequence[int]
    unit: str
    markers: Sequence[tuple[datetime, str]]

    @classmethod
    def make(
        cls,
        *,
        series: Sequence[Mapping[str, Any]],
        times: Sequence[int],
        unit: str,
        markers: Sequence[Mapping[str, Any]],
    ) -> LineChart:
        """Lay the lines out.

        Raises:
            ValueError: Too many lines to tell apart, or one without a value for each time.
        """
        if len(series) > SERIES_MAX:
            raise ValueError(f"A chart has at most {SERIES_MAX} lines.")
        values = [finite(one["values"]) for one in series]
        if any(len(one) != len(times) for one in values):
            raise ValueError("Each line of a chart needs a value, or None, for each time.")
        low, high = bounds(values, from_zero=True)
        where = shares_of_time(times)
        size = {"width": LINE_WIDTH, "height": LINE_HEIGHT, "low": low, "high": high}
        lines = [
            Line(
                str(one["label"]),
                own,
                line_path(own, positions=where, **size),
                line_path(keep_lone(own), positions=where, **size),
            )
            for one, own in zip(series, values, strict=True)
        ]
        events = [(_moment(one["time"]), str(one["label"])) for one in markers]
        return cls(lines=lines, times=times, unit=unit, markers=events)

    @property
    def has_data(self) -> bool:
        """Whether anything was measured."""
        return any(value is not None for line in self.lines for value in line.values)

    @property
    def view_box(self) -> str:
        """The size of the server's drawing."""
        return f"0 0 {LINE_WIDTH:g} {LINE_HEIGHT:g}"

    @property
    def rows(self) -> list[tuple[datetime, list[str]]]:
        """The numbers by time, the latest of them."""
        return [
            (_moment(self.times[row]), [format_value(line.values[row]) for line in self.lines])
            for row in range(max(0, len(self.times) - ROWS_MAX), len(self.times))
        ]

    @property
    def data(self) -> dict[str, Any]:
        """What the script draws."""
        return {
            "unit": self.unit,
            "times": list(self.times),
            "series": [{"label": line.label, "values": line.values} for line in self.lines],
            "markers": [
                {"time": int(moment.timestamp()), "label": label} for moment, label in self.markers
            ],
        }

    @property
    def summary(self) -> str:
        """The lines in words: from where to where, and where they end."""
        return " ".join(_describe(line, self.unit) for line in self.lines)


def finite(values: Sequence[Value]) -> list[Value]:
    """The values with gaps for what JSON has no word for: NaN and infinity."""
    return [value if value is not None and isfinite(value) else None for value in values]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def _describe(line: Line, unit: str) -> str:
    values = [value for value in line.values if value is not None]
    if not values:
        return f"{line.label}: no data."
    low, high, last = (format_value(one) for one in (min(values), max(values), values[-1]))
    return f"{line.label}: {low} to {high} {unit}".rstrip() + f", last {last}."
