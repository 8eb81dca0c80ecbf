"""What a consumer may write on a prediction, to find its cost again: one word of its own."""

from __future__ import annotations

import re

# A UUID, a trace id or the names of a team and a job fit; it is stored with every prediction,
# and Postgres reads no more of a page for it than for the ids beside.
TAG_LENGTH_MAX = 64
# Nothing that a log, an address, a table or a shell would have to quote.
TAG_CHARACTERS = "A-Za-z0-9._:-"
TAG_RULE = f"1 to {TAG_LENGTH_MAX} characters: letters, digits, and any of . _ : -"
_FORM = re.compile(f"[{TAG_CHARACTERS}]{{1,{TAG_LENGTH_MAX}}}")


def is_tag(text: str) -> bool:
    """Whether a text may be a tag; the empty one, which stands for none, may not."""
    return _FORM.fullmatch(text) is not None
