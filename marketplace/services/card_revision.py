"""Keep what a card says, whoever changed it: a push, the listing's form or the editor."""

from __future__ import annotations

from marketplace.core import limits
from marketplace.models import AIModel, CardRevision
from marketplace.selectors.card import current_number


def keep_revision(model: AIModel, *, before: str, author: str) -> CardRevision:
    """Add the card's state, in the transaction that changes it; the oldest give way.

    Args:
        model: With its new card, locked by the caller.
        before: What the card said until now; kept as well where it never was.
        author: Who changed it, as `Actor.label` says.
    """
    number = current_number(model)
    if number == 0 and before:
        number = 1
        CardRevision.objects.create(model=model, number=1, text=before)
    number += 1
    revision = CardRevision.objects.create(
        model=model, number=number, text=model.card, author=author
    )
    model.card_revisions.filter(number__lte=number - limits.CARD_REVISIONS_MAX).delete()
    return revision
