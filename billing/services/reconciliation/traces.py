"""What a row leaves behind that is not there any more."""

from __future__ import annotations

from uuid import UUID

from billing.models import StripeCall
from marketplace.models import AuditEvent


def has_heard_of(row_id: UUID, call_key: str) -> bool:
    """Whether anything here tells of a row that is not there.

    A database that was put back to an earlier moment knows nothing of what came later. One
    from which a row was removed still has the call to Stripe, or the line in the audit log,
    which cannot be removed without breaking its chain.
    """
    return (
        StripeCall.objects.filter(idempotency_key__startswith=call_key).exists()
        or AuditEvent.objects.filter(object_id=str(row_id)).exists()
    )


def read_id(text: str) -> UUID | None:
    """One of our ids in what Stripe keeps for us; None if it is none."""
    try:
        return UUID(text)
    except ValueError:
        return None
