"""The platform's pages about serving: fleet, gateway, sealed files, and what stops with a model."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from django.core.cache import cache
from django.utils import timezone

from inference.models import Deployment, Node, Replica
from inference.selectors import fleet
from inference.selectors.review import review_files
from inference.services import gateway_health
from inference.services.gateway_health import ask_gateway, read_metrics
from marketplace.models import ModelVersion, Review
from marketplace.services.consequence import foretell_account, foretell_model
from tests.factories import ModelVersionFactory
from tests.inference.django.scripted_node import ScriptedNode

URLS = ["/platform/fleet", "/platform/panels/serving"]
METRICS = """# HELP strongroom_gateway_requests_total Requests that were answered.
strongroom_gateway_requests_total{model="a/b",outcome="ok",code="ok"} %d
strongroom_gateway_requests_total{model="a/b",outcome="server_error",code="internal"} %d
strongroom_gateway_open_requests 7
strongroom_gateway_replica_waiting_requests{model="a/b",replica="x"} 2
strongroom_gateway_replica_waiting_requests{model="a/b",replica="y"} 3
strongroom_gateway_replica_breaker{model="a/b",replica="x"} 1
strongroom_gateway_replica_breaker{model="a/b",replica="y"} 0
strongroom_gateway_changes_listening 0
strongroom_gateway_limits_shared 0
process_open_fds 10
"""


@pytest.fixture(autouse=True)
def _no_gateway(monkeypatch) -> None:
    cache.clear()

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody there")

    answer_with(monkeypatch, refuse)


def answer_with(monkeypatch, handler) -> None:
    client = httpx.Client(transport=httpx.MockTransport(handler))
    monkeypatch.setattr(gateway_health, "_client", lambda: client)


@pytest.fixture
def node(db) -> ScriptedNode:
    node = ScriptedNode("node-1")
    assert node.enrol().status_code == 201
    assert node.report().status_code == 200
    return node


@pytest.mark.parametrize("url", URLS)
def test_they_are_for_admins_alone(admin_client, owner_client, client, url):
    assert admin_client.get(url).status_code == 200
    assert owner_client.get(url).status_code == 404
    assert client.get(url).url.startswith("/login?next=")


def test_files_of_a_review_are_for_admins_alone(admin_client, owner_client, model):
    url = f"/platform/panels/reviews/{ModelVersionFactory(model=model).pk}"

    assert "No sealed files" in admin_client.get(url).content.decode()
    assert owner_client.get(url).status_code == 404


def test_a_node_is_on_the_map_with_what_it_holds(admin_client, node, model):
    row = Node.objects.get()
    Node.objects.update(
        triton_ready=True,
        last_seen_at=timezone.now(),
        info={"memory_total_bytes": 100, "memory_available_bytes": 40, "cpu_count": "many"},
    )
    version = ModelVersionFactory(model=model)
    deployment = Deployment.objects.create(version=version)
    Replica.objects.create(
        version=version, node=row, deployment=deployment, purpose="serve", state="ready"
    )

    [one] = fleet.list_fleet()

    assert (one.condition, one.memory, one.cpu_count) == ("ready", (60, 100), None)
    assert one.ready_count == 1
    assert fleet.count_fleet() == fleet.FleetTotals(1, 1, 1, 1, 1, 0)
    page = admin_client.get("/platform/fleet").content.decode()
    assert str(version) in page
    part = admin_client.get("/platform/fleet", headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({"last_seen_at": None}, "silent"),
        ({"last_seen_at": timezone.now() - timedelta(hours=1)}, "silent"),
        ({"last_seen_at": timezone.now() + timedelta(hours=1), "triton_ready": False}, "no Triton"),
    ],
)
def test_a_node_in_trouble_is_named(node, fields, condition):
    Node.objects.update(**fields)

    [one] = fleet.list_fleet()
    assert (one.condition, one.is_good) == (condition, False)
    Node.objects.update(revoked_at=timezone.now())
    assert fleet.list_fleet() == []


def test_a_deployment_without_a_copy_is_named(admin_client, model):
    Deployment.objects.create(version=ModelVersionFactory(model=model))

    assert "No copy of these serves" in admin_client.get("/platform/fleet").content.decode()


def test_the_map_asks_as_often_for_many_nodes(node, model, django_assert_num_queries):
    def add(name: str) -> None:
        one = Node.objects.create(
            name=name, token_digest=name.encode(), triton_http_url="http://x", public_key=name
        )
        Replica.objects.create(version=version, node=one, purpose="serve")

    version = ModelVersionFactory(model=model)
    add("a")
    with django_assert_num_queries(3):
        fleet.list_fleet()
    for name in "bcd":
        add(name)
    with django_assert_num_queries(3):
        assert len(fleet.list_fleet()) == 5


def test_a_gateway_that_is_away_is_said_to_be(admin_client, db):
    assert ask_gateway() == gateway_health.GatewayHealth(is_ready=False)
    assert "does not answer" in admin_client.get("/platform/panels/serving").content.decode()


def test_what_the_gateway_counts_is_read(monkeypatch):
    answer_with(monkeypatch, lambda request: httpx.Response(200, text=METRICS % (100, 5)))

    found = ask_gateway()

    assert (found.is_ready, found.is_readable) == (True, True)
    assert (found.open_requests, found.waiting_requests, found.breakers_open) == (7, 5, 1)
    assert (found.is_deaf, found.has_shared_limits) == (True, False)
    # Rates are of two looks.
    assert found.requests_per_s is None


def test_rates_are_between_two_looks(monkeypatch):
    now_s = [1_000.0]
    monkeypatch.setattr(gateway_health.time, "time", lambda: now_s[0])
    read_metrics(METRICS % (100, 5), is_ready=True)
    now_s[0] += 10

    found = read_metrics(METRICS % (190, 15), is_ready=True)

    assert (found.requests_per_s, found.failed_per_s) == (10.0, 1.0)
    now_s[0] += 10
    # One that was started anew counts from zero.
    assert read_metrics(METRICS % (1, 0), is_ready=True).requests_per_s is None


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401),
        httpx.Response(200, text="x" * (gateway_health.PAGE_BYTES_MAX + 1)),
    ],
)
def test_counters_that_cannot_be_read_are_left_out(monkeypatch, answer):
    answer_with(
        monkeypatch,
        lambda request: httpx.Response(200) if "ready" in request.url.path else answer,
    )

    found = ask_gateway()
    assert (found.is_ready, found.is_readable) == (True, False)


def test_what_stops_with_a_model_is_counted(node, model, account):
    assert not any("deployment" in one for one in foretell_model(model))
    version = ModelVersionFactory(model=model)
    deployment = Deployment.objects.create(version=version)
    row = Node.objects.get()
    for _ in range(2):
        Replica.objects.create(version=version, node=row, deployment=deployment, purpose="serve")

    assert {"1 deployment stops.", "2 loaded copies are unloaded."} <= set(foretell_model(model))
    assert "1 deployment stops." in foretell_account(account)


def test_sealed_files_stand_beside_those_before(creator, model, admin_client, platform_admin):
    creator.push("acme/digits", {"model.onnx": b"one" * 10})
    before = ModelVersion.objects.get(number=1)
    ModelVersion.objects.filter(pk=before.pk).update(state="approved")
    Review.objects.create(
        version=before, reviewer=platform_admin, decision="approved", reason="Fine."
    )
    creator.push("acme/digits", {"model.onnx": b"longer" * 10, "config.json": b"{}"})
    after = ModelVersion.objects.get(number=2)

    found = review_files(after)

    assert found.previous == before
    files = {row.label: row for row in found.files}
    assert "30 bytes" in files["model.onnx"].before
    assert "60 bytes" in files["model.onnx"].after
    assert files["config.json"].before == ""
    page = admin_client.get(f"/platform/panels/reviews/{after.pk}").content.decode()
    assert "model.onnx" in page
