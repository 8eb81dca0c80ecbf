"""Switches of the product. Only those that stand here exist; how each is set is in the database.

A switch is for what must be turned off at once, or turned on for some accounts first. It is
removed from here as soon as nobody needs it any more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Flag:
    """A switch.

    Attributes:
        name: How people and the database call it.
        text: What is on while it is on.
        default: How it is while nobody has set it, and while the database is silent.
        is_per_account: Whether it may be on for some accounts only.
    """

    name: str
    text: str
    default: bool
    is_per_account: bool


SIGN_UP = Flag("sign-up", "New people may sign up.", default=True, is_per_account=False)
MODEL_REPORTS = Flag(
    "model-reports",
    "People of the account may report models to the platform.",
    default=True,
    is_per_account=True,
)

FLAGS: Mapping[str, Flag] = {flag.name: flag for flag in (SIGN_UP, MODEL_REPORTS)}


def bucket_of(flag: Flag, account_id: UUID) -> int:
    """The account's place from 0 to 99: the same for ever, and another one for another flag."""
    digest = hashlib.sha256(f"{flag.name}:{account_id}".encode()).digest()
    return int.from_bytes(digest[:8]) % 100
