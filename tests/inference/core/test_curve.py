from __future__ import annotations

import pytest

from inference.core.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, draw_curve, find_step

POINTS = [
    {"batch": 2, "p50_ms": 2.0, "p95_ms": 4.0, "rows_per_s": 1000.0},
    {"batch": 1, "p50_ms": 1.0, "p95_ms": 2.0, "rows_per_s": 500.0},
]


def test_points_stand_where_their_numbers_are():
    drawing = draw_curve(POINTS)

    assert drawing is not None
    assert [tick.text for tick in drawing.x_ticks] == ["0", "250", "500", "750", "1,000"]
    assert [tick.text for tick in drawing.y_ticks] == ["0", "1", "2", "3", "4"]
    first, last = drawing.dots95
    # By batch, whatever order the node wrote them in.
    assert first.text == "Batch of 1: 2.00 ms at 500 rows/s"
    assert (last.x, last.y) == (WIDTH - RIGHT, TOP)
    assert first.y == TOP + (HEIGHT - TOP - BOTTOM) / 2
    assert drawing.p95 == f"{first.x},{first.y} {last.x},{last.y}"


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1e300])
def test_what_cannot_be_drawn_is_left_out(value):
    assert draw_curve([POINTS[0], POINTS[1] | {"p50_ms": value}]) is None
    third = POINTS[1] | {"batch": 4, "rows_per_s": value}
    drawing = draw_curve([*POINTS, third])
    assert drawing is not None
    assert len(drawing.dots50) == 2


def test_one_point_is_no_curve():
    assert draw_curve(POINTS[:1]) is None
    assert draw_curve([]) is None


@pytest.mark.parametrize("largest", [1e-9, 0.013, 0.99, 1, 3.7, 40, 41, 1e6, 9.99e11])
def test_marks_are_round_and_reach_the_largest(largest):
    step = find_step(largest)

    assert largest <= step * 4 <= largest * 2.6
    assert all(LEFT <= tick.at <= WIDTH for tick in draw_curve(POINTS).x_ticks)
