"""A flush of the test database that meets a working process goes again, and only then."""

from __future__ import annotations

import pytest
from django.core.management import CommandError
from django.db import OperationalError
from django.test import TransactionTestCase
from psycopg.errors import DeadlockDetected

from tests.conftest import FLUSHES_MAX, flush_again_after_a_deadlock


def make_error(cause: Exception) -> CommandError:
    """As the flush raises it: around Django's error, around that of the driver."""
    middle, error = OperationalError("deadlock"), CommandError("flush")
    middle.__cause__, error.__cause__ = cause, middle
    return error


def flush_with(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> int:
    """How often the flush is tried when its first tries end so."""
    left, calls = list(errors), []

    def flush(_: TransactionTestCase) -> None:
        calls.append(1)
        if left:
            raise left.pop(0)

    monkeypatch.setattr(TransactionTestCase, "_fixture_teardown", flush)
    patched = flush_again_after_a_deadlock.__wrapped__()
    next(patched)
    try:
        TransactionTestCase()._fixture_teardown()
    finally:
        patched.close()
    return len(calls)


def test_a_deadlock_is_tried_again_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlock = make_error(DeadlockDetected())
    assert flush_with(monkeypatch) == 1
    assert flush_with(monkeypatch, deadlock) == 2
    with pytest.raises(CommandError):
        flush_with(monkeypatch, *[deadlock] * FLUSHES_MAX)


def test_another_error_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError):
        flush_with(monkeypatch, make_error(ValueError()))
