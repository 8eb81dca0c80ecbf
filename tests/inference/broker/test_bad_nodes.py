"""Nodes and clients that ask for what must not be: nothing changes, and nothing is paid for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
from django.db import connection

from billing.models import Hold
from inference.broker.job import Lease, SlotTakenError
from inference.models import Job, JobAttempt, Prediction
from tests.inference.broker.conftest import PRICE_NANOS, Queue
from tests.inference.broker.test_conformance import age

# Above the largest limit of any table and queue in a single call.
CANCEL_COUNT = 2_000
# Of one cancel in a crowd, against one of the first: a queue that looks at all that waits, or at
# all that was canceled, takes longer and longer.
SLOWER_MAX = 8.0


def test_the_second_claim_of_a_slot_changes_nothing(queue: Queue):
    ids = queue.submit(2)
    lease = queue.claim()

    for _ in range(3):
        with pytest.raises(SlotTakenError):
            queue.claim()

    assert sorted(map(queue.state_of, ids)) == ["leased", "queued"]
    assert queue.finish(lease) == ("settled", PRICE_NANOS)
    assert queue.claim() is not None


def test_two_claims_of_a_slot_at_once_get_one_job(queue: Queue):
    queue.submit(4)

    async def claim_all() -> list[Lease | BaseException | None]:
        claims = [queue.broker.claim(queue.nodes[0], 0, [queue.version.pk]) for _ in range(4)]
        return await asyncio.gather(*claims, return_exceptions=True)

    found = queue.run(claim_all())

    assert sum(isinstance(one, Lease) for one in found) == 1
    assert sum(isinstance(one, SlotTakenError) for one in found) == 3
    assert Job.objects.filter(state="leased").count() == 1


@pytest.mark.parametrize("locked_count", [1, 20, 40])
def test_who_finds_the_first_ones_taken_looks_further(queue: Queue, database_urls, locked_count):
    queue.submit(41)
    query = """SELECT id FROM inference_job ORDER BY rank_at, deadline_at, id LIMIT %s FOR UPDATE"""
    with psycopg.connect(database_urls["owner"]) as other:
        taken = {row[0] for row in other.execute(query, [locked_count]).fetchall()}
        lease = queue.claim()

    assert lease is not None
    assert len(taken) == locked_count
    assert lease.id not in taken


@pytest.mark.parametrize("of_another", ["node", "epoch"])
def test_a_result_for_anothers_job_leaves_it_to_the_other(queue: Queue, of_another):
    [job_id] = queue.submit()
    lease = queue.claim()
    changes = {"node": {"node_id": queue.nodes[1]}, "epoch": {"epoch": lease.epoch - 1}}

    assert queue.finish(replace(lease, **changes[of_another]), output={"y": 666}) == ("stale", 0)
    assert queue.finish(lease) == ("settled", PRICE_NANOS)

    assert Prediction.objects.get(pk=job_id).output == {"y": 1}
    queue.check_books([job_id])


def test_a_result_after_the_cancel_was_carried_out_is_discarded(queue: Queue):
    [job_id] = queue.submit()
    lease = queue.claim()
    queue.cancel(job_id)
    assert queue.finish(lease, "canceled", error="canceled") == ("free", 0)

    assert queue.finish(lease) == ("stale", 0)
    assert queue.hand_back(lease) == "stale"

    assert Prediction.objects.get(pk=job_id).output is None
    queue.check_books([])


def test_a_result_of_a_lost_node_after_the_cancel_is_discarded(queue: Queue):
    [job_id] = queue.submit()
    lease = queue.claim()
    queue.cancel(job_id)
    age(job_id, lease_until=timedelta(minutes=1))
    assert queue.reap()["lost"] == 1

    assert queue.finish(lease) == ("stale", 0)
    assert queue.state_of(job_id) == "canceled"
    queue.check_books([])


def test_a_result_after_the_hand_back_is_discarded(queue: Queue):
    [job_id] = queue.submit()
    lease = queue.claim()
    assert queue.hand_back(lease) == "queued"

    assert queue.finish(lease) == ("stale", 0)
    assert queue.state_of(job_id) == "queued"


@pytest.mark.parametrize(
    ("state", "is_charged"), [("succeeded", False), ("failed", True), ("dead", True), ("", True)]
)
def test_an_end_that_is_none_is_refused(queue: Queue, state, is_charged):
    [job_id] = queue.submit()
    lease = queue.claim()

    with pytest.raises(psycopg.DatabaseError):
        queue.finish(lease, state, is_charged=is_charged)

    assert queue.state_of(job_id) == "leased"
    assert not JobAttempt.objects.exists()
    assert queue.finish(lease) == ("settled", PRICE_NANOS)
    queue.check_books([job_id])


@pytest.mark.parametrize("timeout_s", [0, -1, -3_600, float("nan")])
def test_a_deadline_in_the_past_is_refused(queue: Queue, timeout_s):
    refuse(queue, timeout_s=timeout_s)


@pytest.mark.parametrize("priority", [-1, 3, 99, None])
def test_an_unknown_priority_is_refused(queue: Queue, priority):
    refuse(queue, priority=priority)


@pytest.mark.parametrize("changes", [{"gross_nanos": -1}, {"attempts_max": 0}])
def test_a_job_that_cannot_be_run_or_paid_for_is_refused(queue: Queue, changes):
    refuse(queue, **changes)


def refuse(queue: Queue, **changes) -> None:
    """It is not accepted, and no money is reserved for it."""
    with pytest.raises(psycopg.DatabaseError):
        queue.run(queue.broker.submit(queue.make(**changes)))
    assert not Job.objects.exists()
    assert not Hold.objects.exists()
    queue.check_books([])


def test_a_job_that_is_handed_in_twice_is_one(queue: Queue):
    job = queue.make()
    assert queue.run(queue.broker.submit(job)) == "queued"

    with pytest.raises(psycopg.errors.UniqueViolation):
        queue.run(queue.broker.submit(job))

    assert Job.objects.count() == Hold.objects.count() == 1
    queue.cancel(job.id)
    queue.check_books([])


def test_a_crowd_of_cancels_takes_no_longer_each_than_one(plain_queue: Queue):
    """`bench.broker` cancels 100,000 at once; here it is the growth that counts."""
    queue = plain_queue
    ids = queue.submit(CANCEL_COUNT)
    # A vacuum in the middle would help whoever is measured then.
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE inference_job")

    async def cancel(some) -> float:
        began_s = time.perf_counter()
        calls = [queue.broker.cancel(queue.consumer.pk, one) for one in some]
        assert set(await asyncio.gather(*calls)) == {"canceled"}
        return time.perf_counter() - began_s

    tenth = CANCEL_COUNT // 10
    took_s = [
        queue.run(cancel(ids[begin : begin + tenth])) for begin in range(0, CANCEL_COUNT, tenth)
    ]

    assert min(took_s[-3:]) < SLOWER_MAX * min(took_s[:3])
    assert queue.claim() is None
    queue.check_books([])
