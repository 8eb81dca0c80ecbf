from __future__ import annotations

import itertools

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.utils import DatabaseError

from marketplace.models import AuditEvent
from marketplace.services import audit
from tests.factories import AccountFactory
from tests.marketplace.test_catalog import in_threads


@pytest.fixture
def chain(db) -> list[AuditEvent]:
    account = AccountFactory()
    return [
        audit.record(
            "user:a@example.com",
            "thing.change",
            account,
            account_id=account.pk,
            payload={"n": number, "text": "ü"},
        )
        for number in range(5)
    ]


def tamper(sql: str, *arguments: object) -> None:
    """Change the table as somebody with the owner's rights on the database could."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE marketplace_auditevent DISABLE TRIGGER USER")
        cursor.execute(sql, arguments)
        cursor.execute("ALTER TABLE marketplace_auditevent ENABLE TRIGGER USER")


def test_each_event_is_bound_to_the_one_before(chain):
    assert bytes(chain[0].prev_hash) == audit.GENESIS
    for before, after in itertools.pairwise(chain):
        assert bytes(after.prev_hash) == bytes(before.hash)
    assert audit.find_first_break() is None


def test_an_empty_log_is_whole(db):
    assert audit.find_first_break() is None


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "user:somebody@example.com"),
        ("action", "thing.other"),
        ("object_id", "another"),
        ("object_type", "marketplace.other"),
        ("payload", '{"n": 99}'),
        ("account_id", None),
        ("at", "2020-01-01T00:00:00Z"),
        ("hash", bytes(32)),
        ("prev_hash", bytes(32)),
    ],
)
def test_an_altered_event_is_found(chain, column, value):
    tamper(f"UPDATE marketplace_auditevent SET {column} = %s WHERE seq = %s", value, chain[2].seq)

    assert audit.find_first_break() == chain[2].seq


def test_a_removed_event_is_found(chain):
    tamper("DELETE FROM marketplace_auditevent WHERE seq = %s", chain[1].seq)

    assert audit.find_first_break() == chain[2].seq


def test_a_rewritten_event_breaks_the_next(chain):
    event = chain[2]
    event.actor = "user:somebody@example.com"
    tamper(
        "UPDATE marketplace_auditevent SET actor = %s, hash = %s WHERE seq = %s",
        event.actor,
        audit.event_hash(event),
        event.seq,
    )

    assert audit.find_first_break() == chain[3].seq


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE marketplace_auditevent SET actor = 'x'",
        "DELETE FROM marketplace_auditevent",
        "UPDATE marketplace_review SET reason = 'x'",
    ],
)
def test_the_database_refuses_to_change_the_log(chain, sql):
    from tests.factories import ModelVersionFactory, UserFactory

    ModelVersionFactory().reviews.create(
        reviewer=UserFactory(), decision="approved", reason="Fine."
    )
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
    assert AuditEvent.objects.count() == 5


@pytest.mark.django_db(transaction=True)
def test_events_written_at_once_make_one_chain():
    account = AccountFactory()

    def write() -> int:
        with transaction.atomic():
            return audit.record("user:a@example.com", "thing.change", account).seq

    assert len(set(in_threads(8, write))) == 8
    assert audit.find_first_break() is None


@pytest.mark.django_db(transaction=True)
def test_an_event_without_a_transaction_is_a_mistake():
    with pytest.raises(AssertionError):
        audit.record("user:a@example.com", "thing.change", AccountFactory())


@pytest.mark.django_db(transaction=True)
def test_an_event_goes_with_the_change_that_fails():
    account = AccountFactory()

    def change_and_fail() -> None:
        with transaction.atomic():
            audit.record("user:a@example.com", "thing.change", account)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change_and_fail()

    assert AuditEvent.objects.count() == 0


def test_the_command_says_whether_the_log_is_whole(chain, capsys):
    call_command("audit_check")
    assert capsys.readouterr().out.startswith("ok     5 events")

    tamper("UPDATE marketplace_auditevent SET actor = 'x' WHERE seq = %s", chain[3].seq)
    with pytest.raises(SystemExit) as caught:
        call_command("audit_check")
    assert caught.value.code == 1
    assert f"BROKEN at event {chain[3].seq}" in capsys.readouterr().out
