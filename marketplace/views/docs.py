"""The documentation: guides, the reference of both APIs, and search over all of it.

Pages are the same for everybody but for what stands around them (the theme, who is signed in,
announcements), so each answer has a tag of its content: a browser that asks again is told that
nothing has changed.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.cache import get_conditional_response, patch_cache_control, patch_vary_headers
from django.views.decorators.http import require_safe

from marketplace.core import limits
from marketplace.selectors.docs import (
    APIS,
    Page,
    get_page,
    load_docs,
    read_document,
    search_docs,
)
from marketplace.views.meta import describe_page

# The documents change with a new release only.
DOCUMENT_MAX_AGE_S = 300
# Django masks the token anew for each page; what it stands for stays.
_TOKEN = re.compile(rb'"X-CSRFToken": "(\w+)"')


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Where to begin."""
    meta = describe_page(
        "Documentation",
        "Guides for buying and selling predictions, and the reference of both APIs.",
        request.path,
    )
    return _show(request, "docs/index.html", {"meta": meta})


@require_safe
def guide(request: HttpRequest, section: str, page: str) -> HttpResponse:
    """A guide."""
    return _show_page(request, "docs/guide.html", get_page(request.path))


@require_safe
def reference(request: HttpRequest) -> HttpResponse:
    """Both APIs, and their documents."""
    meta = describe_page(
        "API reference",
        "Every address of the prediction API and of the management API.",
        request.path,
    )
    documents = [(api, label) for api, (label, _) in APIS.items()]
    return _show(request, "docs/reference.html", {"meta": meta, "documents": documents})


@require_safe
def area(request: HttpRequest, api: str, area: str) -> HttpResponse:
    """The addresses of one area."""
    return _show_page(request, "docs/area.html", get_page(request.path))


@require_safe
def openapi(request: HttpRequest, api: str) -> HttpResponse:
    """An OpenAPI document to download."""
    response = HttpResponse(read_document(api), content_type="application/json")
    response["Content-Disposition"] = f'attachment; filename="strongroom-{api}.openapi.json"'
    patch_cache_control(response, public=True, max_age=DOCUMENT_MAX_AGE_S)
    return _tag(request, response)


@require_safe
def search(request: HttpRequest) -> HttpResponse:
    """What the documentation says about `?q=`; the beginning of a query that is too long."""
    query = request.GET.get("q", "").strip()[: limits.SEARCH_LENGTH_MAX]
    meta = describe_page(
        "Search the documentation",
        "Guides and reference by words.",
        request.path,
        is_indexed=False,
    )
    context = {"meta": meta, "query": query, "results": search_docs(query)}
    return _show(request, "docs/search.html", context)


def _show_page(request: HttpRequest, template: str, page: Page) -> HttpResponse:
    before, after = load_docs().neighbours(page)
    data = {"@type": "TechArticle", "headline": page.title}
    meta = describe_page(page.title, page.description, page.url, kind="article", data=data)
    context = {"page": page, "before": before, "after": after, "meta": meta}
    return _show(request, template, context)


def _show(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    shared = {"groups": load_docs().groups, "length_max": limits.SEARCH_LENGTH_MAX}
    shared["reference_url"] = reverse("marketplace:docs-reference")
    response = render(request, template, shared | context)
    # Kept by a browser, which asks each time: the theme and who is signed in stand around it.
    patch_cache_control(response, private=True, no_cache=True)
    patch_vary_headers(response, ["Cookie"])
    return _tag(request, response)


def _tag(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """The response with a tag of its content, or 304 where the browser has that."""
    content = response.content
    if marked := _TOKEN.search(content):
        content = content.replace(marked[1], b"")
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    response["ETag"] = tag
    return get_conditional_response(request, etag=tag, response=response) or response
