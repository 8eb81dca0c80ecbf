"""Put models together, for an account. Editors of the platform do so in the admin."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, count
from typing import Any

from django.db import transaction
from django.utils.text import slugify

from marketplace.core import limits
from marketplace.core.errors import ConflictError, NotFoundError
from marketplace.errors import CountLimitError
from marketplace.models import Account, AIModel, Collection, CollectionEntry
from marketplace.selectors.access import Actor
from marketplace.services import audit
from marketplace.services.validation import check_row

FIELDS = frozenset({"title", "summary", "is_public"})
SLUG_LENGTH_MAX = 60


def create_collection(
    *, actor: Actor, account: Account, title: str, summary: str, is_public: bool
) -> Collection:
    """Make an empty collection; its address comes from its title and never changes.

    Args:
        actor: Who makes it; the caller has checked the right to push.
        account: Whose it is.
        title: What it is called.
        summary: Why its models are together.
        is_public: Whether it is shown to everybody.

    Raises:
        InvalidInputError: A field is not valid.
        CountLimitError: The account has as many as it may have.
    """
    collection = Collection(account=account, title=title, summary=summary, is_public=is_public)
    with transaction.atomic():
        # Takes turns per account, so that two that make one at once stay within the limit.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if account.collections.count() >= limits.COLLECTIONS_PER_ACCOUNT_MAX:
            most = limits.COLLECTIONS_PER_ACCOUNT_MAX
            raise CountLimitError(f"An account has at most {most} collections.")
        collection.slug = _find_slug(account, title)
        check_row(collection)
        collection.save(force_insert=True)
        _record(actor, "collection.create", collection, {"is_public": is_public})
    return collection


def _find_slug(account: Account, title: str) -> str:
    """An address from the title that is free; a number follows where it is taken."""
    room = SLUG_LENGTH_MAX - 4
    wanted = slugify(title.replace("_", " "))[:room].strip("-") or "collection"
    taken = set(account.collections.values_list("slug", flat=True))
    numbered = (f"{wanted}-{number}" for number in count(2))
    return next(slug for slug in chain([wanted], numbered) if slug not in taken)


def change_collection(*, actor: Actor, collection: Collection, **fields: Any) -> Collection:
    """Change title, summary or who sees it; the same again changes nothing.

    Raises:
        InvalidInputError: A field is not valid; nothing was changed.
    """
    assert not set(fields) - FIELDS, set(fields) - FIELDS
    with transaction.atomic():
        locked = _lock(collection)
        changed = sorted(key for key, value in fields.items() if getattr(locked, key) != value)
        if changed:
            for key in changed:
                setattr(locked, key, fields[key])
            check_row(locked)
            locked.save()
            details = {"changed": changed, "is_public": locked.is_public}
            _record(actor, "collection.update", locked, details)
    return locked


def delete_collection(*, actor: Actor, collection: Collection) -> None:
    """Take it away with its entries; the models themselves are not touched."""
    with transaction.atomic():
        locked = _lock(collection)
        names = [str(one.model) for one in locked.entries.select_related("model__account")]
        _record(actor, "collection.delete", locked, {"models": names})
        locked.delete()


def add_model(
    *, actor: Actor, collection: Collection, model: AIModel, position: int | None = None
) -> None:
    """Put a model at the end, or at a place; one that is in already stays where it is.

    Args:
        actor: Who does it; the caller has checked that the actor may see the model.
        collection: Into which one.
        model: Any that the actor may see; others see of it what they may see anyway.
        position: Its place from 0, for an undo.

    Raises:
        CountLimitError: The collection has as many models as it may have.
    """

    def put(entries: list[CollectionEntry]) -> list[CollectionEntry] | None:
        if any(one.model_id == model.pk for one in entries):
            return None
        if len(entries) >= limits.OWN_COLLECTION_MODELS_MAX:
            most = limits.OWN_COLLECTION_MODELS_MAX
            raise CountLimitError(f"A collection has at most {most} models.")
        place = len(entries) if position is None else min(position, len(entries))
        entry = CollectionEntry.objects.create(
            collection=collection, model=model, position=len(entries)
        )
        return [*entries[:place], entry, *entries[place:]]

    _arrange(actor, collection, "collection.add", model, put)


def remove_model(*, actor: Actor, collection: Collection, model: AIModel) -> None:
    """Take a model out of the collection; one that is not in it is no mistake."""

    def drop(entries: list[CollectionEntry]) -> list[CollectionEntry] | None:
        gone = [one for one in entries if one.model_id == model.pk]
        if not gone:
            return None
        gone[0].delete()
        return [one for one in entries if one.model_id != model.pk]

    _arrange(actor, collection, "collection.remove", model, drop)


def move_model(*, actor: Actor, collection: Collection, model: AIModel, step: int) -> None:
    """Move a model up (-1) or down (+1); at the end of the list it stays.

    Raises:
        NotFoundError: The model is not in the collection.
    """

    def move(entries: list[CollectionEntry]) -> list[CollectionEntry] | None:
        place = next((at for at, one in enumerate(entries) if one.model_id == model.pk), None)
        if place is None:
            raise NotFoundError("This model is not in the collection.")
        target = place + step
        if not 0 <= target < len(entries):
            return None
        entries[place], entries[target] = entries[target], entries[place]
        return entries

    _arrange(actor, collection, "collection.move", model, move)


def _arrange(
    actor: Actor,
    collection: Collection,
    action: str,
    model: AIModel,
    change: Callable[[list[CollectionEntry]], list[CollectionEntry] | None],
) -> None:
    """Let `change` make another order of the entries, and store it; None leaves all as it is."""
    with transaction.atomic():
        locked = _lock(collection)
        entries = change(list(locked.entries.order_by("position", "pk")))
        if entries is None:
            return
        for place, entry in enumerate(entries):
            entry.position = place
        CollectionEntry.objects.bulk_update(entries, ["position"])
        locked.save(update_fields=["updated_at"])
        _record(actor, action, locked, {"model": str(model)})


def _lock(collection: Collection) -> Collection:
    locked = (
        Collection.objects.select_for_update(of=("self",), no_key=True)
        .select_related("account")
        .filter(pk=collection.pk)
        .first()
    )
    if locked is None:
        raise ConflictError("Somebody else has deleted this collection.")
    return locked


def _record(actor: Actor, action: str, collection: Collection, details: dict[str, Any]) -> None:
    audit.record(
        actor.label,
        action,
        collection,
        account_id=collection.account_id,
        payload={"slug": collection.slug, **details},
    )
