"""The one error that people see from `bin/up`: a clear line, then exit code 2."""

from __future__ import annotations


class StartError(Exception):
    """It cannot start as things are; the text is one line that says what to do."""
