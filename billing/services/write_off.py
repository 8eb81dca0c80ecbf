"""Write off invoices that nobody will pay: the debt goes, and Stripe stops asking for it.

What is written off is moved in the ledger first, as a decision of people (`adjustment`), and
Stripe is told afterwards, as often as it takes. Whether it was paid meanwhile is asked before,
and again afterwards: such a payment is booked as what came back of the loss.
"""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from billing.errors import StripeRefusedError, StripeUnavailableError
from billing.models import Adjustment, Invoice
from billing.services.invoice import mirror_invoice
from billing.services.meter import NANOS_PER_MICRO
from billing.services.poll import look_after
from billing.services.stripe_call import call_stripe
from billing.services.stripe_client import get_stripe
from marketplace.core.errors import ConflictError
from marketplace.core.money import NANOS_PER_CENT

POLL_BATCH_SIZE = 50
_UNPAID = (Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE)


def find_debt_nanos(invoice: Invoice) -> int:
    """What its payment would take off what the account owes.

    Without its tax, which is owed to nobody before it is paid; with what Stripe carried to it.

    Raises:
        ConflictError: It is not unpaid, is written off already, or is not what was used.
    """
    if invoice.state not in _UNPAID or invoice.booked_at is not None:
        raise ConflictError(f"{invoice} is not unpaid.")
    if invoice.written_off_nanos:
        raise ConflictError(f"{invoice} is written off already.")
    if invoice.check_state != Invoice.Check.AGREES:
        raise ConflictError(f"{invoice} does not come to what was used; that is decided first.")
    carried_cents = invoice.due_cents - invoice.total_cents
    return invoice.reported_micro * NANOS_PER_MICRO + carried_cents * NANOS_PER_CENT


def note_write_off(invoice_id: UUID, amount_nanos: int) -> None:
    """Note on an invoice what is written off of it, under its lock.

    Whoever books its payment waits for this lock, and then books a recovery. The caller posts
    the transfer in the same transaction.

    Raises:
        ConflictError: It was paid meanwhile, or comes to something else than was proposed.
    """
    invoice = Invoice.objects.select_for_update().get(pk=invoice_id)
    if find_debt_nanos(invoice) != amount_nanos:
        raise ConflictError(f"{invoice} comes to something else now; propose it anew.")
    invoice.written_off_nanos = amount_nanos
    invoice.save(update_fields=["written_off_nanos"])


def tell_stripe(invoice: Invoice) -> Invoice | None:
    """Have Stripe give up an invoice that is written off here. Safe to repeat.

    Raises:
        StripeUnavailableError: Try again later.
    """
    found = mirror_invoice(invoice.stripe_id)
    if found is None or found.state != Invoice.State.OPEN or not found.written_off_nanos:
        return found
    row = Adjustment.objects.get(invoice=found, state=Adjustment.State.POSTED)
    key = f"write-off:{row.pk}"
    # Refused: somebody paid or voided it in this very moment, which the next look shows.
    with suppress(StripeRefusedError):
        call_stripe(
            "invoices.mark_uncollectible",
            key,
            {"invoice_id": found.stripe_id},
            lambda: get_stripe().mark_invoice_uncollectible(found.stripe_id, idempotency_key=key),
        )
    return mirror_invoice(found.stripe_id)


def try_to_tell_stripe(invoice: Invoice) -> None:
    """At once where Stripe answers; else `send_write_offs` does it."""
    with suppress(StripeUnavailableError, StripeRefusedError):
        tell_stripe(invoice)


def send_write_offs() -> int:
    """Tell Stripe of write-offs that it has not heard of; returns how many were looked at."""
    waiting = Invoice.objects.filter(state=Invoice.State.OPEN, written_off_nanos__gt=0)
    return look_after(waiting, tell_stripe, size_max=POLL_BATCH_SIZE, what="the write-off of")
