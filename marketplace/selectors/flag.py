"""Whether a switch is on. Asked on many pages, so the settings are kept for a few seconds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from django.conf import settings

from marketplace.core.errors import NotFoundError
from marketplace.core.flags import FLAGS, Flag, bucket_of
from marketplace.models import Account, FlagSetting


@dataclass(frozen=True, slots=True)
class _Kept:
    settings: dict[str, FlagSetting]
    until_s: float


_lock = threading.Lock()
_kept: list[_Kept] = []


def get_flag(name: str) -> Flag:
    """A switch that the code knows.

    Raises:
        NotFoundError: There is none of that name.
    """
    flag = FLAGS.get(name)
    if flag is None:
        raise NotFoundError("There is no such switch.")
    return flag


def is_on(flag: Flag, account: Account | None = None) -> bool:
    """Whether it is on for this account; without one, for everybody."""
    assert FLAGS.get(flag.name) is flag, "only what the registry has can be asked for"
    setting = _settings().get(flag.name)
    if setting is None:
        return flag.default
    match setting.mode:
        case FlagSetting.Mode.ON:
            return True
        case FlagSetting.Mode.OFF:
            return False
    if account is None or not flag.is_per_account:
        return False
    return account.slug in setting.accounts or bucket_of(flag, account.pk) < setting.percentage


def list_flags() -> list[tuple[Flag, FlagSetting | None]]:
    """All switches with how they are set now, by name."""
    found = FlagSetting.objects.select_related("changed_by").in_bulk(list(FLAGS))
    return [(FLAGS[name], found.get(name)) for name in sorted(FLAGS)]


def forget_flags() -> None:
    """Look again at the next question; other processes do within seconds."""
    with _lock:
        _kept.clear()


def _settings() -> dict[str, FlagSetting]:
    now_s = time.monotonic()
    with _lock:
        if _kept and _kept[0].until_s > now_s:
            return _kept[0].settings
    found = {row.name: row for row in FlagSetting.objects.filter(name__in=FLAGS)}
    with _lock:
        _kept[:] = [_Kept(found, now_s + settings.PLATFORM_CACHE_S)]
    return found
