"""What was withdrawn or suspended is not wanted from the same moment on."""

from __future__ import annotations

import json

import pytest
from django.db import connection, transaction
from django.utils import timezone

from inference.models import Deployment, Replica
from inference.services import deployment as service
from marketplace.models import Account, AIModel, ModelVersion
from marketplace.selectors.access import Actor
from marketplace.services import account as accounts
from marketplace.services import catalog
from tests.factories import ChannelFactory, ModelVersionFactory
from tests.inference.django.scripted_node import ScriptedNode


@pytest.fixture
def node(db) -> ScriptedNode:
    node = ScriptedNode("node-1")
    assert node.enrol().status_code == 201
    assert node.report().status_code == 200
    return node


@pytest.fixture
def version(node, model) -> ModelVersion:
    version = ModelVersionFactory(model=model)
    ChannelFactory(version=version)
    other = ModelVersionFactory()
    ChannelFactory(version=other)
    service.reconcile()
    wanted = node.call("GET", "desired").json()["replicas"]
    assert len(wanted) == 2
    body = [{"id": one["id"], "state": "ready", "progress": 1} for one in wanted]
    assert node.report(replicas=body).status_code == 200
    return version


def wanted_versions(node: ScriptedNode) -> set[str]:
    return {one["version_id"] for one in node.call("GET", "desired").json()["replicas"]}


def assert_stopped(node: ScriptedNode, version: ModelVersion) -> None:
    """Before any worker has looked; and the other version goes on."""
    assert str(version.pk) not in wanted_versions(node)
    assert len(wanted_versions(node)) == 1
    assert Deployment.objects.get(version=version).stopped_at is not None
    assert Deployment.objects.exclude(version=version).get().stopped_at is None
    assert not Replica.objects.filter(version=version, wanted=True).exists()


def test_a_withdrawn_version(node, version, owner) -> None:
    assert str(version.pk) in wanted_versions(node)

    catalog.withdraw(version=version, actor=Actor(user=owner))

    assert_stopped(node, version)
    service.reconcile()
    assert_stopped(node, version)


def test_over_the_api_and_in_the_admin_console(node, version, owner_client, admin_client) -> None:
    second = ModelVersionFactory(model=version.model, number=version.number + 1)
    service.ensure_deployment(version=second)
    path = f"/api/models/{version.model}/versions/{version.number}/withdraw"

    assert (
        owner_client.post(path, json.dumps({}), content_type="application/json").status_code == 200
    )
    answers = {"action": "withdraw", "confirmed": "1", "reason": "It is stolen."}
    admin_client.post(
        "/admin/marketplace/modelversion/", answers | {"_selected_action": [str(second.pk)]}
    )

    assert str(version.pk) not in wanted_versions(node)
    second.refresh_from_db()
    assert second.state == "withdrawn"
    assert str(second.pk) not in wanted_versions(node)


def test_a_withdrawal_that_is_rolled_back_stops_nothing(node, version, owner) -> None:
    with transaction.atomic():
        catalog.withdraw(version=version, actor=Actor(user=owner))
        transaction.set_rollback(True)

    assert str(version.pk) in wanted_versions(node)


def test_other_moves_of_a_version_stop_nothing(node, version) -> None:
    ModelVersion.objects.filter(pk=version.pk).update(state="approved", certificate={"x": 1})
    Account.objects.update(name="Other")
    AIModel.objects.update(title="Other")

    assert str(version.pk) in wanted_versions(node)


def test_a_version_on_its_way_in_loses_its_scan(node, version, owner) -> None:
    coming = ModelVersionFactory(model=version.model, number=7, state="onboarding")
    Replica.objects.create(version=coming, node_id=node.node_id, purpose="scan")
    assert str(coming.pk) in wanted_versions(node)

    catalog.withdraw(version=coming, actor=Actor(user=owner))

    assert str(coming.pk) not in wanted_versions(node)


def test_a_suspended_account_and_back(node, version, platform_admin) -> None:
    actor, account = Actor(user=platform_admin), version.model.account
    accounts.suspend_account(actor=actor, account=account, reason="x")

    assert_stopped(node, version)
    accounts.unsuspend_account(actor=actor, account=account, reason="x")
    service.reconcile()
    assert str(version.pk) in wanted_versions(node)


def test_a_suspended_model(node, version) -> None:
    AIModel.objects.filter(pk=version.model_id).update(suspended_at=timezone.now())

    assert_stopped(node, version)


@pytest.mark.django_db(transaction=True)
def test_gateways_hear_of_it_with_the_same_transaction(node, version, owner) -> None:
    """They route to no replica that is not wanted; each row that changes tells them."""
    replica = Replica.objects.get(version=version)
    with connection.cursor() as cursor:
        cursor.execute("LISTEN strongroom_changes")
    catalog.withdraw(version=version, actor=Actor(user=owner))

    told = [
        json.loads(note.payload)
        for note in connection.connection.notifies(timeout=10, stop_after=3)
    ]
    with connection.cursor() as cursor:
        cursor.execute("UNLISTEN *")
    assert {"table": "inference_replica", "id": str(replica.pk)} in told
