"""From what somebody typed to the words that are looked for."""

from __future__ import annotations

import re

from marketplace.core import limits

# Letters and digits of every alphabet; all that has a meaning for SQL or for a query of the
# full text search separates words and is gone.
_WORD = re.compile(r"[^\W_]+")
# Longer than any word of a language; the rest of it says nothing.
_WORD_LENGTH_MAX = 60


def clean_query(text: str) -> str:
    """A query as it is shown and kept: one line, not longer than names anything."""
    printable = "".join(one if one.isprintable() else " " for one in text[:4_000])
    return " ".join(printable.split())[: limits.SEARCH_LENGTH_MAX].strip()


def list_words(query: str) -> list[str]:
    """The words of a query, in lowercase, each once, in their order."""
    words = dict.fromkeys(one[:_WORD_LENGTH_MAX] for one in _WORD.findall(query.casefold()))
    return list(words)[: limits.SEARCH_WORDS_MAX]
