"""What should run runs: placement, lost nodes, failures, withdrawals."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import time_machine
from django.db import connections
from django.utils import timezone

from inference.models import Deployment, Node, Replica
from inference.selectors.node import LOST_AFTER, list_lost_nodes
from inference.services import deployment as service
from inference.tasks import sweep_nodes
from marketplace.models import AIModel, Channel, ModelVersion
from marketplace.selectors.access import Actor
from marketplace.services import catalog
from tests.factories import ChannelFactory, ModelVersionFactory
from tests.inference.django.scripted_node import ScriptedNode, hear

LATER = LOST_AFTER + timedelta(seconds=1)


def make_node(name: str) -> ScriptedNode:
    node = ScriptedNode(name)
    assert node.enrol().status_code == 201
    assert node.report().status_code == 200
    return node


def load(node: ScriptedNode, state: str = "ready", **fields) -> None:
    """Have the node report all that it is told to hold in one state."""
    wanted = node.call("GET", "desired").json()["replicas"]
    body = [{"id": one["id"], "state": state, "progress": 1, **fields} for one in wanted]
    assert node.report(replicas=body).status_code == 200


def placed() -> list[tuple[str, str, bool]]:
    rows = Replica.objects.order_by("node__name", "pk")
    return list(rows.values_list("node__name", "state", "wanted"))


@pytest.fixture
def version(db) -> ModelVersion:
    return ModelVersionFactory()


def test_a_version_is_deployed_once(version):
    make_node("node-1")

    first = service.ensure_deployment(version=version)
    second = service.ensure_deployment(version=version)

    assert first == second
    assert placed() == [("node-1", "assigned", True)]


def test_replicas_go_to_different_nodes_the_least_loaded_first(version):
    busy = make_node("a-busy")
    for name in ("b-idle", "c-idle"):
        make_node(name)
    other = ModelVersionFactory()
    Replica.objects.create(version=other, node_id=busy.node_id, purpose="serve")

    service.ensure_deployment(version=version, replica_count=2)

    names = Replica.objects.filter(version=version).values_list("node__name", flat=True)
    assert sorted(names) == ["b-idle", "c-idle"]


def test_more_replicas_than_nodes_wait_for_nodes(version):
    make_node("node-1")
    deployment = service.ensure_deployment(version=version, replica_count=3)
    assert len(placed()) == 1

    make_node("node-2")

    assert service.place_replicas(deployment_id=deployment.pk) == 1
    assert service.place_replicas(deployment_id=deployment.pk) == 0
    assert [name for name, _, _ in placed()] == ["node-1", "node-2"]


@pytest.mark.parametrize("fault", ["silent", "revoked", "draining", "triton is down"])
def test_a_node_that_is_not_fit_gets_nothing(version, fault):
    make_node("node-1")
    changes = {
        "silent": {"last_seen_at": timezone.now() - LATER},
        "revoked": {"revoked_at": timezone.now()},
        "draining": {"drain_requested_at": timezone.now()},
        "triton is down": {"triton_ready": False},
    }
    Node.objects.update(**changes[fault])

    service.ensure_deployment(version=version)

    assert placed() == []
    assert Deployment.objects.get().stopped_at is None


@pytest.mark.django_db(transaction=True)
def test_placing_at_once_places_once():
    version = ModelVersionFactory()
    for name in ("node-1", "node-2", "node-3"):
        make_node(name)
    barrier = threading.Barrier(4)

    def ensure() -> None:
        barrier.wait()
        deployment = service.ensure_deployment(version=version)
        service.place_replicas(deployment_id=deployment.pk)
        connections.close_all()

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Deployment.objects.count() == 1
    assert len(placed()) == 1


# --- Lost nodes -------------------------------------------------------------------


def test_a_lost_nodes_replica_moves_to_another(version):
    first = make_node("node-1")
    service.ensure_deployment(version=version)
    load(first)
    assert placed() == [("node-1", "ready", True)]

    later = timezone.now() + LATER
    hear(make_node("node-2"), until=later)
    with time_machine.travel(later, tick=False):
        sweep_nodes()
        sweep_nodes()

        assert placed() == [("node-1", "lost", False), ("node-2", "assigned", True)]
        assert not Node.objects.get(name="node-1").triton_ready
        # When the first node comes back, it is told to hold nothing.
        assert first.call("GET", "desired").json()["replicas"] == []


def test_without_another_place_a_lost_node_keeps_its_replica_for_its_return(version):
    node = make_node("node-1")
    service.ensure_deployment(version=version)
    load(node)
    replica = Replica.objects.get()
    later = timezone.now() + LATER
    hear(make_node("node-2"), until=later)
    Node.objects.filter(name="node-2").update(triton_ready=False)

    with time_machine.travel(later, tick=False):
        sweep_nodes()
        assert placed() == [("node-1", "lost", True)]
        load(node)
        sweep_nodes()

    assert placed() == [("node-1", "ready", True)]
    assert Replica.objects.get().pk == replica.pk


@pytest.mark.parametrize(("silent_s", "state"), [(59, "ready"), (61, "lost")])
def test_a_node_is_lost_when_others_were_heard_for_a_minute(version, silent_s, state):
    node, other = make_node("node-1"), make_node("node-2")
    service.ensure_deployment(version=version)
    load(node)
    hear(other, until=timezone.now() + timedelta(seconds=silent_s))

    with time_machine.travel(timezone.now() + timedelta(seconds=silent_s), tick=False):
        nodes = Node.objects.filter(pk__in=list_lost_nodes()).values_list("name", flat=True)
        assert list(nodes) == (["node-1"] if state == "lost" else [])
        for one in list_lost_nodes():
            service.mark_lost(one)

    assert placed() == [("node-1", state, True)]


def test_no_node_is_lost_because_the_site_was_away(version):
    first, second = make_node("node-1"), make_node("node-2")
    service.ensure_deployment(version=version, replica_count=2)
    load(first)
    load(second)
    serving = [("node-1", "ready", True), ("node-2", "ready", True)]

    # Nobody is heard for an hour; the worker sweeps all the while.
    back = timezone.now() + timedelta(hours=1)
    with time_machine.travel(back, tick=False):
        sweep_nodes()
        assert placed() == serving
        # The site is back, and the nodes come one after the other.
        load(second)
        sweep_nodes()
        assert placed() == serving

    with time_machine.travel(back, tick=False):
        hear(second, until=back + LATER)
    with time_machine.travel(back + LATER, tick=False):
        sweep_nodes()
        assert ("node-1", "lost", True) in placed()


def test_what_a_lost_node_was_to_unload_is_waited_for_no_longer(version):
    node = make_node("node-1")
    deployment = service.ensure_deployment(version=version)
    load(node)
    service.stop_deployment(deployment_id=deployment.pk)
    later = timezone.now() + LATER
    hear(make_node("node-2"), until=later)

    with time_machine.travel(later, tick=False):
        sweep_nodes()

    assert placed() == [("node-1", "lost", False)]


# --- Failures ---------------------------------------------------------------------


def test_a_failed_replica_is_tried_again_later_and_later(version):
    node = make_node("node-1")
    ChannelFactory(version=version)
    start = timezone.now()
    tries = []

    with time_machine.travel(start, tick=False) as clock:
        for second in range(120):
            clock.move_to(start + timedelta(seconds=second))
            node.report()
            sweep_nodes()
            if Replica.objects.filter(wanted=True, state="assigned").exists():
                tries.append(second)
                load(node, "failed", reason_code="stub_died")

    # Placed at once, then 5, 10, 20, 40 s after each failure.
    assert tries == [0, 5, 15, 35, 75]
    assert (
        not Replica.objects.filter(state="failed", wanted=True)
        .exclude(pk=Replica.objects.latest("pk").pk)
        .exists()
    )


def test_old_failures_no_longer_slow_a_try_down(version):
    node = make_node("node-1")
    deployment = service.ensure_deployment(version=version)
    load(node, "failed", reason_code="stub_died")
    assert service.place_replicas(deployment_id=deployment.pk) == 0

    with time_machine.travel(timezone.now() + timedelta(hours=1, seconds=1), tick=False):
        node.report()
        assert service.place_replicas(deployment_id=deployment.pk) == 1


# --- What the marketplace decides --------------------------------------------------


def test_a_channel_that_moves_gets_its_version_deployed(version, owner):
    make_node("node-1")
    catalog.publish_version(version=version, channel="prod")

    sweep_nodes()
    sweep_nodes()

    assert Deployment.objects.get().version == version
    assert placed() == [("node-1", "assigned", True)]


def test_a_version_that_is_on_no_channel_any_more_keeps_running_for_those_who_pin_it(version):
    make_node("node-1")
    make_node("node-2")
    newer = ModelVersionFactory(model=version.model, number=2)
    catalog.publish_version(version=version, channel="prod")
    sweep_nodes()

    catalog.publish_version(version=newer, channel="prod")
    sweep_nodes()

    active = Deployment.objects.filter(stopped_at=None).values_list("version__number", flat=True)
    assert sorted(active) == [1, 2]


def test_a_withdrawn_version_is_unloaded(version, owner):
    node = make_node("node-1")
    catalog.publish_version(version=version, channel="prod")
    sweep_nodes()
    load(node)

    catalog.withdraw(version=version, actor=Actor(user=owner))
    sweep_nodes()
    sweep_nodes()

    assert placed() == [("node-1", "ready", False)]
    assert Deployment.objects.get().stopped_at is not None
    assert node.call("GET", "desired").json()["replicas"] == []
    node.report()
    assert placed() == [("node-1", "unloaded", False)]


@pytest.mark.parametrize("what", ["model", "account"])
def test_what_is_suspended_is_unloaded_and_comes_back(version, what):
    make_node("node-1")
    catalog.publish_version(version=version, channel="prod")
    sweep_nodes()
    row = version.model if what == "model" else version.model.account
    type(row).objects.filter(pk=row.pk).update(suspended_at=timezone.now())

    sweep_nodes()
    assert placed() == [("node-1", "assigned", False)]

    type(row).objects.filter(pk=row.pk).update(suspended_at=None)
    sweep_nodes()
    assert placed()[1:] == [("node-1", "assigned", True)]
    assert Deployment.objects.count() == 2


@pytest.mark.parametrize("state", ["failed", "refused", "withdrawn", "in_review", "approved"])
def test_a_scan_that_nothing_waits_for_is_unloaded(version, state):
    node = make_node("node-1")
    Replica.objects.create(version=version, node_id=node.node_id, purpose="scan")
    ModelVersion.objects.update(state=state)

    sweep_nodes()

    assert placed() == [("node-1", "assigned", False)]


def test_a_sweep_with_nothing_to_do_writes_nothing(version, django_assert_max_num_queries):
    node = make_node("node-1")
    catalog.publish_version(version=version, channel="prod")
    sweep_nodes()
    load(node)
    before = list(Replica.objects.values()), list(Deployment.objects.values())

    sweep_nodes()

    assert (list(Replica.objects.values()), list(Deployment.objects.values())) == before
    assert Channel.objects.count() == AIModel.objects.count() == 1
