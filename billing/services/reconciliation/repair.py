"""Repair what is safe to: ask Stripe about an object, and book what it says.

Nothing is invented here. A row that this database has never heard of is written again only if
the object at Stripe names it, an account of ours is its customer, and the service that books
it finds everything in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from uuid import UUID

from billing.models import Invoice, LedgerAccount, PayoutItem, StripeCustomer, Topup, Transfer
from billing.services import ledger
from billing.services.dispute import settle_dispute
from billing.services.invoice import look_at_invoice
from billing.services.meter import send_reports
from billing.services.payout import advance_item, restore_item, settle_transfer
from billing.services.reconciliation.finding import Explanation, Finding, Kind
from billing.services.reconciliation.movements import OWN_FEE_TYPES
from billing.services.reconciliation.payouts import METADATA_KEY as PAYOUT_KEY
from billing.services.reconciliation.topups import METADATA_KEY
from billing.services.refund import restore_refund, send_refund, settle_stripe_refund
from billing.services.stripe_client import get_stripe
from billing.services.topup import note_payment, settle_topup
from billing.services.write_off import tell_stripe
from marketplace.core.errors import MarketplaceError
from marketplace.core.ids import new_id

logger = logging.getLogger(__name__)

REPAIRABLE = frozenset({Explanation.NOT_YET_APPLIED, Explanation.RESTORED_DATABASE})


def repair(findings: Iterable[Finding], kinds: Collection[Kind] | None = None) -> int:
    """Repair what can be; returns how many objects were. The rest stays as it was found.

    Args:
        findings: What a comparison found.
        kinds: Only these; None is all.
    """
    count = 0
    for finding in findings:
        fix = FIXES.get(finding.kind)
        is_fee = finding.kind is Kind.FEE and finding.explanation is Explanation.FEE
        if fix is None or not (is_fee or finding.explanation in REPAIRABLE):
            continue
        if kinds is not None and finding.kind not in kinds:
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
                # Without the tax, which was paid on top.
                "amount_cents": session.amount_subtotal or payment.amount_received,
                "is_taxed": bool(session.amount_tax),
                "checkout_session_id": session.id,
                "note": "Written again from what Stripe has.",
            },
        )
    return settle_topup(topup_id).state == Topup.State.CREDITED


def _repair_refund(finding: Finding) -> bool:
    if finding.explanation is Explanation.RESTORED_DATABASE:
        return restore_refund(get_stripe().retrieve_refund(finding.key)) is not None
    if finding.stripe_id:
        return settle_stripe_refund(finding.stripe_id)
    return send_refund(UUID(finding.our_id)).stripe_refund_id is not None


def _repair_dispute(finding: Finding) -> bool:
    return settle_dispute(finding.key)


def _repair_payout(finding: Finding) -> bool:
    transfer = get_stripe().retrieve_transfer(finding.stripe_id)
    if finding.explanation is Explanation.RESTORED_DATABASE:
        return restore_item(transfer) is not None
    item = advance_item(UUID(transfer.metadata[PAYOUT_KEY]))
    return item.state == PayoutItem.State.PAID


def _repair_reversal(finding: Finding) -> bool:
    """What somebody took back at Stripe, or an answer that was lost."""
    transfers = PayoutItem.objects.exclude(connect_transfer_id=None).filter(
        connect_transfer_id=finding.note.rpartition(" ")[2].rstrip(".")
    )
    item = transfers.first()
    return item is not None and settle_transfer(item.connect_transfer_id or "")


def _repair_invoice(finding: Finding) -> bool:
    row = Invoice.objects.filter(stripe_id=finding.key).first()
    if row is not None and row.written_off_nanos:
        return tell_stripe(row) is not None
    return look_at_invoice(finding.key)


def _repair_meter(_finding: Finding) -> bool:
    return send_reports() > 0


def _repair_fee(finding: Finding) -> bool:
    """Book what Stripe kept, once: of a payment, or of our balance as such."""
    if finding.explanation is not Explanation.FEE:
        return False
    row = get_stripe().retrieve_balance_transaction(finding.stripe_id)
    topup = Topup.objects.filter(payment_intent_id=finding.key).first()
    if topup is not None:
        return note_payment(topup.pk).fee_cents is not None
    name = row.id if row.type in OWN_FEE_TYPES else row.source
    fee_nanos = finding.stripe_nanos or 0
    return ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.FEE,
        idempotency_key=f"fee:{name}",
        amounts_nanos={
            ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_FEE): -fee_nanos,
            ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING): fee_nanos,
        },
        reference=finding.key,
    )


# By kind: does it, and says whether it could.
FIXES: dict[Kind, Callable[[Finding], bool]] = {
    Kind.TOPUP: _repair_topup,
    Kind.REFUND: _repair_refund,
    Kind.DISPUTE: _repair_dispute,
    Kind.PAYOUT: _repair_payout,
    Kind.REVERSAL: _repair_reversal,
    Kind.INVOICE: _repair_invoice,
    Kind.METER: _repair_meter,
    Kind.FEE: _repair_fee,
}
