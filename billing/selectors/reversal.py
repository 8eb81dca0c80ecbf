"""Read what was given back, by consumer and by creator; and what could be."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from uuid import UUID

from django.db.models import Q, QuerySet, Sum

from billing.models import UsageEvent, UsageReversal
from billing.selectors.usage import UsageFilter, choose_usage
from marketplace.core import ids
from marketplace.core.errors import NotFoundError
from marketplace.models import Account
from marketplace.selectors.access import Actor, list_accounts, require_right
from marketplace.selectors.found import get_one


def access_charge(actor: Actor, public_id: str, right: str) -> UsageEvent:
    """A prediction that was charged, of a model of the actor's own, or any for an admin.

    Raises:
        NotFoundError: No such charge, or somebody else's model.
        ForbiddenError: The right is missing.
    """
    try:
        prediction_id = ids.from_public(public_id.strip())
    except ValueError:
        raise NotFoundError("No such prediction.") from None
    events = UsageEvent.objects.select_related("version__model__account", "account", "creator")
    if not actor.is_admin:
        events = events.filter(creator__in=list_accounts(actor))
    event = get_one(events.filter(pk=prediction_id, gross_nanos__gt=0), "No such prediction.")
    if not actor.is_admin:
        require_right(actor, event.creator, right)
    return event


def find_reversal(prediction_id: UUID) -> UsageReversal | None:
    """What went back of a prediction; None if nothing did."""
    return UsageReversal.objects.filter(pk=prediction_id).first()


def access_reversal(actor: Actor, public_id: str) -> UsageReversal | None:
    """What went back of a prediction of the actor's own, or of its own model; None if nothing.

    Raises:
        NotFoundError: Not a prediction that the actor may know of.
    """
    try:
        prediction_id = ids.from_public(public_id)
    except ValueError:
        raise NotFoundError("No such prediction.") from None
    events = UsageEvent.objects.filter(pk=prediction_id)
    if not actor.is_admin:
        own = list_accounts(actor)
        events = events.filter(Q(account__in=own) | Q(creator__in=own))
    if not events.exists():
        raise NotFoundError("No such prediction.")
    return find_reversal(prediction_id)


def map_reversals(prediction_ids: Iterable[UUID]) -> dict[UUID, UsageReversal]:
    """What went back, by prediction; those of which nothing did are left out."""
    return UsageReversal.objects.in_bulk(list(prediction_ids))


def sum_chosen_reversals(account: Account, chosen: UsageFilter) -> int:
    """How much of a part of an account's usage went back, in nanos."""
    reversals = UsageReversal.objects.filter(account=account)
    if chosen != UsageFilter():
        events = choose_usage(UsageEvent.objects.filter(account=account), chosen)
        reversals = reversals.filter(prediction_id__in=events.values("prediction_id"))
    return sum_given_back(reversals)[0]


def list_given_back(creator: Account, since: date | None = None) -> QuerySet[UsageReversal]:
    """What a creator's models gave back, newest first; all of it, or from a day of UTC's on."""
    rows = UsageReversal.objects.filter(creator=creator).order_by("-created_at")
    if since is None:
        return rows
    return rows.filter(created_at__gte=datetime.combine(since, time(), UTC))


def list_all_given_back() -> QuerySet[UsageReversal]:
    """What anybody gave back, newest first."""
    return UsageReversal.objects.select_related("account", "creator").order_by("-created_at")


def sum_given_back(reversals: QuerySet[UsageReversal]) -> tuple[int, int]:
    """Gross and creators' part, in nanos, of some reversals."""
    sums = reversals.aggregate(gross=Sum("gross_nanos"), share=Sum("creator_nanos"))
    return sums["gross"] or 0, sums["share"] or 0
