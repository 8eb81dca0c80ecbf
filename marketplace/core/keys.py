"""The form of API keys and tokens: prefix, 32 random letters, checksum.

The checksum lets a client, a form or a secret scanner tell a mistyped key from a revoked
one without a look-up. Only the SHA-256 of a key is ever stored: it has about 190 random
bits, so a slow password hash would add nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib
from dataclasses import dataclass

LIVE = "sk_live_"
TEST = "sk_test_"
TOKEN = "srt_"  # noqa: S105 - the public prefix of creator tokens, no secret
NODE = "snt_"
PREFIXES = (LIVE, TEST, TOKEN, NODE)

_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY_LENGTH = 32
_CHECKSUM_LENGTH = 6
_HINT_LENGTH = 4


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A new key. `text` is shown once; its representation never shows it."""

    text: str

    def __repr__(self) -> str:
        return f"Secret({self.hint}…)"

    @property
    def hint(self) -> str:
        """The part that may be shown later: the prefix and four letters."""
        return hint(self.text)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key, 32 bytes: what is stored."""
        return digest(self.text)


def generate(prefix: str) -> Secret:
    """A fresh key with one of `PREFIXES`."""
    assert prefix in PREFIXES, prefix
    body = "".join(secrets.choice(_LETTERS) for _ in range(_BODY_LENGTH))
    return Secret(prefix + body + _checksum(prefix + body))


def is_well_formed(text: str) -> bool:
    """Whether prefix, length, letters and checksum fit; says nothing of validity."""
    prefix = next((known for known in PREFIXES if text.startswith(known)), None)
    if prefix is None or len(text) != len(prefix) + _BODY_LENGTH + _CHECKSUM_LENGTH:
        return False
    if not all(letter in _LETTERS for letter in text[len(prefix) :]):
        return False
    return text[-_CHECKSUM_LENGTH:] == _checksum(text[:-_CHECKSUM_LENGTH])


def digest(text: str) -> bytes:
    """SHA-256 of a key, 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


def hint(text: str) -> str:
    """The prefix and the first four letters of a key."""
    prefix = next(known for known in PREFIXES if text.startswith(known))
    return text[: len(prefix) + _HINT_LENGTH]


def _checksum(text: str) -> str:
    value = zlib.crc32(text.encode())
    letters = []
    for _ in range(_CHECKSUM_LENGTH):
        value, index = divmod(value, len(_LETTERS))
        letters.append(_LETTERS[index])
    return "".join(reversed(letters))
