"""Read collections. A model that the actor may not see is not in any of them."""

from __future__ import annotations

from typing import Any

from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from marketplace.core import limits
from marketplace.core.errors import NotFoundError
from marketplace.models import Account, AIModel, Collection, CollectionEntry
from marketplace.selectors.access import Actor, access_account, list_accounts
from marketplace.selectors.catalog import list_catalogue
from marketplace.selectors.found import get_one


def _with_counts(actor: Actor, collections: QuerySet[Collection]) -> QuerySet[Any]:
    """Each with `model_count`, what of it the actor would find on its page."""
    shown = (
        CollectionEntry.objects.filter(
            collection=OuterRef("pk"), model__in=list_catalogue(actor).order_by().values("pk")
        )
        .order_by()
        .values("collection")
        .annotate(count=Count("pk"))
        .values("count")
    )
    return collections.annotate(model_count=Coalesce(Subquery(shown), 0))


def list_collections(actor: Actor) -> QuerySet[Collection]:
    """The editors' public collections with `model_count`; empty ones are left out."""
    public = Collection.objects.filter(account=None, is_public=True)
    shown = _with_counts(actor, public).filter(model_count__gt=0)
    return shown.order_by("title", "pk")[: limits.COLLECTIONS_SHOWN_MAX]


def access_collection(actor: Actor, slug: str) -> Collection:
    """An editors' public collection; platform admins also see one before it is shown.

    Raises:
        NotFoundError: There is none, or it is not shown yet.
    """
    collections = Collection.objects.filter(account=None)
    if not actor.is_admin:
        collections = collections.filter(is_public=True)
    return get_one(collections.filter(slug=slug), "No such collection.")


def list_account_collections(actor: Actor, account: Account) -> QuerySet[Collection]:
    """An account's collections with `model_count`, by title.

    Its members see all; others the public ones in which there is something for them.
    """
    collections = _with_counts(actor, Collection.objects.filter(account=account))
    if not list_accounts(actor).filter(pk=account.pk).exists():
        collections = collections.filter(is_public=True, model_count__gt=0)
    return collections.order_by("title", "pk")


def access_account_collection(actor: Actor, owner: str, slug: str) -> Collection:
    """An account's collection: public, of an account that is not suspended, or the actor's own.

    Raises:
        NotFoundError: There is none that the actor may see.
    """
    found = Collection.objects.select_related("account").filter(account__slug=owner, slug=slug)
    own = found.filter(account__in=list_accounts(actor))
    collection = own.first() or found.filter(is_public=True, account__suspended_at=None).first()
    if collection is None:
        raise NotFoundError("No such collection.")
    return collection


def access_own_collection(actor: Actor, owner: str, slug: str, right: str = "push") -> Collection:
    """A collection of one of the actor's accounts, to change it.

    Raises:
        NotFoundError: Not the actor's account, or it has no such collection.
        ForbiddenError: The actor belongs to the account, without this right.
    """
    account = access_account(actor, owner, right)
    return get_one(
        account.collections.select_related("account").filter(slug=slug), "No such collection."
    )


def list_collection_models(actor: Actor, collection: Collection) -> QuerySet[AIModel]:
    """What of a collection the actor may see, in its editor's order."""
    place = CollectionEntry.objects.filter(collection=collection, model=OuterRef("pk"))
    return (
        list_catalogue(actor)
        .annotate(position=Subquery(place.values("position")[:1]))
        .filter(position__isnull=False)
        .order_by("position", "account__slug", "name")
    )


def list_entries(collection: Collection) -> QuerySet[CollectionEntry]:
    """All entries in their order, for those who edit the collection."""
    return collection.entries.select_related("model__account").order_by("position", "pk")
