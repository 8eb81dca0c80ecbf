"""The one error of this package: a file that may not be served, and why."""

from __future__ import annotations

# Names inside a model are the creator's text. A short, printable form is enough to find
# the place, and keeps a log or a page from being flooded or confused.
_SHOWN_CHARACTERS = 80


class ArtifactError(Exception):
    """A file is refused.

    Args:
        reason_code: Stable code, listed in docs/sealing.md.
        detail: One sentence for the creator. Never contents of a file, only names and
            numbers from its structure.
    """

    def __init__(self, reason_code: str, detail: str) -> None:
        super().__init__(f"{reason_code}: {detail}")
        self.reason_code = reason_code
        self.detail = detail


def shown(name: object) -> str:
    """A name out of a model, fit for a message: quoted, printable, short."""
    text = ascii(str(name)[: _SHOWN_CHARACTERS + 1])
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[: _SHOWN_CHARACTERS - 1]}…"
    return text
