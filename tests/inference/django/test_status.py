"""What is measured of serving, and a model's own status page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from django.test import Client
from django.utils import timezone

from inference.models import Deployment, Metric, Node, OnboardingStep, Replica
from inference.selectors import status as selectors
from inference.services import keybroker_client, onboarding
from inference.services import status as services
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from marketplace.models import AIModel, ModelVersion, StatusDay
from marketplace.selectors.access import Actor
from marketplace.services import status as sampling
from marketplace.services.incident import open_incident
from tests.factories import ChannelFactory, ModelVersionFactory

pytestmark = pytest.mark.django_db

State = StatusDay.State
LATE = services.STEP_LATE_AFTER


def make_node(name: str, *, age_s: float = 1, is_ready: bool = True, **fields: Any) -> Node:
    return Node.objects.create(
        name=name,
        public_key="x",
        token_digest=new_id().bytes * 2,
        triton_http_url="http://127.0.0.1:1",
        triton_grpc_url="127.0.0.1:1",
        triton_ready=is_ready,
        last_seen_at=timezone.now() - timedelta(seconds=age_s),
        **fields,
    )


def answer_with(monkeypatch: pytest.MonkeyPatch, module: Any, status: int) -> list[str]:
    """Every address that this module's client asks answers so; returns what was asked."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if not status:
            raise httpx.ConnectError("nobody there")
        return httpx.Response(status, json={})

    client = httpx.Client(transport=httpx.MockTransport(handle))
    monkeypatch.setattr(module, "_client", lambda: client)
    return asked


# --- What is measured ---------------------------------------------------------------


@pytest.mark.parametrize(("status", "state"), [(200, State.UP), (503, State.DOWN), (0, State.DOWN)])
def test_the_gateway_says_whether_it_is_ready(monkeypatch, settings, status, state) -> None:
    asked = answer_with(monkeypatch, sampling, status)

    assert services.probe_gateway() is state
    assert asked == [f"{settings.GATEWAY_URL}/health/ready"]


@pytest.mark.parametrize(
    ("_case", "nodes", "site", "state"),
    [
        ("no node at all", [], 200, State.UNKNOWN),
        ("all serve", [{}, {}], 200, State.UP),
        ("one of two is silent", [{}, {"age_s": 16}], 200, State.DEGRADED),
        ("one of two has no Triton", [{}, {"is_ready": False}], 200, State.DEGRADED),
        ("none has a Triton", [{"is_ready": False}], 200, State.DOWN),
        ("none is heard, and the site is there", [{"age_s": 16}], 200, State.DOWN),
        # Who could have heard them?
        ("none is heard, and the site is away", [{"age_s": 16}], 503, State.UNKNOWN),
        ("one that was revoked is none", [{"revoked_at": timezone.now()}], 200, State.UNKNOWN),
    ],
)
def test_nodes_are_counted(monkeypatch, _case, nodes, site, state) -> None:
    answer_with(monkeypatch, sampling, site)
    for number, fields in enumerate(nodes):
        make_node(f"node-{number}", **fields)

    assert services.probe_serving() is state


@pytest.fixture
def version(account) -> ModelVersion:
    version = ModelVersionFactory(model__account=account, model__name="digits", state="onboarding")
    onboarding.create_steps(version)
    return version


def set_step(version: ModelVersion, name: str, **fields: Any) -> None:
    OnboardingStep.objects.filter(version=version, name=name).update(**fields)


@pytest.mark.parametrize(("status", "state"), [(200, State.UP), (500, State.DOWN), (0, State.DOWN)])
def test_without_the_key_broker_nothing_comes_in(monkeypatch, settings, status, state) -> None:
    asked = answer_with(monkeypatch, keybroker_client, status)

    assert services.probe_onboarding() is state
    assert asked == [f"{settings.KEYBROKER_URL}/health"]


@pytest.mark.parametrize(("beyond_s", "state"), [(-5, State.UP), (5, State.DEGRADED)])
@pytest.mark.parametrize("case", ["not begun", "no node"])
def test_a_step_that_waits_for_us_too_long(monkeypatch, version, case, beyond_s, state) -> None:
    answer_with(monkeypatch, keybroker_client, 200)
    at = utc_now() - LATE - timedelta(seconds=beyond_s)
    if case == "not begun":
        set_step(version, "verify", state="succeeded", finished_at=at)
    else:
        detail = {"waiting_for": "node_unavailable"}
        set_step(version, "verify", state="running", started_at=at, detail=detail)

    assert services.probe_onboarding() is state


@pytest.mark.parametrize("case", ["at work", "with a person", "over"])
def test_a_step_that_does_not_wait_for_us(monkeypatch, version, case) -> None:
    answer_with(monkeypatch, keybroker_client, 200)
    at = utc_now() - LATE - timedelta(hours=1)
    if case == "at work":
        set_step(version, "verify", state="running", started_at=at)
    else:
        set_step(version, "verify", state="succeeded", finished_at=at)
        version.state = "in_review" if case == "with a person" else "failed"
        version.save()

    assert services.probe_onboarding() is State.UP


# --- A model's page -----------------------------------------------------------------


@pytest.fixture
def model(account) -> AIModel:
    version = ModelVersionFactory(model__account=account, model__name="digits", state="approved")
    ChannelFactory(model=version.model, name="prod", version=version)
    return version.model


def deploy(model: AIModel, count: int) -> Deployment:
    return Deployment.objects.create(version=model.versions.get(), replica_count=count)


def load(deployment: Deployment, node: Node, state: str = "ready", **fields: Any) -> Replica:
    return Replica.objects.create(
        version=deployment.version,
        deployment=deployment,
        node=node,
        purpose=fields.pop("purpose", "serve"),
        state=state,
        **fields,
    )


def test_ready_replicas_are_told(client, model) -> None:
    deployment = deploy(model, 2)
    node = make_node("node-1")
    load(deployment, node)
    load(deployment, node, "loading")
    load(deployment, node, purpose="scan")
    load(deployment, node, wanted=False)

    text = client.get("/acme/digits/status").content.decode()

    assert "Partly served" in text
    assert "Version 1: 1 of 2 replicas ready." in text


@pytest.mark.parametrize(
    ("_case", "count", "nodes", "word"),
    [
        ("all of them", 1, [{}], "Served"),
        ("none", 1, [], "Not served"),
        ("on a node that is not heard", 1, [{"age_s": 16}], "Not known"),
        ("on a node without Triton", 1, [{"is_ready": False}], "Not known"),
        ("on one of two", 2, [{}, {"age_s": 16}], "Partly served"),
    ],
)
def test_a_state_is_never_made_up(model, _case, count, nodes, word) -> None:
    deployment = deploy(model, count)
    for number, fields in enumerate(nodes):
        load(deployment, make_node(f"node-{number}", **fields))

    assert selectors.read_availability(deployment.version).word == word


def add(model: AIModel, days: int, **fields: int) -> None:
    midnight = utc_now().replace(hour=0, minute=0, second=0, microsecond=0)
    Metric.objects.create(
        model_id=model.pk,
        version_id=new_id(),
        resolution="day",
        starts_at=midnight - timedelta(days=days),
        **fields,
    )


def test_uptime_counts_what_should_have_been_answered(model) -> None:
    add(
        model,
        0,
        succeeded=90,
        canceled=50,
        failed_input=40,
        refused_limit=30,
        refused_input=20,
        refused_credit=10,
        failed_model=1,
        failed_timeout=2,
        failed_capacity=2,
        failed_platform=3,
        refused_capacity=2,
    )
    # Two versions ran on one day.
    add(model, 1, succeeded=900)
    add(model, 1, succeeded=99, failed_platform=1)
    add(model, 89, failed_platform=20)
    add(model, 90, failed_platform=1_000)

    days = selectors.list_uptime(model)

    assert [(one.good, one.bad, one.share) for one in days[-2:]] == [
        (999, 1, 99_900),
        (90, 10, 90_000),
    ]
    assert (len(days), days[0].bad, days[0].state) == (90, 20, "low")
    assert sum(one.bad for one in days) == 31


@pytest.mark.parametrize("name", selectors.BAD)
def test_each_fault_of_ours_counts_against_it(model, name) -> None:
    add(model, 0, succeeded=99, **{name: 1})

    assert selectors.list_uptime(model)[-1].share == 99_000


@pytest.mark.parametrize(("count", "state"), [(19, "few"), (20, "full")])
def test_a_day_with_few_predictions_tells_no_share(model, client, count, state) -> None:
    add(model, 0, succeeded=count)

    assert selectors.list_uptime(model)[-1].state == state
    text = client.get("/acme/digits/status").content.decode()
    assert ("uptime 100.00 %" in text) is (state == "full")


def test_the_page_tells_no_count(model, client) -> None:
    add(model, 0, succeeded=12_345, failed_platform=678)

    text = client.get("/acme/digits/status").content.decode()

    assert "94.79 %" in text
    for count in ("12345", "12,345", "13023", "13,023", "678"):
        assert count not in text


def test_days_of_another_model_are_not_its_own(model) -> None:
    other = ModelVersionFactory(model__account=model.account, model__name="letters").model
    add(other, 0, failed_platform=100)

    assert {one.state for one in selectors.list_uptime(model)} == {"none"}


def test_incidents_that_name_it_stand_there(model, client, platform_admin) -> None:
    other = ModelVersionFactory(model__account=model.account, model__name="letters").model
    fields = {"impact": "minor", "state": "monitoring", "text": "We look into it."}
    actor = Actor(user=platform_admin)
    open_incident(actor=actor, title="Wrong digits", models=["acme/digits"], **fields)
    open_incident(actor=actor, title="Wrong letters", models=[str(other)], **fields)

    text = client.get("/acme/digits/status").content.decode()

    assert "Wrong digits" in text
    assert "Wrong letters" not in text


@pytest.mark.parametrize("kind", ["private", "suspended"])
def test_a_model_that_one_may_not_see_has_no_status(
    kind, model, client, outsider_client, owner_client, teammate_client, admin_client
) -> None:
    if kind == "private":
        model.visibility = "private"
    else:
        model.suspended_at = datetime.now(UTC)
    model.save()

    for one in (client, outsider_client):
        assert one.get("/acme/digits/status").status_code == 404
    for one in (owner_client, teammate_client, admin_client):
        assert one.get("/acme/digits/status").status_code == 200


def test_without_the_rule_a_stranger_would_see_it(model, client: Client, monkeypatch) -> None:
    model.visibility = "private"
    model.save()
    monkeypatch.setattr(
        "marketplace.selectors.access.list_visible_models",
        lambda _: AIModel.objects.select_related("account"),
    )

    assert client.get("/acme/digits/status").status_code == 200


def test_a_model_without_a_version_says_so(account, client) -> None:
    ModelVersionFactory(model__account=account, model__name="draft", state="in_review")

    text = client.get("/acme/draft/status").content.decode()

    assert "No version is published." in text


def test_the_models_page_shows_the_row(model, client) -> None:
    add(model, 0, succeeded=100)

    text = client.get("/panels/evidence/acme/digits").content.decode()

    assert "uptime 100.00 %" in text
    assert 'href="/acme/digits/status"' in text


def test_the_page_asks_as_often_for_many_days(model, client, django_assert_num_queries) -> None:
    deployment = deploy(model, 50)
    node = make_node("node-1")
    for _ in range(50):
        load(deployment, node)
    for back in range(90):
        add(model, back, succeeded=100)

    with django_assert_num_queries(9):
        client.get("/acme/digits/status")
