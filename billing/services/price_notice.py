"""Tell those who use a model, once, of a price that will be dearer."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.core.mail import send_mail
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from billing.models import Price, UsageEvent
from marketplace.models import Membership
from marketplace.services.mail import mail_once

# Who has not used a model for so long hears of its price where it is shown.
USED_WITHIN = timedelta(days=30)
# One run ends in time even where the mail server is slow; the next one goes on.
NOTICES_PER_RUN_MAX = 5

_ROLES = (Membership.Role.OWNER, Membership.Role.ADMIN, Membership.Role.BILLING)


def mail_price_rises() -> int:
    """Mail what was announced and not mailed; returns how many prices were told to somebody."""
    waiting = Price.objects.filter(
        account=None, mailed_at=None, valid_until=None, valid_from__gt=timezone.now()
    )
    price_ids = list(waiting.order_by("created_at").values_list("pk", flat=True))
    return sum(_mail(price_id) for price_id in price_ids[:NOTICES_PER_RUN_MAX])


def _mail(price_id: object) -> bool:
    rows = Price.objects.select_for_update(skip_locked=True, of=("self",))
    return mail_once(
        rows.select_related("model__account"),
        price_id,
        what="price",
        list_addresses=list_addresses,
        send=_send,
    )


def list_addresses(price: Price) -> list[str]:
    """Of the people who decide for accounts that used the model lately."""
    used = UsageEvent.objects.filter(
        creator=price.model.account_id,
        version__model=price.model_id,
        mode=UsageEvent.Mode.LIVE,
        occurred_at__gt=timezone.now() - USED_WITHIN,
    ).exclude(account=price.model.account_id)
    members = Membership.objects.filter(
        account__in=used.values("account"), role__in=_ROLES, user__is_active=True
    )
    return sorted(set(members.values_list("user__email", flat=True)))


def _send(price: Price, addresses: list[str]) -> None:
    path = reverse("marketplace:model", args=[price.model.account.slug, price.model.name])
    context = {"price": price, "model": str(price.model), "url": f"{settings.WEB_URL}{path}"}
    subject = render_to_string("emails/price_subject.txt", context)
    text = render_to_string("emails/price.txt", context)
    # One each: consumers of a model do not learn of one another.
    for address in addresses:
        send_mail(" ".join(subject.split()), text, None, [address])
