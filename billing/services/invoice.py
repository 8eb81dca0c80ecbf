"""Invoices of postpaid accounts: mirror what Stripe says, compare it, book what is paid.

Webhooks, the poll and reminders all end in `mirror_invoice`, which asks Stripe for the present
state and believes nothing else. A payment is booked once, and only where the invoice comes to
what was reported: anything else is set aside for a person, and books nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.urls import reverse

from billing.errors import StripeUnavailableError
from billing.models import (
    Invoice,
    LedgerAccount,
    MeterReport,
    PostpaidTerms,
    StripeCustomer,
    Transfer,
)
from billing.selectors.invoice import find_carried_cents
from billing.selectors.meter import list_reports_of, read_clock, sum_micro
from billing.services import ledger, meter
from billing.services.poll import look_after
from billing.services.postpaid import refresh_credit
from billing.services.stripe_client import get_stripe
from billing.stripe import invoices as answers
from marketplace.core.errors import ConflictError, ForbiddenError
from marketplace.core.ids import new_id
from marketplace.core.money import NANOS_PER_CENT, format_cents
from marketplace.models import Notification
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.notification import notify

logger = logging.getLogger(__name__)

CURRENCY = "usd"
MICRO_PER_CENT = NANOS_PER_CENT // meter.NANOS_PER_MICRO
# Stripe rounds each line to a cent.
ROUNDING_MICRO_PER_LINE = MICRO_PER_CENT
# Less is not charged: Stripe carries it to the next invoice of the customer.
CHARGE_CENTS_MIN = 50
POLL_BATCH_SIZE = 50
# How long a payment of an invoice that was given up is looked for; later ones Stripe tells of.
GIVEN_UP_LOOKBACK = timedelta(days=365)
# How far back the poll looks for invoices that no webhook told of: longer than a period.
POLL_LOOKBACK = timedelta(days=40)
SYSTEM_LABEL = "system:invoice"
Kinds = Transfer.Kind

_UNSETTLED = (MeterReport.State.NEW, MeterReport.State.SENT)


def look_at_invoice(stripe_id: str) -> bool:
    """What a webhook about an invoice asks for; False for one of others. Safe to repeat."""
    invoice = mirror_invoice(stripe_id)
    if invoice is None:
        return False
    if invoice.state == Invoice.State.DRAFT:
        flush_reports(invoice)
    return True


def flush_reports(invoice: Invoice) -> int:
    """Send what belongs on an invoice while it is a draft; returns how many reports."""
    meter.seal_hours(wait=timedelta(0))
    return meter.send_reports(account_id=invoice.account_id)


def mirror_invoice(stripe_id: str) -> Invoice | None:
    """Ask Stripe for an invoice, keep what it says, and book it if it is paid. Safe to repeat.

    None: it is for no subscription of ours.
    """
    found = get_stripe().retrieve_invoice(stripe_id)
    terms = _find_terms(found)
    if terms is None:
        return None
    with transaction.atomic():
        # Before the invoice: what is paid may let keys run again.
        terms = PostpaidTerms.objects.select_for_update().get(pk=terms.pk)
        invoice = _keep(found, terms)
        if invoice.state in (Invoice.State.OPEN, Invoice.State.PAID):
            _compare(invoice)
            _tell(invoice)
        if invoice.state == Invoice.State.PAID and invoice.booked_at is None:
            _book(invoice)
        update_pause(terms)
        refresh_credit(terms)
    return invoice


def _tell(invoice: Invoice) -> None:
    """Tell of a final invoice, once, whatever state it is found in first."""
    due = f"Due on {invoice.due_at:%d %B %Y}." if invoice.due_at else ""
    notify(
        Notification.Kind.INVOICE,
        invoice.account,
        key=f"invoice:{invoice.pk}",
        title=f"Invoice {invoice} over ${format_cents(invoice.total_cents)}",
        text=due if invoice.state == Invoice.State.OPEN else "",
        path=reverse("billing:invoice", args=[invoice.pk]),
    )


def accept_invoice(actor: Actor, invoice: Invoice, *, reason: str) -> Invoice:
    """Book a paid invoice that differs from what was reported; the difference is our loss or gain.

    Raises:
        ForbiddenError: Only platform admins decide this.
        ConflictError: It is not paid, or does not differ.
    """
    if not actor.is_admin:
        raise ForbiddenError("Only platform admins accept a difference.")
    with transaction.atomic():
        terms = PostpaidTerms.objects.select_for_update().get(account_id=invoice.account_id)
        locked = Invoice.objects.select_for_update().get(pk=invoice.pk)
        if (locked.state, locked.check_state) != (Invoice.State.PAID, Invoice.Check.DIFFERS):
            raise ConflictError(f"{locked} is not a paid invoice that differs.")
        fault, locked.check_state, locked.note = locked.note, Invoice.Check.ACCEPTED, reason
        locked.save(update_fields=["check_state", "note"])
        _book(locked)
        audit.record(
            actor.label,
            "invoice.accept",
            locked,
            account_id=locked.account_id,
            payload={"invoice": str(locked), "fault": fault, "reason": reason},
        )
        refresh_credit(terms)
    return locked


def poll_invoices() -> int:
    """Look at what no webhook told of; returns how many invoices were looked at."""
    running = [PostpaidTerms.State.ACTIVE, PostpaidTerms.State.CLOSING]
    found = 0
    try:
        for terms in PostpaidTerms.objects.filter(state__in=running):
            found += _find_lost(terms)
    except StripeUnavailableError:
        logger.warning("Stripe does not answer; the poll goes on next time")
        return found
    waiting = Invoice.objects.filter(
        state__in=[Invoice.State.DRAFT, Invoice.State.OPEN]
    ) | Invoice.objects.filter(state=Invoice.State.PAID, booked_at=None)
    waiting |= Invoice.objects.filter(
        state=Invoice.State.UNCOLLECTIBLE, created_at__gt=read_clock() - GIVEN_UP_LOOKBACK
    )
    return found + look_after(
        waiting,
        lambda invoice: look_at_invoice(invoice.stripe_id),
        size_max=POLL_BATCH_SIZE,
        what="invoice",
    )


def update_pause(terms: PostpaidTerms) -> None:
    """Pause the keys of an account with an invoice that is too late, or let them run again.

    Predictions that run are not touched: gateways refuse new ones. The caller has locked the
    terms, in a transaction.
    """
    now = read_clock()
    is_late = Invoice.objects.filter(
        account_id=terms.account_id,
        state__in=[Invoice.State.OPEN, Invoice.State.UNCOLLECTIBLE],
        due_at__lte=now - timedelta(days=settings.POSTPAID_PAUSE_DAYS),
    ).exists()
    if is_late == (terms.paused_at is not None):
        return
    terms.paused_at = now if is_late else None
    terms.save(update_fields=["paused_at"])
    action = "postpaid.pause" if is_late else "postpaid.resume"
    audit.record(SYSTEM_LABEL, action, terms, account_id=terms.account_id, payload={})


# --- Mirroring ----------------------------------------------------------------------


def _find_terms(found: answers.Invoice) -> PostpaidTerms | None:
    """Whose invoice it is: of the subscription in use, or of an earlier one."""
    if found.subscription_id is None or found.customer is None:
        return None
    customer = StripeCustomer.objects.filter(customer_id=found.customer).first()
    if customer is None:
        return None
    terms = PostpaidTerms.objects.filter(account_id=customer.account_id).first()
    if terms is None:
        return None
    is_earlier = Invoice.objects.filter(
        account_id=terms.account_id, subscription_id=found.subscription_id
    ).exists()
    return terms if terms.subscription_id == found.subscription_id or is_earlier else None


def _keep(found: answers.Invoice, terms: PostpaidTerms) -> Invoice:
    start, end = _read_period(found)
    finalized_at = found.finalized_at
    due_at = found.due_at
    if due_at is None and finalized_at is not None:
        due_at = finalized_at + timedelta(days=terms.due_days)
    invoice, _ = Invoice.objects.update_or_create(
        stripe_id=found.id,
        defaults={
            "account_id": terms.account_id,
            "subscription_id": found.subscription_id or "",
            "number": found.number or "",
            "state": found.status or Invoice.State.DRAFT,
            "currency": found.currency,
            "lines": [
                {"description": line.description or "", "cents": line.amount}
                for line in found.lines
            ],
            "subtotal_cents": found.subtotal,
            "tax_cents": found.tax,
            "total_cents": found.total,
            "due_cents": found.amount_due,
            "paid_cents": found.amount_paid,
            "period_start": start,
            "period_end": end,
            "created_at": found.created_at,
            "finalized_at": finalized_at,
            "due_at": due_at,
            "paid_at": found.paid_at,
            "hosted_url": found.hosted_url or "",
            "pdf_url": found.pdf_url or "",
        },
    )
    return invoice


def _read_period(found: answers.Invoice) -> tuple[datetime, datetime]:
    """From when to when usage is on it; of a line of usage, where there is one."""
    if not found.lines:
        return found.period_start, found.period_end
    starts, ends = zip(*((line.period_start, line.period_end) for line in found.lines), strict=True)
    return min(starts), max(ends)


# --- Comparing and booking ----------------------------------------------------------


def _compare(invoice: Invoice) -> None:
    """Whether a final invoice comes to what was reported; what is booked already stays."""
    if invoice.booked_at is not None:
        return
    period = (invoice.account_id, invoice.period_start, invoice.period_end)
    invoice.reported_micro = sum_micro(list_reports_of(*period))
    fault = _find_fault(invoice)
    if not fault:
        invoice.check_state, invoice.note = Invoice.Check.AGREES, ""
    elif list_reports_of(*period, states=_UNSETTLED).exists():
        # Perhaps Stripe has counted one whose answer was lost.
        invoice.check_state, invoice.note = Invoice.Check.WAITING, fault
    else:
        if invoice.check_state != Invoice.Check.DIFFERS:
            logger.critical("invoice %s does not fit what was reported: %s", invoice, fault)
        invoice.check_state, invoice.note = Invoice.Check.DIFFERS, fault
    invoice.save(update_fields=["reported_micro", "check_state", "note"])


def _find_fault(invoice: Invoice) -> str:
    if invoice.currency != CURRENCY:
        return f"Its currency is {invoice.currency}."
    if invoice.total_cents != invoice.subtotal_cents + invoice.tax_cents:
        return "Its total is not its lines and their tax."
    wanted_cents = invoice.total_cents
    if invoice.finalized_at is not None:
        wanted_cents += find_carried_cents(invoice.account_id, before=invoice.finalized_at)
    # What is too little to be charged is carried to the next.
    if wanted_cents < CHARGE_CENTS_MIN:
        wanted_cents = 0
    if invoice.due_cents != wanted_cents:
        return f"{invoice.due_cents} cents are due, of {wanted_cents}."
    if invoice.state == Invoice.State.PAID and invoice.paid_cents != invoice.due_cents:
        return f"{invoice.paid_cents} cents were paid of {invoice.due_cents}."
    allowed = ROUNDING_MICRO_PER_LINE * max(1, len(invoice.lines))
    if abs(invoice.subtotal_cents * MICRO_PER_CENT - invoice.reported_micro) > allowed:
        return f"It says {invoice.subtotal_cents} cents; reported were {invoice.reported_micro} µ$."
    return ""


def _book(invoice: Invoice) -> None:
    """Post the payment of an invoice, once, if it agrees or a person let the difference be.

    Of one that was written off nothing is owed any more: what comes in makes up for the loss.
    """
    if invoice.check_state not in (Invoice.Check.AGREES, Invoice.Check.ACCEPTED):
        return
    billed_nanos = invoice.reported_micro * meter.NANOS_PER_MICRO
    subtotal_nanos = invoice.subtotal_cents * NANOS_PER_CENT
    kinds = LedgerAccount.Kind
    is_rounded = invoice.check_state == Invoice.Check.AGREES
    rest_kind = kinds.ROUNDING if is_rounded else kinds.BAD_DEBT
    carried_nanos = (invoice.total_cents - invoice.paid_cents) * NANOS_PER_CENT
    debt_id = ledger.get_ledger_account_id(kinds.RECEIVABLE, holder_id=invoice.account_id)
    if invoice.written_off_nanos:
        debt_id = ledger.get_ledger_account_id(kinds.BAD_DEBT)
    amounts_nanos = Counter(
        {
            ledger.get_ledger_account_id(kinds.STRIPE_CLEARING): -invoice.paid_cents
            * NANOS_PER_CENT,
            # What Stripe carries to the next invoice is still owed.
            debt_id: billed_nanos - carried_nanos,
            ledger.get_ledger_account_id(kinds.TAX_PAYABLE): invoice.tax_cents * NANOS_PER_CENT,
        }
    )
    # What Stripe rounded, for us or against us; or what a person let be.
    amounts_nanos[ledger.get_ledger_account_id(rest_kind)] += subtotal_nanos - billed_nanos
    moved = {pk: nanos for pk, nanos in amounts_nanos.items() if nanos}
    # What follows, the keeper of the credit, asks for both of the account.
    of_account = [
        ledger.get_ledger_account_id(kind, holder_id=invoice.account_id)
        for kind in (kinds.WALLET, kinds.RECEIVABLE)
    ]
    ledger.lock_accounts([*moved, *of_account])
    # An invoice for nothing moves nothing.
    if moved:
        ledger.post_transfer(
            transfer_id=new_id(),
            kind=Kinds.RECOVERY if invoice.written_off_nanos else Kinds.INVOICE_PAID,
            idempotency_key=f"invoice:{invoice.stripe_id}",
            amounts_nanos=moved,
            reference=str(invoice.pk),
        )
    invoice.booked_at = read_clock()
    invoice.save(update_fields=["booked_at"])


def _find_lost(terms: PostpaidTerms) -> int:
    """Mirror invoices of an account that we have never seen; returns how many."""
    customer = StripeCustomer.objects.get(account_id=terms.account_id)
    listed = get_stripe().list_invoices(
        customer_id=customer.customer_id, created_from=read_clock() - POLL_LOOKBACK
    )
    known = set(
        Invoice.objects.filter(stripe_id__in=[one.id for one in listed]).values_list(
            "stripe_id", flat=True
        )
    )
    # Oldest first: what one carries counts for the next.
    lost = [one.id for one in reversed(listed) if one.id not in known]
    return sum(look_at_invoice(one) for one in lost)
