"""Shares of days, and the rows that they are drawn in, with exact values."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from marketplace.core import uptime
from marketplace.core.uptime import Day

TODAY = date(2026, 11, 22)


@pytest.mark.parametrize(
    ("_case", "day", "share", "state"),
    [
        ("nothing measured", Day(TODAY), None, "none"),
        ("all good", Day(TODAY, good=1_440), 100_000, "full"),
        ("one bad minute", Day(TODAY, good=1_439, bad=1), 99_930, "most"),
        ("degraded is up, and is seen", Day(TODAY, good=10, degraded=1), 100_000, "most"),
        ("at the border", Day(TODAY, good=99, bad=1), 99_000, "most"),
        ("one below it", Day(TODAY, good=98_999, bad=1_001), 98_999, "low"),
        ("all bad", Day(TODAY, bad=1), 0, "low"),
        ("too little to say", Day(TODAY, good=19, least=20), None, "few"),
        ("just enough", Day(TODAY, good=19, bad=1, least=20), 95_000, "low"),
        ("never rounded up", Day(TODAY, good=999_999_999, bad=1), 99_999, "most"),
    ],
)
def test_a_day_and_its_share(_case, day, share, state) -> None:
    assert (day.share, day.state) == (share, state)


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "—"), (0, "0.00 %"), (99_999, "99.99 %"), (100_000, "100.00 %"), (99_005, "99.00 %")],
)
def test_a_share_is_never_written_as_more_than_it_is(share, text) -> None:
    assert uptime.format_share(share) == text


def test_a_total_is_of_what_was_measured() -> None:
    days = [Day(TODAY, good=1_000, bad=100), Day(TODAY), Day(TODAY, good=800, degraded=100)]

    assert uptime.add_up(days) == 95_000
    assert uptime.add_up([]) is None
    assert uptime.add_up([Day(TODAY, good=10, least=20), Day(TODAY, good=9)]) is None


def test_a_row_has_every_day_and_no_other() -> None:
    found = {TODAY: Day(TODAY, good=1), TODAY - timedelta(days=90): Day(TODAY, bad=1)}

    row = uptime.fill_days(found, TODAY)

    assert len(row) == 90
    assert row[0].day == TODAY - timedelta(days=89)
    assert [one.state for one in row] == ["none"] * 89 + ["full"]
    assert uptime.describe_days(row) == "90 days: no trouble on 1, not measured on 89."


def test_cells_of_different_states_have_different_heights() -> None:
    days = [
        Day(TODAY, good=1),
        Day(TODAY, good=99, bad=1),
        Day(TODAY, bad=1),
        Day(TODAY, good=1, least=2),
        Day(TODAY),
    ]

    cells = uptime.lay_cells(days)

    assert [one.height for one in cells] == [100, 75, 45, 22, 12]
    assert [one.y + one.height for one in cells] == [100] * 5
    assert [one.x for one in cells] == [0, 10, 20, 30, 40]
