from __future__ import annotations

import json
import math
import re

import pytest
from django.template import Context, Template

from marketplace.core import chart

TIMES = [1_763_800_000 + 60 * minute for minute in range(4)]
TAG = '{% linechart id="c" title="Calls" unit="req/s" series=series times=times markers=markers %}'


def draw(*lines: tuple[str, list[float | None]], **context: object) -> str:
    series = [{"label": label, "values": values} for label, values in lines]
    defaults = {"series": series, "times": TIMES, "markers": []}
    return Template("{% load ui %}" + TAG).render(Context(defaults | context))


def data_of(text: str) -> dict[str, object]:
    return json.loads(re.search(r'<script id="c-data"[^>]*>(.*?)</script>', text).group(1))


def test_a_line_is_broken_where_nothing_was_measured():
    path = chart.line_path([1, 2, None, 3, 4], width=104, height=24, low=0, high=4)

    assert path == "M2.0 17.0 L27.0 12.0 M77.0 7.0 L102.0 2.0"


def test_a_value_between_gaps_is_a_dot():
    path = chart.line_path([None, 1, None], width=104, height=24, low=0, high=2)

    assert path == "M52.0 12.0 h0.01"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [([[1, 3]], (0.0, 3.0)), ([[-1], [2]], (-1.0, 2.0)), ([[0]], (-0.5, 0.5)), ([], (0.0, 1.0))],
)
def test_bounds_can_always_be_divided_by(lines, expected):
    assert chart.bounds(lines, from_zero=True) == expected


def test_bars_stand_on_the_ground_and_small_ones_are_seen():
    big, small, none, below = chart.lay_bars(
        [("a", 1000), ("b", 1), ("c", 0), ("d", -5)], width=40, height=20, gap=2
    )

    assert (big.y, big.height) == (0, 20)
    assert (small.y, small.height) == (19, 1)
    assert none.height == below.height == 0
    assert (big.x, big.width) == (1, 8)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"),
        (1234567, "1,234,567"),
        (0.00012345, "0.0001234"),
        (0.000016, "0.000016"),
        (1234.5, "1,234.50"),
    ],
)
def test_numbers_are_short(value, text):
    assert chart.format_value(value) == text


def test_a_chart_says_in_words_what_it_shows():
    text = draw(("ok", [1, 2, None, 4]))

    assert 'role="img" aria-label="Calls. ok: 1 to 4 req/s, last 4."' in text
    assert data_of(text)["series"] == [{"label": "ok", "values": [1, 2, None, 4]}]
    assert text.count("<tr>") == 5


def test_what_json_has_no_word_for_is_a_gap():
    text = draw(("ok", [1, math.nan, math.inf, 4]))

    assert data_of(text)["series"] == [{"label": "ok", "values": [1, None, None, 4]}]


def test_labels_cannot_leave_the_chart():
    text = draw(
        ("</script><b>", [1, 2, 3, 4]), markers=[{"time": TIMES[1], "label": "</script><i>"}]
    )

    assert "<b>" not in text
    assert "<i>" not in text
    assert data_of(text)["markers"] == [{"time": TIMES[1], "label": "</script><i>"}]


def test_without_a_value_there_is_no_empty_picture():
    text = draw(("ok", [None] * 4))

    assert "Nothing was measured" in text
    assert "data-chart" not in text


@pytest.mark.parametrize("count", [chart.ROWS_MAX, chart.ROWS_MAX + 1])
def test_the_table_has_at_most_so_many_rows(count):
    text = draw(("ok", [1.0] * count), times=list(range(count)))

    assert text.count('<th scope="row">') == chart.ROWS_MAX
    assert ("points.</p>" in text) == (count > chart.ROWS_MAX)


@pytest.mark.parametrize("count", [chart.SERIES_MAX, chart.SERIES_MAX + 1])
def test_more_lines_than_colours_are_refused(count):
    lines = [(str(index), [1, 2, 3, 4]) for index in range(count)]

    if count > chart.SERIES_MAX:
        with pytest.raises(ValueError, match="at most"):
            draw(*lines)
    else:
        assert draw(*lines).count("<path") == count


def test_a_line_of_another_length_is_refused():
    with pytest.raises(ValueError, match="for each time"):
        draw(("ok", [1, 2]))
