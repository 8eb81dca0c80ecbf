"""A demo model as a folder that `strongroom push` takes: files, listing, card, test vectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strongroom.interface import Interface
from strongroom.listing import LISTING_FILE, Listing
from strongroom.sealing.manifest import TestVector

OWNER = "demo"
CARD = "card.md"


@dataclass(frozen=True)
class Built:
    """What a builder found out about its model.

    Args:
        example: An input that may be shown to people and sent as it is.
        facts: What is known to be true of answers; see the verifiers in `verify.py`.
    """

    example: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """What the model's page says about it; every member is required."""

    summary: str
    data: str
    accuracy: str
    licence: str
    limits: str
    text: str
    # Title and input of what the model's page offers to try.
    examples: Sequence[tuple[str, Mapping[str, Any]]] = ()

    def to_markdown(self, title: str) -> str:
        """Markdown with the facts in front matter, as model cards have it."""
        front: dict[str, Any] = {
            "data": self.data,
            "accuracy": self.accuracy,
            "licence": self.licence,
            "limits": self.limits,
        }
        if self.examples:
            front["examples"] = [{"title": title, "input": one} for title, one in self.examples]
        # JSON texts are YAML texts, whatever stands in them.
        lines = [f"{name}: {json.dumps(value)}" for name, value in front.items()]
        return "\n".join(["---", *lines, "---", "", f"# {title}", "", self.text.strip(), ""])


def write(
    folder: Path,
    *,
    name: str,
    title: str,
    task: str,
    price_nanos: int,
    interface: Mapping[str, Any],
    vectors: Sequence[tuple[Mapping[str, Any], Mapping[str, Any], float]],
    card: Card,
) -> None:
    """Write listing and card beside the model's files.

    Args:
        folder: Holds the model's files already.
        name: Of the model, below the demo account.
        title: For people.
        task: As in the catalogue.
        price_nanos: Of a prediction.
        interface: What goes in and comes out.
        vectors: Input, expected output and tolerance, from the plain model.
        card: What its page says.
    """
    listing = Listing(
        owner=OWNER,
        name=name,
        title=title,
        summary=card.summary,
        task=task,
        licence=card.licence,
        price_nanos=price_nanos,
        interface=Interface.parse(interface),
        card=CARD,
        test_vectors=tuple(TestVector(*vector) for vector in vectors),
    )
    (folder / LISTING_FILE).write_text(listing.to_toml())
    (folder / CARD).write_text(card.to_markdown(title))


def run(build: Callable[[Path], Built]) -> None:
    """Entry point of a builder: `python -m embedded.demo.NAME FOLDER` prints what it found."""
    built = build(Path(sys.argv[1]))
    print(json.dumps({"example": built.example, "facts": built.facts}))
