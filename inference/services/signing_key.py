"""Register the keys with which creators sign their manifests."""

from __future__ import annotations

from django.db import transaction

from inference.errors import RefusedError, SigningKeyRevokedError, TooManySigningKeysError
from inference.models import SigningKey
from inference.selectors import upload as uploads
from marketplace.models import Account
from marketplace.selectors.access import Actor
from marketplace.services import audit
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.errors import CanonicalError

# One for each machine that pushes; more is a script that makes a new one each time.
SIGNING_KEYS_MAX = 20


def register_signing_key(*, account: Account, actor: Actor, public_key: str) -> SigningKey:
    """Make a public key known; the same row again when it is repeated.

    Raises:
        RefusedError: `signing_key_invalid`: not 32 bytes in base64.
        SigningKeyRevokedError: It was revoked; a new key is needed.
        TooManySigningKeysError: The account has `SIGNING_KEYS_MAX` that are not revoked.
    """
    try:
        raw = decode_base64(public_key, size_bytes=signature.PUBLIC_KEY_BYTES)
    except CanonicalError as error:
        raise RefusedError("signing_key_invalid", error.detail, pointer="/public_key") from error
    fingerprint = signature.fingerprint(raw)
    with transaction.atomic():
        # Takes turns per account, so that the limit holds and no twin is made.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        known = uploads.find_signing_key(account, fingerprint)
        if known is not None:
            if known.revoked_at is not None:
                raise SigningKeyRevokedError
            return known
        if account.signing_keys.filter(revoked_at=None).count() >= SIGNING_KEYS_MAX:
            raise TooManySigningKeysError
        key = SigningKey.objects.create(
            account=account, public_key=encode_base64(raw), fingerprint=fingerprint
        )
        payload = {"fingerprint": fingerprint}
        audit.record(
            actor.label, "signing_key.register", key, account_id=account.pk, payload=payload
        )
        return key
