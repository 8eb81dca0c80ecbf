"""A hot version gets copies where nodes are free, and gives them back long after."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.conf import settings as django_settings
from django.core.cache import cache
from django.utils import timezone

from inference.core.copies import WINDOW_S, VersionLoad
from inference.models import Deployment, Node, Prediction, Replica
from inference.services import copies as service
from inference.services import deployment as deployments
from inference.services import wake
from marketplace.core.ids import new_id
from marketplace.models import ModelVersion
from tests.factories import AccountFactory, ChannelFactory, ModelVersionFactory
from tests.inference.django.scripted_node import ScriptedNode
from tests.inference.django.test_deployment import load, make_node
from tests.inference.queued import submit

HOT = 3  # Nodes.


@pytest.fixture(autouse=True)
def _nothing_remembered(db):
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def nodes(db) -> list[ScriptedNode]:
    return [make_node(f"node-{number}") for number in range(HOT)]


@pytest.fixture
def version(nodes) -> ModelVersion:
    version = ChannelFactory(version=ModelVersionFactory()).version
    deployments.ensure_deployment(version=version)
    return version


def ask(version: ModelVersion, requests: float) -> None:
    """So many requests were open at once in the last minute, each for two seconds."""
    now = timezone.now()
    Prediction.objects.bulk_create(
        Prediction(
            id=new_id(),
            account_id=version.model.account_id,
            version=version,
            state="succeeded",
            created_at=now - timedelta(seconds=2),
            completed_at=now,
        )
        for _ in range(round(requests * service.WINDOW.total_seconds() / 2))
    )


def look(nodes: list[ScriptedNode], after_s: float = 0) -> tuple[int, int]:
    """Sweep once; the copies that should be, and those that are wanted on nodes."""
    with time_machine.travel(timezone.now() + timedelta(seconds=after_s), tick=False):
        cache.delete("copies:look")
        for node in nodes:
            node.report(replicas=[])
            load(node)
        wake.sweep()
        for node in nodes:
            load(node)
    found = Deployment.objects.get()
    count = Replica.objects.filter(wanted=True).count()
    return found.replica_count + found.load_replica_count, count


def test_a_hot_version_gets_a_copy_on_each_free_node(version, nodes):
    assert look(nodes) == (1, 1)
    ask(version, 9)

    assert look(nodes) == (3, 3)
    held = Replica.objects.filter(wanted=True).values_list("node__name", flat=True)
    assert sorted(held) == ["node-0", "node-1", "node-2"]
    # The owner's number, and so what it pays for, stays.
    assert Deployment.objects.get().replica_count == 1


def test_what_is_not_asked_for_has_one(version, nodes):
    ask(version, 4)
    assert look(nodes) == (1, 1)


def test_no_more_than_there_are_nodes(version, nodes):
    Node.objects.filter(name="node-2").update(drain_requested_at=timezone.now())
    ask(version, 100)

    assert look(nodes[:2]) == (2, 2)


def test_copies_go_after_the_window_and_the_owners_stays(version, nodes):
    ask(version, 9)
    assert look(nodes) == (3, 3)

    # Its load is a minute old, and the wish of then counts on.
    assert look(nodes, after_s=WINDOW_S - 1) == (3, 3)
    assert look(nodes, after_s=2 * WINDOW_S) == (1, 1)
    assert Deployment.objects.get().load_replica_count == 0


def test_a_node_that_holds_nothing_else_is_freed_first(version, nodes):
    ask(version, 9)
    look(nodes)
    other = ModelVersionFactory()
    for name in ("node-0", "node-1"):
        Replica.objects.create(
            version=other, node=Node.objects.get(name=name), purpose="serve", state="ready"
        )
    deployment = Deployment.objects.get()
    Deployment.objects.update(load_replica_count=1)
    deployment.refresh_from_db()

    assert service.release_surplus(deployment) == 1
    left = deployment.replicas.filter(wanted=True).values_list("node__name", flat=True)
    assert sorted(left) == ["node-0", "node-1"]
    assert service.release_surplus(deployment) == 0


def test_without_redis_nothing_changes(version, nodes, monkeypatch, caplog):
    from redis.exceptions import ConnectionError as AwayError

    ask(version, 9)
    look(nodes)

    def fail(*_args, **_how):
        raise AwayError

    monkeypatch.setattr(cache, "add", fail)
    monkeypatch.setattr(cache, "get", fail)
    assert service.adjust_copies() == 0
    assert "Redis does not answer" in caplog.text
    assert Deployment.objects.get().load_replica_count == 2


def test_wishes_that_were_forgotten_take_nothing_away(version, nodes):
    ask(version, 9)
    look(nodes)
    cache.clear()
    Prediction.objects.all().delete()

    assert look(nodes) == (3, 3)


def test_it_can_be_turned_off(version, nodes, settings):
    settings.COPIES_MAX = 1
    ask(version, 9)
    assert look(nodes) == (1, 1)


def test_one_look_in_its_time(version, nodes):
    ask(version, 9)
    assert look(nodes) == (3, 3)
    Deployment.objects.update(load_replica_count=0)

    assert service.adjust_copies() == 0
    cache.delete("copies:look")
    assert service.adjust_copies() == 1


def test_what_sleeps_has_none_of_the_load(version, nodes):
    ask(version, 9)
    look(nodes)
    Deployment.objects.update(slept_at=timezone.now())
    cache.delete("copies:look")

    assert service.adjust_copies() == 1
    assert Deployment.objects.get().load_replica_count == 0


def test_jobs_that_wait_count_by_their_time_and_calls_only_once(version, nodes):
    account = AccountFactory()
    from tests.inference.broker.conftest import fund

    fund(account, 10**12)
    submit(account, version)

    loads = service.read_loads()[version.pk]
    assert loads.requests == 0
    assert loads.waiting_s > 0
    ask(version, 3)
    assert service.read_loads()[version.pk].requests == pytest.approx(3, abs=0.1)


def test_loads_of_long_ago_do_not_count(version):
    with time_machine.travel(timezone.now() - timedelta(minutes=3), tick=False):
        ask(version, 9)
    assert service.read_loads().get(version.pk, VersionLoad()) == VersionLoad()


def test_the_settings_are_those_of_the_limits():
    limits = service.read_limits()
    assert (limits.requests, limits.wait_s, limits.count_max) == (
        django_settings.COPY_REQUESTS,
        django_settings.COPY_WAIT_S,
        django_settings.COPIES_MAX,
    )
