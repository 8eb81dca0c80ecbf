"""Logs: one event is one line, whatever stands in it, as JSON or as text for people.

Production writes one JSON object per line; in development, and where
`STRONGROOM_LOG_FORMAT=text` says so, a line begins with time, level and logger. What a
stranger chose (a path, a header, an error's text) cannot begin a line of its own: control
characters are written as escapes, and the further lines of a traceback are indented.

A call hands fields over as `extra={"fields": {...}}`; with `"event"` beside them, that is the
message of a JSON line. Neither a secret nor what a prediction takes or gives is ever a field.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from marketplace.core.clock import to_wire
from marketplace.core.env import SettingError, env_environment, env_text

FORMATS = ("json", "text")
# Of a message or a traceback; the rest is cut. A line is read by people and by collectors.
TEXT_LENGTH_MAX = 16 * 1024
CUT = "… (cut)"
# Set around a request by whoever answers one at a time in a thread.
request_id: ContextVar[str] = ContextVar("request_id", default="")

_INDENT = "  | "
# All that some reader takes for the end of a line, what moves a terminal's cursor, and halves
# of surrogate pairs, which cannot be written.
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def read_format() -> str:
    """`json` or `text`, from the environment.

    Raises:
        SettingError: It is neither.
    """
    is_development = env_environment() == "development"
    name = env_text("STRONGROOM_LOG_FORMAT", "text" if is_development else "json")
    if name not in FORMATS:
        raise SettingError(f"STRONGROOM_LOG_FORMAT must be json or text, not {name!r}")
    return name


def read_level() -> str:
    """From which level on something is written, from the environment.

    Raises:
        SettingError: There is no such level.
    """
    level = env_text("STRONGROOM_LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise SettingError(f"STRONGROOM_LOG_LEVEL must be a level as INFO, not {level!r}")
    return level


def make_formatter(*, hides_errors: bool = False) -> logging.Formatter:
    """The formatter that the environment asks for; also for `logging.config`."""
    if read_format() == "json":
        return JSONFormatter(hides_errors=hides_errors)
    return TextFormatter(hides_errors=hides_errors)


def configure(*, hides_errors: bool = False) -> None:
    """Write everything to the standard error; for processes without Django.

    Args:
        hides_errors: True where the text of an error may quote what a caller sent.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(make_formatter(hides_errors=hides_errors))
    logging.basicConfig(level=read_level(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # The server underneath has handlers of its own, in another form.
    for name in ("_granian", "granian.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


class _LineFormatter(logging.Formatter):
    """What both forms share.

    Args:
        hides_errors: Show an error as its class and where it was raised, without its text.
    """

    def __init__(self, *, hides_errors: bool = False) -> None:
        super().__init__()
        self.hides_errors = hides_errors

    def read_message(self, record: logging.LogRecord) -> str:
        """The message with its arguments, cut to a length."""
        if self.hides_errors and record.args:
            args = record.args
            if isinstance(args, Mapping):
                args = {name: _blunt(value) for name, value in args.items()}
            else:
                args = tuple(_blunt(value) for value in args)
            return _cut(str(record.msg) % args)
        message = record.msg
        if self.hides_errors and isinstance(message, BaseException):
            return describe_error(message)
        return _cut(record.getMessage())

    def read_exception(self, record: logging.LogRecord) -> str:
        """The traceback; empty where there is none."""
        if not record.exc_info or record.exc_info[1] is None:
            return ""
        error = record.exc_info[1]
        if not self.hides_errors:
            return _cut("".join(traceback.format_exception(error)).rstrip())
        frames = "".join(traceback.format_tb(error.__traceback__)).rstrip()
        return _cut(f"{frames}\n{describe_error(error)}".lstrip())


class JSONFormatter(_LineFormatter):
    """A line is one JSON object, in ASCII: nothing in it ends the line for any reader."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        document: dict[str, Any] = {
            "time": to_wire(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname,
            "logger": record.name,
            "message": getattr(record, "event", None) or self.read_message(record),
        }
        current = request_id.get()
        if current:
            document["request_id"] = current
        for name, value in getattr(record, "fields", {}).items():
            document.setdefault(name, _to_plain(value))
        exception = self.read_exception(record)
        if exception:
            document["exception"] = exception
        return json.dumps(document)


class TextFormatter(_LineFormatter):
    """Time, level, logger, message; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and those of a traceback."""
        moment = to_wire(datetime.fromtimestamp(record.created, UTC))
        message = escape(self.read_message(record))
        line = f"{moment} {record.levelname} {record.name} {message}"
        exception = self.read_exception(record)
        if exception:
            line += "".join(f"\n{_INDENT}{escape(one)}" for one in exception.split("\n"))
        return line


def escape(text: str) -> str:
    """A text on one line: control characters as a source would write them."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def describe_error(error: BaseException) -> str:
    """An error without its text, which may quote what a caller sent."""
    code = getattr(error, "code", None) or getattr(error, "sqlstate", None)
    return f"{type(error).__name__}({code})" if isinstance(code, str) else type(error).__name__


def _blunt(value: Any) -> Any:
    return describe_error(value) if isinstance(value, BaseException) else value


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LENGTH_MAX else text[:TEXT_LENGTH_MAX] + CUT


def _to_plain(value: Any) -> Any:
    return value if isinstance(value, int | float | bool | None) else _cut(str(value))
