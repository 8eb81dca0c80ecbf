"""Count tries by address and name, and refuse the one too many.

Counts live in Redis and are raised before the work, so that many tries at once cannot
slip through together. Redis may be flushed at any moment: then somebody gets a few more
tries. Without Redis people can still sign in, and the log says so.
"""

from __future__ import annotations

import hashlib
import logging
from uuid import UUID

from django.core.cache import cache
from redis.exceptions import RedisError

from marketplace.core import limits
from marketplace.core.errors import LimitExceededError
from marketplace.errors import LoginThrottledError

logger = logging.getLogger(__name__)


def count_login(*, email: str, address: str) -> None:
    """Count a try to sign in.

    Raises:
        LoginThrottledError: Too many failed; the password was not looked at.
    """
    by_pair = _raise_count(_login_key(email, address), limits.LOGIN_WINDOW_S)
    by_address = _raise_count(_key("login-address", address), limits.LOGIN_WINDOW_S)
    by_person = _raise_count(_person_key(email), limits.LOGIN_WINDOW_S)
    if (
        by_pair > limits.LOGIN_FAILURES_MAX
        or by_address > limits.LOGIN_FAILURES_PER_ADDRESS_MAX
        or by_person > limits.LOGIN_FAILURES_PER_PERSON_MAX
    ):
        raise LoginThrottledError(retry_after_s=limits.LOGIN_WINDOW_S)


def forget_login(*, email: str, address: str) -> None:
    """The password was right: it was no failure."""
    try:
        cache.delete(_login_key(email, address))
        cache.decr(_person_key(email))
        cache.decr(_key("login-address", address))
    except (RedisError, ValueError):
        logger.warning("the count of failed log-ins could not be lowered")


def count_factor(*, user_id: UUID) -> None:
    """Count a code of a second factor.

    Raises:
        LoginThrottledError: Too many were wrong; the code was not looked at.
    """
    count = _raise_count(_key("factor", str(user_id)), limits.FACTOR_WINDOW_S)
    if count > limits.FACTOR_FAILURES_MAX:
        raise LoginThrottledError(retry_after_s=limits.FACTOR_WINDOW_S)


def forget_factor(*, user_id: UUID) -> None:
    """The code was right: what was mistyped before is forgotten."""
    try:
        cache.delete(_key("factor", str(user_id)))
    except RedisError:
        logger.warning("the count of wrong codes could not be lowered")


def count_passkey(*, address: str) -> None:
    """Count a question to a passkey; each makes a session. Raises `LoginThrottledError`."""
    count = _raise_count(_key("passkey", address), limits.LOGIN_WINDOW_S)
    if count > limits.LOGIN_FAILURES_PER_ADDRESS_MAX * 2:
        raise LoginThrottledError(retry_after_s=limits.LOGIN_WINDOW_S)


def count_confirm_mail(*, user_id: UUID) -> None:
    """Count a mail with a link that confirms an address. Raises `LimitExceededError`."""
    window_s = limits.CONFIRM_MAIL_WINDOW_S
    count = _raise_count(_key("confirm-mail", str(user_id)), window_s)
    if count > limits.CONFIRM_MAILS_MAX:
        raise LimitExceededError("Too many mails asked for.", retry_after_s=window_s)


def count_sign_up(*, address: str) -> None:
    """Count a new account. Raises `LimitExceededError`."""
    window_s = limits.SIGN_UP_WINDOW_S
    if _raise_count(_key("sign-up", address), window_s) > limits.SIGN_UPS_PER_ADDRESS_MAX:
        raise LimitExceededError("Too many new accounts from here.", retry_after_s=window_s)


def count_password_reset(*, address: str) -> None:
    """Count a mail to reset a password. Raises `LimitExceededError`."""
    window_s = limits.PASSWORD_RESET_WINDOW_S
    count = _raise_count(_key("reset", address), window_s)
    if count > limits.PASSWORD_RESETS_PER_ADDRESS_MAX:
        raise LimitExceededError("Too many mails asked for from here.", retry_after_s=window_s)


def count_coupon_try(*, account_id: UUID) -> None:
    """Count a code that an account tries. Raises `LimitExceededError`."""
    window_s = limits.COUPON_WINDOW_S
    count = _raise_count(_key("coupon", str(account_id)), window_s)
    if count > limits.COUPON_TRIES_PER_ACCOUNT_MAX:
        raise LimitExceededError("Too many codes were tried.", retry_after_s=window_s)


def _login_key(email: str, address: str) -> str:
    return _key("login", f"{email.strip().lower()}|{address}")


def _person_key(email: str) -> str:
    return _key("login-person", email.strip().lower())


def _key(kind: str, subject: str) -> str:
    # A digest: cache keys have a limited length and alphabet, subjects have not.
    return f"throttle:{kind}:{hashlib.sha256(subject.encode()).hexdigest()}"


def _raise_count(key: str, window_s: int) -> int:
    try:
        cache.add(key, 0, window_s)
        return cache.incr(key)
    except ValueError:
        return 1  # The window ended between the two calls.
    except RedisError:
        logger.warning("redis is away: tries are not counted")
        return 0
