"""Tell those who use a model, once, of a price that will be dearer."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import QuerySet
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from billing.models import Price, UsageEvent
from marketplace.models import Account, Membership, Notification
from marketplace.selectors.notification import choose_mailed
from marketplace.services.mail import mail_once
from marketplace.services.notification import notify

# Who has not used a model for so long hears of its price where it is shown.
USED_WITHIN = timedelta(days=30)
# One run ends in time even where the mail server is slow; the next one goes on.
NOTICES_PER_RUN_MAX = 5


def mail_price_rises() -> int:
    """Mail what was announced and not mailed; returns how many prices were told to somebody."""
    waiting = Price.objects.filter(
        account=None, mailed_at=None, valid_until=None, valid_from__gt=timezone.now()
    )
    price_ids = list(waiting.order_by("created_at").values_list("pk", flat=True))
    return sum(_mail(price_id) for price_id in price_ids[:NOTICES_PER_RUN_MAX])


def _mail(price_id: UUID) -> bool:
    _tell(price_id)
    rows = Price.objects.select_for_update(skip_locked=True, of=("self",))
    return mail_once(
        rows.select_related("model__account"),
        price_id,
        what="price",
        list_addresses=list_addresses,
        send=_send,
    )


@transaction.atomic
def _tell(price_id: UUID) -> None:
    """Tell inboxes, once; here and not where it is announced, for usage is looked through."""
    price = Price.objects.select_related("model__account").get(pk=price_id)
    model = price.model
    notify(
        Notification.Kind.PRICE,
        Account.objects.filter(pk__in=_list_used(price).values("account")),
        key=f"price:{price.pk}",
        title=f"{model} will have another price",
        text=f"From {price.valid_from:%d %B %Y, %H:%M} UTC on.",
        path=reverse("marketplace:model", args=[model.account.slug, model.name]),
    )


def list_addresses(price: Price) -> list[str]:
    """Of the people who decide for accounts that used the model lately."""
    members = Membership.objects.filter(account__in=_list_used(price).values("account"))
    mailed = choose_mailed(members, Notification.Kind.PRICE)
    return sorted(set(mailed.values_list("user__email", flat=True)))


def _list_used(price: Price) -> QuerySet[UsageEvent]:
    used = UsageEvent.objects.filter(
        creator=price.model.account_id,
        version__model=price.model_id,
        mode=UsageEvent.Mode.LIVE,
        occurred_at__gt=timezone.now() - USED_WITHIN,
    )
    return used.exclude(account=price.model.account_id)


def _send(price: Price, addresses: list[str]) -> None:
    path = reverse("marketplace:model", args=[price.model.account.slug, price.model.name])
    context = {"price": price, "model": str(price.model), "url": f"{settings.WEB_URL}{path}"}
    subject = render_to_string("emails/price_subject.txt", context)
    text = render_to_string("emails/price.txt", context)
    # One each: consumers of a model do not learn of one another.
    for address in addresses:
        send_mail(" ".join(subject.split()), text, None, [address])
