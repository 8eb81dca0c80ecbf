"""A guide of the documentation: Markdown of ours to safe HTML, its headings, its words.

Guides pass the same parser and allow-list as the cards of strangers: whoever edits one can
harm no reader. Headings of the second and third level get an id, which is their address.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from markdown_it.token import Token

from marketplace.core.card import clean_html, make_parser, split_front_matter

_PARSER = make_parser()
_CODE = frozenset({"fence", "code_block"})
_BLOCKS = frozenset({"inline", *_CODE})


class GuideError(Exception):
    """A guide lacks what every guide has; its author has to add it."""


@dataclass(frozen=True, slots=True)
class Section:
    """What stands below a heading, as plain words; `id` is empty before the first one."""

    id: str
    title: str
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Guide:
    """A guide that may be shown: `html` is safe. `codes` says what each block of code is."""

    title: str
    description: str
    html: str
    sections: tuple[Section, ...]
    codes: tuple[str, ...]
    # Further words that readers may look for, which the text does not have.
    words: str = ""

    @property
    def contents(self) -> list[Section]:
        """The headings of the second level."""
        return [one for one in self.sections if one.level == 2]


def render_guide(text: str) -> Guide:
    """Make a guide of its source.

    Raises:
        GuideError: The front matter has no title or no description.
    """
    facts, body = split_front_matter(text)
    title, description = facts.get("title"), facts.get("description")
    if not isinstance(title, str) or not isinstance(description, str):
        raise GuideError("A guide begins with its title and its description.")
    tokens = _PARSER.parse(body)
    sections = _read_sections(tokens)
    html = clean_html(str(_PARSER.renderer.render(tokens, _PARSER.options, {})), has_anchors=True)
    codes = tuple(one.info.strip() for one in tokens if one.type in _CODE)
    words = facts.get("words", "")
    return Guide(title, description, html, sections, codes, words if isinstance(words, str) else "")


def make_anchor(title: str, taken: Iterable[str] = ()) -> str:
    """A heading's id: its words with hyphens, and a number where another has them already."""
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
    used, anchor, place = set(taken), plain, 1
    while anchor in used:
        place += 1
        anchor = f"{plain}-{place}"
    return anchor


def _read_sections(tokens: list[Token]) -> tuple[Section, ...]:
    """The sections in order; their headings get their ids."""
    found: list[Section] = []
    current, level, anchor = "", 1, ""
    words: list[str] = []
    heading: Token | None = None
    for token in tokens:
        if token.type == "heading_open" and token.tag in ("h2", "h3"):
            found.append(Section(anchor, current, level, " ".join(words)))
            heading, words = token, []
        elif heading is not None:
            current, level = plain_text(token), int(heading.tag[1])
            anchor = make_anchor(current, (one.id for one in found))
            heading.attrSet("id", anchor)
            heading = None
        elif token.type in _BLOCKS:
            words.append(plain_text(token))
    found.append(Section(anchor, current, level, " ".join(words)))
    return tuple(found)


def plain_text(token: Token) -> str:
    """The words of a block, without its marks and addresses."""
    if not token.children:
        return token.content.strip()
    breaks = ("softbreak", "hardbreak")
    return "".join(" " if one.type in breaks else one.content for one in token.children)
