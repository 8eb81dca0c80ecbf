"""What a job reserved and did not cost goes back, whoever is away when it ends."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection

from billing.models import Hold
from inference.models import Job
from tests.inference.broker.conftest import PRICE_NANOS, Queue
from tests.inference.broker.test_conformance import age


@pytest.fixture
def queue(plain_queue: Queue) -> Queue:
    return plain_queue


def leave_rest(queue: Queue) -> UUID:
    """A job that is over, with money that is reserved for it still."""
    [job_id] = queue.submit()
    queue.finish(queue.claim(), "failed", error="model_failed")
    # Another hold takes the place of its own, which is gone.
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT billing_reserve(jsonb_build_array(jsonb_build_object('hold_id', uuidv7(),
                'account_id', %s::uuid, 'api_key_id', NULL, 'least_nanos', %s::bigint,
                'most_nanos', %s::bigint)), 600)""",
            [queue.consumer.pk, PRICE_NANOS, PRICE_NANOS],
        )
    Job.objects.filter(pk=job_id).update(hold_id=Hold.objects.get(state="pending").pk)
    return job_id


def archive() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT inference_archive_jobs('10 minutes', '7 days', 100)")
        return cursor.fetchone()[0]


def test_a_rest_goes_back_at_once(queue: Queue):
    leave_rest(queue)

    assert queue.reap()["returned"] == 1

    queue.check_books([])


def test_a_rest_that_no_gateway_gave_back_goes_back_with_the_archive(queue: Queue):
    job_id = leave_rest(queue)
    age(job_id, finished_at=timedelta(minutes=3))
    assert queue.reap()["returned"] == 0
    assert archive() == 0
    assert Hold.objects.filter(state="pending").exists()

    age(job_id, finished_at=timedelta(minutes=8))
    assert archive() == 1

    assert not Job.objects.filter(pk=job_id).exists()
    queue.check_books([])
