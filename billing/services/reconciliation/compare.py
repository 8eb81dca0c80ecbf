"""All comparisons of a period, the ones of objects before the one of money."""

from __future__ import annotations

from billing.services.reconciliation.disputes import compare_disputes
from billing.services.reconciliation.finding import Comparison, Period
from billing.services.reconciliation.invoices import compare_invoices
from billing.services.reconciliation.meters import compare_meters
from billing.services.reconciliation.movements import compare_movements
from billing.services.reconciliation.payouts import compare_payouts, compare_reversals
from billing.services.reconciliation.refunds import compare_refunds
from billing.services.reconciliation.stripe_side import StripeSide
from billing.services.reconciliation.topups import compare_topups

COMPARERS = (
    compare_topups,
    compare_refunds,
    compare_disputes,
    compare_payouts,
    compare_reversals,
    compare_invoices,
    compare_meters,
)


def compare_all(period: Period) -> list[Comparison]:
    """One comparison for each kind of object.

    Raises:
        StripeUnavailableError: Stripe does not answer.
    """
    stripe = StripeSide(period)
    found = [compare(period, stripe) for compare in COMPARERS]
    earlier = [finding for one in found for finding in one.findings]
    return found + compare_movements(period, stripe, earlier)
