"""Line charts as SVG, written by hand: a few curves over time, readable in light and in dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 34, 34
_COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed")
_TEXT = "#737373"


def draw(
    title: str,
    unit: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    top: float = 0.0,
    time_unit: str = "s",
) -> str:
    """A chart.

    Args:
        title: Above it.
        unit: Of the values.
        series: By name: (time, value), in order.
        top: The least value that the axis reaches to.
        time_unit: In which times are given.
    """
    end_s = max((at for some in series.values() for at, _ in some), default=1.0) or 1.0
    top = max([top, *(value for some in series.values() for _, value in some)]) or 1.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f'<g font-family="system-ui, sans-serif" font-size="11" fill="{_TEXT}">',
        f"<title>{escape(title)}</title>",
        f'<text x="{_LEFT}" y="16" font-size="13">{escape(title)}</text>',
    ]
    for step in range(5):
        value = top * step / 4
        y = _y(value, top)
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
            f' stroke="{_TEXT}" stroke-opacity="0.25"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,.3g}</text>'
        )
        at_s = end_s * step / 4
        parts.append(
            f'<text x="{_x(at_s, end_s):.1f}" y="{HEIGHT - 12}"'
            f' text-anchor="{"end" if step == 4 else "middle"}">'
            f"{at_s:,.4g} {time_unit}</text>"
        )
    place = WIDTH - _RIGHT
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(f"{_x(at, end_s):.1f},{_y(value, top):.1f}" for at, value in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )
        parts.append(
            f'<text x="{place}" y="{28}" text-anchor="end" fill="{colour}">{escape(name)}</text>'
        )
        place -= 9 + 7 * len(name)
    parts.append(f'<text x="6" y="28">{escape(unit)}</text></g></svg>')
    return "\n".join(parts) + "\n"


def _x(at_s: float, end_s: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * at_s / end_s


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / top
