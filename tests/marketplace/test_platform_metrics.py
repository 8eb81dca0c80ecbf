"""The numbers of the platform: each says what it means, and says so when it cannot be read."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.db import connection

from billing.models import LedgerAccount, ReconcileRun, StripeEvent
from inference.models import Node, WebhookEvent
from marketplace import beat_metrics
from marketplace.core.clock import utc_now
from marketplace.core.exposition import Page
from marketplace.models import Vital
from marketplace.services import platform_metrics
from marketplace.services.platform_metrics import Part, PlatformWatch, gauge
from marketplace.services.vital import note_vital, note_worker
from tests.factories import AccountFactory

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _keep_connection(monkeypatch):
    """The test's own transaction lives in it."""
    monkeypatch.setattr(connection, "close", lambda: None)


def read_page(watch=None):
    """Values by `name{labels}` without the prefix."""
    watch = watch or PlatformWatch()
    page = Page({one.name: one for one in watch.families})
    watch.write(page)
    lines = page.to_bytes().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name.removeprefix("strongroom_platform_"): float(value) for name, value in pairs}


def test_every_part_can_be_read_and_every_family_is_there():
    AccountFactory()
    note_worker()
    note_vital("ledger", is_good=True)
    note_vital("audit", is_good=True)
    now = utc_now()
    ReconcileRun.objects.create(since=now, until=now + timedelta(1), state="clean", finished_at=now)
    watch = PlatformWatch()

    found = read_page(watch)

    assert {name: value for name, value in found.items() if name.startswith("part_up")} == {
        f'part_up{{part="{part}"}}': 1.0
        for part in ("vitals", "database", "redis", "queue", "fleet", "webhooks", "ledger",
                     "reconciliation", "usage", "stripe")
    }  # fmt: skip
    shown = {re.sub(r"\{.*", "", name) for name in found}
    assert shown == {one.name.removeprefix("strongroom_platform_") for one in watch.families}


def test_a_worker_that_is_silent_is_seen():
    assert "worker_silence_seconds" not in read_page()
    assert read_page()["workers_alive"] == 0

    note_worker()
    assert read_page()["workers_alive"] == 1
    assert read_page()["worker_silence_seconds"] < 60

    Vital.objects.update(at=utc_now() - timedelta(minutes=5))
    assert read_page()["workers_alive"] == 0
    assert read_page()["worker_silence_seconds"] >= 300


def test_a_check_that_failed_is_seen():
    note_vital("ledger", is_good=False, detail="broken")
    found = read_page()

    assert found['check_good{check="ledger"}'] == 0
    assert found['check_age_seconds{check="ledger"}'] < 60


def test_books_that_do_not_balance_are_seen():
    pot = LedgerAccount.objects.create(kind="goodwill")
    owed = LedgerAccount.objects.create(kind="wallet", holder=AccountFactory())
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
    # Beyond 2**53, where a float does not tell one nano-dollar from the next.
    amount = 2**60
    LedgerAccount.objects.filter(pk=pot.pk).update(posted_nanos=-amount)
    LedgerAccount.objects.filter(pk=owed.pk).update(posted_nanos=amount, held_nanos=5)
    before = read_page()

    LedgerAccount.objects.filter(pk=owed.pk).update(posted_nanos=amount + 1)
    after = read_page()

    assert before["ledger_imbalance_nanos"] == 0
    assert before["ledger_held_nanos"] == 5
    assert before["ledger_credits_nanos"] == before["ledger_debits_nanos"] == amount
    assert after["ledger_imbalance_nanos"] == 1


def test_reconciliation_is_told_by_its_last_whole_run():
    assert "reconciliation_age_seconds" not in read_page()
    now = utc_now()
    span = {"since": now - timedelta(2), "until": now - timedelta(1)}
    ReconcileRun.objects.create(
        **span,
        state="unexplained",
        difference_count=3,
        unexplained_count=2,
        finished_at=now - timedelta(hours=5),
    )
    ReconcileRun.objects.create(**span, state="running")
    found = read_page()
    assert found['reconciliation_differences{explained="all"}'] == 3
    assert found['reconciliation_differences{explained="no"}'] == 2
    assert found["reconciliation_age_seconds"] == pytest.approx(5 * 3600, abs=60)
    assert found["reconciliation_failed"] == 0

    # One that fails makes the last good one no younger.
    ReconcileRun.objects.create(**span, state="failed", finished_at=now)
    found = read_page()
    assert found["reconciliation_failed"] == 1
    assert found["reconciliation_age_seconds"] == pytest.approx(5 * 3600, abs=60)


def test_nodes_are_counted_by_what_was_heard_of_them():
    now = utc_now()

    def make(name, **values):
        Node.objects.create(
            name=name, public_key=name, token_digest=name.encode(), triton_http_url="",
            triton_grpc_url="", **values
        )  # fmt: skip

    make("a", last_seen_at=now, triton_ready=True)
    make("b", last_seen_at=now)
    make("c", last_seen_at=now, triton_ready=True, drain_requested_at=now)
    make("d", last_seen_at=now - timedelta(minutes=1), triton_ready=True)
    make("e", last_seen_at=None)
    make("f", last_seen_at=now, triton_ready=True, revoked_at=now)

    found = read_page()
    states = ("ready", "not_ready", "draining", "silent")
    assert [found[f'nodes{{state="{one}"}}'] for one in states] == [1, 1, 1, 2]


def test_what_waits_to_leave_is_told_by_its_age():
    account = AccountFactory()
    assert read_page()["webhook_outbox_seconds"] == 0
    assert read_page()["stripe_events_waiting"] == 0
    long_ago = utc_now() - timedelta(minutes=9)
    WebhookEvent.objects.create(
        account_id=account.pk, type="prediction.succeeded", payload={}, created_at=long_ago
    )
    StripeEvent.objects.create(id="evt_1", type="x", payload={}, created_at=long_ago)
    StripeEvent.objects.update(received_at=long_ago)

    found = read_page()
    assert found["webhook_outbox_seconds"] == pytest.approx(540, abs=60)
    assert found["stripe_events_waiting"] == 1
    assert found["stripe_events_oldest_seconds"] == pytest.approx(540, abs=60)


def test_a_part_that_cannot_be_read_is_missing_and_said_to_be(monkeypatch, caplog):
    def fail():
        yield "half", 1, {}
        raise RuntimeError("password=hunter2")

    def stall():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(30)")
        yield "slow", 1, {}

    monkeypatch.setattr(platform_metrics, "STATEMENT_TIMEOUT_MS", 50)
    monkeypatch.setattr(
        platform_metrics,
        "_parts",
        {
            "bad": Part("bad", (gauge("half", "H."),), fail, uses_database=False),
            "slow": Part("slow", (gauge("slow", "S."),), stall),
            "good": Part("good", (gauge("ok", "O."),), lambda: iter([("ok", 7, {})])),
        },
    )

    found = read_page()

    assert found['part_up{part="bad"}'] == found['part_up{part="slow"}'] == 0
    assert found['part_up{part="good"}'] == 1
    assert found["ok"] == 7
    assert "half" not in found
    assert "slow" not in found
    assert "hunter2" not in caplog.text


def test_many_scrapes_read_once(monkeypatch):
    calls = []

    def read():
        calls.append(1)
        yield "n", len(calls), {}

    part = Part("x", (gauge("n", "N."),), read)
    monkeypatch.setattr(platform_metrics, "_parts", {"x": part})
    watch = PlatformWatch()
    for _ in range(5):
        read_page(watch)
    assert len(calls) == 1

    monkeypatch.setattr(platform_metrics, "KEPT_S", 0)
    read_page(watch)
    assert len(calls) == 2


def test_beat_knows_its_schedule_and_when_it_last_spoke():
    metrics = beat_metrics.make_metrics()
    page = metrics.registry.render().decode()
    assert 'strongroom_beat_tasks_sent_total{task="marketplace.note_worker"} 0' in page
    metrics.last_sent_s = 0.0

    metrics.note_sent(sender="marketplace.note_worker")

    page = metrics.registry.render().decode()
    assert 'strongroom_beat_tasks_sent_total{task="marketplace.note_worker"} 1' in page
    assert metrics.last_sent_s > 1e9
    assert 'strongroom_platform_part_up{part="ledger"} 1' in page
