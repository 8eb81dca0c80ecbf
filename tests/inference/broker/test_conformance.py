"""What any queue must do, with Redis for wake-ups and without: one run, one bill, no job lost."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from billing.models import Hold, LedgerAccount
from inference.broker.job import Ending, SlotTakenError
from inference.models import Job, JobAttempt, JobFlow, JobInput, Prediction, WebhookEvent
from marketplace.core.ids import new_id
from tests.factories import AccountFactory
from tests.inference.broker.conftest import PRICE_NANOS, Queue, fund, make_version


def age(job_id, **columns: timedelta) -> None:
    """As if these moments of a job had been earlier."""
    job = Job.objects.get(pk=job_id)
    Job.objects.filter(pk=job_id).update(
        **{name: getattr(job, name) - by for name, by in columns.items()}
    )


def test_a_job_runs_once_and_is_paid_for_once(queue: Queue):
    [job_id] = queue.submit()
    assert Hold.objects.get().amount_nanos == PRICE_NANOS

    lease = queue.claim()
    assert lease is not None
    assert (lease.id, lease.epoch, lease.attempt, lease.input) == (job_id, 1, 1, {"x": [1, 2]})
    assert queue.beat(lease) == "go"
    assert queue.finish(lease) == ("settled", PRICE_NANOS)
    assert queue.finish(lease) == ("stale", 0)

    made = Prediction.objects.get(pk=job_id)
    assert (made.state, made.output, made.input) == ("succeeded", {"y": 1}, {"x": [1, 2]})
    assert (made.cost_nanos, made.predict_time_us) == (PRICE_NANOS, 5_000)
    assert not JobInput.objects.exists()
    assert list(JobAttempt.objects.values_list("outcome", flat=True)) == ["succeeded"]
    assert JobFlow.objects.get().offered_count == 0
    queue.check_books([job_id])


def test_what_is_claimed_is_not_claimed_again(queue: Queue):
    queue.submit(3)

    leases = [queue.claim(node) for node in range(3)]

    assert len({lease.id for lease in leases}) == 3
    assert queue.claim(0, slot=1) is None


def test_a_slot_has_one_job_at_a_time(queue: Queue):
    queue.submit(2)
    lease = queue.claim()

    with pytest.raises(SlotTakenError):
        queue.claim()
    assert queue.claim(slot=1).id != lease.id


def test_many_claim_at_once_and_none_gets_the_job_of_another(queue: Queue):
    ids = queue.submit(40)

    async def work(node_id) -> list:
        found = []
        while (lease := await queue.broker.claim(node_id, 0, [queue.version.pk])) is not None:
            found.append(lease.id)
            ending = Ending(state="succeeded", output=1, is_charged=True)
            await queue.broker.finish(node_id, lease.id, lease.epoch, ending)
        return found

    async def work_all() -> list[list]:
        return await asyncio.gather(*[work(new_id()) for _ in range(8)])

    found = [one for some in queue.run(work_all()) for one in some]

    assert sorted(found) == sorted(ids)
    queue.check_books(ids)


def test_only_what_the_node_has_loaded_is_claimed(queue: Queue):
    queue.submit()
    other = make_version(queue.version.model.account, "other")

    assert queue.claim(versions=[]) is None
    assert queue.claim(versions=[other.pk]) is None
    assert queue.claim(versions=[other.pk, queue.version.pk]) is not None


def test_a_lease_that_ran_out_goes_to_another_node_and_its_output_is_discarded(queue: Queue):
    [job_id] = queue.submit()
    zombie = queue.claim(0)
    age(job_id, lease_until=timedelta(minutes=1))

    assert queue.reap()["lost"] == 1
    assert queue.beat(zombie) == "stale"
    assert queue.finish(zombie) == ("stale", 0)
    assert queue.claim(0) is None  # Not at once, and not there.
    age(job_id, ready_at=timedelta(seconds=5))
    assert queue.claim(0) is None
    lease = queue.claim(1)
    assert (lease.id, lease.epoch, lease.attempt) == (job_id, 2, 2)
    assert queue.finish(zombie) == ("stale", 0)
    assert queue.finish(lease) == ("settled", PRICE_NANOS)
    assert list(JobAttempt.objects.order_by("epoch").values_list("outcome", "code")) == [
        ("lost", "node_lost"),
        ("succeeded", ""),
    ]
    queue.check_books([job_id])


def test_the_only_node_gets_it_back_after_a_while(queue: Queue):
    [job_id] = queue.submit()
    assert queue.hand_back(queue.claim(0)) == "queued"
    age(job_id, ready_at=timedelta(seconds=29))
    assert queue.claim(0) is None

    age(job_id, ready_at=timedelta(seconds=5))

    assert queue.claim(0).attempt == 2


@pytest.mark.parametrize(
    ("beats", "took_us", "told"),
    [
        (2, 5_000, ["prediction.started", "prediction.completed"]),
        # It was over before its first heartbeat.
        (0, 5_000, ["prediction.started", "prediction.completed"]),
        # It never ran.
        (0, 0, ["prediction.completed"]),
    ],
)
def test_that_it_began_is_told_once(queue: Queue, beats, took_us, told):
    queue.submit(webhook_url="https://hooks.example/a")
    lease = queue.claim()
    for _ in range(beats):
        queue.beat(lease)

    queue.finish(lease, "succeeded" if took_us else "failed", predict_time_us=took_us)

    events = WebhookEvent.objects.order_by("created_at", "pk")
    assert list(events.values_list("type", flat=True)) == told


def test_a_heartbeat_keeps_the_lease(queue: Queue):
    [job_id] = queue.submit()
    lease = queue.claim(lease_s=1)
    assert queue.beat(lease, lease_s=60) == "go"
    job = Job.objects.get(pk=job_id)
    assert job.state == "running"
    assert job.started_at is not None
    assert job.lease_until > timezone.now() + timedelta(seconds=30)
    assert queue.reap() == {"lost": 0, "late": 0, "offered": 0, "returned": 0}


def test_who_has_no_attempt_left_is_dead_and_costs_nothing(queue: Queue):
    [job_id] = queue.submit(attempts_max=2)
    assert queue.hand_back(queue.claim(0)) == "queued"
    age(job_id, ready_at=timedelta(minutes=1))
    assert queue.hand_back(queue.claim(1)) == "dead"

    job = Job.objects.get(pk=job_id)
    assert (job.state, job.error, job.attempt) == ("dead", "triton_unavailable", 2)
    # It may be run again: what it was asked is kept.
    assert JobInput.objects.get().input == {"x": [1, 2]}
    assert queue.claim(2) is None
    queue.check_books([])


def test_an_opt_out_of_retries_is_one_attempt(queue: Queue):
    queue.submit(attempts_max=1)

    assert queue.hand_back(queue.claim()) == "dead"


def test_the_dead_run_again_with_money_reserved_anew(queue: Queue):
    [job_id] = queue.submit(attempts_max=1)
    queue.hand_back(queue.claim())
    with connection.cursor() as cursor:
        cursor.execute("SELECT inference_replay_job(%s, 60)", [job_id])
        assert cursor.fetchone() == ("queued",)
        cursor.execute("SELECT inference_replay_job(%s, 60)", [job_id])
        assert cursor.fetchone() == ("not_dead",)

    lease = queue.claim(1)

    assert (lease.id, lease.epoch, lease.attempt) == (job_id, 2, 1)
    assert queue.finish(lease) == ("settled", PRICE_NANOS)
    queue.check_books([job_id])


def test_a_model_that_fails_is_not_asked_again(queue: Queue):
    [job_id] = queue.submit()

    assert queue.finish(queue.claim(), "failed", error="model_failed") == ("free", 0)

    made = Prediction.objects.get(pk=job_id)
    assert (made.state, made.error, made.cost_nanos, made.output) == (
        "failed",
        "model_failed",
        0,
        None,
    )
    queue.check_books([])


def test_what_waits_is_canceled_at_once(queue: Queue):
    [job_id] = queue.submit()

    assert queue.cancel(job_id) == "canceled"
    assert queue.cancel(job_id) == "canceled"
    assert queue.claim() is None
    assert Prediction.objects.get(pk=job_id).state == "canceled"
    queue.check_books([])


def test_what_runs_is_told_to_stop_and_costs_nothing_before_it_delivered(queue: Queue):
    [job_id] = queue.submit()
    lease = queue.claim()

    assert queue.cancel(job_id) == "leased"
    assert queue.beat(lease) == "cancel"
    assert queue.finish(lease, "canceled", error="canceled") == ("free", 0)
    queue.check_books([])


def test_what_was_delivered_before_the_stop_is_paid_for(queue: Queue):
    [job_id] = queue.submit()
    lease = queue.claim()
    queue.cancel(job_id)

    assert queue.finish(lease, "canceled", error="canceled", is_charged=True) == (
        "settled",
        PRICE_NANOS,
    )

    assert Prediction.objects.get(pk=job_id).state == "canceled"
    wallet = LedgerAccount.objects.get(kind="wallet", holder_id=queue.consumer.pk)
    assert (wallet.posted_nanos, wallet.held_nanos) == (9_999 * PRICE_NANOS, 0)


def test_a_canceled_job_of_a_lost_node_is_over(queue: Queue):
    [job_id] = queue.submit()
    queue.claim()
    queue.cancel(job_id)
    age(job_id, lease_until=timedelta(minutes=1))

    assert queue.reap()["lost"] == 1
    assert queue.state_of(job_id) == "canceled"
    queue.check_books([])


def test_nobody_cancels_what_is_anothers(queue: Queue):
    [job_id] = queue.submit()

    assert queue.cancel(job_id, AccountFactory()) is None
    assert queue.cancel(new_id()) is None
    assert queue.state_of(job_id) == "queued"


def test_a_deadline_that_passes_in_the_queue_ends_the_job(queue: Queue):
    [job_id] = queue.submit()
    age(job_id, deadline_at=timedelta(hours=2))

    assert queue.claim() is None
    assert queue.reap()["late"] == 1

    assert Prediction.objects.get(pk=job_id).error == "deadline_exceeded"
    queue.check_books([])


def test_a_node_that_starts_anew_gives_back_what_it_had(queue: Queue):
    queue.submit(2)
    queue.claim(0), queue.claim(0, slot=1)

    assert queue.run(queue.broker.release_node(queue.nodes[0], "node_restarted")) == 2
    assert queue.run(queue.broker.release_node(queue.nodes[0], "node_restarted")) == 0
    assert set(Job.objects.values_list("state", flat=True)) == {"queued"}


@pytest.mark.parametrize("of_another", ["node", "epoch", "job"])
def test_nobody_finishes_what_is_anothers(queue: Queue, of_another):
    [job_id] = queue.submit()
    lease = queue.claim()
    changed = {
        "node": {"node_id": queue.nodes[1]},
        "epoch": {"epoch": lease.epoch + 1},
        "job": {"id": new_id()},
    }[of_another]
    wrong = replace(lease, **changed)

    assert queue.finish(wrong) == ("stale", 0)
    assert queue.hand_back(wrong) == "stale"
    assert queue.beat(wrong) == "stale"
    assert queue.state_of(job_id) == "leased"


def test_without_money_nothing_is_queued(queue: Queue):
    poor = AccountFactory(slug="poor")
    fund(poor, 2 * PRICE_NANOS - 1)

    outcomes = [queue.run(queue.broker.submit(queue.make(account_id=poor.pk))) for _ in range(2)]

    assert outcomes == ["queued", "insufficient_credit"]
    assert Job.objects.count() == JobInput.objects.count() == 1


def test_an_account_has_so_many_jobs_and_no_more(queue: Queue):
    queue.broker.queued_max = 3
    queue.submit(3)

    assert queue.run(queue.broker.submit(queue.make())) == "queue_full"
    queue.finish(queue.claim())
    assert queue.run(queue.broker.submit(queue.make())) == "queued"


def test_the_urgent_come_first_and_waiting_makes_urgent(queue: Queue):
    # Of other accounts, so that each has its own turn.
    others = [AccountFactory() for _ in range(3)]
    for one in others:
        fund(one, PRICE_NANOS)
    batch, normal, high = (
        queue.submit(priority=priority, account_id=one.pk)[0]
        for priority, one in zip((2, 1, 0), others, strict=True)
    )

    assert [queue.claim(node).id for node in range(3)] == [high, normal, batch]


def test_who_has_waited_long_goes_before_the_urgent(queue: Queue):
    other = AccountFactory()
    fund(other, PRICE_NANOS)
    [batch] = queue.submit(priority=2, account_id=other.pk)
    Job.objects.filter(pk=batch).update(
        rank_at=Job.objects.get(pk=batch).rank_at - timedelta(seconds=125)
    )
    [high] = queue.submit(priority=0)

    assert [queue.claim(0).id, queue.claim(1).id] == [batch, high]


def test_ten_jobs_do_not_wait_behind_a_thousand_of_another(queue: Queue):
    other = AccountFactory()
    fund(other, 10 * PRICE_NANOS)
    queue.submit(200)
    few = queue.submit(10, account_id=other.pk)

    claimed = []
    for _ in range(25):
        lease = queue.claim()
        queue.finish(lease)
        claimed.append(lease.id)

    assert len(set(few) & set(claimed)) == 10


def test_of_an_account_only_so_many_are_on_offer_and_the_next_comes_up(queue: Queue):
    ids = queue.submit(70)
    flow = JobFlow.objects.get()
    assert (flow.offered_count, flow.parked_count) == (64, 6)

    queue.finish(queue.claim())

    flow.refresh_from_db()
    assert (flow.offered_count, flow.parked_count) == (64, 5)
    for one in ids:
        queue.cancel(one)
    flow.refresh_from_db()
    assert (flow.offered_count, flow.parked_count) == (0, 0)


def test_a_flow_that_stands_still_is_set_going(queue: Queue):
    queue.submit(3)
    Job.objects.update(is_offered=False, rank_at=None)
    JobFlow.objects.update(offered_count=0, parked_count=3)
    assert queue.claim() is None

    assert queue.reap()["offered"] == 1
    assert queue.claim() is not None


def test_what_waits_is_told_of_work(queue: Queue):
    async def wait_and_submit() -> float:
        waiting = asyncio.create_task(queue.broker.wait_for_work(30, [queue.version.pk]))
        await asyncio.sleep(0.1)
        began_s = time.monotonic()
        await queue.broker.submit(queue.make())
        await waiting
        return time.monotonic() - began_s

    # Nobody waits for longer than a second, told or not; see `LOOK_S`.
    assert queue.run(wait_and_submit()) < 20


def test_old_jobs_leave_the_queue(queue: Queue):
    done, dead = queue.submit(1)[0], queue.submit(1, attempts_max=1)[0]
    queue.finish(queue.claim())
    queue.hand_back(queue.claim())
    for one in (done, dead):
        age(one, finished_at=timedelta(hours=1))

    def archive() -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT inference_archive_jobs('10 minutes', '7 days', 100)")
            return cursor.fetchone()[0]

    assert archive() == 1
    assert list(Job.objects.values_list("pk", flat=True)) == [dead]
    age(dead, finished_at=timedelta(days=8))
    assert archive() == 1
    assert not Job.objects.exists()
    assert not JobInput.objects.exists()
    assert Prediction.objects.get(pk=dead).state == "failed"
    queue.check_books([done])
