"""The measured latency over the throughput of a version, as the geometry of a drawing.

The page draws it as inline SVG; all colours are classes of the style sheet, since styles of
their own are refused by the browser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 560, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 32, 16, 40
TICKS = 4
# Beyond this a number is a fault of the node, and no picture can hold it.
VALUE_MAX = 1e12


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, and what is written beside it."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Dot:
    """One measured point, and what a reader is told of it."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """All that the template writes down."""

    p50: str
    p95: str
    dots50: tuple[Dot, ...]
    dots95: tuple[Dot, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw_curve(points: Sequence[Mapping[str, Any]]) -> Drawing | None:
    """Rows a second to the right, milliseconds upwards; None for fewer than two points."""
    found = sorted((one for one in points if _is_drawable(one)), key=lambda one: one["batch"])
    if len(found) < 2:
        return None
    x_step = find_step(max(one["rows_per_s"] for one in found))
    y_step = find_step(max(max(one["p50_ms"], one["p95_ms"]) for one in found))

    def place_x(value: float) -> float:
        return round(LEFT + value / (x_step * TICKS) * (WIDTH - LEFT - RIGHT), 1)

    def place_y(value: float) -> float:
        return round(HEIGHT - BOTTOM - value / (y_step * TICKS) * (HEIGHT - TOP - BOTTOM), 1)

    def list_dots(name: str) -> tuple[Dot, ...]:
        return tuple(
            Dot(
                place_x(one["rows_per_s"]),
                place_y(one[name]),
                f"Batch of {one['batch']:g}: {one[name]:,.2f} ms "
                f"at {one['rows_per_s']:,.0f} rows/s",
            )
            for one in found
        )

    dots50, dots95 = list_dots("p50_ms"), list_dots("p95_ms")
    return Drawing(
        p50=_join(dots50),
        p95=_join(dots95),
        dots50=dots50,
        dots95=dots95,
        x_ticks=tuple(Tick(place_x(x_step * n), f"{x_step * n:,g}") for n in range(TICKS + 1)),
        y_ticks=tuple(Tick(place_y(y_step * n), f"{y_step * n:,g}") for n in range(TICKS + 1)),
    )


def find_step(largest: float) -> float:
    """A round distance between marks, so that `TICKS` of them reach the largest value."""
    rough = largest / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(
        float(f"{factor * power:.6g}") for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough
    )


def _is_drawable(point: Mapping[str, Any]) -> bool:
    values = [point[name] for name in ("batch", "p50_ms", "p95_ms", "rows_per_s")]
    return all(math.isfinite(one) and 0 < one < VALUE_MAX for one in values)


def _join(dots: Sequence[Dot]) -> str:
    return " ".join(f"{dot.x},{dot.y}" for dot in dots)
