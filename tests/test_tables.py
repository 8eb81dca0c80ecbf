"""Tables are emptied between tests, whatever protects them; a working process may be met."""

from __future__ import annotations

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, OperationalError, connection, transaction
from psycopg.errors import DeadlockDetected

from marketplace.services import audit
from tests import tables


def count_rows() -> int:
    """Of all tables that a test may fill."""
    names = set(connection.introspection.django_table_names(only_existing=True)) - tables.KEPT
    with connection.cursor() as cursor:
        counts = []
        for name in names:
            cursor.execute(f"SELECT count(*) FROM {name}")
            counts.append(cursor.fetchone()[0])
    return sum(counts)


@pytest.mark.django_db(transaction=True)
def test_nothing_is_left_of_what_triggers_protect(account):
    with transaction.atomic():
        audit.record("test", "account.made", account)
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM marketplace_auditevent")
    kinds = ContentType.objects.count()

    tables.empty()

    assert count_rows() == 0
    assert ContentType.objects.count() == kinds > 0
    with connection.cursor() as cursor:
        cursor.execute("SHOW session_replication_role")
        assert cursor.fetchone() == ("origin",)


def empty_with(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> int:
    """How often it is tried when its first tries end so."""
    left, calls = list(errors), []

    def fail() -> None:
        calls.append(1)
        if left:
            raise left.pop(0)

    monkeypatch.setattr(tables, "_empty", fail)
    tables.empty()
    return len(calls)


def make_error(cause: Exception) -> OperationalError:
    """As Django raises what the driver raised."""
    error = OperationalError("deadlock")
    error.__cause__ = cause
    return error


def test_a_deadlock_is_tried_again_and_ends(monkeypatch):
    deadlock = make_error(DeadlockDetected())
    assert empty_with(monkeypatch) == 1
    assert empty_with(monkeypatch, deadlock) == 2
    with pytest.raises(OperationalError):
        empty_with(monkeypatch, *[deadlock] * tables.ATTEMPTS_MAX)


def test_another_error_is_told_at_once(monkeypatch):
    with pytest.raises(OperationalError):
        empty_with(monkeypatch, make_error(ValueError()))
