"""The second factor: codes of an authenticator app, and recovery codes."""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
import time
from hmac import compare_digest

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from marketplace.core import limits
from marketplace.core.errors import AuthenticationError, ConflictError, InvalidInputError
from marketplace.models import Authenticator, RecoveryCode, User
from marketplace.selectors.access import Actor
from marketplace.selectors.security import has_factor
from marketplace.services import audit, throttle
from marketplace.services.security_notice import Kind, notify
from marketplace.services.session import end_sessions

logger = logging.getLogger(__name__)

ISSUER = "Strongroom"
DIGITS = 6
STEP_S = 30
# The app's clock may be one step off; more would only help who guesses.
DRIFT_STEPS = (-1, 0, 1)
_SECRET_BYTES = 20
_NONCE_BYTES = 12
_CODE_BYTES = 10
_APP = "authenticator app"


def begin_authenticator(user: User) -> Authenticator:
    """A new secret, which counts for nothing until a code proves that an app has it.

    Raises:
        ConflictError: There is one in use.
    """
    with transaction.atomic():
        _lock(user)
        Authenticator.objects.filter(user=user, confirmed_at=None).delete()
        if Authenticator.objects.filter(user=user).exists():
            raise ConflictError("There is an authenticator app. Remove it first.")
        sealed = _seal(user, secrets.token_bytes(_SECRET_BYTES))
        return Authenticator.objects.create(user=user, sealed_secret=sealed)


def confirm_authenticator(user: User, code: str) -> list[str]:
    """Take the app into use; returns recovery codes if it is the first second factor.

    Raises:
        InvalidInputError: The code is not what the app would show now.
        ConflictError: No secret waits for a code.
    """
    with transaction.atomic():
        _lock(user)
        waiting = Authenticator.objects.filter(user=user, confirmed_at=None).first()
        if waiting is None:
            raise ConflictError("Begin once more: no new secret waits for a code.")
        is_first = not has_factor(user)
        step = _find_step(_open(waiting), _clean(code))
        if step is None:
            detail = "The app shows another code. Look whether its clock is right."
            raise InvalidInputError(errors=[{"pointer": "/code", "detail": detail}])
        waiting.confirmed_at = timezone.now()
        waiting.last_step = step
        waiting.save(update_fields=["confirmed_at", "last_step"])
        note_added(user, _APP)
        return make_recovery_codes(user) if is_first else []


def remove_authenticator(user: User) -> None:
    """Ask for no codes any more; the last factor takes the recovery codes with it."""
    with transaction.atomic():
        _lock(user)
        removed = Authenticator.objects.filter(user=user).exclude(confirmed_at=None).delete()[0]
        if removed:
            note_removed(user, _APP)


def note_added(user: User, what: str) -> None:
    """Write down, and mail, that the person has another way to sign in."""
    audit.record(Actor(user=user).label, "user.add_factor", user, payload={"what": what})
    notify(user, Kind.FACTOR_ADDED, what)


def note_removed(user: User, what: str) -> None:
    """Write down, and mail, that a way to sign in is gone."""
    if not has_factor(user):
        RecoveryCode.objects.filter(user=user).delete()
    audit.record(Actor(user=user).label, "user.remove_factor", user, payload={"what": what})
    notify(user, Kind.FACTOR_REMOVED, what)


def make_recovery_codes(user: User) -> list[str]:
    """New recovery codes instead of all earlier ones; they are shown this once.

    Raises:
        ConflictError: Without a second factor there is nothing to recover.
    """
    with transaction.atomic():
        _lock(user)
        if not has_factor(user):
            raise ConflictError("Recovery codes come with an authenticator app or a passkey.")
        RecoveryCode.objects.filter(user=user).delete()
        codes = [_new_code() for _ in range(limits.RECOVERY_CODES)]
        RecoveryCode.objects.bulk_create(
            RecoveryCode(user=user, digest=_digest(user, code)) for code in codes
        )
        audit.record(Actor(user=user).label, "user.recovery_codes", user)
        notify(user, Kind.CODES_MADE)
    return codes


def check_code(user: User, code: str) -> str:
    """Prove the second factor by a code; returns which it was, `totp` or `recovery`.

    Raises:
        LoginThrottledError: Too many were wrong; the code was not looked at.
        AuthenticationError: It is wrong, or was used before.
    """
    throttle.count_factor(user_id=user.pk)
    text = _clean(code)
    is_number = len(text) == DIGITS
    if is_number and _take_totp(user, text):
        kind = "totp"
    elif not is_number and _take_recovery_code(user, text):
        kind = "recovery"
    else:
        raise AuthenticationError("This code is wrong, or was used before.")
    throttle.forget_factor(user_id=user.pk)
    return kind


def reset_factors(user: User, *, operator: str, reason: str) -> None:
    """Take all second factors from a person who has lost them; ends its sessions.

    Args:
        user: Whom the operator has recognised by other means.
        operator: Who does it, for the audit log.
        reason: How the person was recognised.
    """
    with transaction.atomic():
        _lock(user)
        counts = {
            "authenticators": Authenticator.objects.filter(user=user).delete()[0],
            "passkeys": user.passkeys.all().delete()[0],
            "recovery_codes": RecoveryCode.objects.filter(user=user).delete()[0],
        }
        audit.record(operator, "user.reset_factors", user, payload={**counts, "reason": reason})
        notify(user, Kind.FACTORS_RESET)
        end_sessions(user=user)


def secret_text(authenticator: Authenticator) -> str:
    """The secret as people type it into an app."""
    return base64.b32encode(_open(authenticator)).decode()


def provisioning_url(authenticator: Authenticator) -> str:
    """What an app reads from the picture."""
    return _totp(_open(authenticator)).get_provisioning_uri(authenticator.user.email, ISSUER)


def _take_totp(user: User, code: str) -> bool:
    found = Authenticator.objects.filter(user=user).exclude(confirmed_at=None).first()
    if found is None:
        return False
    try:
        step = _find_step(_open(found), code)
    except InvalidTag:
        # The platform's secret was changed, and with it all that was sealed by it.
        logger.warning("the authenticator of user %s cannot be read", user.pk)
        return False
    # One statement: of two requests with the same code, one takes it.
    rows = Authenticator.objects.filter(pk=found.pk, last_step__lt=step or 0)
    return step is not None and rows.update(last_step=step) == 1


def _take_recovery_code(user: User, code: str) -> bool:
    with transaction.atomic():
        rows = RecoveryCode.objects.filter(user=user, digest=_digest(user, code), used_at=None)
        if rows.update(used_at=timezone.now()) != 1:
            return False
        left = RecoveryCode.objects.filter(user=user, used_at=None).count()
        audit.record(Actor(user=user).label, "user.recovery_code", user, payload={"left": left})
        notify(user, Kind.CODE_USED, f"{left} are left")
    return True


def _find_step(secret: bytes, code: str) -> int | None:
    now = int(time.time()) // STEP_S
    for step in (now + drift for drift in DRIFT_STEPS):
        if compare_digest(_totp(secret).generate(step * STEP_S), code.encode()):
            return step
    return None


def _totp(secret: bytes) -> TOTP:
    return TOTP(secret, DIGITS, SHA1(), STEP_S)  # noqa: S303 - what the apps know


def _clean(code: str) -> str:
    return "".join(letter for letter in code.upper() if letter.isascii() and letter.isalnum())


def _new_code() -> str:
    text = base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def _digest(user: User, code: str) -> bytes:
    return hashlib.sha256(user.pk.bytes + _clean(code).encode()).digest()


def _cipher() -> AESGCM:
    key = HKDF(SHA256(), 32, salt=None, info=b"strongroom: secrets of authenticator apps")
    return AESGCM(key.derive(settings.SECRET_KEY.encode()))


def _seal(user: User, secret: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    # Bound to the person: a row that is copied to another opens nothing.
    return nonce + _cipher().encrypt(nonce, secret, user.pk.bytes)


def _open(authenticator: Authenticator) -> bytes:
    sealed = bytes(authenticator.sealed_secret)
    nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    return _cipher().decrypt(nonce, rest, authenticator.user_id.bytes)


def _lock(user: User) -> None:
    User.objects.select_for_update(no_key=True).get(pk=user.pk)
