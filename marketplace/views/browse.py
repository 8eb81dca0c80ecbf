"""The list of models with its search, facets, order and pages: one for all pages that have it.

All of it stands in the address, so that a list can be linked, works without scripts, and the
way back leads to the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.core.paginator import Page
from django.db.models import QuerySet
from django.http import HttpRequest, QueryDict

from marketplace.core import limits
from marketplace.core.search import clean_query
from marketplace.models import AIModel
from marketplace.selectors import catalog, facet, search
from marketplace.selectors.facet import Facet, FacetValue
from marketplace.services import embedding
from marketplace.views.paging import page_of

RELEVANCE = "relevance"


@dataclass(frozen=True, slots=True)
class Group:
    """A facet with its choices."""

    facet: Facet
    values: list[FacetValue]
    has_choice: bool


@dataclass(frozen=True, slots=True)
class Chip:
    """Something that narrows the list, and the address without it."""

    label: str
    value: str
    url: str


@dataclass(frozen=True, slots=True)
class Browse:
    """What the list shows. Templates know it as `browse`."""

    path: str
    query: str
    page: Page[Any]
    groups: list[Group]
    chips: list[Chip]
    sort: str
    sorts: dict[str, str]
    compared: list[str]
    is_compare_full: bool
    # A search that went by words alone, since nobody could say what it means.
    is_words_only: bool
    clear_url: str

    @property
    def is_narrowed(self) -> bool:
        """Whether anything was asked for."""
        return bool(self.query or self.chips)


def browse(request: HttpRequest, models: QuerySet[AIModel], *, without: str = "") -> Browse:
    """Read the address, and find what it asks for.

    Args:
        request: The page's.
        models: All that the page could show; the actor may see them.
        without: A facet that the page itself has chosen.
    """
    query = clean_query(request.GET.get("q", ""))
    facets = [one for one in facet.FACETS if one.name != without]
    choices = {
        one.name: facet.clean_choices(one.name, request.GET.getlist(one.name)) for one in facets
    }
    found, is_words_only = _search(models, query) if query else (None, False)
    if found is not None:
        models = models.filter(pk__in=found)
    sorts = ({RELEVANCE: "Best match"} if query else {}) | catalog.SORTS
    sort = request.GET.get("sort", "")
    sort = sort if sort in sorts else next(iter(sorts))
    narrowed = facet.narrow(models, choices).select_related("entry")
    # A page shows neither words nor embeddings, which are most of a row.
    shown = catalog.sort_models(narrowed, sort, found=found).defer(
        "card", "entry__words", "entry__embedding"
    )
    compared = _read_compared(request)
    address = _address(query, choices, sort if sort != next(iter(sorts)) else "", compared)
    return Browse(
        path=request.path,
        query=query,
        page=page_of(request, shown),
        groups=[_group(models, choices, one) for one in facets],
        chips=_chips(request.path, address, query, choices),
        sort=sort,
        sorts=sorts,
        compared=compared,
        is_compare_full=len(compared) >= limits.COMPARE_MAX,
        is_words_only=is_words_only,
        clear_url=_join(request.path, _address("", {}, "", compared)),
    )


def _search(models: QuerySet[AIModel], query: str) -> tuple[list[UUID], bool]:
    meant = embedding.embed_query(query)
    return search.find_models(models, query=query, meant=meant), meant is None


def _group(models: QuerySet[AIModel], choices: facet.Choices, one: Facet) -> Group:
    values = facet.count_values(models, choices, one)
    return Group(one, values, any(value.is_chosen for value in values))


def _read_compared(request: HttpRequest) -> list[str]:
    """Models that are picked to be compared; names only, looked up by the page that shows them."""
    named = [one for one in request.GET.getlist("compare")[:50] if "/" in one and len(one) <= 110]
    return list(dict.fromkeys(named))[: limits.COMPARE_MAX]


def _address(query: str, choices: facet.Choices, sort: str, compared: list[str]) -> QueryDict:
    address = QueryDict(mutable=True)
    if query:
        address["q"] = query
    for name, values in choices.items():
        if values:
            address.setlist(name, list(values))
    if sort:
        address["sort"] = sort
    if compared:
        address.setlist("compare", compared)
    return address


def _chips(path: str, address: QueryDict, query: str, choices: facet.Choices) -> list[Chip]:
    chips = []
    if query:
        without = address.copy()
        del without["q"]
        chips.append(Chip("Search", query, _join(path, without)))
    for one in facet.FACETS:
        for value in choices.get(one.name, ()):
            without = address.copy()
            without.setlist(one.name, [other for other in choices[one.name] if other != value])
            chips.append(Chip(one.label, facet.label_of(one.name, value), _join(path, without)))
    return chips


def _join(path: str, address: QueryDict) -> str:
    text = address.urlencode()
    return f"{path}?{text}" if text else path
