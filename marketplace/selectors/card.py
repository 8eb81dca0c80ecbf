"""Read the states that a model's card had."""

from __future__ import annotations

from django.db.models import Max, QuerySet
from django.db.models.functions import Length

from marketplace.models import AIModel, CardRevision
from marketplace.selectors.found import get_one


def current_number(model: AIModel) -> int:
    """The number of the card's newest state; 0 where it never changed since it is kept."""
    return model.card_revisions.aggregate(last=Max("number"))["last"] or 0


def list_revisions(model: AIModel) -> QuerySet[CardRevision]:
    """The states that are kept, newest first, with their `length` and without their text."""
    revisions = model.card_revisions.defer("text").annotate(length=Length("text"))
    return revisions.order_by("-number")


def get_revision(model: AIModel, number: int) -> CardRevision:
    """One state of the card.

    Raises:
        NotFoundError: There was none of this number, or it is not kept any more.
    """
    return get_one(model.card_revisions.filter(number=number), "No such state of the card is kept.")


def find_before(revision: CardRevision) -> CardRevision | None:
    """The state before this one, where it is kept."""
    earlier = CardRevision.objects.filter(model=revision.model_id, number__lt=revision.number)
    return earlier.order_by("-number").first()
