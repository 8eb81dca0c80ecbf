"""What the tests of payouts share."""

from __future__ import annotations

from django.db import transaction

from billing.selectors.ledger import check_invariants


def broken() -> set[str]:
    """The invariants that do not hold; nothing here was asked of a gateway, which notes answers."""
    with transaction.atomic(durable=True):
        found = {one.invariant.name for one in check_invariants() if one.count}
    return found - {"usage-equals-answers", "charges-are-sealed"}
