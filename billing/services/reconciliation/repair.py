"""Repair what is safe to: ask Stripe about an object, and book what it says.

Nothing is invented here. A row that this database has never heard of is written again only if
the object at Stripe names it, an account of ours is its customer, and the service that books
it finds everything in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from uuid import UUID

from billing.models import StripeCustomer, Topup
from billing.services.reconciliation.finding import Explanation, Finding, Kind
from billing.services.reconciliation.topups import METADATA_KEY
from billing.services.stripe_client import get_stripe
from billing.services.topup import settle_topup
from marketplace.core.errors import MarketplaceError

logger = logging.getLogger(__name__)

REPAIRABLE = frozenset({Explanation.NOT_YET_APPLIED, Explanation.RESTORED_DATABASE})


def repair(findings: Iterable[Finding]) -> int:
    """Repair what can be; returns how many objects were. The rest stays as it was found."""
    count = 0
    for finding in findings:
        fix = FIXES.get(finding.kind)
        if fix is None or finding.explanation not in REPAIRABLE:
            continue
        try:
            count += fix(finding)
        except MarketplaceError as error:
            logger.warning("%s %s is not repaired: %s", finding.kind, finding.key, error.detail)
    return count


def _repair_topup(finding: Finding) -> bool:
    payment = get_stripe().retrieve_payment_intent(finding.key)
    topup_id = UUID(payment.metadata[METADATA_KEY])
    if finding.explanation is Explanation.RESTORED_DATABASE:
        customer = StripeCustomer.objects.filter(customer_id=payment.customer or "").first()
        if customer is None:
            logger.warning("payment %s is of a customer who is not known here", payment.id)
            return False
        session = get_stripe().find_checkout_session(
            topup_id=topup_id, customer_id=customer.customer_id
        )
        if session is None or session.payment_intent_id != payment.id:
            return False
        Topup.objects.get_or_create(
            pk=topup_id,
            defaults={
                "account_id": customer.account_id,
                "amount_cents": payment.amount_received,
                "checkout_session_id": session.id,
                "note": "Written again from what Stripe has.",
            },
        )
    return settle_topup(topup_id).state == Topup.State.CREDITED


# By kind: does it, and says whether it could.
FIXES: dict[Kind, Callable[[Finding], bool]] = {Kind.TOPUP: _repair_topup}
