"""What Stripe checks beyond its description: metadata, addresses, currencies, coverage."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from fakestripe import errors

Json = dict[str, Any]

METADATA_KEYS_MAX = 50
METADATA_KEY_LENGTH_MAX = 40
METADATA_VALUE_LENGTH_MAX = 500

# Those with two decimals that a development installation may want.
CURRENCIES = frozenset({"usd", "eur", "gbp", "chf", "cad", "aud"})

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


def only(params: Json, allowed: frozenset[str], *, prefix: str = "") -> None:
    """Refuse parameters that Stripe has and the stand-in would silently ignore."""
    for name in params:
        if name not in allowed:
            where = f"{prefix}[{name}]" if prefix else name
            raise errors.not_stood_in(f"the parameter {where}")


def metadata(given: Any, stored: Json | None = None) -> Json:
    """The metadata after a change: empty values remove a key, an empty text all keys."""
    if given == "":
        return {}
    merged = dict(stored or {})
    for key, value in (given or {}).items():
        if len(key) > METADATA_KEY_LENGTH_MAX:
            raise errors.invalid_request(
                f"Metadata keys can have up to {METADATA_KEY_LENGTH_MAX} characters, but you "
                f"passed in a key that is {len(key)} characters.",
                param="metadata",
            )
        if len(value) > METADATA_VALUE_LENGTH_MAX:
            raise errors.invalid_request(
                f"Metadata values can have up to {METADATA_VALUE_LENGTH_MAX} characters, but you "
                f"passed in a value that is {len(value)} characters.",
                param=f"metadata[{key}]",
            )
        merged[key] = value
        if value == "":
            del merged[key]
    if len(merged) > METADATA_KEYS_MAX:
        raise errors.invalid_request(
            f"You can have up to {METADATA_KEYS_MAX} metadata keys.", param="metadata"
        )
    return merged


def email(value: str, param: str) -> str:
    """An address that could be one."""
    if not _EMAIL.fullmatch(value) or len(value) > 512:
        raise errors.invalid_request(
            f"Invalid email address: {value[:80]}", code="email_invalid", param=param
        )
    return value


def url(value: str, param: str) -> str:
    """A web address with a host: what people are sent to after paying."""
    try:
        parts = urlsplit(value)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.invalid_request("Not a valid URL", code="url_invalid", param=param)
    return value


def currency(value: str, param: str) -> str:
    """A currency in lower case, as Stripe shows it."""
    if value.lower() not in CURRENCIES:
        known = ", ".join(sorted(CURRENCIES))
        raise errors.invalid_request(
            f"Invalid currency: {value[:10]}. fakestripe knows these: {known}", param=param
        )
    return value.lower()
