"""Read models, versions and channels. Who may see what is in `selectors.access`."""

from __future__ import annotations

from uuid import UUID

from django.contrib.postgres.fields import ArrayField
from django.db.models import (
    Count,
    Exists,
    F,
    Func,
    IntegerField,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Subquery,
    Sum,
    UUIDField,
    Value,
)

from marketplace.core import limits
from marketplace.models import Account, AIModel, Channel, ModelVersion
from marketplace.selectors.access import Actor, list_visible_models
from marketplace.selectors.found import get_one


def list_catalogue(
    actor: Actor, *, query: str = "", task: str = "", account: Account | None = None
) -> QuerySet[AIModel]:
    """Models on sale: visible to the actor, with a version in the channel `prod`.

    Args:
        actor: Who looks.
        query: Words that all occur in owner, name, title or summary.
        task: Only this task.
        account: Only this owner's.
    """
    on_sale = Channel.objects.filter(model=OuterRef("pk"), name=Channel.Name.PROD)
    models = list_visible_models(actor).filter(Exists(on_sale))
    if account is not None:
        models = models.filter(account=account)
    if task:
        models = models.filter(task=task)
    for word in query[: limits.SEARCH_LENGTH_MAX].split():
        models = models.filter(
            Q(account__slug__icontains=word)
            | Q(name__icontains=word)
            | Q(title__icontains=word)
            | Q(summary__icontains=word)
        )
    return models


def list_models(account: Account) -> QuerySet[AIModel]:
    """All models of an account, by name.

    Each carries `prod_number`, `latest_number` and `latest_state`: the version in `prod`, and
    the newest; None where there is none.
    """
    latest = ModelVersion.objects.filter(model=OuterRef("pk")).order_by("-number")
    prod = Channel.objects.filter(model=OuterRef("pk"), name=Channel.Name.PROD)
    return (
        AIModel.objects.filter(account=account)
        .select_related("account")
        .annotate(
            prod_number=Subquery(prod.values("version__number")),
            latest_number=Subquery(latest.values("number")[:1]),
            latest_state=Subquery(latest.values("state")[:1]),
        )
        .order_by("name")
    )


def list_versions(model: AIModel) -> QuerySet[ModelVersion]:
    """All versions of a model, newest first, with their channels."""
    return (
        model.versions.select_related("model__account", "created_by")
        .prefetch_related(Prefetch("channels", Channel.objects.order_by("name")))
        .order_by("-number")
    )


def list_channel_names(version: ModelVersion) -> list[str]:
    """The channels that name a version, by name; uses what was prefetched."""
    return sorted(channel.name for channel in version.channels.all())


def get_version(model: AIModel, number: int) -> ModelVersion:
    """A model's version by its number.

    Raises:
        NotFoundError: The model has no such version.
    """
    return get_one(list_versions(model).filter(number=number), "No such version.")


def find_channel_version(model: AIModel, channel: str = Channel.Name.PROD) -> ModelVersion | None:
    """The version that a channel names."""
    return list_versions(model).filter(channels__name=channel).first()


def list_review_queue() -> QuerySet[ModelVersion]:
    """Versions that wait for an admin, the longest waiting first."""
    return (
        ModelVersion.objects.filter(state=ModelVersion.State.IN_REVIEW)
        .select_related("model__account", "created_by")
        .order_by("created_at")
    )


# How the catalogue can be sorted: by what, and what it is called.
SORTS = {
    "usage": "Most used",
    "price": "Lowest price",
    "speed": "Fastest",
    "newest": "Newest",
}
_ORDERS = {
    "usage": (F("entry__predictions_30d").desc(nulls_last=True),),
    # What is metered costs more than its number says: after all that is plain.
    "price": (
        F("entry__price_is_plain").desc(nulls_last=True),
        F("entry__price_nanos").asc(nulls_last=True),
    ),
    "speed": (F("entry__p50_ms").asc(nulls_last=True),),
    "newest": (F("entry__published_at").desc(nulls_last=True),),
}


class ArrayPosition(Func):
    """Where a value stands in a list."""

    function = "array_position"
    output_field = IntegerField()


def sort_models(
    models: QuerySet[AIModel], sort: str, *, found: list[UUID] | None = None
) -> QuerySet[AIModel]:
    """Models in an order that is the same on every page; by relevance where `found` tells it.

    Args:
        models: What is sorted.
        sort: One of `SORTS`; anything else is by relevance.
        found: What a search found, the best first.
    """
    if sort in _ORDERS:
        return models.order_by(*_ORDERS[sort], "account__slug", "name")
    if found is None:
        return models.order_by("account__slug", "name")
    places = Value(found, output_field=ArrayField(UUIDField()))
    return models.order_by(ArrayPosition(places, F("pk")))


def list_industry_counts(models: QuerySet[AIModel]) -> dict[str, int]:
    """How many of these models name each industry."""
    rows = models.exclude(industry="").order_by().values_list("industry")
    return dict(rows.annotate(count=Count("pk")))


def sum_predictions(models: QuerySet[AIModel]) -> int:
    """How often these models were used in 30 days together."""
    return int(models.aggregate(sum=Sum("entry__predictions_30d"))["sum"] or 0)
