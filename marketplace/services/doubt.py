"""What a reviewer has to make sure of before a version is approved.

The marketplace does not know how a version came in. A package above it that does registers
here what it asks about a version, and is asked once more when somebody approves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from marketplace.models import ModelVersion, User


@dataclass(frozen=True, slots=True)
class Doubt:
    """A reason for a second look. `text` says what it is, `question` what is to be ticked."""

    text: str
    question: str


class Doubter(Protocol):
    """Knows something about versions that reviewers have to know."""

    def find_doubt(self, version: ModelVersion) -> Doubt | None:
        """What speaks against approving it just so; None as a rule."""

    def settle_doubt(self, version: ModelVersion, reviewer: User, *, is_confirmed: bool) -> None:
        """Called in the transaction of the approval.

        Args:
            version: What is being approved.
            reviewer: Who approves it.
            is_confirmed: Whether the reviewer ticked the question.

        Raises:
            MarketplaceError: It must not be approved; nothing is changed.
        """


_doubters: list[Doubter] = []


def register_doubter(doubter: Doubter) -> None:
    """Ask this one about every version from now on; called while the site starts."""
    _doubters.append(doubter)


def find_doubts(version: ModelVersion) -> list[Doubt]:
    """All there is to ask about a version."""
    found = [doubter.find_doubt(version) for doubter in _doubters]
    return [one for one in found if one is not None]


def settle_doubts(version: ModelVersion, reviewer: User, *, is_confirmed: bool) -> None:
    """Raise unless every doubt about a version is settled; see `Doubter.settle_doubt`."""
    for doubter in _doubters:
        doubter.settle_doubt(version, reviewer, is_confirmed=is_confirmed)
