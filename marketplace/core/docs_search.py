"""Search over the documentation: an index in memory, small enough to be made at the start.

A passage is found if it has every word of the query, or a word that begins with it; where none
has all of them, nothing is found. What stands in a title counts more than what stands in the
text, rare words more than common ones, and a whole word more than the beginning of one.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

# Longer queries ask for no passage; see also `limits.SEARCH_LENGTH_MAX`.
WORDS_MAX = 12
RESULTS_MAX = 20
# As many characters as two lines have.
EXCERPT_LENGTH = 200
# Of these a beginning would be half of all words.
PREFIX_LENGTH_MIN = 3

_TITLE_WEIGHT, _PAGE_WEIGHT, _PREFIX_WEIGHT = 6.0, 3.0, 0.5
# Words that say nothing about what is looked for.
_EMPTY = frozenset(
    {
        *("a", "about", "an", "and", "are", "as", "at", "be", "by", "can", "do", "does", "for"),
        *("from", "get", "have", "how", "i", "if", "in", "is", "it", "its", "me", "my", "of"),
        *("on", "or", "that", "the", "their", "them", "they", "this", "to", "was", "we", "what"),
        *("when", "where", "which", "who", "why", "will", "with", "you", "your"),
    }
)
_WORD = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a page that can be found: where it is, what it is called, what it says."""

    url: str
    page: str
    title: str
    text: str
    area: str = ""
    # How much a hit counts; less where a passage is one of very many.
    weight: float = 1.0
    # Not shown: what readers call it, and the text does not.
    words: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an excerpt; a hit is marked."""

    text: str
    is_hit: bool


@dataclass(frozen=True, slots=True)
class Result:
    """A passage that was found, with the words around the first hit."""

    passage: Passage
    excerpt: tuple[Piece, ...]


@dataclass(slots=True)
class Index:
    """All passages and their words."""

    passages: Sequence[Passage]
    _counts: list[Counter[str]] = field(default_factory=list)
    _titles: list[frozenset[str]] = field(default_factory=list)
    _pages: list[frozenset[str]] = field(default_factory=list)
    _frequency: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for one in self.passages:
            words = Counter(split_words(f"{one.page} {one.title} {one.text} {one.words}"))
            self._counts.append(words)
            self._titles.append(frozenset(split_words(one.title)))
            self._pages.append(frozenset(split_words(one.page)))
            self._frequency.update(words.keys())

    def search(self, query: str) -> list[Result]:
        """The passages that fit best, the best first; none where a word is nowhere."""
        words = read_query(query)
        if not words:
            return []
        forms = [self._list_forms(word) for word in words]
        scored = [
            (score, -place)
            for place in range(len(self.passages))
            if (score := self._score(place, words, forms)) > 0
        ]
        best = sorted(scored, reverse=True)[:RESULTS_MAX]
        hits = frozenset(form for some in forms for form in some)
        return [self._show(-place, hits) for _, place in best]

    def _list_forms(self, word: str) -> list[str]:
        """The words of the index that a word of the query stands for."""
        if len(word) < PREFIX_LENGTH_MIN:
            return [word] if word in self._frequency else []
        return [one for one in self._frequency if one.startswith(word)]

    def _score(self, place: int, words: Sequence[str], forms: Sequence[Sequence[str]]) -> float:
        counts, total = self._counts[place], 0.0
        for word, some in zip(words, forms, strict=True):
            best = max((self._weigh(place, one, word) for one in some if one in counts), default=0)
            if best == 0:
                return 0.0
            total += best
        return total * self.passages[place].weight

    def _weigh(self, place: int, form: str, word: str) -> float:
        count = self._counts[place][form]
        length = self._counts[place].total()
        rarity = math.log(1 + len(self.passages) / self._frequency[form])
        # As in BM25: the tenth time says less than the first, and less in a long text.
        weight = count * 2.2 / (count + 1.2 * (0.5 + length / 240))
        weight += _TITLE_WEIGHT * (form in self._titles[place])
        weight += _PAGE_WEIGHT * (form in self._pages[place])
        return rarity * weight * (1.0 if form == word else _PREFIX_WEIGHT)

    def _show(self, place: int, hits: frozenset[str]) -> Result:
        passage = self.passages[place]
        return Result(passage, tuple(_cut(passage.text, hits)))


def split_words(text: str) -> list[str]:
    """The words of a text as they are compared: small letters, no plural.

    A name with underscores counts as itself and as its parts, so that an error's code is found
    by either.
    """
    found = []
    for word in _WORD.findall(text.lower()):
        found.append(_fold(word))
        if "_" in word:
            found += [_fold(part) for part in word.split("_")]
    return found


def read_query(query: str) -> list[str]:
    """The words of a query that say something; all of them where none does."""
    words = list(dict.fromkeys(_fold(one) for one in _WORD.findall(query.lower())))
    told = [one for one in words if one not in _EMPTY]
    return (told or words)[:WORDS_MAX]


def _fold(word: str) -> str:
    """A word without its plural; "class" and "access" have none."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    is_plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if is_plural else word


def _cut(text: str, hits: Iterable[str]) -> Iterator[Piece]:
    """The piece of a text around its first hit, with every hit in it marked."""
    wanted = frozenset(hits)
    spans = [
        match.span()
        for match in _WORD.finditer(text.lower())
        if not wanted.isdisjoint(split_words(match[0]))
    ]
    begin = max(0, (spans[0][0] if spans else 0) - EXCERPT_LENGTH // 4)
    if begin:
        # Not in the middle of a word.
        begin = text.find(" ", begin) + 1 or begin
    end = min(len(text), begin + EXCERPT_LENGTH)
    place = begin
    if begin:
        yield Piece("… ", is_hit=False)
    for start, stop in spans:
        if start < place or stop > end:
            continue
        yield Piece(text[place:start], is_hit=False)
        yield Piece(text[start:stop], is_hit=True)
        place = stop
    yield Piece(text[place:end] + (" …" if end < len(text) else ""), is_hit=False)
