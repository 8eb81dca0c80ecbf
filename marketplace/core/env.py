"""Typed readers of environment variables; a wrong value stops the process at its start.

Each secret can also come from a file, named by the same variable with `_FILE` behind it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


class SettingError(Exception):
    """A variable is missing or has a form that is not accepted."""


def env_text(name: str, default: str | None = None, *, env: Mapping[str, str] | None = None) -> str:
    """A text; without a default the variable must be set and not be empty."""
    value = (os.environ if env is None else env).get(name) or default
    if value is None:
        raise SettingError(f"{name} is not set")
    return value


def env_int(
    name: str,
    default: int | None = None,
    *,
    minimum: int = 0,
    maximum: int | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """A whole number not below `minimum`, nor above `maximum`."""
    text = env_text(name, None if default is None else str(default), env=env)
    try:
        value = int(text)
    except ValueError:
        raise SettingError(f"{name} must be a whole number, not {text!r}") from None
    if value < minimum:
        raise SettingError(f"{name} must be at least {minimum}, not {value}")
    if maximum is not None and value > maximum:
        raise SettingError(f"{name} must be at most {maximum}, not {value}")
    return value


def env_ratio(
    name: str, default: float | None = None, *, env: Mapping[str, str] | None = None
) -> float:
    """A number from 0 to 1."""
    text = env_text(name, None if default is None else str(default), env=env)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise SettingError(f"{name} must be a number from 0 to 1, not {text!r}")
    return value


def env_bool(
    name: str, default: bool | None = None, *, env: Mapping[str, str] | None = None
) -> bool:
    """`true` or `false`, nothing else: "0" and "off" have surprised too many people."""
    text = env_text(name, None if default is None else str(default).lower(), env=env)
    if text.lower() not in ("true", "false"):
        raise SettingError(f"{name} must be true or false, not {text!r}")
    return text.lower() == "true"


def env_secret(
    name: str, default: str | None = None, *, env: Mapping[str, str] | None = None
) -> str:
    """A secret from the variable, or from the file that `<name>_FILE` names."""
    source = os.environ if env is None else env
    path = source.get(f"{name}_FILE")
    if path:
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise SettingError(f"{name}_FILE cannot be read: {error.strerror}") from error
    return env_text(name, default, env=source)
