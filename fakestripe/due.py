"""Work that becomes due as Stripe's clock goes on, each piece at its own moment.

When a test advances the clock by a month, what would have happened in that month happens in
its order, and everything it makes carries the time at which it was due.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fakestripe.context import Context
from fakestripe.resources import accounts, checkout, invoices, refunds, subscriptions

# Each is called with the context at the moment it was due, and the object's id. The object
# may be gone or may have changed meanwhile; then there is nothing to do.
TASKS: dict[str, Callable[[Context, str], None]] = {
    checkout.EXPIRE_TASK: checkout.expire_due,
    accounts.VERIFY_TASK: accounts.verify_due,
    invoices.FINALIZE_TASK: invoices.finalize_due,
    invoices.COLLECT_TASK: invoices.collect_due,
    subscriptions.CYCLE_TASK: subscriptions.cycle_due,
    refunds.SETTLE_TASK: refunds.settle_due,
}


def run(context: Context) -> None:
    """Do everything that is due by now."""
    while (task := context.store.take_task(context.now)) is not None:
        due_at, name, object_id = task
        TASKS[name](replace(context, now=due_at), object_id)
