"""Read a long period from Stripe in parts that are short enough for one list each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from billing.errors import StripeListTooLongError

Item = TypeVar("Item")

# Stripe counts time in whole seconds: a shorter period cannot be asked for.
PART_MIN = timedelta(seconds=1)


def list_in_parts(
    fetch: Callable[[datetime, datetime], list[Item]], since: datetime, until: datetime
) -> list[Item]:
    """All items of a period, however many: where one list would be too long, two halves.

    Raises:
        StripeListTooLongError: More in one second than one list holds.
    """
    # Whole seconds, so that no half begins or ends within one.
    since, until = since.replace(microsecond=0), _ceil(until)
    try:
        return fetch(since, until)
    except StripeListTooLongError:
        if until - since <= PART_MIN:
            raise
    middle = since + timedelta(seconds=int((until - since).total_seconds()) // 2)
    return list_in_parts(fetch, since, middle) + list_in_parts(fetch, middle, until)


def _ceil(moment: datetime) -> datetime:
    whole = moment.replace(microsecond=0)
    return whole if whole == moment else whole + timedelta(seconds=1)
