"""Addresses of files that carry their own right, and the gateway's word to the site about who asks.

Both are signed with keys derived from the secret that the gateways and the site share. A link opens
one file until a moment; a word stands for one account for a minute.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from marketplace.core.ids import to_public

# On the site; what stands before the id, and after it.
FILE_PREFIX = "file_"
FILES_PATH = "/v1/files/"
LINK_PATH = FILES_PATH + "{}/content"
# For the way from one process to the next, by clocks that differ a little.
WORD_TTL_S = 60
_EXPIRES_LENGTH_MAX = 12
_WORD_LENGTH_MAX = 1024
_FILE = b"link to a file"


@dataclass(frozen=True, slots=True)
class Word:
    """Who asks through a gateway, and with which scopes."""

    account_id: UUID
    scopes: tuple[str, ...]


class LinkWrongError(Exception):
    """Not signed by us for this thing and moment."""


class LinkExpiredError(Exception):
    """Ours, and over."""


def make_link(site_url: str, secret: str, file_id: UUID, expires_s: int) -> str:
    """An address that opens a file without a key.

    Args:
        site_url: Of the site, without a slash at its end.
        secret: What the gateways and the site share.
        file_id: Which file.
        expires_s: Until when, in seconds since 1970.
    """
    path = LINK_PATH.format(FILE_PREFIX + to_public(file_id))
    return f"{site_url}{path}?{write_right(secret, _FILE, file_id, expires_s)}"


def check_link(secret: str, file_id: UUID, expires: str, signature: str, *, now_s: float) -> None:
    """Refuse a link that does not open the file now; see `check_right`."""
    check_right(secret, _FILE, file_id, expires, signature, now_s=now_s)


def write_right(secret: str, purpose: bytes, thing_id: UUID, expires_s: int) -> str:
    """The part of an address that carries its right, for its query.

    Args:
        secret: What the gateways and the site share.
        purpose: What it opens; no signature for one purpose is good for another.
        thing_id: Which of them.
        expires_s: Until when, in seconds since 1970.
    """
    return f"expires={expires_s}&signature={_sign(secret, purpose, thing_id, expires_s)}"


def check_right(
    secret: str, purpose: bytes, thing_id: UUID, expires: str, signature: str, *, now_s: float
) -> None:
    """Refuse an address that does not open the thing that it names now.

    Args:
        secret: What the gateways and the site share.
        purpose: What it opens.
        thing_id: Which of them it names.
        expires: As it stands in the address.
        signature: As it stands there.
        now_s: Seconds since 1970.

    Raises:
        LinkWrongError: It was not made by us, or was changed.
        LinkExpiredError: Its time is over.
    """
    if not (expires.isascii() and expires.isdigit() and len(expires) <= _EXPIRES_LENGTH_MAX):
        raise LinkWrongError
    wanted = _sign(secret, purpose, thing_id, int(expires))
    if not hmac.compare_digest(wanted.encode(), signature.encode()):
        raise LinkWrongError
    if int(expires) <= now_s:
        raise LinkExpiredError


def write_word(secret: str, word: Word, *, now_s: float) -> str:
    """What a gateway shows the site in the place of a caller's key."""
    claims = {
        "account": str(word.account_id),
        "scopes": list(word.scopes),
        "exp": int(now_s) + WORD_TTL_S,
    }
    text = _encode(json.dumps(claims, separators=(",", ":")).encode())
    return f"{text}.{_encode(_mac(secret, b'word of a gateway', text.encode()))}"


def read_word(secret: str, text: str, *, now_s: float) -> Word | None:
    """Who asks; None where no gateway of ours says so now."""
    claims, _, mark = text.partition(".")
    if len(text) > _WORD_LENGTH_MAX or not text.isascii():
        return None
    wanted = _encode(_mac(secret, b"word of a gateway", claims.encode()))
    if not hmac.compare_digest(wanted.encode(), mark.encode()):
        return None
    document = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    # A clock that is ahead of ours may have written it.
    if not now_s < document["exp"] <= now_s + 2 * WORD_TTL_S:
        return None
    scopes: Sequence[str] = document["scopes"]
    return Word(UUID(document["account"]), tuple(scopes))


def _sign(secret: str, purpose: bytes, thing_id: UUID, expires_s: int) -> str:
    return _encode(_mac(secret, purpose, f"{thing_id}\n{expires_s}".encode()))


def _mac(secret: str, purpose: bytes, message: bytes) -> bytes:
    key = hmac.new(secret.encode(), b"strongroom: " + purpose, hashlib.sha256).digest()
    return hmac.new(key, message, hashlib.sha256).digest()


def _encode(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")
