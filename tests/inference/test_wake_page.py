"""Where a creator sees which versions sleep, and says after how long they may."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.utils import timezone

from inference.models import Deployment, Replica
from inference.models.node import IDLE_AFTER_MAX_S, IDLE_AFTER_MIN_S
from marketplace.models import Account, AuditEvent
from marketplace.services.cashier import WarmHour, get_cashier
from tests.factories import ChannelFactory, ModelVersionFactory
from tests.inference.django.test_deployment import make_node
from tests.inference.django.wallets import fund

PAGE = "/dashboard/models/acme/digits/monitoring/cold-start"
API = "/api/models/acme/digits/deployments"
CERTIFICATE = {"benchmark": {"load_ms": 8_200}}


@pytest.fixture
def deployment(account) -> Deployment:
    version = ModelVersionFactory(
        model__account=account, model__name="digits", number=3, certificate=CERTIFICATE
    )
    ChannelFactory(version=version)
    return Deployment.objects.create(version=version)


def change(client, **fields):
    return client.post(PAGE, {"version": "3"} | fields)


def test_the_page_shows_each_version_and_takes_its_policy(deployment, owner_client):
    Deployment.objects.update(slept_at=timezone.now())
    text = owner_client.get(PAGE).content.decode()
    assert "Cold" in text
    assert "cold start about 8 s" in text
    assert 'style="' not in text

    answer = change(owner_client, idle_minutes="15")

    assert answer.status_code == 302
    deployment.refresh_from_db()
    assert (deployment.idle_after_s, deployment.is_always_warm) == (900, False)
    assert AuditEvent.objects.get(action="deployment.set_policy").payload["idle_after_s"] == 900
    assert 'value="15"' in owner_client.get(PAGE).content.decode()


def test_always_warm_is_shown_with_its_price_and_recorded(deployment, owner_client, settings):
    settings.WARM_HOUR_NANOS = 20_000_000
    fund(deployment.version.model.account, 20_000_000)

    assert change(owner_client, is_always_warm="on").status_code == 302

    deployment.refresh_from_db()
    assert (deployment.is_always_warm, deployment.warm_hour_nanos) == (True, 20_000_000)
    assert "$0.02" in owner_client.get(PAGE).content.decode()


def test_what_the_wallet_cannot_pay_is_refused(deployment, owner_client, settings):
    settings.WARM_HOUR_NANOS = 20_000_000
    account = deployment.version.model.account
    fund(account, 19_999_999)

    page = change(owner_client, is_always_warm="on", idle_minutes="5")
    api = put(owner_client, idle_after_s=300, is_always_warm=True)

    assert page.status_code == 422
    assert "costs $0.02. The wallet does not hold it." in page.content.decode()
    assert (api.status_code, api.json()["code"]) == (402, "always_warm_unpaid")
    deployment.refresh_from_db()
    assert (deployment.idle_after_s, deployment.is_always_warm) == (None, False)
    assert not AuditEvent.objects.filter(action="deployment.set_policy").exists()

    # One more is enough.
    fund(account, 1)
    assert put(owner_client, idle_after_s=300, is_always_warm=True).status_code == 200
    # It is not asked for again by who only changes the time.
    Account.objects.update(frozen_at=timezone.now())
    assert put(owner_client, idle_after_s=600, is_always_warm=True).status_code == 200


def test_a_frozen_account_is_told_so(deployment, owner_client):
    fund(deployment.version.model.account, 1_000_000_000)
    Account.objects.update(frozen_at=timezone.now())

    page = change(owner_client, is_always_warm="on")
    api = put(owner_client, idle_after_s=300, is_always_warm=True)

    assert (page.status_code, api.status_code, api.json()["code"]) == (422, 403, "account_frozen")
    assert "is frozen" in page.content.decode()


def test_the_page_says_what_it_costs_and_from_when(deployment, owner_client, settings):
    settings.WARM_HOUR_NANOS = 0
    assert "Always warm costs nothing here" in owner_client.get(PAGE).content.decode()

    settings.WARM_HOUR_NANOS = 20_000_000
    fund(deployment.version.model.account, 20_000_000)
    answer = put(owner_client, idle_after_s=None, is_always_warm=True).json()
    text = owner_client.get(PAGE).content.decode()

    assert answer["warm_hour_nanos"] == 20_000_000
    assert answer["next_warm_hour_at"].endswith(":00:00Z")
    assert "Always warm costs $0.02 an hour" in text
    assert "charged from" in text
    assert "/wallet?account=acme" in text


def test_the_wallets_statement_and_the_admin_say_which_hour_it_was(
    deployment, owner_client, platform_admin, client
):
    account = deployment.version.model.account
    fund(account, 20_000_000)
    starts_at = datetime(2026, 3, 4, 5, tzinfo=UTC)
    hour = WarmHour(account, deployment.pk, deployment.version_id, starts_at, 7_000_000)
    assert get_cashier().charge(hour)

    text = owner_client.get("/console/wallet?account=acme").content.decode()
    assert "Hour kept warm" in text
    assert "acme/digits, version 3, 2026-03-04 05:00 UTC" in text
    assert "$0.007" in text

    client.force_login(platform_admin)
    text = client.get("/admin/billing/transfer/?kind=warm_hour").content.decode()
    assert f"warm_hour:{deployment.pk}:2026-03-04T05Z" in text
    assert client.get("/admin/inference/deployment/").status_code == 200


@pytest.mark.parametrize(("minutes", "status"), [("1", 302), ("10080", 302), ("", 302)])
def test_minutes_at_the_limit_are_taken(deployment, owner_client, minutes, status):
    assert change(owner_client, idle_minutes=minutes).status_code == status


@pytest.mark.parametrize("minutes", ["0", "10081", "-1", "1.5", "many", "9" * 400])
def test_minutes_past_the_limit_change_nothing(deployment, owner_client, minutes):
    answer = change(owner_client, idle_minutes=minutes, is_always_warm="on")

    assert answer.status_code == 422
    deployment.refresh_from_db()
    assert (deployment.idle_after_s, deployment.is_always_warm) == (None, False)


@pytest.mark.parametrize("version", ["", "4", "x", "9" * 30, "-3", "٣"])
def test_a_version_that_is_not_deployed_has_no_policy(deployment, owner_client, version):
    assert change(owner_client, version=version).status_code == 404


def test_without_deployments_the_page_says_so(deployment, owner_client):
    Deployment.objects.update(stopped_at=timezone.now())

    assert "Nothing is deployed" in owner_client.get(PAGE).content.decode()


def test_others_neither_see_nor_change_it(deployment, outsider_client):
    assert outsider_client.get(PAGE).status_code in (403, 404)
    assert change(outsider_client, idle_minutes="5").status_code in (403, 404)
    assert outsider_client.get(API).status_code in (403, 404)
    deployment.refresh_from_db()
    assert deployment.idle_after_s is None


def put(client, number: int = 3, **body):
    return client.put(f"{API}/{number}", body, content_type="application/json")


def test_the_api_tells_and_takes_the_same(deployment, owner_client):
    found = owner_client.get(API).json()["results"]
    assert [(one["version"], one["state"], one["cold_start_s"]) for one in found] == [
        (3, "waking", 8)
    ]

    answer = put(owner_client, idle_after_s=90, is_always_warm=False)

    assert answer.status_code == 200
    assert answer.json()["idle_after_s"] == 90
    assert owner_client.get(f"{API}/3").json() == answer.json()
    assert owner_client.get(f"{API}/4").status_code == 404
    # A time between two minutes is shown as the next one.
    assert 'value="2"' in owner_client.get(PAGE).content.decode()


@pytest.mark.parametrize("seconds", [IDLE_AFTER_MIN_S, IDLE_AFTER_MAX_S, None])
def test_seconds_at_the_limit_are_taken(deployment, owner_client, settings, seconds):
    settings.WARM_HOUR_NANOS = 0

    assert put(owner_client, idle_after_s=seconds, is_always_warm=True).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"idle_after_s": IDLE_AFTER_MIN_S - 1, "is_always_warm": False},
        {"idle_after_s": IDLE_AFTER_MAX_S + 1, "is_always_warm": False},
        {"idle_after_s": "x", "is_always_warm": False},
        {"idle_after_s": 90},
        {"is_always_warm": True},
        {},
    ],
)
def test_bad_input_over_the_api_changes_nothing(deployment, owner_client, body):
    answer = put(owner_client, **body)

    assert answer.status_code == 422
    assert answer.json()["code"] == "validation"
    deployment.refresh_from_db()
    assert (deployment.idle_after_s, deployment.is_always_warm) == (None, False)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"slept_at": timezone.now()}, "Cold"),
        ({"waking_since": timezone.now()}, "Waking"),
        ({}, "Not loaded now"),
    ],
)
def test_the_models_page_says_what_a_caller_has_to_expect(deployment, client, fields, word):
    Deployment.objects.update(**fields)

    text = client.get("/panels/evidence/acme/digits", headers={"HX-Request": "true"})

    assert word in text.content.decode()
    assert ("cold start about 8 s" in text.content.decode()) == bool(fields)


def test_a_model_that_is_loaded_says_so(deployment, client):
    node = make_node("node-1")
    Replica.objects.create(
        version=deployment.version,
        deployment=deployment,
        node_id=node.node_id,
        purpose="serve",
        state="ready",
    )

    text = client.get("/panels/evidence/acme/digits", headers={"HX-Request": "true"})

    assert "Served now" in text.content.decode()


def test_admins_see_the_state_of_each_deployment(deployment, platform_admin, client):
    Deployment.objects.update(slept_at=timezone.now())
    client.force_login(platform_admin)

    answer = client.get("/admin/inference/deployment/")

    assert answer.status_code == 200
    assert "Cold" in answer.content.decode()
