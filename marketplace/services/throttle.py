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
    if by_pair > limits.LOGIN_FAILURES_MAX or by_address > limits.LOGIN_FAILURES_PER_ADDRESS_MAX:
        raise LoginThrottledError(retry_after_s=limits.LOGIN_WINDOW_S)


def forget_login(*, email: str, address: str) -> None:
    """The password was right: it was no failure."""
    try:
        cache.delete(_login_key(email, address))
        cache.decr(_key("login-address", address))
    except (RedisError, ValueError):
        logger.warning("the count of failed log-ins could not be lowered")


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
