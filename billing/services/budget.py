"""Tell the people of an account, once, that a key has used much of a budget."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from billing.models import BudgetAlert
from billing.selectors.budget import Crossing, list_crossings
from marketplace.core.money import format_nanos
from marketplace.models import Notification
from marketplace.selectors.notification import list_mail_addresses
from marketplace.services import audit
from marketplace.services.mail import mail_once
from marketplace.services.notification import notify

logger = logging.getLogger(__name__)

ALERT_PERCENTS = (80, 100)
# Far longer than from one run to the next: what is spent in a day's last minute is told as well.
LOOKBACK = timedelta(hours=1)
# A mail that could not be sent for so long is no news any more; the log keeps the event.
MAIL_WITHIN = timedelta(days=1)
# One run ends in time even where the mail server is slow; the next one goes on.
MAILS_PER_RUN_MAX = 50

SYSTEM_LABEL = "system:budget"


def alert_budgets() -> int:
    """Record every budget that passed a part, and mail what was not mailed.

    Safe to run twice, also at once: the record of a key, period and part exists once, and
    whoever mails it holds its row until it is marked as mailed.

    Returns:
        How many mails were sent.
    """
    now = timezone.now()
    for crossing in list_crossings(now, percents=ALERT_PERCENTS, lookback=LOOKBACK):
        _record(crossing)
    waiting = BudgetAlert.objects.filter(mailed_at=None, created_at__gt=now - MAIL_WITHIN)
    alert_ids = waiting.order_by("created_at").values_list("pk", flat=True)[:MAILS_PER_RUN_MAX]
    return sum(_mail(alert_id) for alert_id in list(alert_ids))


def _record(crossing: Crossing) -> None:
    api_key = crossing.api_key
    with transaction.atomic():
        alert, is_new = BudgetAlert.objects.get_or_create(
            api_key=api_key,
            period=crossing.period,
            starts_on=crossing.starts_on,
            percent=crossing.percent,
            defaults={
                "budget_nanos": crossing.budget_nanos,
                "spent_nanos": crossing.spent_nanos,
            },
        )
        if is_new:
            audit.record(
                SYSTEM_LABEL,
                "key.budget",
                api_key,
                account_id=api_key.account_id,
                payload={
                    "name": api_key.name,
                    "hint": api_key.hint,
                    "period": alert.get_period_display().lower(),
                    "percent": alert.percent,
                    "budget_nanos": alert.budget_nanos,
                    "spent_nanos": alert.spent_nanos,
                },
            )
            period = alert.get_period_display().lower()
            notify(
                Notification.Kind.BUDGET,
                api_key.account,
                key=f"budget:{alert.pk}",
                title=f"{api_key.name} has used {alert.percent} % of its {period} budget",
                text=(
                    f"{format_nanos(alert.spent_nanos)} of {format_nanos(alert.budget_nanos)}. "
                    "At 100 % its predictions are refused."
                ),
                path=reverse("marketplace:key", args=[api_key.pk]),
            )


def _mail(alert_id: int) -> bool:
    rows = BudgetAlert.objects.select_for_update(skip_locked=True, of=("self",))
    return mail_once(
        rows.select_related("api_key__account"),
        alert_id,
        what="alert",
        list_addresses=lambda alert: list_mail_addresses(
            alert.api_key.account, Notification.Kind.BUDGET
        ),
        send=_send,
    )


def _send(alert: BudgetAlert, addresses: list[str]) -> None:
    path = reverse("marketplace:key", args=[alert.api_key_id])
    context = {"alert": alert, "api_key": alert.api_key, "url": f"{settings.WEB_URL}{path}"}
    subject = render_to_string("emails/budget_subject.txt", context)
    # A name may have a line break in it; a subject may not.
    send_mail(
        " ".join(subject.split()),
        render_to_string("emails/budget.txt", context),
        None,
        addresses,
    )
