"""Disputes and early fraud warnings: what payers' banks take back. Amounts in cents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import stripe

from billing.stripe.calls import PAGE_SIZE, Calls, at, id_of, our_errors, period, read_all


@dataclass(frozen=True, slots=True)
class Dispute:
    """A payer's bank asks money back.

    Attributes:
        id: Stripe's.
        status: needs_response, under_review, won, lost, or the same of a mere inquiry with
            `warning_` before it.
        reason: The bank's, such as fraudulent.
        amount: What is disputed.
        currency: Lower case.
        charge_id: Which charge.
        payment_intent_id: Which payment.
        balance_transaction_ids: The movements so far: taken, and given back if won.
        withdrawn_cents: What is off our balance now, without fees; 0 for an inquiry.
        fee_cents: Stripe's fees for it so far.
        created_at: When the bank asked.
    """

    id: str
    status: str
    reason: str
    amount: int
    currency: str
    charge_id: str | None
    payment_intent_id: str | None
    balance_transaction_ids: tuple[str, ...]
    withdrawn_cents: int
    fee_cents: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class FraudWarning:
    """The card's network believes that a charge is fraud; a dispute may follow.

    `is_actionable` is False once the charge was refunded in full or disputed.
    """

    id: str
    charge_id: str | None
    payment_intent_id: str | None
    is_actionable: bool
    fraud_type: str
    created_at: datetime


class DisputeCalls(Calls):
    """Look at what banks say."""

    def retrieve_dispute(self, dispute_id: str) -> Dispute:
        """A dispute as it is now."""
        with our_errors():
            return _dispute(self._v1.disputes.retrieve(dispute_id))

    def list_disputes(self, *, created_from: datetime, created_until: datetime) -> list[Dispute]:
        """Every dispute that was opened in a period, newest first."""
        with our_errors():
            rows = self._v1.disputes.list(
                params={"created": period(created_from, created_until), "limit": PAGE_SIZE}
            )
            return [_dispute(row) for row in read_all(rows)]

    def retrieve_fraud_warning(self, warning_id: str) -> FraudWarning:
        """A warning as it is now."""
        with our_errors():
            return _warning(self._v1.radar.early_fraud_warnings.retrieve(warning_id))

    def list_fraud_warnings(
        self, *, created_from: datetime, created_until: datetime
    ) -> list[FraudWarning]:
        """Every warning of a period, newest first."""
        with our_errors():
            rows = self._v1.radar.early_fraud_warnings.list(
                params={"created": period(created_from, created_until), "limit": PAGE_SIZE}
            )
            return [_warning(row) for row in read_all(rows)]


def _dispute(dispute: stripe.Dispute) -> Dispute:
    movements = dispute.balance_transactions
    return Dispute(
        id=dispute.id,
        status=dispute.status,
        reason=dispute.reason,
        amount=dispute.amount,
        currency=dispute.currency,
        charge_id=id_of(dispute.charge),
        payment_intent_id=id_of(dispute.payment_intent),
        balance_transaction_ids=tuple(movement.id for movement in movements),
        withdrawn_cents=-sum(movement.amount for movement in movements),
        fee_cents=sum(movement.fee for movement in movements),
        created_at=at(dispute.created),
    )


def _warning(warning: stripe.radar.EarlyFraudWarning) -> FraudWarning:
    return FraudWarning(
        id=warning.id,
        charge_id=id_of(warning.charge),
        payment_intent_id=id_of(getattr(warning, "payment_intent", None)),
        is_actionable=warning.actionable,
        fraud_type=warning.fraud_type,
        created_at=at(warning.created),
    )
