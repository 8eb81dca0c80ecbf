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
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

# Real front matter has some hundred bytes; what is longer is shown to nobody.
FRONT_MATTER_LENGTH_MAX = 8_192
FACT_COUNT_MAX = 24
# As many buttons as stand above a form.
EXAMPLE_COUNT_MAX = 8
EXAMPLE_TITLE_LENGTH_MAX = 60
# Longer code is shown without colours: a lexer's work on hostile text is not bounded.
HIGHLIGHTED_LENGTH_MAX = 8_192
HIGHLIGHTED_COUNT_MAX = 20
# Lexers without backtracking that hostile text could make slow; others are shown plainly.
HIGHLIGHTED_LANGUAGES = frozenset(
    {"bash", "console", "javascript", "js", "json", "py", "python", "sh", "shell", "toml", "yaml"}
)
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

FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)

# Classes of pygments, which static/css/model.css colours; nothing else keeps its class.
_TOKEN_CLASSES = {
    *("c", "c1", "ch", "cm", "gp", "k", "kc", "kd", "kn", "kt", "l", "m", "mf", "mi", "n", "na"),
    *("nb", "nc", "nd", "ne", "nf", "nn", "nt", "nv", "o", "ow", "p", "s", "s1", "s2", "sa", "sb"),
    *("sd", "se", "si", "w"),
}

TAGS = {
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


def _name_images(state: StateCore) -> None:
    """Show an image's text in its place: a picture from elsewhere would tell who reads."""
    for block in state.tokens:
        for token in block.children or ():
            if token.type == "image":
                token.type, token.tag, token.nesting = "text", "", 0
                token.content = f"[{token.content or 'image'}]"
                token.children = None
                token.meta["was_image"] = True


def _count_fences(state: StateCore) -> None:
    for place, token in enumerate(one for one in state.tokens if one.type == "fence"):
        if place >= HIGHLIGHTED_COUNT_MAX:
            token.info = ""


def _highlight(code: str, language: str, _attributes: str) -> str:
    """Code as spans with classes; empty where it is shown as it is."""
    if language not in HIGHLIGHTED_LANGUAGES or len(code) > HIGHLIGHTED_LENGTH_MAX:
        return ""
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return ""
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def make_parser() -> MarkdownIt:
    """CommonMark with tables, coloured code, and images as words.

    Its parser works in linear time and limits nesting itself; others take minutes for a text
    of brackets.
    """
    parser = MarkdownIt("commonmark", {"maxNesting": 20}).enable(["table", "strikethrough"])
    parser.core.ruler.push("name_images", _name_images)
    parser.core.ruler.push("count_fences", _count_fences)
    parser.options["highlight"] = _highlight
    return parser


MARKDOWN = make_parser()
MARKDOWN.core.ruler.push("lower_headings", _lower_headings)


@dataclass(frozen=True, slots=True)
class Card:
    """A card that may be shown: `html` is safe, `facts` are (label, value) pairs of text."""

    html: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Example:
    """An input that the creator shows: input name to texts, or lists of texts."""

    title: str
    values: dict[str, Any]


class PlainLoader(yaml.BaseLoader):
    """YAML in which everything is a string, a list or a mapping, and nothing repeats."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            place = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not accepted", problem_mark=place)
        return super().compose_node(parent, index)


def render_card(text: str) -> Card:
    """Make a card's HTML and its facts; broken front matter gives no facts, no error."""
    match = FRONT_MATTER.match(text)
    facts = _read_facts(match[1]) if match else ()
    body = text[match.end() :] if match else text
    return Card(html=_to_html(body), facts=facts)


def read_examples(text: str) -> list[Example]:
    """The inputs that a card's front matter shows under `examples`; none where it is broken.

    An entry has a `title` and an `input`, by name: texts and numbers as they are, tensors as
    lists. Nothing of it is checked against an interface here.
    """
    match = FRONT_MATTER.match(text)
    listed = _read_front_matter(match[1]).get("examples") if match else None
    if not isinstance(listed, list):
        return []
    found: list[Example] = []
    for one in listed[:EXAMPLE_COUNT_MAX]:
        if not isinstance(one, dict) or not isinstance(one.get("input"), dict):
            continue
        title = _to_text(one.get("title")) or f"Example {len(found) + 1}"
        found.append(Example(title[:EXAMPLE_TITLE_LENGTH_MAX], one["input"]))
    return found


def _to_html(body: str) -> str:
    return clean_html(str(MARKDOWN.render(body)))


def clean_html(html: str, *, has_anchors: bool = False) -> str:
    """HTML that Markdown made, with nothing left but what the allow-list names.

    Args:
        html: Of a text that nobody vouches for.
        has_anchors: Headings keep their `id`: for texts of ours, whose ids take nobody's name.
    """
    headings = {"h2": {"id"}, "h3": {"id"}} if has_anchors else {}
    return nh3.clean(
        html,
        tags=TAGS,
        attributes=_ATTRIBUTES | headings,
        url_schemes={"http", "https", "mailto"},
        # Code may be wider than a phone: it scrolls, also by keyboard.
        set_tag_attribute_values={"pre": {"tabindex": "0"}},
        allowed_classes={"span": _TOKEN_CLASSES},
        link_rel="nofollow noopener noreferrer",
        clean_content_tags=_DROPPED_WITH_CONTENT,
    )


def split_front_matter(text: str) -> tuple[dict[Any, Any], str]:
    """What stands in front of a text as plain strings, and the text without it."""
    match = FRONT_MATTER.match(text)
    return (_read_front_matter(match[1]), text[match.end() :]) if match else ({}, text)


def _read_front_matter(text: str) -> dict[Any, Any]:
    if len(text) > FRONT_MATTER_LENGTH_MAX:
        return {}
    try:
        value = yaml.load(text, Loader=PlainLoader)  # noqa: S506 - makes strings only
    except (yaml.YAMLError, RecursionError, ValueError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_facts(text: str) -> tuple[tuple[str, str], ...]:
    value = _read_front_matter(text)
    pairs = [
        (label, shown) for key, label in FACT_LABELS.items() if (shown := _to_text(value.get(key)))
    ]
    return tuple(pairs[:FACT_COUNT_MAX])


def _to_text(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    texts = [item for item in items if isinstance(item, str) and item]
    joined = ", ".join(texts)
    return joined if len(joined) <= FACT_LENGTH_MAX else joined[: FACT_LENGTH_MAX - 1] + "…"
