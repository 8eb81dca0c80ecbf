"""What was booked one by one, with rows of shares, is carried over to batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from billing.models import KeySpend, UsageEvent
from billing.services.receipt import seal_receipts
from marketplace.core.ids import new_id
from strongroom.sealing.canonical import encode_base64
from strongroom.sealing.signature import generate_signing_key
from tests.billing.conftest import PRICE_NANOS, Shop, query
from tests.billing.test_ledger import broken, record_answer

pytestmark = pytest.mark.django_db(transaction=True)

BEFORE = [("billing", "0006_key_spend"), ("inference", "0005_heard_nodes")]
# The guards of the time: the functions that 0007 removes, by name.
OLD_GUARDS = """
    CREATE FUNCTION billing_check_event_shares() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT 1 FROM new_rows u WHERE u.gross_nanos <> coalesce((
            SELECT sum(s.amount_nanos) FROM billing_usageshare s
            WHERE s.usage_event_id = u.prediction_id), 0))
        THEN RAISE EXCEPTION 'the shares of a usage event add up to its gross'; END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER billing_usageevent_shares AFTER INSERT ON billing_usageevent
        REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
        EXECUTE FUNCTION billing_check_event_shares();
    CREATE TRIGGER billing_usageevent_append_only_again
        BEFORE UPDATE OR DELETE ON billing_usageshare
        FOR EACH ROW EXECUTE FUNCTION billing_refuse_change();
    CREATE FUNCTION billing_hold(uuid, uuid, bigint, integer) RETURNS integer
        LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION billing_settle(jsonb) RETURNS integer LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION billing_void(uuid[], text) RETURNS integer LANGUAGE sql AS 'SELECT 1';
"""
NEW_TRIGGERS = (
    ("billing_usageevent_transfer", "billing_usageevent"),
    ("billing_keep_used_account", "marketplace_account"),
    ("billing_keep_used_version", "marketplace_modelversion"),
    ("inference_keep_version", "marketplace_modelversion"),
)
# One event with its shares and its transfer, in one statement as it was written then.
BOOK = """
    WITH t AS (INSERT INTO billing_transfer (id, kind, idempotency_key, reference, created_at)
        VALUES (%(id)s, 'usage', 'usage:' || %(id)s, '', %(at)s)),
    e AS (INSERT INTO billing_transferentry (transfer_id, ledger_account_id, amount_nanos)
        VALUES (%(id)s, %(wallet)s, -1001), (%(id)s, %(payable)s, 800),
            (%(id)s, %(platform)s, 201)),
    u AS (INSERT INTO billing_usageevent (prediction_id, account_id, api_key_id, version_id,
            creator_id, price_id, mode, units, gross_nanos, transfer_id, occurred_at)
        VALUES (%(id)s, %(consumer)s, %(key)s, %(version)s, %(creator)s, %(price)s, 'live', 1,
            1001, %(id)s, %(at)s)),
    s AS (INSERT INTO billing_usageshare (usage_event_id, role, ledger_account_id, amount_nanos)
        VALUES (%(id)s, 'creator', %(payable)s, 800), (%(id)s, 'platform', %(platform)s, 201)),
    m AS (UPDATE billing_ledgeraccount a SET posted_nanos = posted_nanos + c.nanos
        FROM (VALUES (%(wallet)s::uuid, -1001), (%(payable)s::uuid, 800),
            (%(platform)s::uuid, 201)) AS c(id, nanos) WHERE a.id = c.id)
    SELECT 1
"""


def migrate(targets: list[tuple[str, str]]) -> None:
    executor = MigrationExecutor(connection)
    executor.migrate(targets)


@pytest.fixture
def old_tables(shop: Shop) -> Iterator[None]:
    """The tables as they were before; whatever happens, they are new again afterwards."""
    latest = MigrationExecutor(connection).loader.graph.leaf_nodes()
    with connection.cursor() as cursor:
        # What a migration made and its reverse leaves.
        for trigger, table in NEW_TRIGGERS:
            cursor.execute(f"DROP TRIGGER {trigger} ON {table}")
    migrate(BEFORE)
    try:
        with connection.cursor() as cursor:
            cursor.execute(OLD_GUARDS)
        yield
    finally:
        migrate(latest)
        # Tables made anew have nobody's rights.
        call_command("grant_roles", verbosity=0)


def book_as_before(shop: Shop, key_id, occurred_at: str) -> None:
    prediction_id = new_id()
    accounts = {
        name: query("SELECT billing_account(%s, %s)", holder, kind)[0][0]
        for name, holder, kind in (
            ("wallet", shop.consumer.pk, "wallet"),
            ("payable", shop.creator.pk, "creator_payable"),
            ("platform", None, "platform_revenue"),
        )
    }
    record_answer(shop, prediction_id)
    with connection.cursor() as cursor:
        cursor.execute(
            BOOK,
            accounts
            | {
                "id": prediction_id,
                "at": occurred_at,
                "key": key_id,
                "consumer": shop.consumer.pk,
                "creator": shop.creator.pk,
                "version": shop.version.pk,
                "price": shop.price.pk,
            },
        )


def test_events_get_their_creators_part_and_keys_what_they_spent(
    shop: Shop, fund, old_tables: None, settings
) -> None:
    fund(10 * PRICE_NANOS)
    first, second = new_id(), new_id()
    for key_id, occurred_at in (
        (first, "2026-01-31T23:59:59Z"),
        (first, "2026-02-01T00:00:00Z"),
        (first, "2026-02-01T23:00:00+02:00"),
        (second, "2026-02-02T12:00:00Z"),
        (None, "2026-02-02T12:00:00Z"),
    ):
        book_as_before(shop, key_id, occurred_at)

    migrate(MigrationExecutor(connection).loader.graph.leaf_nodes())

    assert (
        list(UsageEvent.objects.values_list("gross_nanos", "creator_nanos")) == [(1_001, 800)] * 5
    )
    spent = {
        (row.api_key_id, row.period, str(row.starts_on)): (row.spent_nanos, row.held_nanos)
        for row in KeySpend.objects.all()
    }
    assert spent == {
        (first, "day", "2026-01-31"): (1_001, 0),
        (first, "day", "2026-02-01"): (2_002, 0),
        (first, "month", "2026-01-01"): (1_001, 0),
        (first, "month", "2026-02-01"): (2_002, 0),
        (first, "total", "1970-01-01"): (3_003, 0),
        (second, "day", "2026-02-02"): (1_001, 0),
        (second, "month", "2026-02-01"): (1_001, 0),
        (second, "total", "1970-01-01"): (1_001, 0),
    }
    # What was booked before there were receipts gets them.
    assert broken() == {"charges-are-sealed"}
    settings.RECEIPT_KEY = encode_base64(generate_signing_key())
    assert seal_receipts() == 5
    assert broken() == set()
    # The guard of what is written stands again, and the old functions are gone.
    with pytest.raises(Exception, match="append-only"):
        query("UPDATE billing_usageevent SET creator_nanos = 0 RETURNING 1")
    names = ["billing_hold", "billing_void", "billing_check_event_shares"]
    assert query("SELECT proname FROM pg_proc WHERE proname = ANY (%s)", names) == []
    assert query("SELECT count(*) FROM pg_proc WHERE proname = 'billing_settle'") == [(1,)]
