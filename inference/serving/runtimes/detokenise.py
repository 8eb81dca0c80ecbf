"""Turn tokens into text while they come: what was given out is never taken back.

A token is not a text. It may end inside a character, and some tokenizers join or drop a space
depending on what stands before. So each piece is the difference between two texts, of some
tokens and of the same with the new ones behind them, and a text that ends in the mark of a
broken character is held back until the rest of that character has come.

Source: text-generation-inference, `decode_token`, for the two offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_BROKEN = "\ufffd"
# A character has at most four octets, each a token of its own at worst. What is broken for
# longer stays broken, and is given out as it is; so a piece costs the same at any length.
HELD_TOKENS_MAX = 8

Decode = Callable[[Sequence[int]], str]


class Detokeniser:
    """The text of one answer, piece by piece; all pieces together are `text`."""

    def __init__(self, decode: Decode) -> None:
        self.text = ""
        self._decode = decode
        self._ids: list[int] = []
        # Tokens before `_read` are given out; those from `_prefix` on stand before the new ones.
        self._prefix = 0
        self._read = 0

    def push(self, token_id: int) -> str:
        """What the token adds to the text; empty while a character is not complete."""
        self._ids.append(token_id)
        known = self._decode(self._ids[self._prefix : self._read])
        text = self._decode(self._ids[self._prefix :])
        may_wait = len(self._ids) - self._read < HELD_TOKENS_MAX
        is_longer = len(text) > len(known) and text.startswith(known)
        if may_wait and (not is_longer or text.endswith(_BROKEN)):
            return ""
        return self._give(text[len(known) :])

    def finish(self) -> str:
        """What was held back to the end."""
        known = self._decode(self._ids[self._prefix : self._read])
        return self._give(self._decode(self._ids[self._prefix :])[len(known) :])

    def _give(self, piece: str) -> str:
        self._prefix, self._read = self._read, len(self._ids)
        self.text += piece
        return piece
