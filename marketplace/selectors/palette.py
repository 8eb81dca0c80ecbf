"""What the palette and the search page find."""

from __future__ import annotations

from django.db.models import Q

from marketplace.core import limits
from marketplace.models import AIModel
from marketplace.selectors.access import Actor, list_accounts, list_visible_models

# What fits a small window; whoever wants more takes the catalogue.
MODELS_MAX = 8
WORDS_MAX = 8


def find_models(actor: Actor, query: str) -> list[AIModel]:
    """Models that the actor may see and whose name, owner or title has all the words."""
    words = query[: limits.SEARCH_LENGTH_MAX].split()[:WORDS_MAX]
    if not words:
        return []
    models = list_visible_models(actor)
    for word in words:
        models = models.filter(
            Q(account__slug__icontains=word) | Q(name__icontains=word) | Q(title__icontains=word)
        )
    return list(models[:MODELS_MAX])


def list_own_slugs(actor: Actor) -> frozenset[str]:
    """The names of the actor's accounts: their models lead to the dashboard as well."""
    return frozenset(list_accounts(actor).values_list("slug", flat=True))
