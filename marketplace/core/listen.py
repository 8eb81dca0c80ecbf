"""Where a server listens, as `host:port` in one variable."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from marketplace.core.env import SettingError, env_text


def env_listen(name: str, default: str, *, env: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Host and port; an IPv6 address stands in brackets.

    Raises:
        SettingError: It is not `host:port`.
    """
    text = env_text(name, default, env=env)
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.netloc != text or "@" in text:
        raise SettingError(f"{name} must be host:port, not {text!r}")
    return host, port
