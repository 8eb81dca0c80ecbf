"""What pages tell search engines and social cards; the sitemap, robots.txt and llms.txt.

Only what an anonymous visitor may see is named here: all of it is read as `ANONYMOUS`,
whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from xml.sax.saxutils import escape

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_safe

from marketplace.core import limits
from marketplace.core.industries import BY_SLUG
from marketplace.models import AIModel
from marketplace.selectors import catalog
from marketplace.selectors.access import ANONYMOUS
from marketplace.selectors.collection import list_collections
from marketplace.selectors.docs import load_docs
from marketplace.selectors.incident import list_visible_incidents

_SCHEMA = "https://schema.org"
# What begins something in Markdown.
_MARKS = str.maketrans(dict.fromkeys("[]()<>`#*_", " "))
# What is nobody's business but its owner's, or no page.
_CLOSED = (
    *("/admin/", "/api/", "/panels/", "/console", "/dashboard", "/account", "/accounts/"),
    *("/login", "/log-out", "/sign-up", "/password-reset", "/profile", "/home", "/compare"),
    *("/platform", "/runs"),
)
# Source of the form: llmstxt.org. The place of each line is the gateway.
_LLMS = """# Strongroom

> A marketplace of AI models: predictions are sold one by one, the weights stay sealed.
> Every charge has a signed receipt.

Send `Authorization: Bearer <key>` with every request; people make keys at {web}/console/keys.
Failed predictions are never charged. A request with an `Idempotency-Key` is charged once,
however often it is sent.

## API

- [Documentation]({web}/docs): guides, and both APIs with an example of each address
- [Description]({gateway}/openapi.json): OpenAPI 3.1, every address, schema and error code
- [Models]({gateway}/openai/v1/models): what your key may run
- Run one: `POST {gateway}/v1/models/OWNER/NAME/predictions` with `{{"input": {{...}}}}`
- What it would cost: `POST {gateway}/v1/price` with the version and the same input
- Clients of MCP: `{gateway}/mcp` (Streamable HTTP) has tools to find, price and run models
- Clients of OpenAI: base URL `{gateway}/openai/v1`; of the Open Inference Protocol: `{gateway}/v2`

## Models

{models}
"""


def describe_page(
    title: str,
    description: str,
    path: str,
    *,
    is_indexed: bool = True,
    kind: str = "website",
    data: dict[str, Any] | None = None,
    image: str = "",
) -> dict[str, Any]:
    """The context `meta` of `marketplace/_meta.html`.

    Args:
        title: Of the page.
        description: A sentence; shown by search engines and in messengers.
        path: Under which the page is known, without what only arranges it.
        is_indexed: False for lists that somebody asked for, of which there are endless.
        kind: As Open Graph calls it.
        data: What it is about, in the words of schema.org.
        image: The path of its picture; the site's own without one.
    """
    url = absolute(path)
    return {
        "title": title,
        "description": description,
        "url": url,
        "is_indexed": is_indexed,
        "kind": kind,
        "image": absolute(image or reverse("marketplace:site-card")),
        "data": {"@context": _SCHEMA, "url": url, **data} if data else None,
    }


def absolute(path: str) -> str:
    """The address of a path, as others know it."""
    return f"{settings.WEB_URL}{path}"


def model_path(model: AIModel) -> str:
    """Where a model's page is."""
    return reverse("marketplace:model", args=[model.account.slug, model.name])


def is_public(model: AIModel) -> bool:
    """Whether everybody may see it."""
    return (
        model.visibility == AIModel.Visibility.PUBLIC
        and model.suspended_at is None
        and model.account.suspended_at is None
    )


def item_list(models: Iterable[AIModel]) -> dict[str, Any]:
    """The models of a list, as search engines read them; what not everybody sees is left out."""
    public = [one for one in models if is_public(one)]
    return {
        "@type": "ItemList",
        "itemListElement": [
            {
                "@type": "ListItem",
                "position": place,
                "name": one.title,
                "url": absolute(model_path(one)),
            }
            for place, one in enumerate(public, 1)
        ],
    }


@require_safe
def robots(request: HttpRequest) -> HttpResponse:
    """What crawlers may read."""
    lines = ["User-agent: *", *(f"Disallow: {path}" for path in _CLOSED), ""]
    lines.append(f"Sitemap: {absolute(reverse('marketplace:sitemap'))}")
    return HttpResponse("\n".join(lines) + "\n", content_type="text/plain; charset=utf-8")


@require_safe
def llms(request: HttpRequest) -> HttpResponse:
    """What a language model needs to know to buy predictions here."""
    rows = catalog.list_catalogue(ANONYMOUS)[: limits.LLMS_MODELS_MAX]
    models = [
        f"- [{model}]({absolute(model_path(model))}): {_one_line(model.summary or model.title)}"
        for model in rows
    ]
    text = _LLMS.format(
        web=settings.WEB_URL,
        gateway=settings.GATEWAY_URL,
        models="\n".join(models) or "Nothing is on sale yet.",
    )
    return HttpResponse(text, content_type="text/plain; charset=utf-8")


def _one_line(text: str) -> str:
    """A creator's words as words: no line, link or code of its own."""
    return " ".join(text.translate(_MARKS).split())


@require_safe
def sitemap(request: HttpRequest) -> HttpResponse:
    """All pages that everybody may see."""
    entries = [*_list_pages(), *_list_incidents(), *_list_models()]
    rows = [
        f"<url><loc>{escape(absolute(path))}</loc>"
        + (f"<lastmod>{changed}</lastmod>" if changed else "")
        + "</url>"
        for path, changed in entries[: limits.SITEMAP_ADDRESSES_MAX]
    ]
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    head += '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
    body = head + "\n".join(rows) + "\n</urlset>\n"
    return HttpResponse(body, content_type="application/xml; charset=utf-8")


def _list_pages() -> list[tuple[str, str]]:
    models = catalog.list_catalogue(ANONYMOUS)
    pages = [(reverse("marketplace:catalogue"), ""), (reverse("marketplace:industries"), "")]
    counts = catalog.list_industry_counts(models)
    pages += [
        (reverse("marketplace:industry", args=[slug]), "") for slug in BY_SLUG if slug in counts
    ]
    pages += [(reverse(f"marketplace:{name}"), "") for name in ("docs", "docs-reference", "status")]
    pages += [(page.url, "") for page in load_docs().pages]
    collections = list(list_collections(ANONYMOUS))
    if collections:
        pages.append((reverse("marketplace:collections"), ""))
    pages += [
        (reverse("marketplace:collection", args=[one.slug]), one.updated_at.date().isoformat())
        for one in collections
    ]
    owners = models.order_by("account__slug").values_list("account__slug", flat=True).distinct()
    pages += [
        (reverse("marketplace:owner", args=[slug]), "")
        for slug in owners[: limits.SITEMAP_ADDRESSES_MAX]
    ]
    return pages


def _list_incidents() -> list[tuple[str, str]]:
    rows = list_visible_incidents(ANONYMOUS).values_list("pk", "updated_at")
    return [
        (reverse("marketplace:incident", args=[pk]), changed.date().isoformat())
        for pk, changed in rows[: limits.SITEMAP_ADDRESSES_MAX]
    ]


def _list_models() -> list[tuple[str, str]]:
    """The page of each model, and then how each is served."""
    rows = catalog.list_catalogue(ANONYMOUS).values_list("account__slug", "name", "updated_at")
    found = list(rows[: limits.SITEMAP_ADDRESSES_MAX])
    models = [
        (reverse("marketplace:model", args=[slug, name]), changed.date().isoformat())
        for slug, name, changed in found
    ]
    # How it is served changes by the minute, so there is no day on which it did.
    return models + [
        (reverse("inference:model-status", args=[slug, name]), "") for slug, name, _ in found
    ]
