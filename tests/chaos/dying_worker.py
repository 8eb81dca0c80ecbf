"""The worker that reports usage, in a process of its own that dies with SIGKILL at a named step.

The process is forked: it costs a few milliseconds, so that it can die hundreds of times. With a
damage it is wrong on purpose, and what it loses or doubles must be noticed by whoever runs it.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.db import connections

from billing.services import meter
from billing.services.stripe_client import get_stripe
from billing.stripe.client import StripeGateway
from marketplace.core.ids import new_id
from tests.billing.payout_worker import after, before, die

# Of the terms of the test: the last of them holds usage.
SEALED_HOURS = 6
SEND = "send_meter_event"


def after_nth(owner: Any, name: str, nth: int) -> None:
    """Die where a function returns for the n-th time."""
    kept: Callable[..., Any] = getattr(owner, name)
    left = nth

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        result = kept(*args, **kwargs)
        left -= 1
        if left == 0:
            die()
        return result

    setattr(owner, name, call)


# Where to die: around each thing that becomes durable, here or at Stripe.
STEPS: dict[str, Callable[[], None]] = {
    "before the barrier": lambda: before(meter, "_seal"),
    "after the barrier": lambda: before(meter, "_lock_reports"),
    "in the sealing": lambda: after(meter, "_write_report"),
    "before the seal": lambda: before(meter, "find_next_mark"),
    "after the seal": lambda: before(meter, "send_reports"),
    "before the report says so": lambda: before(meter, "_redate"),
    "after the report says so": lambda: after(meter, "_set_state"),
    "before the request": lambda: before(StripeGateway, SEND),
    "after the request": lambda: after(StripeGateway, SEND),
    "between two reports": lambda: after_nth(meter, "_set_state", 2),
    "after the second request": lambda: after_nth(StripeGateway, SEND, 2),
}


def _draw_identifiers() -> None:
    kept = StripeGateway.send_meter_event

    def send(self: Any, **values: Any) -> bool:
        return kept(self, **values | {"identifier": f"pd:{new_id()}"})

    StripeGateway.send_meter_event = send  # type: ignore[method-assign]


def _say_before_sending() -> None:
    """The row says that Stripe has it, and then it is sent."""
    kept = meter._set_state

    def say(report: Any, state: Any, **values: Any) -> None:
        kept(report, meter.MeterReport.State.OK, **values)

    meter._set_state = say


def _send_blindly() -> None:
    meter.BLIND_RETRY_MAX = timedelta(days=9)


DAMAGES: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "identifier by random": _draw_identifiers,
    "said before it is sent": _say_before_sending,
    "blindly again": _send_blindly,
}


def run(database_url: str, *, step: str = "", damage: str = "") -> None:
    """Let a worker do its work, as its own role; with a step it is killed there."""
    # A connection is one process's: each opens its own.
    connections.close_all()
    pid = os.fork()
    if not pid:
        try:
            _work(database_url, step, damage)
        except BaseException:  # noqa: BLE001 - no way out of here leads back into the tests
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    expected = -signal.SIGKILL if step else 0
    assert os.waitstatus_to_exitcode(status) == expected, f"{step}: {status}"


def _work(database_url: str, step: str, damage: str) -> None:
    url = urlsplit(database_url)
    connections["default"].settings_dict |= {"USER": url.username, "PASSWORD": url.password}
    get_stripe.cache_clear()
    DAMAGES[damage]()
    if step:
        STEPS[step]()
    meter.seal_hours(wait=timedelta(0))
    meter.send_reports()
