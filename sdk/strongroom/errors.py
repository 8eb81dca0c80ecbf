"""What can go wrong in the SDK: every error has a stable code and one sentence.

The codes of refusals are the ones the server uses, so that a person who reads one on
the command line finds the same word in the documentation and in the onboarding log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class Fault(TypedDict):
    """One fault in a request: a JSON pointer to the place, what is wrong, and its code."""

    pointer: str
    detail: str
    code: str


class StrongroomError(Exception):
    """Base of the SDK's errors.

    Args:
        code: Stable reason code, in snake case.
        detail: One sentence for people; never a secret.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class InterfaceError(StrongroomError):
    """An interface description that cannot be served; `pointer` says where."""

    def __init__(self, pointer: str, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.pointer = pointer

    def __str__(self) -> str:
        return f"{self.code} at {self.pointer or '/'}: {self.detail}"


class InputError(StrongroomError):
    """The input of a prediction does not fit the interface; `errors` holds every fault."""

    def __init__(self, errors: Sequence[Fault]) -> None:
        first = errors[0]
        super().__init__("validation", f"{first['pointer']}: {first['detail']}")
        self.errors = list(errors)
