"""The building blocks of pages: `{% load ui %}`; docs/ui.md says when to use which.

Blocks with content: `{% card "Title" %}…{% endcard %}`, and in the same way `datatable`,
`emptystate`, `notice`, `callout`, `tabs` with `tab`, `dialog`, `code`, `crumbs`, `filterbar`.
Single tags draw one thing: `badge`, `stat`, `field`, `icon`, `linechart` and others. Filters
write a number for people: `money`, `size`, `duration`.

None of them asks the database; what they show is handed to them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from secrets import token_hex, token_urlsafe
from typing import Any
from zlib import crc32

from django import template
from django.contrib.messages.storage.base import Message
from django.core.paginator import Page
from django.forms import BoundField, CheckboxInput
from django.http import QueryDict
from django.template.defaultfilters import date, filesizeformat
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from marketplace.core import chart, uptime
from marketplace.core.money import format_cents, format_nanos
from marketplace.toast import Undo, read_undo

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
# Sizes of drawings, in units of their own; the page scales them.
SPARK_SIZE = (120, 28)
BARS_SIZE, BARS_GAP = (600, 120), 6.0
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
def stat(
    label: str,
    value: Any,
    hint: str = "",
    *,
    trend: str = "",
    tone: str = "",
    spark: Sequence[chart.Value] = (),
) -> dict[str, Any]:
    """A number that matters; belongs into `<dl class="stats">`.

    `trend` is the change in words ("+12 %", "-3"); its `tone` says whether that is good, since
    more errors are not. `spark` are the values that led to it.
    """
    direction = {"+": "trending-up", "-": "trending-down"}.get(trend[:1], "")
    return {
        "label": label,
        "value": value,
        "hint": hint,
        "trend": trend,
        "tone": tone,
        "direction": direction,
        "spark": spark,
    }


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
def panel(url: str, label: str = "", size: str = "") -> dict[str, Any]:
    """A part of the page that another package serves and htmx fetches.

    The address answers a fragment (cards, tables), never a whole page. One that wants to
    stay fresh carries `hx-get="…" hx-trigger="every 2s"` itself. `label` names the region.
    `size` is about how tall it will be (stats, medium, large, tall), so that what stands below
    does not move much when it comes.
    """
    return {"url": url, "label": label, "size": size}


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


@register.simple_tag
def once() -> str:
    """A field that makes a form one that is sent once; see `marketplace.views.once`."""
    return format_html('<input type="hidden" name="once" value="{}">', token_urlsafe(16))


@register.simple_tag(takes_context=True)
def navlink(context: template.Context, url: str, text: str, *, exact: bool = False) -> str:
    """A link that is marked while the page is at or below its address."""
    current = SafeString(' aria-current="page"') if _is_at(context, url, exact=exact) else ""
    return format_html('<a href="{}"{}>{}</a>', url, current, text)


@register.simple_tag(takes_context=True)
def is_below(context: template.Context, *urls: str) -> bool:
    """Whether the page is at or below one of some addresses: one of a group of tabs is current."""
    return any(_is_at(context, url) for url in urls if url)


def _is_at(context: template.Context, url: str, *, exact: bool = False) -> bool:
    path = context["request"].path if "request" in context else ""
    return path == url or (path.startswith(url.rstrip("/") + "/") and not exact)


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


@register.simple_block_tag
def tabs(content: SafeString, label: str, group: str = "") -> SafeString:
    """Parts of which one shows at a time; all of them, one below the other, without scripts.

    Holds `{% tab "Title" %}…{% endtab %}`. Sets of one `group` switch together and remember
    what was chosen, as the languages of examples do.
    """
    context = {"content": content, "label": label, "group": group}
    return render_to_string("components/tabs.html", context)


@register.simple_block_tag
def tab(content: SafeString, title: str) -> SafeString:
    """One part of `{% tabs %}`."""
    return render_to_string("components/tab.html", {"content": content, "title": title})


@register.simple_block_tag
def dialog(content: SafeString, id: str, title: str) -> SafeString:  # noqa: A002 - HTML's word
    """A dialog that `data-dialog="id"` opens: put that on a link to a page that does the same."""
    return render_to_string(
        "components/dialog.html", {"content": content, "id": id, "title": title}
    )


@register.simple_block_tag
def code(content: SafeString, label: str = "", language: str = "") -> SafeString:
    """Code with a button that copies it."""
    context = {"content": SafeString(content.strip("\n")), "label": label, "language": language}
    return render_to_string("components/code.html", context)


@register.simple_block_tag
def callout(content: SafeString, title: str = "", tone: str = "info", icon: str = "") -> SafeString:
    """Something to know before reading on; a `notice` tells what has happened."""
    drawing = icon or {"good": "check", "warn": "alert", "bad": "alert"}.get(tone, "info")
    context = {"content": content, "title": title, "tone": tone, "icon": drawing}
    return render_to_string("components/callout.html", context)


@register.simple_block_tag
def crumbs(content: SafeString) -> SafeString:
    """The way to this page: links, from the outermost one."""
    return render_to_string("components/crumbs.html", {"content": content})


@register.simple_block_tag(takes_context=True)
def filterbar(
    context: template.Context,
    content: SafeString,
    action: str = "",
    label: str = "Filter",
    button: str = "Apply",
) -> SafeString:
    """Fields above a list that narrow it, sent by GET; what is set can be cleared."""
    request = context.get("request")
    is_filtered = bool(request and any(value for value in request.GET.values()))
    values = {"content": content, "action": action, "label": label, "button": button}
    return render_to_string("components/filterbar.html", values | {"is_filtered": is_filtered})


@register.inclusion_tag("components/confirm_button.html")
def confirm(url: str, question: str, label: str, text: str = "") -> dict[str, Any]:
    """A button that does what cannot be undone, after asking; `text` says what will happen.

    Without scripts it acts at once: where that harms, link to a page that asks instead.
    """
    return {"url": url, "question": question, "label": label, "text": text}


@register.inclusion_tag("components/toast.html")
def toast(text: str, tone: str = "info", undo: Undo | None = None) -> dict[str, Any]:
    """A short message in the corner; see `marketplace.toast` for those of views."""
    return {"text": text, "tone": {"success": "good"}.get(tone, tone), "undo": undo}


@register.filter
def undo_of(message: Message) -> Undo | None:
    """How a message's deed is undone."""
    return read_undo(message)


@register.inclusion_tag("components/progress.html")
def progress(value: float, maximum: float = 100, label: str = "Progress") -> dict[str, Any]:
    """How far something has come."""
    share = 0 if maximum <= 0 else min(max(value / maximum, 0), 1)
    return {
        "id": _new_id("progress"),
        "value": value,
        "maximum": maximum,
        "label": label,
        "text": f"{share:.0%}",
    }


@register.inclusion_tag("components/steps.html")
def steps(items: Sequence[Mapping[str, Any]], label: str = "") -> dict[str, Any]:
    """The way to a goal: items of title, state (done, current, todo, failed), text, href."""
    return {"steps": items, "label": label}


@register.inclusion_tag("components/keyvalue.html")
def keyvalue(items: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Facts about one thing: pairs of label and value."""
    return {"items": items}


@register.inclusion_tag("components/segmented.html", takes_context=True)
def segmented(
    context: template.Context,
    label: str,
    name: str,
    options: Sequence[tuple[str, str]],
    current: str,
) -> dict[str, Any]:
    """A choice between a few views of one page; each is a link with `?name=value`."""
    request = context.get("request")
    query = request.GET.copy() if request else QueryDict(mutable=True)
    query.pop("page", None)  # Another view begins at its first page.
    drawn = []
    for value, text in options:
        query[name] = value
        href = f"?{query.urlencode()}"
        drawn.append({"href": href, "text": text, "is_current": value == current})
    return {"label": label, "options": drawn}


@register.inclusion_tag("components/avatar.html")
def avatar(name: str) -> dict[str, Any]:
    """Initials on a colour that stays with the name; the name itself stands beside it."""
    words = [word for word in re.split(r"[\W_]+", str(name).partition("@")[0]) if word]
    initials = "".join(word[0] for word in words[:2]).upper() or "?"
    return {"initials": initials, "series": crc32(str(name).encode()) % chart.SERIES_MAX + 1}


@register.inclusion_tag("components/kbd.html")
def kbd(text: str) -> dict[str, Any]:
    """Keys to press, apart by spaces."""
    return {"keys": text.split()}


@register.inclusion_tag("components/skeleton.html")
def skeleton(rows: int = 3) -> dict[str, Any]:
    """The shape of what is still on its way."""
    return {"rows": range(rows)}


@register.inclusion_tag("components/term.html")
def term(word: str, text: str) -> dict[str, Any]:
    """A word with its meaning, on hover and on focus."""
    return {"word": word, "text": text, "id": _new_id("term")}


@register.inclusion_tag("components/amount.html")
def amount(amount_nanos: int | None) -> dict[str, Any]:
    """An amount of money, in figures of one width."""
    return {"nanos": amount_nanos if amount_nanos is not None else "", "text": money(amount_nanos)}


def _new_id(kind: str) -> str:
    # Panels bring parts of other answers into a page, so a counter would repeat itself.
    return f"{kind}-{token_hex(4)}"


@register.inclusion_tag("components/sparkline.html")
def sparkline(values: Sequence[chart.Value], label: str = "Trend") -> dict[str, Any]:
    """A line without axes, as high as a word."""
    shown = chart.finite(list(values))
    low, high = chart.bounds([shown])
    width, height = SPARK_SIZE
    path = chart.line_path(shown, width=width, height=height, low=low, high=high)
    known = [value for value in shown if value is not None]
    ends = (
        f", from {chart.format_value(known[0])} to {chart.format_value(known[-1])}" if known else ""
    )
    return {"path": path, "label": f"{label}{ends}", "width": width, "height": height}


@register.inclusion_tag("components/barchart.html")
def barchart(
    items: Sequence[tuple[str, float | int]], label: str, unit: str = "", *, most: float = 0
) -> dict[str, Any]:
    """Bars of (label, value), from the left, with the numbers below.

    Two charts with the same `most` can be held against each other.
    """
    width, height = BARS_SIZE
    bars = [
        {
            "x": bar.x,
            "y": bar.y,
            "width": bar.width,
            "height": bar.height,
            "label": bar.label,
            "text": chart.format_value(bar.value),
        }
        for bar in chart.lay_bars(list(items), width=width, height=height, gap=BARS_GAP, most=most)
    ]
    total = chart.format_value(sum(value for _, value in items))
    return {
        "bars": bars,
        "label": label,
        "unit": unit,
        "width": width,
        "height": height,
        "first": bars[0]["label"] if bars else "",
        "last": bars[-1]["label"] if bars else "",
        "summary": f"{len(bars)} bars, {total} {unit}".rstrip() + " in all.",
    }


@register.inclusion_tag("components/dayrow.html")
def dayrow(days: Sequence[uptime.Day], label: str, *, unit: str = "") -> dict[str, Any]:
    """A row of days, each a cell whose height and colour say how it went; numbers below.

    With a `unit` the table says how many of them were measured. Needs `css/status.css`.
    """
    return {
        "cells": uptime.lay_cells(days),
        "label": label,
        "unit": unit,
        "width": max(len(days) * uptime.CELL_WIDTH - uptime.CELL_GAP, 1),
        "height": uptime.ROW_HEIGHT,
        "share": uptime.format_share(uptime.add_up(days)),
        "summary": uptime.describe_days(days),
    }


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
