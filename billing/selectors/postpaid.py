"""Read the terms of those who pay later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from billing.models import LedgerAccount, PostpaidTerms, TaxDetails
from billing.selectors.ledger import find_ledger_account
from marketplace.core.clock import to_wire
from marketplace.models import Account


@dataclass(frozen=True, slots=True)
class Credit:
    """The terms of an account, and how much of its limit is used."""

    terms: PostpaidTerms
    limit_nanos: int
    owed_nanos: int
    held_nanos: int
    # What was given back beyond what is owed: it pays for the next predictions.
    given_back_nanos: int

    @property
    def left_nanos(self) -> int:
        """What new predictions may still cost; none where the limit was lowered below it."""
        spare_nanos = self.given_back_nanos - self.held_nanos
        return max(0, self.limit_nanos - self.owed_nanos + spare_nanos)

    @property
    def is_used(self) -> bool:
        """Whether predictions are paid on credit now, or are still to be paid."""
        return self.terms.state in (PostpaidTerms.State.ACTIVE, PostpaidTerms.State.CLOSING)


def find_credit(account: Account) -> Credit | None:
    """The terms of an account, whatever their state; None if it never had any."""
    terms = PostpaidTerms.objects.filter(account=account).select_related("account").first()
    if terms is None:
        return None
    row = find_ledger_account(LedgerAccount.Kind.RECEIVABLE, holder_id=account.pk)
    return Credit(
        terms=terms,
        limit_nanos=(row.credit_limit_nanos or 0) if row else 0,
        owed_nanos=max(0, row.owed_nanos) if row else 0,
        held_nanos=row.held_nanos if row else 0,
        given_back_nanos=max(0, row.posted_nanos) if row else 0,
    )


def describe_credit(credit: Credit) -> dict[str, Any]:
    """Terms and their use on the wire."""
    terms = credit.terms
    return {
        "state": terms.state,
        "credit_limit_nanos": credit.limit_nanos,
        "wanted_limit_nanos": terms.wanted_limit_nanos,
        "owed_nanos": credit.owed_nanos,
        "held_nanos": credit.held_nanos,
        "left_nanos": credit.left_nanos,
        "due_days": terms.due_days,
        "paused_at": to_wire(terms.paused_at) if terms.paused_at else None,
    }


def find_tax_details(account: Account) -> TaxDetails | None:
    """Whom invoices are addressed to, if the account said so."""
    return TaxDetails.objects.filter(account=account).first()
