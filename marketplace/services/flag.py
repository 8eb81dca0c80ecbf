"""Turn the switches of the product."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction

from marketplace.core import limits
from marketplace.core.errors import InvalidInputError
from marketplace.core.flags import Flag
from marketplace.errors import FeatureOffError
from marketplace.models import Account, FlagSetting
from marketplace.selectors.access import Actor
from marketplace.selectors.flag import forget_flags, is_on
from marketplace.services import audit
from marketplace.services.admin import check_reason, require_admin
from marketplace.services.validation import check_row


def require_flag(flag: Flag, account: Account | None = None) -> None:
    """Raise `FeatureOffError` unless the switch is on for the account."""
    if not is_on(flag, account):
        raise FeatureOffError


def set_flag(
    *,
    actor: Actor,
    flag: Flag,
    mode: str,
    percentage: int = 0,
    accounts: Sequence[str] = (),
    reason: str,
) -> FlagSetting:
    """Set a switch; it counts here at once and elsewhere within seconds.

    Args:
        actor: A platform admin.
        flag: Which.
        mode: One of `FlagSetting.Mode`.
        percentage: Of `some`: so many of a hundred accounts, always the same ones.
        accounts: Of `some`: slugs of accounts that have it in any case.
        reason: Why, for the audit log.

    Raises:
        ForbiddenError: No platform admin.
        InvalidInputError: A mode that this switch has not, a number or an account that is not.
    """
    user = require_admin(actor)
    reason = check_reason(reason)
    is_some = mode == FlagSetting.Mode.SOME
    if is_some and not flag.is_per_account:
        _refuse("/mode", "This switch is on or off for all.")
    slugs = sorted(set(accounts)) if is_some else []
    if len(slugs) > limits.ALLOWED_ENTRIES_MAX:
        _refuse("/accounts", f"At most {limits.ALLOWED_ENTRIES_MAX} accounts.")
    known = set(Account.objects.filter(slug__in=slugs).values_list("slug", flat=True))
    for slug in slugs:
        if slug not in known:
            _refuse("/accounts", f"There is no account {slug}.")
    with transaction.atomic():
        before = FlagSetting.objects.select_for_update().filter(pk=flag.name).first()
        row = FlagSetting(
            name=flag.name,
            mode=mode,
            percentage=percentage if is_some else 0,
            accounts=slugs,
            changed_by=user,
        )
        _check(row, is_new=before is None)
        row.save(force_insert=before is None, force_update=before is not None)
        audit.record(
            actor.label,
            "flag.set",
            row,
            payload={
                "flag": flag.name,
                "from": _describe(before, flag),
                "to": _describe(row, flag),
                "reason": reason,
            },
        )
        transaction.on_commit(forget_flags)
    return row


def _check(row: FlagSetting, *, is_new: bool) -> None:
    # A row that is there is no duplicate of itself.
    row._state.adding = is_new  # noqa: SLF001
    check_row(row)


def _describe(row: FlagSetting | None, flag: Flag) -> str:
    if row is None:
        return f"default ({'on' if flag.default else 'off'})"
    if row.mode != FlagSetting.Mode.SOME:
        return row.mode
    return f"{row.percentage} % and {', '.join(row.accounts) or 'no account by name'}"


def _refuse(pointer: str, detail: str) -> None:
    raise InvalidInputError(errors=[{"pointer": pointer, "detail": detail}])
