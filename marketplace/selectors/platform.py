"""What the overview of the platform shows of the marketplace, and its search for accounts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Count, Exists, Min, OuterRef, Q, QuerySet

from marketplace.models import (
    Account,
    AIModel,
    APIKey,
    Membership,
    ModelVersion,
    Report,
    Takedown,
    User,
)
from marketplace.selectors.found import get_one


@dataclass(frozen=True, slots=True)
class Waiting:
    """Decisions that wait: how many, and since when the first does."""

    label: str
    url: str
    count: int
    oldest: datetime | None


def count_reviews() -> tuple[int, datetime | None]:
    """Versions that wait for an admin."""
    rows = ModelVersion.objects.filter(state=ModelVersion.State.IN_REVIEW)
    return _count(rows, "created_at")


def count_reports() -> tuple[int, datetime | None]:
    """Reports that wait for an admin."""
    return _count(Report.objects.filter(state=Report.State.OPEN), "created_at")


def count_appeals() -> tuple[int, datetime | None]:
    """Appeals that wait for an admin."""
    rows = Takedown.objects.filter(appealed_at__isnull=False, answered_at=None)
    return _count(rows, "appealed_at")


def search_accounts(query: str) -> QuerySet[Account]:
    """Accounts by a part of the name or of a member's address, a key's hint, or an id."""
    accounts = Account.objects.annotate(
        model_count=Count("models", distinct=True), member_count=Count("members", distinct=True)
    ).order_by("slug")
    query = query.replace("\x00", "").strip()
    if not query:
        return accounts
    member = Membership.objects.filter(account=OuterRef("pk"), user__email__icontains=query)
    key = APIKey.objects.filter(account=OuterRef("pk"), hint=query)
    found = Q(slug__icontains=query) | Q(name__icontains=query) | Exists(member) | Exists(key)
    with contextlib.suppress(ValueError):
        found |= Q(pk=UUID(query))
    return accounts.filter(found)


def get_account(slug: str) -> Account:
    """Any account, for platform admins.

    Raises:
        NotFoundError: None of that name.
    """
    return get_one(Account.objects.filter(slug=slug), "No such account.")


def get_person(person_id: UUID) -> User:
    """Anybody, for platform admins.

    Raises:
        NotFoundError: None of this id.
    """
    return get_one(User.objects.filter(pk=person_id), "No such person.")


def get_model(owner: str, name: str) -> AIModel:
    """Any model, for platform admins.

    Raises:
        NotFoundError: None of that name.
    """
    return get_one(
        AIModel.objects.select_related("account").filter(account__slug=owner, name=name),
        "No such model.",
    )


def _count(
    rows: QuerySet[Report] | QuerySet[Takedown] | QuerySet[ModelVersion], field: str
) -> tuple[int, datetime | None]:
    found = rows.aggregate(count=Count("pk"), oldest=Min(field))
    return found["count"], found["oldest"]
