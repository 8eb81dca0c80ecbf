"""Dead jobs are discarded: once, by admins, with a reason, and never beside being run again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from django.db import close_old_connections, connection, transaction

import inference
from billing.models import Hold
from inference.models import FinishedJob, Job, JobInput, Prediction
from inference.selectors import dead_job as selectors
from inference.services import dead_job as services
from inference.services.job import JobNotDeadError, archive_jobs, discard_job, replay_job
from marketplace.core.clock import utc_now
from marketplace.core.errors import InvalidInputError, MarketplaceError
from marketplace.core.ids import new_id, to_public
from marketplace.models import AuditEvent
from marketplace.selectors.access import Actor
from tests.factories import AIModelFactory, ModelVersionFactory
from tests.inference import queued

DEAD = "/platform/queue/dead"
PRICE_NANOS = 1_001
SQL = (Path(inference.__file__).parent / "sql" / "discard.sql").read_text()
# Another process of this machine may hold the processor for long.
PATIENCE_S = 60


@pytest.fixture
def version(account):
    return ModelVersionFactory(model=AIModelFactory(account=account, name="digits"))


@pytest.fixture
def node(db):
    return queued.make_node()


@pytest.fixture
def dead(account, version, node) -> list[UUID]:
    return [queued.kill(account, version, node, code) for code in ("node_lost", "node_drained")]


def ask(*job_ids: UUID) -> str:
    return f"{DEAD}/discard?{'&'.join(f'job={to_public(one)}' for one in job_ids)}"


def events() -> int:
    return AuditEvent.objects.filter(action="job.discard").count()


def test_one_is_discarded_with_a_reason_and_stays_in_its_owners_history(
    admin_client, owner_client, dead, account
):
    text = admin_client.get(ask(dead[0])).content.decode()
    assert "1 prediction of 1 account can never run again." in text
    # Without a reason nothing happens.
    assert admin_client.post(ask(dead[0]), {"reason": " "}).status_code == 422
    assert (selectors.count_dead()[0], events()) == (2, 0)

    answer = admin_client.post(ask(dead[0]), {"reason": "Its consumer does not want it."})

    assert "1 of 1 is discarded." in answer.content.decode()
    assert [one.pk for one in selectors.list_dead()] == [dead[1]]
    assert not JobInput.objects.filter(job=dead[0]).exists()
    found = Prediction.objects.get(pk=dead[0])
    assert (found.account_id, found.state, found.cost_nanos) == (account.pk, "failed", 0)
    assert found.error == "node_lost"
    page = owner_client.get(f"/predictions/{to_public(dead[0])}")
    assert page.status_code == 200
    assert "Failed" in page.content.decode()
    event = AuditEvent.objects.get(action="job.discard")
    assert (event.object_id, event.account_id) == (str(dead[0]), account.pk)
    assert event.payload == {"reason": "Its consumer does not want it.", "error": "node_lost"}


def test_the_discarded_are_listed_with_who_did_it_and_why(admin_client, dead, platform_admin):
    assert "Nothing was discarded" in admin_client.get(f"{DEAD}/discarded").content.decode()
    admin_client.post(ask(*dead), {"reason": "Nobody wants them."})

    text = admin_client.get(f"{DEAD}/discarded").content.decode()

    assert all(to_public(one) in text for one in dead)
    assert text.count("Nobody wants them.") == 2
    assert platform_admin.email in text
    assert "Nothing is dead" in admin_client.get(DEAD).content.decode()
    # Who was archived as dead, without being discarded, is not among them.
    FinishedJob.objects.filter(pk=dead[0]).update(discarded_at=None)
    assert to_public(dead[0]) not in admin_client.get(f"{DEAD}/discarded").content.decode()


def test_the_discarded_are_read_with_as_many_queries_as_one(
    admin_client, dead, django_assert_max_num_queries
):
    counts = []
    for one in dead:
        admin_client.post(ask(one), {"reason": "No."})
        with django_assert_max_num_queries(60) as found:
            admin_client.get(f"{DEAD}/discarded")
        counts.append(len(found))
    assert counts[0] == counts[1]


def test_the_same_form_twice_discards_once(admin_client, dead):
    for _ in range(2):
        answer = admin_client.post(ask(dead[0]), {"reason": "No."})
        assert answer.status_code == 200
        assert "1 of 1 is discarded." in answer.content.decode()
    assert "It was discarded before." in answer.content.decode()
    assert (events(), Prediction.objects.filter(pk=dead[0]).count()) == (1, 1)
    # Nothing is left to be asked about.
    assert admin_client.get(ask(dead[0])).status_code == 404


def test_one_that_ran_again_meanwhile_is_left_alone(admin_client, dead):
    replay_job(actor=Actor(), job_id=dead[0], reason="First.")

    text = admin_client.post(ask(*dead), {"reason": "No."}).content.decode()

    assert "1 of 2 are discarded." in text
    assert "can be run again or discarded" in text
    assert Job.objects.get(pk=dead[0]).state == "queued"
    assert JobInput.objects.filter(job=dead[0]).exists()
    assert admin_client.post(ask(dead[0]), {"reason": "No."}).status_code == 404


def test_one_that_is_discarded_does_not_run_again(admin_client, dead):
    discard_job(actor=Actor(), job_id=dead[0], reason="No.")

    with pytest.raises(MarketplaceError):
        replay_job(actor=Actor(), job_id=dead[0], reason="Yes.")
    url = f"{DEAD}/replay?job={to_public(dead[0])}"
    assert admin_client.post(url, {"reason": "Yes."}).status_code == 404


@pytest.mark.parametrize("state", ["queued", "running", "succeeded", "unknown"])
def test_only_what_is_dead_is_discarded(account, version, node, state):
    job_id = new_id() if state == "unknown" else queued.submit(account, version)
    if state in ("running", "succeeded"):
        job = queued.claim(node, [version])
        queued.start(job)
        if state == "succeeded":
            queued.finish(job)

    with pytest.raises(JobNotDeadError):
        discard_job(actor=Actor(), job_id=job_id, reason="No.")

    assert [one.state for one in Job.objects.all()] == ([] if state == "unknown" else [state])
    assert (events(), FinishedJob.objects.count()) == (0, 0)


def test_they_are_discarded_by_admins_alone(owner_client, client, dead):
    for stranger in (owner_client, client):
        assert stranger.get(ask(dead[0])).status_code in (302, 404)
        assert stranger.post(ask(dead[0]), {"reason": "mine"}).status_code in (302, 404)
        assert stranger.get(f"{DEAD}/discarded").status_code in (302, 404)
    assert (selectors.count_dead()[0], events()) == (2, 0)


def test_its_money_is_free_already_and_the_archive_finds_nothing(account, version, node):
    queued.fund(account, PRICE_NANOS)
    job_id = queued.kill(account, version, node, gross_nanos=PRICE_NANOS)
    assert not Hold.objects.filter(state="pending").exists()

    discard_job(actor=Actor(), job_id=job_id, reason="No.")

    # All of it can be reserved anew.
    queued.submit(account, version, gross_nanos=PRICE_NANOS)
    FinishedJob.objects.update(finished_at=utc_now() - timedelta(days=8))
    assert archive_jobs() == 0
    assert Prediction.objects.filter(pk=job_id).count() == 1


@pytest.mark.parametrize(("count", "is_taken"), [(0, False), (100, True), (101, False)])
def test_a_form_takes_so_many_and_no_more(admin_client, dead, count, is_taken):
    chosen = [dead[0], *(new_id() for _ in range(count - 1))] if count else []
    if is_taken:
        done = services.discard_jobs(actor=Actor(), job_ids=chosen, reason="No.")
        assert sum(one.is_discarded for one in done) == 1
    else:
        with pytest.raises(InvalidInputError):
            services.discard_jobs(actor=Actor(), job_ids=chosen, reason="No.")
        assert admin_client.post(ask(*chosen), {"reason": "No."}).status_code in (404, 422)
    assert selectors.count_dead()[0] == (1 if is_taken else 2)


# --- Two at once --------------------------------------------------------------------


def race(first: Callable[[], object], second: Callable[[], object]) -> list[str]:
    """What came of two, of which the second begins while the first has not committed."""
    outcomes: list[str] = []

    def run(deed: Callable[[], object]) -> None:
        try:
            deed()
        except MarketplaceError as error:
            outcomes.append(error.code)
        else:
            outcomes.append("done")

    def run_beside() -> None:
        try:
            run(second)
        finally:
            connection.close()

    beside = threading.Thread(target=run_beside)
    with transaction.atomic():
        run(first)
        beside.start()
        wait_until_blocked(beside)
    beside.join(PATIENCE_S)
    assert not beside.is_alive()
    close_old_connections()
    return outcomes


def wait_until_blocked(beside: threading.Thread) -> None:
    """Until another transaction waits for this one's locks."""
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks l WHERE NOT l.granted"
                " AND pg_backend_pid() = ANY(pg_blocking_pids(l.pid))"
            )
            if cursor.fetchone()[0]:
                return
        assert beside.is_alive(), "it did not wait"
        time.sleep(0.01)
    raise AssertionError("nobody waits")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_replayed_first", [True, False])
def test_of_discard_and_replay_at_once_one_wins(account, version, node, is_replayed_first):
    job_id = queued.kill(account, version, node)
    deeds = [
        lambda: replay_job(actor=Actor(), job_id=job_id, reason="Yes."),
        lambda: discard_job(actor=Actor(), job_id=job_id, reason="No."),
    ]

    outcomes = race(*(deeds if is_replayed_first else reversed(deeds)))

    assert outcomes == ["done", "job_not_dead"]
    assert Job.objects.filter(pk=job_id, state="queued").exists() is is_replayed_first
    assert Prediction.objects.filter(pk=job_id).exists() is not is_replayed_first
    assert events() == (0 if is_replayed_first else 1)


@pytest.mark.django_db(transaction=True)
def test_without_the_lock_both_would_win(account, version, node):
    job_id = queued.kill(account, version, node)
    broken = SQL.replace("WHERE j.id = p_id FOR UPDATE", "WHERE j.id = p_id")
    assert broken != SQL
    with connection.cursor() as cursor:
        cursor.execute(broken)
    try:
        outcomes = race(
            lambda: replay_job(actor=Actor(), job_id=job_id, reason="Yes."),
            lambda: discard_job(actor=Actor(), job_id=job_id, reason="No."),
        )
    finally:
        with connection.cursor() as cursor:
            cursor.execute(SQL)

    # It was to run again, and is gone.
    assert outcomes == ["done", "done"]
    assert not Job.objects.exists()
