"""A worker's work as a process of its own, which dies with SIGKILL at a named step."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any


def die(*_args: Any, **_kwargs: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str) -> None:
    """Die where a function is called."""
    setattr(owner, name, die)


def after(owner: Any, name: str) -> None:
    """Die where a function returns."""
    kept: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        kept(*args, **kwargs)
        die()

    setattr(owner, name, call)


def steps() -> dict[str, tuple[Callable[[Any, str], None], Any, str]]:
    """Where to die: around each thing that becomes durable."""
    from billing.services import ledger, payout
    from billing.stripe.client import StripeGateway

    return {
        "in the run's transaction": (after, payout, "_create_item"),
        "after the run's commit": (after, payout, "_create_run"),
        "before the attempt": (before, payout, "_begin_attempt"),
        "after the attempt": (after, payout, "_begin_attempt"),
        "before the outbox row": (before, payout, "call_stripe"),
        "before the request": (before, StripeGateway, "create_transfer"),
        "after the request": (after, StripeGateway, "create_transfer"),
        "after the outbox row": (after, payout, "call_stripe"),
        "in the booking": (after, ledger, "post_transfer"),
        "after the booking": (after, payout, "_book_paid"),
        "before the reversal": (before, StripeGateway, "reverse_transfer"),
        "after the reversal": (after, StripeGateway, "reverse_transfer"),
        "after the reversal's booking": (after, payout, "_book_reversal"),
    }


def main(step: str) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "marketplace.settings"
    import django

    django.setup()
    from billing.services.payout import advance_payouts, start_due_run
    from billing.services.release import release_earnings

    if step == "release":
        release_earnings(datetime.now(UTC) + timedelta(days=20))
        return
    install, owner, name = steps()[step]
    if step in ("in the run's transaction", "after the run's commit"):
        install(owner, name)
        start_due_run()
        return
    start_due_run()
    install(owner, name)
    advance_payouts()


if __name__ == "__main__":
    main(sys.argv[1])
