"""Read royalties: those of a version, and those that an account gets or gives."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db.models import Count, Q, QuerySet, Sum

from billing.models import Royalty, RoyaltyShare
from marketplace.core.errors import NotFoundError
from marketplace.models import Account, ModelVersion
from marketplace.selectors.access import Actor, list_accounts


@dataclass(frozen=True, slots=True)
class RoyaltySum:
    """A royalty and what it has given until now, in nanos."""

    royalty: Royalty
    predictions: int
    amount_nanos: int


def list_royalties(version: ModelVersion) -> QuerySet[Royalty]:
    """All that a version ever promised, those in force first."""
    return _with_names(Royalty.objects.filter(version=version)).order_by("ended_at", "created_at")


def access_royalty(actor: Actor, royalty_id: UUID) -> Royalty:
    """A royalty that one of the actor's accounts gives or gets.

    Raises:
        NotFoundError: There is none, or it is between others.
    """
    own = list_accounts(actor)
    found = (
        _with_names(Royalty.objects.filter(pk=royalty_id))
        .filter(Q(version__model__account__in=own) | Q(beneficiary__in=own))
        .first()
    )
    if found is None:
        raise NotFoundError("No such royalty.")
    return found


def sum_royalties_received(account: Account) -> list[RoyaltySum]:
    """What an account gets, and has got, by royalty, newest first."""
    return _sum(Royalty.objects.filter(beneficiary=account))


def sum_royalties_given(account: Account) -> list[RoyaltySum]:
    """What the versions of an account give, and have given, by royalty, newest first."""
    return _sum(Royalty.objects.filter(version__model__account=account))


def _sum(royalties: QuerySet[Royalty]) -> list[RoyaltySum]:
    found = list(_with_names(royalties).order_by("-created_at"))
    totals = {
        row["royalty"]: row
        for row in RoyaltyShare.objects.filter(royalty__in=found)
        .values("royalty")
        .annotate(nanos=Sum("amount_nanos"), predictions=Count("pk"))
    }
    return [
        RoyaltySum(
            royalty=one,
            predictions=totals[one.pk]["predictions"] if one.pk in totals else 0,
            amount_nanos=totals[one.pk]["nanos"] if one.pk in totals else 0,
        )
        for one in found
    ]


def _with_names(royalties: QuerySet[Royalty]) -> QuerySet[Royalty]:
    return royalties.select_related(
        "version__model__account", "parent__model__account", "beneficiary"
    )
