"""Real workers of Celery hear of wishes, and a wish outlives the one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from inference.models import Deployment, Node, Replica, WakeWish
from marketplace.models import ModelVersion
from tests.factories import ModelVersionFactory
from tests.gateway.processes import eventually
from tests.inference.django.test_deployment import make_node
from tests.inference.django.test_wake import ask, put_to_sleep

ROOT = Path(__file__).resolve().parents[3]
# A process of Django takes a while to start on a machine that does much else.
START_S = 90.0

pytestmark = pytest.mark.django_db(transaction=True)


class Worker:
    """A worker that does nothing but listen: its queue is nobody else's."""

    def __init__(self, database_url: str, redis_url: str, log: Path) -> None:
        self.log = log
        env = os.environ | {
            # The product's own: those of the tests begin with a server of their own.
            "DJANGO_SETTINGS_MODULE": "marketplace.settings",
            "STRONGROOM_DATABASE_URL": database_url,
            "STRONGROOM_REDIS_URL": redis_url,
        }
        command = [sys.executable, "-m", "celery", "--app", "marketplace.celery", "worker"]
        command += ["--loglevel", "INFO", "--pool", "solo", "--queues", "nobodys"]
        command += ["--without-gossip", "--without-mingle"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=env, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )
        eventually(self._check_ready, timeout_s=START_S)

    def _check_ready(self) -> None:
        text = self.log.read_text()
        assert self.process.poll() is None, text
        assert " ready." in text

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


@pytest.fixture
def start_worker(database_urls, redis_url, tmp_path):
    started: list[Worker] = []

    def start() -> Worker:
        log = tmp_path / f"worker-{len(started)}.log"
        started.append(Worker(database_urls["app"], redis_url, log))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def version(transactional_db) -> ModelVersion:
    version = ModelVersionFactory()
    put_to_sleep(version)
    return version


def make_live(*names: str) -> None:
    """Nodes that are heard for longer than workers take to start."""
    for name in names:
        make_node(name)
    Node.objects.update(last_seen_at=timezone.now() + timedelta(hours=1))


def check_placed() -> None:
    assert Replica.objects.filter(wanted=True).count() == 1
    assert WakeWish.objects.count() == 0


def check_waiting() -> None:
    with connection.cursor() as cursor:
        # What other roles do is hidden; that somebody waits for a lock is not.
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        assert cursor.fetchone()[0] >= 1


def test_a_wish_outlives_the_worker_that_is_killed_over_it(version, start_worker):
    make_live("node-2")
    worker = start_worker()
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Deployment.objects.select_for_update().get()
            is_held.set()
            may_end.wait(START_S)
        connections.close_all()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert is_held.wait(START_S)
        # Nobody gets past the row: the worker hears of the wish, and dies while it waits.
        ask(version)
        eventually(check_waiting, timeout_s=START_S)
        worker.kill()
    finally:
        may_end.set()
        holder.join()
    assert WakeWish.objects.count() == 1
    assert not Replica.objects.filter(wanted=True).exists()

    start_worker()

    eventually(check_placed, timeout_s=START_S)
    assert Deployment.objects.get().slept_at is None


def test_two_workers_load_it_once(version, start_worker):
    make_live("node-2", "node-3")
    start_worker()
    start_worker()

    WakeWish.objects.bulk_create(
        WakeWish(version_id=version.pk, asked_at=timezone.now()) for _ in range(50)
    )
    ask(version)

    eventually(check_placed, timeout_s=START_S)
