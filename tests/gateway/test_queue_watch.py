"""What a gateway tells of the queue to whoever watches it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from django.utils import timezone

from inference.gateway import queue_watch
from inference.gateway.database import Database
from inference.gateway.queue_watch import QueueState, QueueWatch
from inference.models import Job
from tests.factories import AccountFactory, ModelVersionFactory
from tests.gateway.processes import eventually
from tests.gateway.scrape import Scrape
from tests.inference import queued


def look(url: str) -> QueueState | None:
    """What a gateway sees with the rights of its role."""

    async def see() -> QueueState | None:
        database = Database(url)
        await database.open()
        watch = QueueWatch(database)
        watch.seen = QueueState([], 7)
        try:
            await watch.look()
        finally:
            await database.close()
        return watch.seen

    return asyncio.run(see())


@pytest.fixture
def version(transactional_db):
    return ModelVersionFactory()


def test_it_counts_what_waits_by_class_and_what_is_dead(version, database_urls):
    account = AccountFactory()
    queued.kill(account, version, queued.make_node())
    for priority in (0, 2, 2):
        queued.submit(account, version, priority=priority)
    Job.objects.filter(priority=0).update(created_at=timezone.now() - timedelta(minutes=5))

    seen = look(database_urls["gateway"])

    assert seen is not None
    assert [(one.name, one.waiting) for one in seen.classes] == [
        ("high", 1),
        ("normal", 0),
        ("batch", 2),
    ]
    high, normal, batch = (one.oldest_s for one in seen.classes)
    assert 300 <= high < 600
    assert normal == 0 <= batch < 300
    assert seen.dead == 1


def test_an_empty_queue_is_all_zeros(version, database_urls):
    seen = look(database_urls["gateway"])

    assert seen is not None
    assert {(one.waiting, one.oldest_s) for one in seen.classes} == {(0, 0.0)}
    assert seen.dead == 0


def test_without_postgres_nothing_is_said():
    assert look("postgresql://127.0.0.1:1/none") is None


@pytest.mark.django_db(transaction=True)
def test_the_metrics_tell_of_it(shop, start_gateway):
    queued.kill(AccountFactory(), ModelVersionFactory(), queued.make_node("that-fails"))
    url = start_gateway().url

    def check() -> None:
        seen = Scrape(url)
        assert seen.sum("jobs_dead") == 1
        assert seen.sum("jobs_waiting") == 0
        assert seen.sum("jobs_oldest_seconds") == 0

    eventually(check, timeout_s=queue_watch.LOOK_S * 4)
