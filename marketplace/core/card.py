"""Model cards: untrusted Markdown to safe HTML, and the facts in front of it.

A card is a stranger's text shown on our pages, so three things hold: the HTML passes an
allow-list after Markdown has made it (never before), front matter is read as plain strings
without YAML's tags and aliases, and the work is bounded by the card's length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import nh3
import yaml
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore

# Real front matter has some hundred bytes; what is longer is shown to nobody.
FRONT_MATTER_LENGTH_MAX = 8_192
FACT_COUNT_MAX = 24
FACT_LENGTH_MAX = 200
# The keys that Hugging Face's cards use, and how we call them.
FACT_LABELS = {
    "language": "Language",
    "license": "Licence",
    "license_name": "Licence",
    "tags": "Tags",
    "datasets": "Datasets",
    "metrics": "Metrics",
    "base_model": "Base model",
    "library_name": "Library",
    "pipeline_tag": "Task",
}

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)

# CommonMark with tables. Its parser works in linear time and limits nesting itself; others
# take minutes for a card of brackets.
_MARKDOWN = MarkdownIt("commonmark", {"maxNesting": 20}).enable(["table", "strikethrough"])

_TAGS = {
    *("a", "abbr", "b", "blockquote", "br", "code", "dd", "del", "details", "div", "dl", "dt"),
    *("em", "h2", "h3", "h4", "h5", "h6", "hr", "i", "kbd", "li", "ol", "p", "pre", "s", "span"),
    *("strong", "sub", "summary", "sup", "table", "tbody", "td", "th", "thead", "tr", "u", "ul"),
}
_ATTRIBUTES = {"a": {"href", "title"}, "abbr": {"title"}, "ol": {"start"}}
# What stands inside these is no text for readers.
_DROPPED_WITH_CONTENT = {"script", "style", "iframe", "object", "template", "svg", "math"}


def _lower_headings(state: StateCore) -> None:
    # The page has its own first-level heading.
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 1, 6)}"


_MARKDOWN.core.ruler.push("lower_headings", _lower_headings)


@dataclass(frozen=True, slots=True)
class Card:
    """A card that may be shown: `html` is safe, `facts` are (label, value) pairs of text."""

    html: str
    facts: tuple[tuple[str, str], ...]


class _PlainLoader(yaml.BaseLoader):
    """YAML in which everything is a string, a list or a mapping, and nothing repeats."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)


def render_card(text: str) -> Card:
    """Make a card's HTML and its facts; broken front matter gives no facts, no error."""
    match = _FRONT_MATTER.match(text)
    facts = _read_facts(match[1]) if match else ()
    body = text[match.end() :] if match else text
    return Card(html=_to_html(body), facts=facts)


def _to_html(body: str) -> str:
    html = str(_MARKDOWN.render(body))
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        # Code may be wider than a phone: it scrolls, also by keyboard.
        set_tag_attribute_values={"pre": {"tabindex": "0"}},
        link_rel="nofollow noopener noreferrer",
        clean_content_tags=_DROPPED_WITH_CONTENT,
    )


def _read_facts(text: str) -> tuple[tuple[str, str], ...]:
    if len(text) > FRONT_MATTER_LENGTH_MAX:
        return ()
    try:
        value = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - makes strings only
    except (yaml.YAMLError, RecursionError, ValueError):
        return ()
    if not isinstance(value, dict):
        return ()
    pairs = [
        (label, shown) for key, label in FACT_LABELS.items() if (shown := _to_text(value.get(key)))
    ]
    return tuple(pairs[:FACT_COUNT_MAX])


def _to_text(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    texts = [item for item in items if isinstance(item, str) and item]
    joined = ", ".join(texts)
    return joined if len(joined) <= FACT_LENGTH_MAX else joined[: FACT_LENGTH_MAX - 1] + "…"
