"""Read collections. A model that the actor may not see is not in any of them."""

from __future__ import annotations

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from marketplace.core import limits
from marketplace.core.errors import NotFoundError
from marketplace.models import AIModel, Collection, CollectionEntry
from marketplace.selectors.access import Actor
from marketplace.selectors.catalog import list_catalogue


def list_collections(actor: Actor) -> QuerySet[Collection]:
    """Public collections with `model_count`, what of each the actor would find on its page."""
    shown = (
        CollectionEntry.objects.filter(
            collection=OuterRef("pk"), model__in=list_catalogue(actor).order_by().values("pk")
        )
        .order_by()
        .values("collection")
        .annotate(count=Count("pk"))
        .values("count")
    )
    return (
        Collection.objects.filter(is_public=True)
        .annotate(model_count=Coalesce(Subquery(shown), 0))
        .filter(model_count__gt=0)
        .order_by("title", "pk")[: limits.COLLECTIONS_SHOWN_MAX]
    )


def access_collection(actor: Actor, slug: str) -> Collection:
    """A public collection; platform admins also see one before it is shown.

    Raises:
        NotFoundError: There is none, or it is not shown yet.
    """
    collections = Collection.objects.all()
    if not actor.is_admin:
        collections = collections.filter(is_public=True)
    found = collections.filter(slug=slug).first()
    if found is None:
        raise NotFoundError("No such collection.")
    return found


def list_collection_models(actor: Actor, collection: Collection) -> QuerySet[AIModel]:
    """What of a collection the actor may see, in the editor's order."""
    place = CollectionEntry.objects.filter(collection=collection, model=OuterRef("pk"))
    return (
        list_catalogue(actor)
        .annotate(position=Subquery(place.values("position")[:1]))
        .filter(position__isnull=False)
        .order_by("position", "account__slug", "name")
    )
