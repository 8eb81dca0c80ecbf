"""Read top-ups."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet

from billing.models import Topup
from marketplace.core.errors import NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts, require_right


def access_topup(actor: Actor, topup_id: UUID) -> Topup:
    """A top-up of one of the actor's accounts."""
    topup = (
        Topup.objects.select_related("account")
        .filter(pk=topup_id, account__in=list_accounts(actor))
        .first()
    )
    if topup is None:
        raise NotFoundError("No such top-up.")
    require_right(actor, topup.account, "read")
    return topup


def list_topups(account: Account) -> QuerySet[Topup]:
    """An account's top-ups, newest first."""
    return Topup.objects.filter(account=account).order_by("-created_at")
