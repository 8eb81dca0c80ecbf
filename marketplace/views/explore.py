"""Ways into the catalogue: industries, collections, and models side by side."""

from __future__ import annotations

from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from marketplace.context import actor_of
from marketplace.core import limits
from marketplace.core.errors import NotFoundError
from marketplace.core.industries import BY_SLUG, INDUSTRIES
from marketplace.selectors import catalog
from marketplace.selectors import collection as collections_of
from marketplace.selectors.compare import compare as compare_models
from marketplace.views.browse import browse
from marketplace.views.meta import describe_page, item_list
from marketplace.views.paging import page_of


@require_safe
def industries(request: HttpRequest) -> HttpResponse:
    """All industries, with what each has."""
    counts = catalog.list_industry_counts(catalog.list_catalogue(actor_of(request)))
    meta = describe_page(
        "Industries",
        "Models for finance, healthcare, telecom, retail, manufacturing and more, paid per "
        "prediction.",
        request.path,
    )
    rows = [(one, counts.get(one.slug, 0)) for one in INDUSTRIES]
    return render(request, "marketplace/industries.html", {"rows": rows, "meta": meta})


@require_safe
def industry(request: HttpRequest, slug: str) -> HttpResponse:
    """The catalogue of one industry."""
    found = BY_SLUG.get(slug)
    if found is None:
        raise NotFoundError("No such industry.")
    models = catalog.list_catalogue(actor_of(request)).filter(industry=slug)
    browsed = browse(request, models, without="industry")
    meta = describe_page(
        f"AI models for {found.title.lower()}",
        found.summary,
        request.path,
        is_indexed=not browsed.is_narrowed,
        data={
            "@type": "CollectionPage",
            "name": found.title,
            "mainEntity": item_list(browsed.page),
        },
    )
    context = {"industry": found, "browse": browsed, "meta": meta}
    return render(request, "marketplace/industry.html", context)


@require_safe
def collections(request: HttpRequest) -> HttpResponse:
    """What editors have put together."""
    found = list(collections_of.list_collections(actor_of(request)))
    meta = describe_page(
        "Collections", "Models picked and put together by the editors of Strongroom.", request.path
    )
    return render(request, "marketplace/collections.html", {"collections": found, "meta": meta})


@require_safe
def collection(request: HttpRequest, slug: str) -> HttpResponse:
    """One collection, in its editor's order."""
    actor = actor_of(request)
    found = collections_of.access_collection(actor, slug)
    models = collections_of.list_collection_models(actor, found)
    page = page_of(request, models.select_related("entry").defer("card"))
    meta = describe_page(
        found.title,
        found.summary or f"The collection {found.title} on Strongroom.",
        request.path,
        is_indexed=found.is_public,
        data={"@type": "CollectionPage", "name": found.title, "mainEntity": item_list(page)},
    )
    context = {"collection": found, "page": page, "meta": meta}
    return render(request, "marketplace/collection.html", context)


@require_safe
def compare(request: HttpRequest) -> HttpResponse:
    """Up to four models side by side."""
    comparison = compare_models(actor_of(request), request.GET.getlist("m"))
    kept = [one.reference for one in comparison.columns]
    columns = [
        (one, _compare_url([name for name in kept if name != one.reference]))
        for one in comparison.columns
    ]
    meta = describe_page(
        "Compare models",
        "Price, measured speed, memory, limits and licence of models, side by side.",
        request.path,
        is_indexed=False,
    )
    context = {
        "columns": columns,
        "missing": comparison.missing,
        "left_out": comparison.left_out,
        "most": limits.COMPARE_MAX,
        "add_url": f"{reverse('marketplace:catalogue')}?{_query('compare', kept)}",
        "meta": meta,
    }
    return render(request, "marketplace/compare.html", context)


def _compare_url(references: list[str]) -> str:
    return f"{reverse('marketplace:compare')}?{_query('m', references)}"


def _query(name: str, values: list[str]) -> str:
    return urlencode({name: values}, doseq=True, safe="/:")
