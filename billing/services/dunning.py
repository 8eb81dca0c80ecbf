"""Remind of invoices that are due, and pause the keys of who does not pay in spite of it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.template.loader import render_to_string
from django.urls import reverse

from billing.errors import StripeUnavailableError
from billing.models import Invoice, InvoiceNotice
from billing.selectors.meter import read_clock
from billing.services.invoice import mirror_invoice
from marketplace.core.errors import MarketplaceError
from marketplace.models import Notification
from marketplace.selectors.notification import list_mail_addresses
from marketplace.services import audit
from marketplace.services.mail import mail_once
from marketplace.services.notification import notify

logger = logging.getLogger(__name__)

Stage = InvoiceNotice.Stage

# Days after the due day; the last stage is a setting.
REMINDER_DAYS = {Stage.DUE: 0, Stage.FIRST: 3, Stage.SECOND: 7}
# A mail that could not be sent for so long is no news any more.
MAIL_WITHIN = timedelta(days=2)
INVOICES_PER_RUN_MAX = 200
SYSTEM_LABEL = "system:dunning"
_TEXTS = {
    Stage.DUE: "It is due today.",
    Stage.FIRST: "It is late. Keys of the account pause if it stays so.",
    Stage.SECOND: "It is late by a week. Keys of the account pause if it stays so.",
    Stage.PAUSED: "The keys of the account are paused until it is paid.",
}


def remind_of_invoices() -> int:
    """Tell of each stage that a late invoice has reached, once; returns how many mails left.

    Stripe is asked before anything is said: what was paid a moment ago is not late.
    """
    now = read_clock()
    late = Invoice.objects.filter(state=Invoice.State.OPEN, due_at__lte=now).order_by("due_at")
    for invoice in late[:INVOICES_PER_RUN_MAX]:
        try:
            # It pauses the keys, too, once the time has come.
            looked_at = mirror_invoice(invoice.stripe_id)
        except StripeUnavailableError:
            logger.warning("Stripe does not answer; nobody is reminded of what may be paid")
            break
        except MarketplaceError as error:
            logger.warning("invoice %s cannot be looked at: %s", invoice.pk, error.detail)
            continue
        if looked_at is not None and looked_at.state == Invoice.State.OPEN:
            _note(looked_at, now)
    waiting = InvoiceNotice.objects.filter(mailed_at=None, created_at__gt=now - MAIL_WITHIN)
    return sum(_mail(pk) for pk in list(waiting.order_by("pk").values_list("pk", flat=True)))


def find_stage(due_at: datetime, now: datetime) -> Stage | None:
    """The last stage that an invoice has reached; None before it is due."""
    days = {**REMINDER_DAYS, Stage.PAUSED: settings.POSTPAID_PAUSE_DAYS}
    reached = [stage for stage, count in days.items() if due_at + timedelta(days=count) <= now]
    return reached[-1] if reached else None


def _note(invoice: Invoice, now: datetime) -> None:
    assert invoice.due_at is not None, "of those that are late"
    stage = find_stage(invoice.due_at, now)
    if stage is None:
        return
    with transaction.atomic():
        notice, is_new = InvoiceNotice.objects.get_or_create(invoice=invoice, stage=stage)
        if is_new:
            audit.record(
                SYSTEM_LABEL,
                "invoice.remind",
                invoice,
                account_id=invoice.account_id,
                payload={"invoice": str(invoice), "stage": notice.stage},
            )
            notify(
                Notification.Kind.INVOICE,
                invoice.account,
                key=f"invoice_notice:{notice.pk}",
                title=f"Invoice {invoice} is not paid",
                text=_TEXTS[stage],
                path=reverse("billing:invoice", args=[invoice.pk]),
            )


def _mail(notice_id: int) -> bool:
    rows = InvoiceNotice.objects.select_for_update(skip_locked=True, of=("self",))
    return mail_once(
        rows.select_related("invoice__account"),
        notice_id,
        what="notice",
        list_addresses=_list_addresses,
        send=_send,
    )


def _list_addresses(notice: InvoiceNotice) -> list[str]:
    # What was paid meanwhile needs no word.
    if notice.invoice.state != Invoice.State.OPEN:
        return []
    return list_mail_addresses(notice.invoice.account, Notification.Kind.INVOICE)


def _send(notice: InvoiceNotice, addresses: list[str]) -> None:
    path = reverse("billing:invoice", args=[notice.invoice_id])
    invoice = notice.invoice
    assert invoice.due_at is not None, "of those that are late"
    context = {
        "notice": notice,
        "invoice": invoice,
        "url": f"{settings.WEB_URL}{path}",
        "pause_days": settings.POSTPAID_PAUSE_DAYS,
        "pause_at": invoice.due_at + timedelta(days=settings.POSTPAID_PAUSE_DAYS),
    }
    subject = render_to_string("emails/invoice_subject.txt", context)
    text = render_to_string("emails/invoice.txt", context)
    send_mail(" ".join(subject.split()), text, None, addresses)
