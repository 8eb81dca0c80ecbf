"""Gateways on machines whose clock is wrong, by the seconds in STRONGROOM_TEST_SKEW_S.

Run as `granian tests.gateway.skewed:app`. The clock is moved before the gateway is imported.
"""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any

from marketplace.core import clock

VARIABLE = "STRONGROOM_TEST_SKEW_S"
SKEW_S = int(os.environ.get(VARIABLE, "0"))


class WrongDatetime(datetime):
    """As the machine's clock has it."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return datetime.now(tz) + timedelta(seconds=SKEW_S)


clock.datetime = WrongDatetime  # type: ignore[misc]
clock.time = SimpleNamespace(  # type: ignore[assignment]
    time_ns=lambda: time.time_ns() + SKEW_S * 10**9
)

from inference.gateway import meter  # noqa: E402
from inference.gateway.app import Application, Gateway  # noqa: E402
from tests.gateway.broken import BrokenApplication  # noqa: E402


def _date_by_itself(_: Gateway) -> None:
    """Believes its machine, and dates bookings as it believes."""

    clock.correct(timedelta(0))
    clock.correct = lambda by: None  # type: ignore[assignment]
    for name in ("_SETTLE", "_SETTLE_KEYED"):
        statement = getattr(meter, name)
        assert meter._NOW in statement
        setattr(meter, name, statement.replace(meter._NOW, "%(completed)s::timestamptz[]"))


app = Application()
dates_by_itself = BrokenApplication(_date_by_itself)
