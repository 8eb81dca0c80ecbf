"""What is wrong with a model card, at which line, and what readers would still miss in it.

A fault keeps the editor from saving: the text would be shown otherwise than it is meant. A
remark does not. Cards that a push brings along are taken as they are, and checked when
somebody opens them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import yaml
from markdown_it.token import Token
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from marketplace.core import limits
from marketplace.core.card import (
    EXAMPLE_COUNT_MAX,
    EXAMPLE_TITLE_LENGTH_MAX,
    FACT_LENGTH_MAX,
    FRONT_MATTER,
    FRONT_MATTER_LENGTH_MAX,
    MARKDOWN,
    TAGS,
    PlainLoader,
)

# More of the same kind help nobody.
NOTES_MAX = 20
_TAG = re.compile(r"<\s*/?\s*([a-zA-Z][a-zA-Z0-9-]*)")
_OPENING = re.compile(r"\A---[ \t]*\r?(?:\n|\Z)")


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the metadata: what the editor's help says of it."""

    name: str
    meaning: str
    example: str
    is_list: bool = False


# What `marketplace.core.card` shows, and what the playground offers.
KEYS = (
    Key("license", "SPDX name of the licence", "license: apache-2.0"),
    Key("license_name", "the licence's own name, where SPDX has none", "license_name: acme-1.0"),
    Key("language", "languages it understands, as ISO codes", "language: [en, de]", is_list=True),
    Key("tags", "words that it should be found by", "tags: [ocr, invoices]", is_list=True),
    Key("datasets", "what it was trained on", "datasets: [mnist]", is_list=True),
    Key("metrics", "what it was measured by", "metrics: [accuracy]", is_list=True),
    Key("base_model", "what it was made from", "base_model: bert-base-uncased", is_list=True),
    Key("library_name", "what it was made with", "library_name: transformers"),
    Key("pipeline_tag", "the task, in one word", "pipeline_tag: text-classification"),
    Key(
        "examples",
        f"up to {EXAMPLE_COUNT_MAX} inputs that stand as buttons above the form",
        "examples:\n- title: A seven\n  input: {text: seven}",
        is_list=True,
    ),
)
_KEYS = {key.name: key for key in KEYS}


@dataclass(frozen=True, slots=True)
class Note:
    """Something about one line, counted from 1; 0 is the whole card."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Part:
    """Something that readers look for in a card, and whether it is there."""

    title: str
    hint: str
    is_there: bool


@dataclass(frozen=True, slots=True)
class CardCheck:
    """All that is to be said of a card."""

    faults: tuple[Note, ...]
    remarks: tuple[Note, ...]
    parts: tuple[Part, ...]

    @property
    def missing(self) -> int:
        """How many parts are not there."""
        return sum(not part.is_there for part in self.parts)


def check_card(text: str, *, licence: str = "") -> CardCheck:
    """Look through a card.

    Args:
        text: The card.
        licence: What the listing says the licence is; it stands on the page already.
    """
    if len(text) > limits.CARD_LENGTH_MAX:
        long = f"The card has {len(text):,} characters; {limits.CARD_LENGTH_MAX:,} are allowed."
        return CardCheck((Note(0, long),), (), ())
    faults: list[Note] = []
    remarks: list[Note] = []
    match = FRONT_MATTER.match(text)
    entries: dict[str, Node] = {}
    if match:
        entries = _check_metadata(match[1], faults, remarks)
    elif _OPENING.match(text):
        faults.append(Note(1, "The metadata that begin here are not closed by a line of ---."))
    _compare_licence(entries, licence, remarks)
    body = text[match.end() :] if match else text
    first_line = text[: match.end()].count("\n") if match else 0
    tokens = MARKDOWN.parse(body)
    remarks += list(_look_for_dropped(tokens, first_line))
    parts = _list_parts(set(entries), tokens, has_licence=bool(licence))
    return CardCheck(tuple(faults[:NOTES_MAX]), tuple(remarks[:NOTES_MAX]), parts)


def _check_metadata(block: str, faults: list[Note], remarks: list[Note]) -> dict[str, Node]:
    """The known keys of the metadata with their nodes; what is wrong is added to the lists."""
    if len(block) > FRONT_MATTER_LENGTH_MAX:
        size = f"The metadata have {len(block):,} characters; {FRONT_MATTER_LENGTH_MAX:,} are read."
        faults.append(Note(1, size))
        return {}
    try:
        node = yaml.compose(block, Loader=PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = error.problem or error.context or "it cannot be read"
        faults.append(Note((mark.line if mark else 0) + 2, f"This is no valid YAML: {said}."))
        return {}
    except yaml.reader.ReaderError as error:
        line = block[: error.position].count("\n") + 2
        faults.append(Note(line, "This is no valid YAML: a character may not be there."))
        return {}
    except (yaml.YAMLError, RecursionError, ValueError):
        faults.append(Note(2, "This is no valid YAML: it is nested too deeply."))
        return {}
    if node is None:
        return {}
    if not isinstance(node, MappingNode):
        faults.append(Note(2, "Metadata are lines of `key: value`."))
        return {}
    return _check_entries(node, faults, remarks)


def _check_entries(node: MappingNode, faults: list[Note], remarks: list[Note]) -> dict[str, Node]:
    entries: dict[str, Node] = {}
    for key, value in node.value:
        line = _line_of(key)
        name = key.value if isinstance(key, ScalarNode) else ""
        if not name:
            faults.append(Note(line, "A key is one word."))
        elif name in entries:
            faults.append(Note(line, f"`{name}` stands here a second time."))
        elif name not in _KEYS:
            remarks.append(Note(line, f"`{name}` is kept, but not shown: no page knows it."))
        else:
            entries[name] = value
            check = _check_examples if name == "examples" else _check_value
            check(_KEYS[name], value, faults, remarks)
    return entries


def _check_value(key: Key, node: Node, faults: list[Note], remarks: list[Note]) -> None:
    items = node.value if isinstance(node, SequenceNode) and key.is_list else [node]
    for item in items:
        if not isinstance(item, ScalarNode):
            form = "a text, or a list of texts" if key.is_list else "one text"
            faults.append(Note(_line_of(item), f"`{key.name}` must be {form}."))
            return
    shown = ", ".join(item.value for item in items if item.value)
    if not shown:
        remarks.append(Note(_line_of(node), f"`{key.name}` is empty."))
    elif len(shown) > FACT_LENGTH_MAX:
        cut = f"`{key.name}` is cut after {FACT_LENGTH_MAX} characters."
        remarks.append(Note(_line_of(node), cut))


def _check_examples(key: Key, node: Node, faults: list[Note], remarks: list[Note]) -> None:
    if not isinstance(node, SequenceNode):
        faults.append(Note(_line_of(node), "`examples` must be a list."))
        return
    for item in node.value:
        members = _members(item)
        if not isinstance(members.get("input"), MappingNode):
            needs = "An example needs an `input` of `name: value`."
            faults.append(Note(_line_of(item), needs))
        title = members.get("title")
        if isinstance(title, ScalarNode) and len(title.value) > EXAMPLE_TITLE_LENGTH_MAX:
            cut = f"This title is cut after {EXAMPLE_TITLE_LENGTH_MAX} characters."
            remarks.append(Note(_line_of(title), cut))
    if len(node.value) > EXAMPLE_COUNT_MAX:
        first = f"Only the first {EXAMPLE_COUNT_MAX} examples are shown."
        remarks.append(Note(_line_of(node.value[EXAMPLE_COUNT_MAX]), first))


def _members(node: Node) -> dict[str, Node]:
    pairs = node.value if isinstance(node, MappingNode) else []
    return {key.value: value for key, value in pairs if isinstance(key, ScalarNode)}


def _line_of(node: Node) -> int:
    # The line of --- stands before the block.
    return int(node.start_mark.line) + 2


def _compare_licence(entries: dict[str, Node], licence: str, remarks: list[Note]) -> None:
    own = entries.get("license")
    if not licence or not isinstance(own, ScalarNode) or not own.value:
        return
    if own.value.lower() != licence.lower():
        other = f"The listing says {licence}, and that is what the page shows."
        remarks.append(Note(_line_of(own), other))


def _look_for_dropped(tokens: list[Token], first_line: int) -> Iterator[Note]:
    """What stands in the text and not on the page."""
    for block in tokens:
        line = first_line + (block.map[0] if block.map else 0) + 1
        if block.type == "html_block":
            yield from _name_dropped(block.content, line)
        for token in block.children or ():
            if token.type == "softbreak":
                line += 1
            elif token.type == "html_inline":
                yield from _name_dropped(token.content, line)
            elif token.type == "text" and token.meta.get("was_image"):
                yield Note(line, "A picture is shown as its text: it would tell who reads.")


def _name_dropped(html: str, line: int) -> Iterator[Note]:
    dropped = sorted({name.lower() for name in _TAG.findall(html)} - TAGS - {"img", "h1"})
    if dropped:
        yield Note(line, f"`<{dropped[0]}>` is left out: cards have text, tables, links and code.")
    elif "<img" in html.lower():
        yield Note(line, "A picture is left out: it would tell who reads.")


# What readers look for: title, hint, keys that say it, and headings that do.
_PARTS: tuple[tuple[str, str, frozenset[str], str], ...] = (
    (
        "Licence",
        "license: in the metadata, or in the listing.",
        frozenset({"license", "license_name"}),
        r"licen[cs]e",
    ),
    (
        "Intended use",
        "A heading such as “Intended use”: for whom, for what.",
        frozenset(),
        r"\b(use|uses|usage|purpose|use cases?)\b",
    ),
    (
        "Limits",
        "A heading such as “Limits”: where it fails, and what it must not be used for.",
        frozenset(),
        r"\b(limits?|limitations?|risks?|bias(es)?|out of scope)\b",
    ),
    (
        "Training data",
        "datasets: in the metadata, or a heading such as “Training data”.",
        frozenset({"datasets"}),
        r"\b(data|dataset|datasets|training)\b",
    ),
    (
        "Evaluation",
        "metrics: in the metadata, or a heading such as “Evaluation”.",
        frozenset({"metrics"}),
        r"\b(evaluation|results?|metrics?|accuracy|benchmarks?|performance)\b",
    ),
    (
        "Language",
        "language: in the metadata, for models that read or write text.",
        frozenset({"language"}),
        r"\blanguages?\b",
    ),
    (
        "Examples",
        "examples: in the metadata, or a block of code.",
        frozenset({"examples"}),
        r"\bexamples?\b",
    ),
)


def _list_parts(keys: set[str], tokens: list[Token], *, has_licence: bool) -> tuple[Part, ...]:
    headings = [
        after.content.lower() for token, after in pairwise(tokens) if token.type == "heading_open"
    ]
    has_code = any(token.type == "fence" for token in tokens)
    also: dict[str, Callable[[], bool]] = {
        "Licence": lambda: has_licence,
        "Examples": lambda: has_code,
    }
    return tuple(
        Part(
            title,
            hint,
            bool(names & keys)
            or any(re.search(pattern, heading) for heading in headings)
            or (title in also and also[title]()),
        )
        for title, hint, names, pattern in _PARTS
    )
