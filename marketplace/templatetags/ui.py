"""The building blocks of pages: `{% load ui %}`.

Blocks with content: `{% card "Title" %}…{% endcard %}`, `{% datatable "Label" %}<thead>…
{% enddatatable %}`, `{% emptystate "Title" icon="key" %}…{% endemptystate %}`,
`{% notice "warn" %}…{% endnotice %}`. Single tags: `badge`, `stat`, `field`, `copy`, `icon`,
`panel`, `pagination`, `ago`, `crumb`, `navlink`. Filters: `money`, `size`,
`duration`.

None of them asks the database; what they show is handed to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django import template
from django.core.paginator import Page
from django.forms import BoundField, CheckboxInput
from django.template.defaultfilters import date, filesizeformat
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from marketplace.core import chart
from marketplace.core.money import format_cents, format_nanos

register = template.Library()

# The colour of a state's badge; a state that is not here is plain.
TONES = {
    "approved": "good",
    "succeeded": "good",
    "ready": "good",
    "paid": "good",
    "active": "good",
    "live": "good",
    "published": "good",
    "released": "good",
    "ended": "info",
    "alarm": "warn",
    "trusted": "good",
    "in_review": "warn",
    "waiting": "warn",
    "open": "warn",
    "new": "warn",
    "test": "info",
    "token": "info",
    "uploading": "info",
    "onboarding": "info",
    "running": "info",
    "processing": "info",
    "starting": "info",
    "refused": "bad",
    "failed": "bad",
    "suspended": "bad",
    "lost": "bad",
}
# States in which something goes on by itself: their badge breathes.
BUSY = frozenset({"uploading", "onboarding", "running", "processing", "starting"})


@register.simple_block_tag
def card(
    content: SafeString,
    title: str = "",
    text: str = "",
    *,
    href: str = "",
    link: str = "",
    level: int = 2,
) -> SafeString:
    """A surface with a heading, a line below it, and a link at its right."""
    context = {"content": content, "title": title, "text": text, "href": href, "link": link}
    return render_to_string("components/card.html", context | {"level": level})


@register.simple_block_tag
def datatable(content: SafeString, label: str) -> SafeString:
    """A table that scrolls by itself where the page is narrow; `label` names it."""
    return render_to_string("components/table.html", {"content": content, "label": label})


@register.simple_block_tag
def emptystate(content: SafeString, title: str, icon: str = "box") -> SafeString:
    """What stands where nothing is yet, and what to do about it."""
    context = {"content": content, "title": title, "icon": icon}
    return render_to_string("components/empty.html", context)


@register.simple_block_tag
def notice(content: SafeString, tone: str = "info") -> SafeString:
    """A note that stands out; tones: info, good, warn, bad."""
    return render_to_string("components/notice.html", {"content": content, "tone": tone})


@register.inclusion_tag("components/badge.html")
def badge(state: str, text: str = "", tone: str = "") -> dict[str, Any]:
    """A state in a word; the colour follows from it and never stands alone."""
    return {
        "text": text or str(state).replace("_", " ").capitalize(),
        "tone": tone or TONES.get(state, ""),
        "is_busy": state in BUSY,
    }


@register.inclusion_tag("components/stat.html")
def stat(label: str, value: Any, hint: str = "") -> dict[str, Any]:
    """A number that matters; belongs into `<dl class="stats">`."""
    return {"label": label, "value": value, "hint": hint}


@register.inclusion_tag("components/field.html")
def field(bound: BoundField, prefix: str = "") -> dict[str, Any]:
    """A form's field: label, widget, help, errors. `prefix` stands before the widget."""
    return {
        "field": bound,
        "prefix": prefix,
        "is_inline": isinstance(bound.field.widget, CheckboxInput),
    }


@register.inclusion_tag("components/copy.html")
def copy(source_id: str = "", label: str = "Copy") -> dict[str, Any]:
    """A button that copies the element of this id, or the code beside it."""
    return {"source_id": source_id, "label": label}


@register.inclusion_tag("components/icon.html")
def icon(name: str) -> dict[str, Any]:
    """A drawing from `static/img/icons.svg`; decoration only."""
    return {"name": name}


@register.inclusion_tag("components/panel.html")
def panel(url: str, label: str = "") -> dict[str, Any]:
    """A part of the page that another package serves and htmx fetches.

    The address answers a fragment (cards, tables), never a whole page. One that wants to
    stay fresh carries `hx-get="…" hx-trigger="every 2s"` itself. `label` names the region.
    """
    return {"url": url, "label": label}


@register.inclusion_tag("components/pagination.html", takes_context=True)
def pagination(context: template.Context, page: Page, noun: str = "results") -> dict[str, Any]:
    """Earlier and later; keeps the other parts of the query."""
    return {"page": page, "noun": noun, "request": context.get("request")}


@register.simple_tag
def ago(moment: datetime | None, never: str = "never") -> str:
    """How long ago, or in how long; the exact time stands in the title."""
    if moment is None:
        return format_html('<span class="fine">{}</span>', never)
    exact = date(timezone.localtime(moment), "j M Y, H:i:s e")
    text = _distance(moment - timezone.now()) or date(timezone.localtime(moment), "j M Y")
    return format_html('<time datetime="{}" title="{}">{}</time>', moment.isoformat(), exact, text)


def _distance(delta: timedelta) -> str:
    seconds = abs(delta.total_seconds())
    for limit_s, unit_s, unit in (
        (60, 1, "s"),
        (3_600, 60, "min"),
        (86_400, 3_600, "h"),
        (14 * 86_400, 86_400, "d"),
    ):
        if seconds < limit_s:
            if unit == "s":
                return "just now" if delta.total_seconds() <= 0 else "in a minute"
            if delta.total_seconds() <= 0:
                return f"{int(seconds // unit_s)} {unit} ago"
            # What ends in a week still does so when the page is there.
            return f"in {round(seconds / unit_s)} {unit}"
    return ""


@register.simple_tag(takes_context=True)
def navlink(context: template.Context, url: str, text: str, *, exact: bool = False) -> str:
    """A link that is marked while the page is at or below its address."""
    path = context["request"].path if "request" in context else ""
    below = path.startswith(url.rstrip("/") + "/") and not exact
    current = SafeString(' aria-current="page"') if path == url or below else ""
    return format_html('<a href="{}"{}>{}</a>', url, current, text)


@register.filter
def money(amount_nanos: int | None) -> str:
    """Nano-dollars as dollars; a dash where there is no amount."""
    return "—" if amount_nanos is None else format_nanos(amount_nanos)


@register.filter
def duration(seconds: int) -> str:
    """A waiting time, rounded up to what a person would say."""
    for unit_s, unit in ((3_600, "hour"), (60, "minute")):
        if seconds >= unit_s:
            count = -(-seconds // unit_s)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


@register.filter
def size(size_bytes: int | None) -> str:
    """Bytes for people."""
    return "—" if not size_bytes else filesizeformat(size_bytes)


@register.filter
def dollars(amount_cents: int) -> str:
    """Cents as dollars, with the sign of the currency."""
    return f"${cents(amount_cents)}"


@register.filter
def cents(amount_cents: int) -> str:
    """Cents as dollars with two decimals, without the sign of the currency."""
    return format_cents(amount_cents)


@register.filter
def percent(bps: int) -> str:
    """Hundredths of a percent, for people: 1250 is 12.5 %."""
    whole, rest = divmod(bps, 100)
    return f"{whole}.{rest:02d}".rstrip("0").rstrip(".") + " %"


@register.inclusion_tag("components/linechart.html")
def linechart(
    *,
    id: str,  # noqa: A002 - the word of HTML
    title: str,
    unit: str = "",
    series: Sequence[Mapping[str, Any]],
    times: Sequence[int],
    summary: str = "",
    markers: Sequence[Mapping[str, Any]] = (),
    level: int = 3,
) -> dict[str, Any]:
    """Lines over time: a picture, a sentence, the events, and the numbers in a table.

    `series` are up to six of `{"label", "values"}`, where None is a gap; `times` are UTC
    seconds, one for each value; `markers` are events such as a release, `{"time", "label"}`.
    `summary` says what is to be seen, for those who do not see it; made up where missing.
    """
    drawn = chart.LineChart.make(series=series, times=times, unit=unit, markers=markers)
    return {
        "id": id,
        "title": title,
        "unit": unit,
        "level": level,
        "summary": summary or drawn.summary,
        "chart": drawn,
    }
