"""What the processes' own database roles may do to the records of payments."""

from __future__ import annotations

import psycopg
import pytest

from marketplace.management.commands.grant_roles import PAYMENT_TABLES

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("table", [*PAYMENT_TABLES, "billing_reviewsignal"])
def test_what_happened_to_payments_is_never_removed(
    database_urls: dict[str, str], table: str
) -> None:
    for role in ("app", "gateway"):
        refused = pytest.raises(psycopg.errors.InsufficientPrivilege)
        with psycopg.connect(database_urls[role]) as connection, refused:
            connection.execute(f"DELETE FROM {table}")
    # The control: the owner of the tables may.
    with psycopg.connect(database_urls["owner"]) as connection:
        connection.execute(f"DELETE FROM {table}")


def test_gateways_do_not_read_why_an_account_is_frozen(database_urls: dict[str, str]) -> None:
    with psycopg.connect(database_urls["gateway"]) as connection:
        assert connection.execute("SELECT count(frozen_at) FROM marketplace_account").fetchone()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM billing_reviewsignal")


def test_evidence_is_not_changed(database_urls: dict[str, str]) -> None:
    with psycopg.connect(database_urls["app"]) as connection:
        connection.execute("UPDATE billing_reviewcase SET reason = reason")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE billing_reviewsignal SET evidence = '{}'")
