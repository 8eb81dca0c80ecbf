"""Typed readers of environment variables; a wrong value stops the process at its start.

Each secret can also come from a file, named by the same variable with `_FILE` behind it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

ENVIRONMENTS = ("development", "staging", "production")
# Shown to others or signed with: outside development, what is shorter can be guessed.
TOKEN_LENGTH_MIN = 32
PORT_MAX = 65535


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
        return _read_secret(f"{name}_FILE", Path(path))
    return env_text(name, default, env=source)


def _read_secret(name: str, path: Path) -> str:
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise SettingError(f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingError(f"{name} names a file that is no text") from None
    if not text:
        raise SettingError(f"{name} names an empty file")
    return text


def env_environment(*, env: Mapping[str, str] | None = None) -> str:
    """`development`, `staging` or `production`; the last two are the same to the code."""
    value = env_text("STRONGROOM_ENV", "production", env=env)
    if value not in ENVIRONMENTS:
        raise SettingError(
            f"STRONGROOM_ENV must be one of {', '.join(ENVIRONMENTS)}, not {value!r}"
        )
    return value


def env_token(
    name: str, default: str | None = None, *, env: Mapping[str, str] | None = None
) -> str:
    """A secret that others show or that signs; outside development it cannot be guessed."""
    value = env_secret(name, env=env)
    if env_environment(env=env) != "development" and len(value) < TOKEN_LENGTH_MIN:
        raise SettingError(f"{name} must have at least {TOKEN_LENGTH_MIN} characters")
    return value


def env_url(name: str, default: str | None = None, *, env: Mapping[str, str] | None = None) -> str:
    """An http(s) address without a slash at its end."""
    text = env_text(name, default, env=env).rstrip("/")
    if not _is_url(text, "http", "https") or not urlsplit(text).hostname:
        raise SettingError(f"{name} must be an http(s) URL, not {text!r}")
    return text


def env_database_url(name: str, *, env: Mapping[str, str] | None = None) -> str:
    """Where Postgres is, as postgresql://; what is wrong with it is not quoted."""
    text = env_secret(name, env=env)
    if not _is_url(text, "postgresql", "postgres"):
        raise SettingError(f"{name} must be like postgresql://role:password@host:5432/database")
    return text


def env_redis_url(name: str, *, env: Mapping[str, str] | None = None) -> str:
    """Where Redis is, as redis:// or rediss:// (TLS); what is wrong with it is not quoted."""
    text = env_secret(name, env=env)
    if not _is_url(text, "redis", "rediss") or not urlsplit(text).hostname:
        raise SettingError(f"{name} must be like redis://user:password@host:6379/0")
    return text


def _is_url(text: str, *schemes: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and parts.port != 0 and text.startswith(f"{parts.scheme}://")
    except ValueError:
        return False
