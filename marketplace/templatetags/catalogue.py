"""Tags of the catalogue's pages."""

from __future__ import annotations

import json
from typing import Any

from django import template
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from marketplace.core.industries import title_of

register = template.Library()

# What would end the element or begin a comment in it.
_ESCAPES = {ord(">"): "\\u003E", ord("<"): "\\u003C", ord("&"): "\\u0026"}


@register.simple_tag
def jsonld(data: Any) -> SafeString:
    """Facts for search engines: a block of data, which no browser runs."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_ESCAPES)
    return format_html(
        '<script type="application/ld+json">{}</script>',
        mark_safe(text),  # noqa: S308 - cannot leave its element, see above
    )


@register.simple_tag(takes_context=True)
def compare_url(context: template.Context, reference: str) -> str:
    """This page with a model picked for comparison, or not picked any more."""
    request: HttpRequest = context["request"]
    address = request.GET.copy()
    picked = list(dict.fromkeys(address.getlist("compare")))
    picked = (
        [one for one in picked if one != reference] if reference in picked else [*picked, reference]
    )
    address.setlist("compare", picked)
    text = address.urlencode()
    return f"{request.path}?{text}" if text else request.path


@register.filter
def industry(slug: str) -> str:
    """What an industry is called."""
    return title_of(slug)


@register.filter
def short_count(number: int | None) -> str:
    """A number of predictions as one says it: 1,234,567 is 1.2 M."""
    value = number or 0
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if value >= size:
            tenths = value * 10 // size
            return f"{tenths // 10} {unit}" if tenths >= 100 else f"{tenths / 10:g} {unit}"
    return str(value)


@register.filter
def milliseconds(value: float | None) -> str:
    """A latency as one says it."""
    if value is None:
        return "—"
    if value >= 1_000:
        return f"{value / 1_000:.2f} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"
