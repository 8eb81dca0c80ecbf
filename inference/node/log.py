"""One line for one event: a name and its fields. Secrets are never among them."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

_VALUE_LENGTH_MAX = 500


def configure() -> None:
    """Write to the standard error, from the level in STRONGROOM_LOG_LEVEL on."""
    level = os.environ.get("STRONGROOM_LOG_LEVEL", "INFO").upper()
    known = level if level in logging.getLevelNamesMapping() else "INFO"
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(level=known, format=form, stream=sys.stderr)
    # A line for each of its requests would bury ours, every second two.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def event(
    logger: logging.Logger, name: str, /, *, level: int = logging.INFO, **fields: Any
) -> None:
    """Log `name key=value …`; a value that a stranger chose cannot forge a second line."""
    parts = [name, *(f"{key}={_show(value)}" for key, value in fields.items())]
    logger.log(level, " ".join(parts))


def _show(value: Any) -> str:
    text = str(value)[:_VALUE_LENGTH_MAX]
    is_plain = text.isascii() and text.isprintable() and text and not set(text) & set(' ="')
    return text if is_plain else json.dumps(text)
