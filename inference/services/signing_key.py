"""The keys with which creators sign their manifests: registered, confirmed, trusted, revoked.

A signing key is apart from the log-in: who takes over a password or a token has not the
creator's key, and has to register one of their own. So only an account's first key is trusted
at once. A later one is announced to the owners by mail; what it signs is onboarded, and held
in review until a platform admin has heard from the creator that the key is right. In its
first day not even that is enough: an owner must confirm it with the password, in another session.

Versions that earlier keys signed go on to serve whatever happens to any key.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.template.loader import render_to_string
from django.urls import reverse

from inference.errors import (
    RefusedError,
    SameSessionError,
    SigningKeyCoolingError,
    SigningKeyRevokedError,
    SigningKeyUnconfirmedError,
    TooManySigningKeysError,
)
from inference.models import Artifact, SigningKey
from inference.selectors import signing_key as signing_keys
from inference.selectors import upload as uploads
from inference.tasks import signing_key as tasks
from marketplace.core.clock import utc_now
from marketplace.core.errors import ForbiddenError
from marketplace.models import Account, ModelVersion, Notification, User
from marketplace.selectors.access import Actor
from marketplace.selectors.account import list_owner_addresses
from marketplace.services import account as accounts
from marketplace.services import audit
from marketplace.services.doubt import Doubt
from marketplace.services.mail import mail_once
from marketplace.services.notification import notify
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64
from strongroom.sealing.errors import CanonicalError

logger = logging.getLogger(__name__)

# One for each machine that pushes; more is a script that makes a new one each time.
SIGNING_KEYS_MAX = 20
# Long enough for an owner to read the mail and to revoke a key that is not theirs.
COOL_DOWN = timedelta(hours=24)
# A mail that could not be sent for so long is no news any more; the log keeps the event.
MAIL_WITHIN = timedelta(days=3)
# One run ends in time even where the mail server is slow; the next one goes on.
MAILS_PER_RUN_MAX = 50


def register_signing_key(
    *, account: Account, actor: Actor, public_key: str, session_key: str = ""
) -> SigningKey:
    """Make a public key known; the same row again when it is repeated.

    Args:
        account: Whose manifests it signs; the caller has checked the right to push.
        actor: Who registers it.
        public_key: Ed25519, in base64.
        session_key: The session that it comes from; empty where a token is used.

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
        # Takes turns per account, so that the limit holds, no twin is made, and one is first.
        Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        known = uploads.find_signing_key(account, fingerprint)
        if known is not None:
            if known.revoked_at is not None:
                raise SigningKeyRevokedError
            return known
        if account.signing_keys.filter(revoked_at=None).count() >= SIGNING_KEYS_MAX:
            raise TooManySigningKeysError
        # Revoked ones count: who revokes all keys does not become the first again.
        is_first = not account.signing_keys.exists()
        key = SigningKey.objects.create(
            account=account,
            public_key=encode_base64(raw),
            fingerprint=fingerprint,
            registered_by=_name(actor),
            registered_session=_digest(session_key),
            trusted_at=utc_now() if is_first else None,
        )
        payload = {"fingerprint": fingerprint, "state": str(key.state)}
        audit.record(
            actor.label, "signing_key.register", key, account_id=account.pk, payload=payload
        )
        notify(
            Notification.Kind.SIGNING_KEY,
            account,
            key=f"signing_key:{key.pk}",
            title=f"A new signing key of {account.slug}: {key}",
            text=f"Registered by {key.registered_by}. Revoke it if nobody of you did this.",
            path=f"{reverse('inference:signing-keys')}?account={account.slug}",
        )

        def mail() -> None:
            tasks.mail_signing_keys.delay()

        # A function, not a partial: Django wants its name to log a failure.
        transaction.on_commit(mail, robust=True)
    return key


def confirm_signing_key(
    *, key: SigningKey, user: User, password: str, session_key: str, address: str
) -> SigningKey:
    """An owner says that a new key is the account's own; this ends its cool-down.

    Reviewers still ask. Repeating it, or confirming a trusted key, changes nothing.

    Args:
        key: The key; the caller has checked that the person may see it.
        user: Who confirms it.
        password: The person's, asked for again.
        session_key: The session in which it is confirmed.
        address: Where the person is, to count tries.

    Raises:
        ForbiddenError: The person is no owner of the account.
        SameSessionError: This session registered the key.
        SigningKeyRevokedError: There is nothing to confirm any more.
        LoginThrottledError, AuthenticationError: The password is wrong.
    """
    if not signing_keys.is_owner(user, key.account):
        raise ForbiddenError("Only an owner of the account confirms its signing keys.")
    if not session_key or key.registered_session == _digest(session_key):
        raise SameSessionError
    accounts.log_in(None, email=user.email, password=password, address=address)
    with transaction.atomic():
        locked = _lock(key)
        if locked.revoked_at is not None:
            raise SigningKeyRevokedError
        if locked.state == SigningKey.State.NEW and locked.confirmed_at is None:
            locked.confirmed_at, locked.confirmed_by = utc_now(), user
            locked.save(update_fields=["confirmed_at", "confirmed_by"])
            _record(Actor(user=user), "signing_key.confirm", locked)
    return locked


def revoke_signing_key(*, key: SigningKey, actor: Actor) -> SigningKey:
    """Refuse what else is signed with a key; versions that were approved go on to serve.

    The caller has checked the right to push. Repeating it changes nothing.
    """
    with transaction.atomic():
        locked = _lock(key)
        if locked.revoked_at is None:
            locked.revoked_at = utc_now()
            locked.save(update_fields=["revoked_at"])
            _record(actor, "signing_key.revoke", locked)
    return locked


class SigningKeyDoubter:
    """Asks reviewers about versions that a new key signed; see `marketplace.services.doubt`."""

    def find_doubt(self, version: ModelVersion) -> Doubt | None:
        """Who registered the key and when, unless it is trusted."""
        key = _find_key(version)
        if key is None or key.state == SigningKey.State.TRUSTED:
            return None
        return Doubt(
            text=describe_doubt(key),
            question="I heard from the creator, not through this platform, that the key is theirs.",
        )

    def settle_doubt(self, version: ModelVersion, reviewer: User, *, is_confirmed: bool) -> None:
        """Trust the key, or refuse the approval.

        Raises:
            SigningKeyRevokedError: It was revoked; the version has to be pushed again.
            SigningKeyCoolingError: It is younger than `COOL_DOWN` and no owner confirmed it.
            SigningKeyUnconfirmedError: The reviewer did not tick that the creator confirmed it.
        """
        found = _find_key(version)
        if found is None:
            return
        key = _lock(found)
        if key.state == SigningKey.State.REVOKED:
            raise SigningKeyRevokedError(f"{version} is signed by {key}, which was revoked.")
        if key.state == SigningKey.State.TRUSTED:
            return
        if key.confirmed_at is None and utc_now() < key.created_at + COOL_DOWN:
            raise SigningKeyCoolingError(
                f"{version}: {describe_doubt(key)} Until {_show(key.created_at + COOL_DOWN)} it "
                f"can be approved only after an owner of {key.account.slug} confirms the key."
            )
        if not is_confirmed:
            raise SigningKeyUnconfirmedError(f"{version}: {describe_doubt(key)}")
        key.trusted_at = utc_now()
        key.save(update_fields=["trusted_at"])
        _record(Actor(user=reviewer), "signing_key.trust", key, version=str(version))


def describe_doubt(key: SigningKey) -> str:
    """What there is to know about a key that is not trusted, in sentences."""
    if key.state == SigningKey.State.REVOKED:
        return f"Signed by {key}, which was revoked on {_show(key.revoked_at)}."
    by = f" by {key.registered_by}" if key.registered_by else ""
    text = f"Signed by a new key ({key}), registered on {_show(key.created_at)}{by}."
    if key.confirmed_at is None:
        return f"{text} No owner of {key.account.slug} has confirmed it."
    who = key.confirmed_by.email if key.confirmed_by else "an owner who has left"
    return f"{text} The owner {who} confirmed it on {_show(key.confirmed_at)}."


def mail_signing_keys() -> int:
    """Tell the owners of accounts about keys that were registered; returns how many mails.

    Safe to run twice, also at once: whoever mails about a key holds its row until it is
    marked.
    """
    waiting = SigningKey.objects.filter(
        mailed_at=None, revoked_at=None, created_at__gt=utc_now() - MAIL_WITHIN
    )
    key_ids = list(waiting.order_by("created_at").values_list("pk", flat=True)[:MAILS_PER_RUN_MAX])
    return sum(_mail(key_id) for key_id in key_ids)


def _mail(key_id: UUID) -> bool:
    rows = SigningKey.objects.select_for_update(skip_locked=True, of=("self",), no_key=True)
    return mail_once(
        rows.select_related("account"),
        key_id,
        what="key",
        list_addresses=lambda key: list_owner_addresses(key.account),
        send=_send,
    )


def _send(key: SigningKey, addresses: list[str]) -> None:
    path = f"{reverse('inference:signing-keys')}?account={key.account.slug}"
    context = {"key": key, "account": key.account, "url": f"{settings.WEB_URL}{path}"}
    subject = render_to_string("emails/signing_key_subject.txt", context)
    send_mail(
        " ".join(subject.split()),
        render_to_string("emails/signing_key.txt", context),
        None,
        addresses,
    )


def _find_key(version: ModelVersion) -> SigningKey | None:
    artifact = (
        Artifact.objects.select_related("signing_key__account", "signing_key__confirmed_by")
        .filter(version=version)
        .first()
    )
    return artifact.signing_key if artifact else None


def _lock(key: SigningKey) -> SigningKey:
    return (
        SigningKey.objects.select_for_update(of=("self",), no_key=True)
        .select_related("account", "confirmed_by")
        .get(pk=key.pk)
    )


def _record(actor: Actor, action: str, key: SigningKey, **payload: str) -> None:
    told = {"fingerprint": key.fingerprint, **payload}
    audit.record(actor.label, action, key, account_id=key.account_id, payload=told)


def _name(actor: Actor) -> str:
    """Who registered a key: of a token also the person that it stands for."""
    if actor.api_key is None or actor.user is None:
        return actor.label
    return f"{actor.label} of {actor.user.email}"


def _digest(session_key: str) -> str:
    return hashlib.sha256(session_key.encode()).hexdigest() if session_key else ""


def _show(moment: object) -> str:
    return f"{moment:%d %B %Y, %H:%M} UTC"
