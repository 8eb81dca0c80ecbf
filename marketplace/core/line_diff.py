"""Two texts side by side, line by line, with what differs and a little around it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from itertools import zip_longest

# Comparing takes the square of the lines in the worst case, and people read fewer.
LINES_MAX = 1_000
# Lines around a change that are shown.
CONTEXT_LINES = 2


@dataclass(frozen=True, slots=True)
class LinePair:
    """A line of both texts; empty where a side has none. `number` is its place in the later one."""

    number: str
    before: str
    after: str

    @property
    def is_changed(self) -> bool:
        """Whether the two sides differ."""
        return self.before != self.after


def compare_lines(before: str, after: str) -> list[LinePair]:
    """The changed lines with some around them; a gap is an empty pair, no change an empty list.

    Only the first `LINES_MAX` lines of each text are compared.
    """
    left, right = (text.splitlines()[:LINES_MAX] for text in (before, after))
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    pairs: list[LinePair] = []
    for group in matcher.get_grouped_opcodes(CONTEXT_LINES):
        if pairs:
            pairs.append(LinePair("", "", ""))
        for _, left_from, left_to, right_from, right_to in group:
            old, new = left[left_from:left_to], right[right_from:right_to]
            pairs += [
                LinePair(str(right_from + index + 1) if index < len(new) else "", was, now)
                for index, (was, now) in enumerate(zip_longest(old, new, fillvalue=""))
            ]
    return pairs
