"""What only pages of the documentation need: `{% load docs %}`."""

from __future__ import annotations

import functools
import re

from django import template
from django.template.loader import render_to_string
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from marketplace.core.guide import Guide

register = template.Library()

# As `clean_html` leaves them: nothing that a text says can look like these.
_CODE = re.compile(r'<pre tabindex="0"><code>(.*?)</code></pre>', re.DOTALL)
_HEADING = re.compile(r'<(h[23]) id="([a-z0-9-]+)">(.*?)</\1>', re.DOTALL)
_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_BACKTICKS = re.compile(r"`([^`]+)`")
# What the head of a block of code says of its language.
_LANGUAGES = {"bash": "Shell", "python": "Python", "json": "JSON", "toml": "TOML", "": "Text"}


@register.filter
def guide_html(guide: Guide) -> SafeString:
    """A guide's text, with code that can be copied and headings that can be linked."""
    return _dress(guide.html, guide.codes)


@register.filter
def code_words(text: str) -> SafeString:
    """A line of plain text, with what stands between backticks as code."""
    return mark_safe(_BACKTICKS.sub(r"<code>\1</code>", escape(text)))  # noqa: S308 - escaped


@functools.cache
def _dress(html: str, codes: tuple[str, ...]) -> SafeString:
    infos = iter(codes)

    def dress_code(match: re.Match[str]) -> str:
        language, _, label = next(infos, "").partition(" ")
        label = label or _LANGUAGES.get(language, language)
        context = {"content": mark_safe(match[1]), "label": label, "language": language}  # noqa: S308
        return render_to_string("components/code.html", context)

    html = _CODE.sub(dress_code, html)
    html = _HEADING.sub(_dress_heading, html)
    html = _TABLE.sub(_dress_table, html)
    return mark_safe(html)  # noqa: S308 - cleaned by an allow-list, and then only wrapped


def _dress_heading(match: re.Match[str]) -> str:
    """A heading with a link to itself."""
    tag, anchor = match[1], match[2]
    link = f'<a class="anchor" href="#{anchor}" aria-label="Link to this part">#</a>'
    return f'<{tag} id="{anchor}">{match[3]} {link}</{tag}>'


def _dress_table(match: re.Match[str]) -> str:
    """A table that scrolls by itself where the page is narrow, by keyboard too."""
    return f'<div class="docs-table" tabindex="0">{match[0]}</div>'
