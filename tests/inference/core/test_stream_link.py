"""Addresses of a prediction's events that carry their own right."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qs

import pytest

from inference.core.file_link import LinkExpiredError, LinkWrongError, check_link, make_link
from inference.core.stream_link import (
    LINK_MARGIN_S,
    check_stream_right,
    choose_expiry,
    write_stream_right,
)
from marketplace.core.ids import new_id

SECRET = "a secret of tests"
NOW_S = 1_800_000_123.0
NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)


def read(right: str) -> tuple[str, str]:
    fields = parse_qs(right)
    return fields["expires"][0], fields["signature"][0]


@pytest.mark.parametrize(("after_s", "is_good"), [(-1, True), (0, False), (1, False)])
def test_it_opens_one_prediction_until_its_moment(after_s, is_good):
    prediction_id = new_id()
    expires, signature = read(write_stream_right(SECRET, prediction_id, NOON, now_s=NOW_S))
    moment_s = int(expires) + after_s

    if is_good:
        check_stream_right(SECRET, prediction_id, expires, signature, now_s=moment_s)
    else:
        with pytest.raises(LinkExpiredError):
            check_stream_right(SECRET, prediction_id, expires, signature, now_s=moment_s)


@pytest.mark.parametrize("broken", ["prediction", "secret", "expires", "signature", "empty"])
def test_what_was_changed_opens_nothing(broken):
    prediction_id = new_id()
    expires, signature = read(write_stream_right(SECRET, prediction_id, NOON, now_s=NOW_S))
    secret = "another" if broken == "secret" else SECRET
    if broken == "prediction":
        prediction_id = new_id()
    if broken == "expires":
        expires = str(int(expires) + 1)
    if broken == "signature":
        signature = ("A" if signature[0] != "A" else "B") + signature[1:]
    if broken == "empty":
        expires, signature = "", ""

    with pytest.raises(LinkWrongError):
        check_stream_right(secret, prediction_id, expires, signature, now_s=NOW_S)


def test_what_opens_a_file_opens_no_events_and_the_other_way_round():
    same_id = new_id()
    right = write_stream_right(SECRET, same_id, NOON, now_s=NOW_S)
    expires, signature = read(right)
    link = make_link("https://site.example", SECRET, same_id, int(expires))
    assert link.partition("?")[2] != right

    with pytest.raises(LinkWrongError):
        check_link(SECRET, same_id, expires, signature, now_s=NOW_S)
    with pytest.raises(LinkWrongError):
        check_stream_right(SECRET, same_id, *read(link.partition("?")[2]), now_s=NOW_S)


@pytest.mark.parametrize("late_s", [-3_599.0, 0.0, 3_600.0, 86_399.0])
def test_it_outlives_the_deadline_and_the_asking_by_an_hour_or_two(late_s):
    now_s = NOON.timestamp() + late_s
    last_s = max(now_s, NOON.timestamp())

    found_s = choose_expiry(NOON, now_s=now_s)

    assert LINK_MARGIN_S < found_s - last_s <= LINK_MARGIN_S + 3_600
    # Who asks again within the hour is told the same.
    assert choose_expiry(NOON, now_s=last_s // 3_600 * 3_600 + 3_599) == found_s
