"""Make, limit and revoke API keys. The text of a key is handed out once and stored nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from marketplace.core import keys, limits
from marketplace.core.errors import ConflictError, ForbiddenError, InvalidInputError
from marketplace.core.keys import Secret
from marketplace.errors import AccountClosingError, CountLimitError
from marketplace.models import Account, APIKey
from marketplace.selectors.access import Actor, require_verified
from marketplace.selectors.key import list_live_keys
from marketplace.services import audit
from marketplace.services.limits import check_key_limits, describe_changes
from marketplace.services.validation import check_row

Mode, Scope = APIKey.Mode, APIKey.Scope

PREFIX_BY_MODE: Mapping[str, str] = {
    Mode.LIVE: keys.LIVE,
    Mode.TEST: keys.TEST,
    Mode.TOKEN: keys.TOKEN,
}
# What a key of this mode may do at most, and does unless told otherwise.
SCOPES_BY_MODE: Mapping[str, tuple[str, ...]] = {
    Mode.LIVE: (Scope.PREDICT, Scope.READ),
    Mode.TEST: (Scope.PREDICT, Scope.READ),
    Mode.TOKEN: (Scope.READ, Scope.PUSH, Scope.PUBLISH, Scope.KEYS, Scope.BILLING),
}


def issue_key(
    *,
    actor: Actor,
    account: Account,
    name: str,
    mode: str,
    scopes: Iterable[str] | None = None,
    expires_at: datetime | None = None,
    key_limits: Mapping[str, Any] | None = None,
) -> tuple[APIKey, Secret]:
    """Make a key.

    Args:
        actor: Who makes it; the caller has checked the right `keys`.
        account: For whom it will act.
        name: What it is for.
        mode: One of `APIKey.Mode`.
        scopes: Some of the mode's scopes; all of them by default.
        expires_at: When it ends by itself.
        key_limits: Some of `KEY_LIMIT_FIELDS`; none by default.

    Returns:
        The row, and the secret, which cannot be had again.

    Raises:
        InvalidInputError: A name, mode, scope, time or limit that is not possible.
        ForbiddenError: A token tries to make a token that may do more than itself.
        EmailNotVerifiedError: A live key or token, by a person whose address is not confirmed.
        CountLimitError: The account has as many live keys as it may have.
        AccountClosingError: The account is going to be deleted.
    """
    chosen = _choose_scopes(mode, scopes)
    checked = check_key_limits(mode, key_limits or {})
    if expires_at is not None and expires_at <= timezone.now():
        detail = "Must lie in the future."
        raise InvalidInputError(errors=[{"pointer": "/expires_at", "detail": detail}])
    if mode != Mode.TEST:
        require_verified(actor)
    _require_no_more_than_own(actor, mode, chosen)
    if actor.api_key is not None and mode == Mode.TOKEN and actor.api_key.expires_at is not None:
        # Else a token that was stolen for a day could make one for ever.
        expires_at = min(expires_at or actor.api_key.expires_at, actor.api_key.expires_at)
    secret = keys.generate(PREFIX_BY_MODE[mode])
    api_key = APIKey(
        account=account,
        created_by=actor.user,
        name=name.strip(),
        mode=mode,
        scopes=chosen,
        digest=secret.digest,
        hint=secret.hint,
        expires_at=expires_at,
        **checked,
    )
    check_row(api_key)
    with transaction.atomic():
        # Takes turns per account, so that two that make one at once stay within the limit.
        locked = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        if locked.closes_at is not None:
            raise AccountClosingError
        if list_live_keys(account).count() >= limits.KEYS_PER_ACCOUNT_MAX:
            raise CountLimitError(
                f"An account has at most {limits.KEYS_PER_ACCOUNT_MAX} live keys. Revoke one first."
            )
        api_key.save(force_insert=True)
        _record(actor, "key.issue", api_key, {name: one for name, one in checked.items() if one})
    return api_key, secret


def change_key(*, actor: Actor, api_key: APIKey, key_limits: Mapping[str, Any]) -> APIKey:
    """Limit a key otherwise; the gateways know within a second. The same again changes nothing.

    Args:
        actor: Who does it; the caller has checked the right `keys`.
        api_key: The key.
        key_limits: Some of `KEY_LIMIT_FIELDS`; the others keep their value.

    Raises:
        InvalidInputError: A limit that is not possible; nothing was changed.
        ConflictError: The key is revoked.
    """
    checked = check_key_limits(api_key.mode, key_limits)
    with transaction.atomic():
        locked = APIKey.objects.select_for_update(no_key=True).get(pk=api_key.pk)
        if locked.revoked_at is not None:
            raise ConflictError("The key is revoked; nothing about it changes any more.")
        changes = describe_changes(locked, checked)
        if changes:
            for name in changes:
                setattr(locked, name, checked[name])
            locked.save(update_fields=list(changes))
            _record(actor, "key.change", locked, changes)
    for name in checked:
        setattr(api_key, name, getattr(locked, name))
    return api_key


def revoke_key(*, actor: Actor, api_key: APIKey) -> APIKey:
    """End a key at once and for good. Repeating it changes nothing."""
    with transaction.atomic():
        locked = APIKey.objects.select_for_update(no_key=True).get(pk=api_key.pk)
        if locked.revoked_at is None:
            locked.revoked_at = timezone.now()
            locked.save(update_fields=["revoked_at"])
            _record(actor, "key.revoke", locked)
    api_key.revoked_at = locked.revoked_at
    return api_key


def _choose_scopes(mode: str, scopes: Iterable[str] | None) -> list[str]:
    if mode not in Mode.values:
        detail = f"One of {', '.join(Mode.values)}."
        raise InvalidInputError(errors=[{"pointer": "/mode", "detail": detail}])
    possible = SCOPES_BY_MODE[mode]
    wanted = set(possible if scopes is None else scopes)
    if not wanted or wanted - set(possible):
        detail = f"One or more of {', '.join(possible)}."
        raise InvalidInputError(errors=[{"pointer": "/scopes", "detail": detail}])
    return [str(scope) for scope in possible if scope in wanted]


def _require_no_more_than_own(actor: Actor, mode: str, scopes: list[str]) -> None:
    # Making consumers' keys is what the scope `keys` is for. A token that makes tokens must
    # not pass itself rights it was not given.
    if actor.api_key is None or mode != Mode.TOKEN:
        return
    excess = sorted(set(scopes) - set(actor.api_key.scopes))
    if excess:
        raise ForbiddenError(f"This token may not pass on {', '.join(excess)}.")


def _record(
    actor: Actor, action: str, api_key: APIKey, details: Mapping[str, Any] | None = None
) -> None:
    audit.record(
        actor.label,
        action,
        api_key,
        account_id=api_key.account_id,
        payload={
            "name": api_key.name,
            "hint": api_key.hint,
            "mode": api_key.mode,
            **(details or {}),
        },
    )
