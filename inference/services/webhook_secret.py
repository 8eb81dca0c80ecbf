"""Secrets that sign webhooks: made, sealed, opened, and changed without missing a message.

A secret is 32 random bytes, sealed by the platform's own and bound to its row. When it is changed,
the one before signs as well for `ROTATION`.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.db import transaction

from inference.core.webhook_signature import write_secret
from inference.models import SigningSecret, WebhookSecret
from marketplace.core.clock import utc_now
from marketplace.core.errors import ConflictError
from marketplace.models import Account

# For receivers to be given the new one; a day has a working hour everywhere.
ROTATION = timedelta(hours=24)
# Of the 24 to 64 that Standard Webhooks allows: what SHA-256 makes use of.
SECRET_BYTES = 32
_NONCE_BYTES = 12


class SecretLostError(Exception):
    """The platform's secret was changed since it was sealed."""


def make_secret(row_id: UUID) -> tuple[bytes, str]:
    """A new secret for a row: sealed, and as its receiver is given it."""
    key = secrets.token_bytes(SECRET_BYTES)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher().encrypt(nonce, key, row_id.bytes), write_secret(key)


def list_keys(row: SigningSecret, now: datetime) -> list[bytes]:
    """What a message is signed with now, the newest first.

    Raises:
        SecretLostError: It cannot be opened any more; a new one is needed.
    """
    keys = [_open(row, bytes(row.sealed_secret))]
    if row.old_secret_until is not None and row.old_secret_until > now:
        # Lost, it is no reason to send nothing: its receivers are to know the new one.
        with suppress(SecretLostError):
            keys.append(_open(row, bytes(row.sealed_old_secret)))
    return keys


def replace_secret(row: SigningSecret) -> str:
    """Put a new secret in the place of a locked row's; the caller saves and audits it.

    Raises:
        ConflictError: Receivers are still being told of the last change.
    """
    now = utc_now()
    if row.old_secret_until is not None and row.old_secret_until > now:
        raise ConflictError(
            "The secret was changed less than a day ago. End the old one first, or wait."
        )
    row.sealed_old_secret, row.old_secret_until = row.sealed_secret, now + ROTATION
    row.sealed_secret, text = make_secret(row.pk)
    return text


def drop_old_secret(row: SigningSecret) -> None:
    """Sign with the newest alone from now on; the caller saves and audits it."""
    row.sealed_old_secret, row.old_secret_until = b"", None


def find_default(account: Account) -> WebhookSecret:
    """The account's own secret, made when it is first needed."""
    found = WebhookSecret.objects.filter(pk=account.pk).first()
    if found is None:
        sealed, _ = make_secret(account.pk)
        with transaction.atomic():
            found, _ = WebhookSecret.objects.get_or_create(
                account=account, defaults={"sealed_secret": sealed}
            )
    return found


def show_secret(row: SigningSecret) -> str:
    """The newest secret as its receiver is given it.

    Raises:
        ConflictError: It cannot be opened any more.
    """
    try:
        return write_secret(list_keys(row, utc_now())[0])
    except SecretLostError:
        raise ConflictError("The secret cannot be read any more. Change it.") from None


def _open(row: SigningSecret, sealed: bytes) -> bytes:
    try:
        return _cipher().decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], row.pk.bytes)
    except (InvalidTag, ValueError) as error:
        raise SecretLostError from error


def _cipher() -> AESGCM:
    key = HKDF(SHA256(), 32, salt=None, info=b"strongroom: signing secrets of webhooks")
    return AESGCM(key.derive(settings.SECRET_KEY.encode()))
