"""What everybody may look at: the catalogue, an owner's models, a model's page."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe
from redis.exceptions import RedisError

from marketplace.context import actor_of
from marketplace.core.card import Card, render_card
from marketplace.core.changes import list_changes
from marketplace.core.describe import (
    describe_inputs,
    describe_outputs,
    describe_policy,
)
from marketplace.core.errors import NotFoundError
from marketplace.models import Account, AIModel, ModelVersion
from marketplace.selectors import catalog
from marketplace.selectors.access import access_model, has_right, list_accounts
from marketplace.selectors.collection import list_account_collections, list_collections
from marketplace.views.browse import browse
from marketplace.views.meta import absolute, describe_page, is_public, item_list
from marketplace.views.paging import page_of

logger = logging.getLogger(__name__)

CARD_CACHE_S = 86_400
# How many versions a model's page shows; creators see them all on a page of their own.
VERSIONS_SHOWN = 10
COLLECTIONS_ON_FRONT = 3


@require_safe
def catalogue(request: HttpRequest) -> HttpResponse:
    """Models on sale: searched, narrowed down, sorted."""
    actor = actor_of(request)
    browsed = browse(request, catalog.list_catalogue(actor))
    is_front = not browsed.is_narrowed and browsed.page.number == 1
    search_url = absolute(f"{request.path}?q={{search_term_string}}")
    meta = describe_page(
        "AI models, paid per prediction",
        "Sealed AI models for every industry. Pay per prediction, call them with the client you "
        "have, and check each charge.",
        request.path,
        is_indexed=is_front,
        data={
            "@type": "WebSite",
            "name": "Strongroom",
            "potentialAction": {
                "@type": "SearchAction",
                "target": {"@type": "EntryPoint", "urlTemplate": search_url},
                "query-input": "required name=search_term_string",
            },
        },
    )
    collections = list(list_collections(actor)[:COLLECTIONS_ON_FRONT]) if is_front else []
    context = {"browse": browsed, "meta": meta, "collections": collections}
    return render(request, "marketplace/catalogue.html", context)


@require_safe
def owner(request: HttpRequest, owner: str) -> HttpResponse:
    """An account, what it says of itself, and its models on sale."""
    actor = actor_of(request)
    account = Account.objects.filter(slug=owner, suspended_at=None).first()
    is_own = list_accounts(actor).filter(slug=owner).exists()
    models = catalog.list_catalogue(actor, account=account) if account else None
    # Who sells nothing is nobody here: account names are not for guessing.
    if account is None or models is None or not (is_own or models.exists()):
        raise NotFoundError("No such account.")
    ordered = catalog.sort_models(models.select_related("entry"), "usage").defer(
        "card", "entry__words", "entry__embedding"
    )
    page = page_of(request, ordered)
    is_person = account.kind == Account.Kind.PERSON
    about = {
        "@type": "Person" if is_person else "Organization",
        "name": account.name,
        "alternateName": account.slug,
        "description": account.bio,
    }
    meta = describe_page(
        f"{account.name} ({account.slug})",
        account.bio or f"Models by {account.name} on Strongroom, paid per prediction.",
        request.path,
        is_indexed=page.paginator.count > 0,
        kind="profile",
        data={"@type": "ProfilePage", "mainEntity": about, "hasPart": item_list(page)},
    )
    context = {
        "owner": account,
        "page": page,
        "is_own": is_own,
        "predictions": catalog.sum_predictions(models),
        "industries": catalog.list_industry_counts(models),
        "collections": list(list_account_collections(actor, account)),
        "meta": meta,
    }
    return render(request, "marketplace/owner.html", context)


@require_safe
def model(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """A model's page; price and try-it form come from the packages that own them."""
    actor = actor_of(request)
    found = access_model(actor, owner, name)
    version = catalog.find_channel_version(found)
    versions = _public_versions(found)
    card = _card(found)
    context: dict[str, Any] = {
        "model": found,
        "version": version,
        "history": _describe_history(versions),
        "card": card,
        # What the listing says itself is not said twice.
        "facts": [one for one in card.facts if not (one[0] == "Licence" and found.licence)],
        "inputs": describe_inputs(version.interface) if version else [],
        "outputs": describe_outputs(version.interface) if version else [],
        "shown": describe_policy(version.output_policy) if version else "",
        "can_push": has_right(actor, found.account, "push"),
    }
    if is_public(found):
        context["meta"] = describe_page(
            found.title,
            found.summary or f"{found} on Strongroom, paid per prediction.",
            request.path,
            is_indexed=version is not None,
            image=reverse("marketplace:social-card", args=[owner, name]),
        )
    return render(request, "marketplace/model.html", context)


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """A version, and what it changed."""

    version: ModelVersion
    changes: list[str]
    is_first: bool


def _public_versions(found: AIModel) -> list[ModelVersion]:
    """The versions that are shown, newest first, and one more to compare the last with."""
    # What is not approved is the creator's own business.
    approved = catalog.list_versions(found).filter(state=ModelVersion.State.APPROVED)
    return list(approved[: VERSIONS_SHOWN + 1])


def _describe_history(versions: list[ModelVersion]) -> list[HistoryLine]:
    lines = []
    for place, one in enumerate(versions[:VERSIONS_SHOWN]):
        before = versions[place + 1] if place + 1 < len(versions) else None
        changes = list_changes(_comparable(one), _comparable(before)) if before else []
        lines.append(HistoryLine(one, changes, is_first=before is None))
    return lines


def _comparable(version: ModelVersion) -> dict[str, Any]:
    names = ("runtime", "interface", "output_policy", "size_bytes")
    return {name: getattr(version, name) for name in names}


def _card(found: AIModel) -> Card:
    key = f"card:4:{hashlib.sha256(found.card.encode()).hexdigest()}"
    try:
        card: Card | None = cache.get(key)
        if card is None:
            card = render_card(found.card)
            cache.set(key, card, CARD_CACHE_S)
    except RedisError:
        logger.warning("redis is away: cards are rendered each time")
        card = render_card(found.card)
    return card
