"""The admin console: everything of inference can be read, and very little done."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.utils import timezone

from inference.models import AbuseScore, Deployment, KeyRelease, Node, Replica
from marketplace.core.ids import new_id
from marketplace.models import AuditEvent
from tests.factories import AccountFactory, ModelVersionFactory
from tests.inference.django.scripted_node import ScriptedNode

MODELS = [
    "abusescore",
    "artifact",
    "deployment",
    "keyrelease",
    "node",
    "onboardingstep",
    "replica",
    "signingkey",
    "upload",
]
FILES = {"model.onnx": b"weights" * 1000}


@pytest.fixture
def rows(creator, model):
    """At least one row of everything."""
    creator.push("acme/digits", FILES)
    node = ScriptedNode("node-1")
    node.enrol()
    version = ModelVersionFactory()
    deployment = Deployment.objects.create(version=version)
    Replica.objects.create(
        version=version, node_id=node.node_id, deployment=deployment, purpose="serve", state="ready"
    )
    KeyRelease.objects.create(at=timezone.now(), outcome="released", artifact_id=new_id())
    AbuseScore.objects.create(
        model=model, account=AccountFactory(), score=1, created_at=timezone.now()
    )


@pytest.mark.parametrize("name", MODELS)
def test_each_table_can_be_read_and_not_be_changed(rows, admin_client, name):
    row = admin.site.get_model_admin(
        next(one for one in admin.site._registry if one._meta.label_lower == f"inference.{name}")
    ).model.objects.first()
    changed = admin_client.get(f"/admin/inference/{name}/{row.pk}/change/")

    assert admin_client.get(f"/admin/inference/{name}/").status_code == 200
    assert admin_client.get(f"/admin/inference/{name}/?q=acme").status_code == 200
    assert changed.status_code == 200
    assert b'name="_save"' not in changed.content
    assert admin_client.get(f"/admin/inference/{name}/add/").status_code == 403
    assert admin_client.post(f"/admin/inference/{name}/{row.pk}/change/").status_code == 403
    assert admin_client.get(f"/admin/inference/{name}/{row.pk}/delete/").status_code == 403


@pytest.mark.parametrize("name", MODELS)
def test_only_platform_admins_look(rows, owner_client, name):
    assert owner_client.get(f"/admin/inference/{name}/").status_code == 302


def test_a_nodes_page_shows_no_digest_of_its_token(rows, admin_client):
    node = Node.objects.get()

    page = admin_client.get(f"/admin/inference/node/{node.pk}/change/").content.decode()

    assert "token_digest" not in page.lower().replace(" ", "_")
    assert bytes(node.token_digest).hex() not in page


def test_an_admin_revokes_a_node(rows, admin_client):
    node = Node.objects.get()

    answer = admin_client.post(
        "/admin/inference/node/", {"action": "revoke", "_selected_action": [str(node.pk)]}
    )

    assert answer.status_code == 302
    node.refresh_from_db()
    assert node.revoked_at is not None
    assert Replica.objects.get().state == "lost"
    event = AuditEvent.objects.get(action="node.revoke")
    assert event.actor == "user:admin@example.com"


@pytest.mark.parametrize("again", [False, True])
def test_an_admin_drains_a_node_and_takes_it_back(rows, admin_client, again):
    def do(action: str) -> str:
        data = {"action": action, "_selected_action": [str(Node.objects.get().pk)]}
        return admin_client.post("/admin/inference/node/", data, follow=True).content.decode()

    assert "drains." in do("drain")
    node = Node.objects.get()
    assert node.drain_requested_at is not None
    assert "draining" in admin_client.get("/admin/inference/node/").content.decode()
    if again:
        assert "stays as it is" in do("drain")
        assert Node.objects.get().drain_requested_at == node.drain_requested_at

    assert "takes work again." in do("undrain")
    assert Node.objects.get().drain_requested_at is None
    actions = AuditEvent.objects.filter(action__endswith="drain").order_by("seq")
    assert list(actions.values_list("action", flat=True)) == ["node.drain", "node.undrain"]


def test_an_admin_stops_a_deployment(rows, admin_client):
    deployment = Deployment.objects.get()

    admin_client.post(
        "/admin/inference/deployment/",
        {"action": "stop", "_selected_action": [str(deployment.pk)]},
    )

    deployment.refresh_from_db()
    assert deployment.stopped_at is not None
    assert not Replica.objects.get().wanted


@pytest.mark.parametrize(
    ("changes", "condition"),
    [
        ({"triton_ready": True}, "ready"),
        ({"triton_ready": False}, "no Triton"),
        ({"last_seen_at": None}, "lost"),
        ({"revoked_at": timezone.now()}, "revoked"),
    ],
)
def test_a_node_is_listed_with_its_condition(rows, admin_client, changes, condition):
    Node.objects.update(**changes)

    page = admin_client.get("/admin/inference/node/").content.decode()

    assert f'<td class="field-condition">{condition}</td>' in page


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (
            {"landlock_abi": 7, "mode": "full", "seccomp": True, "mlock": "full", "swap": False},
            "Landlock 7, seccomp, memory locked: full, no swap",
        ),
        (
            {"landlock_abi": 7, "mode": "seccomp-only", "seccomp": True, "mlock": "none"},
            "no Landlock, seccomp, memory locked: none, swap",
        ),
        ("<script>", "not told"),
        (
            {"landlock_abi": "<b>", "mode": "full", "mlock": "<i>"},
            "Landlock &lt;b&gt;, no seccomp, memory locked: &lt;i&gt;, swap",
        ),
    ],
)
def test_a_node_is_listed_with_its_sandbox(rows, admin_client, found, shown):
    Node.objects.update(info={"sandbox": found})

    page = admin_client.get("/admin/inference/node/").content.decode()

    assert f'<td class="field-sandbox">{shown}</td>' in page
