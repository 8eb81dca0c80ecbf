"""What deleting an account means, said by each package for what it keeps.

The marketplace does not know what runs or what is owed. A package that does registers here what
it can foretell, what stands in the way, and the steps that it does itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from marketplace.models import Account, AccountDeletion, User

# In this order, each once. Nothing new begins, then all that runs ends, then money is settled,
# and names and people go last: until then the owners can help.
STEPS: Mapping[str, str] = {
    "keys": "Revoke all keys and tokens",
    "models": "Take models off the catalogue, and withdraw their versions",
    "serving": "Stop deployments",
    "model_keys": "Destroy the keys of sealed models",
    "contents": "Delete contents of predictions, shared runs and alerts",
    "credit": "Settle the credit",
    "earnings": "Pay out what was earned",
    "payment_details": "Remove cards and addresses",
    "archives": "Delete archives of the data",
    "profile": "Replace the names by a pseudonym",
    "people": "Take out the members, and end their sessions",
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an account cannot be deleted now, and what its owner can do about it."""

    code: str
    reason: str
    remedy: str
    # A page's address where the remedy is; empty where waiting is all.
    url: str = ""


class NotYet(Exception):  # noqa: N818 - not an error: a step that waits
    """A step has to wait for something; it is asked again."""


Step = Callable[[AccountDeletion], str]


@dataclass(frozen=True, slots=True)
class Closer:
    """What one package knows and does.

    Args:
        name: Of the package.
        foretell: From an account to sentences about what would happen.
        find_obstacles: What has to be settled before.
        steps: By name, what does a step and says so in a sentence. Safe to repeat, after a kill
            at any place too; raises `NotYet`, or an error that is worth trying again.
        forget_person: Replaces a person's label by another, where rows carry it as text.
    """

    name: str
    foretell: Callable[[Account], list[str]]
    find_obstacles: Callable[[Account], list[Obstacle]]
    steps: Mapping[str, Step] = field(default_factory=dict)
    forget_person: Callable[[User, str, str], None] | None = None


_closers: dict[str, Closer] = {}


def register_closer(closer: Closer) -> None:
    """Ask this one too from now on; called while the site starts."""
    assert set(closer.steps) <= set(STEPS), closer.name
    _closers[closer.name] = closer


def list_facts(account: Account) -> list[str]:
    """What deleting the account does, in sentences with counts."""
    return [told for closer in _closers.values() for told in closer.foretell(account)]


def list_obstacles(account: Account) -> list[Obstacle]:
    """What has to be settled before; none where it can be deleted."""
    return [one for closer in _closers.values() for one in closer.find_obstacles(account)]


def find_step(name: str) -> Step:
    """Who does a step."""
    return next(closer.steps[name] for closer in _closers.values() if name in closer.steps)


def list_known_steps() -> set[str]:
    """The steps that somebody does; all of them, or deletions would stop."""
    return {name for closer in _closers.values() for name in closer.steps}


def forget_person(user: User, label: str, pseudonym: str) -> None:
    """Have each package replace a person's label."""
    for closer in _closers.values():
        if closer.forget_person is not None:
            closer.forget_person(user, label, pseudonym)
