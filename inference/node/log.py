"""One line for one event: a name and its fields. Secrets are never among them."""

from __future__ import annotations

import json
import logging
from typing import Any

from marketplace.core import logs

_VALUE_LENGTH_MAX = 500


def configure() -> None:
    """Write to the standard error, in the form and from the level that the environment says."""
    logs.configure()
    # A line for each of its requests would bury ours, every second two.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def event(
    logger: logging.Logger, name: str, /, *, level: int = logging.INFO, **fields: Any
) -> None:
    """Log `name key=value …`; a value that a stranger chose cannot forge a second line.

    Where logs are JSON, the name is the message and each field a member of its own.
    """
    parts = [name, *(f"{key}={_show(value)}" for key, value in fields.items())]
    shown = {key: str(value)[:_VALUE_LENGTH_MAX] for key, value in fields.items()}
    logger.log(level, "%s", " ".join(parts), extra={"event": name, "fields": shown})


def _show(value: Any) -> str:
    text = str(value)[:_VALUE_LENGTH_MAX]
    is_plain = text.isascii() and text.isprintable() and text and not set(text) & set(' ="')
    return text if is_plain else json.dumps(text)
