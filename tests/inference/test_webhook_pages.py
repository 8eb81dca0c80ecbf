"""Webhooks over the pages and the management API."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from standardwebhooks import Webhook

from inference.models import WebhookDelivery, WebhookEndpoint
from inference.services import webhook, webhook_delivery
from inference.services.webhook_delivery import send_webhooks
from marketplace.core.ids import to_public
from marketplace.selectors.access import Actor
from marketplace.services.session import CONFIRMED_KEY
from tests.factories import AIModelFactory, APIKeyFactory, ModelVersionFactory
from tests.inference.hooked import add, finish
from tests.inference.receivers import receive

pytestmark = pytest.mark.django_db

PAGE = "/console/webhooks"
URL = "https://93.184.216.34/hook"


@pytest.fixture(autouse=True)
def _no_form_was_sent() -> None:
    cache.clear()


@pytest.fixture
def receiver():
    with receive() as found:
        yield found


@pytest.fixture
def actor(owner, account) -> Actor:
    return Actor(user=owner)


@pytest.fixture
def version(account):
    return ModelVersionFactory(model=AIModelFactory(account=account, name="digits"))


@pytest.fixture
def endpoint(actor, account, receiver) -> WebhookEndpoint:
    return add(actor, account, receiver.url, description="The ledger")[0]


@pytest.fixture
def api(account, owner):
    token = APIKeyFactory(account=account, created_by=owner, mode="token").text

    def call(method: str, path: str, body: object = None):
        answer = Client().generic(
            method,
            f"/api/{path}",
            b"" if body is None else json.dumps(body).encode(),
            content_type="application/json",
            headers={"Authorization": f"Bearer {token}"},
        )
        return answer.status_code, json.loads(answer.content or b"null")

    return call


def read(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200, answer.content[-2000:]
    return answer.content.decode()


def find_secret(html: str) -> str:
    (secret,) = re.findall(r"whsec_[A-Za-z0-9+/=]+", html)
    return secret


# --- Pages --------------------------------------------------------------------------


def test_empty_pages_say_what_to_do(owner_client):
    html = read(owner_client, PAGE)
    assert "No endpoints yet" in html
    assert "/console/webhooks/new?account=acme" in html
    assert "Nothing was sent yet" in read(owner_client, f"{PAGE}/deliveries")


def test_an_endpoint_is_made_and_its_secret_shown_once(owner_client, account):
    form = read(owner_client, f"{PAGE}/new?account=acme")
    (once,) = re.findall(r'name="once" value="([^"]+)"', form)
    body = {"url": URL, "events": ["prediction.completed"], "once": once}

    made = owner_client.post(f"{PAGE}/new?account=acme", body)
    assert made.status_code == 201
    assert "no-store" in made["Cache-Control"]
    secret = find_secret(made.content.decode())
    row = WebhookEndpoint.objects.get()
    assert (row.url, row.events) == (URL, ["prediction.completed"])
    for url in (PAGE, f"{PAGE}/{row.pk}", f"{PAGE}/{row.pk}/edit"):
        assert secret not in read(owner_client, url)
    # Sent twice, it makes one.
    assert owner_client.post(f"{PAGE}/new?account=acme", body).status_code == 409
    assert WebhookEndpoint.objects.count() == 1


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://10.0.0.1/", "This address is not a public one."),
        ("ftp://example.com/", "The address must begin with https://."),
        ("https://no.such.name.invalid/", "The name of the server cannot be resolved."),
        ("", "This field is required."),
    ],
)
def test_an_address_that_may_not_be_called_is_refused(owner_client, account, url, told):
    answer = owner_client.post(f"{PAGE}/new?account=acme", {"url": url})

    assert answer.status_code == 422
    assert told in answer.content.decode()
    assert not WebhookEndpoint.objects.exists()


def test_an_endpoint_is_changed(owner_client, endpoint):
    answer = owner_client.post(
        f"{PAGE}/{endpoint.pk}/edit", {"url": URL, "description": "Elsewhere"}
    )
    assert answer.status_code == 302
    endpoint.refresh_from_db()
    assert (endpoint.url, endpoint.description, endpoint.events) == (URL, "Elsewhere", [])
    wrong = owner_client.post(f"{PAGE}/{endpoint.pk}/edit", {"url": "https://127.1.1.1:1x/"})
    assert wrong.status_code == 422


def test_a_test_shows_with_its_answer(owner_client, endpoint, receiver):
    receiver.status, receiver.answer = 418, b"<b>I am a teapot</b>"
    answer = owner_client.post(f"{PAGE}/{endpoint.pk}/do", {"do": "test"}, follow=True)
    assert "A test is on its way" in answer.content.decode()
    send_webhooks()

    row = WebhookDelivery.objects.get()
    html = read(owner_client, f"{PAGE}/{endpoint.pk}")
    assert f"{PAGE}/deliveries/{row.pk}" in html
    html = read(owner_client, f"{PAGE}/deliveries/{row.pk}")
    assert "It answered 418." in html
    assert "&lt;b&gt;I am a teapot&lt;/b&gt;" in html
    assert f"msg_{row.event_id.hex}" in html
    assert "This is a test." in html


def test_health_and_filters(owner_client, account, version, endpoint, receiver):
    receiver.plan = [204, 500]
    good = finish(account, version)
    send_webhooks()
    bad = finish(account, version)
    send_webhooks()
    WebhookDelivery.objects.filter(prediction_id=bad.pk).update(
        state="failed", ended_at=timezone.now()
    )

    html = read(owner_client, PAGE)
    assert "Failing" in html
    assert "The ledger" in html
    html = read(owner_client, f"{PAGE}/{endpoint.pk}?state=failed")
    assert to_public(bad.pk)[:10] in html
    assert f"/predictions/{to_public(good.pk)}" not in html
    html = read(owner_client, f"{PAGE}/{endpoint.pk}?type=ping")
    assert "Nothing fits" in html
    assert read(owner_client, f"{PAGE}/{endpoint.pk}?state=nonsense")
    assert owner_client.get(f"{PAGE}/{endpoint.pk}?before=x").status_code == 422


def test_older_deliveries_are_on_the_next_page(owner_client, account, version, endpoint):
    for _ in range(51):
        finish(account, version)
    webhook_delivery.spread_events()
    html = read(owner_client, f"{PAGE}/deliveries?account=acme")
    assert html.count("prediction.completed</a>") == 50
    (older,) = re.findall(r'rel="next" href="([^"]+)"', html)
    html = read(owner_client, f"{PAGE}/deliveries{older.replace('&amp;', '&')}")
    assert html.count("prediction.completed</a>") == 1


def test_replay_off_on_and_remove(owner_client, account, version, endpoint, receiver):
    finish(account, version)
    send_webhooks()
    row = WebhookDelivery.objects.get()

    def do(**body: str) -> str:
        answer = owner_client.post(f"{PAGE}/{endpoint.pk}/do", body, follow=True)
        assert answer.status_code == 200
        return answer.content.decode()

    answer = owner_client.post(f"{PAGE}/deliveries/{row.pk}/replay", follow=True)
    assert "It is sent once more." in answer.content.decode()
    answer = owner_client.post(f"{PAGE}/deliveries/{row.pk}/replay", follow=True)
    assert "It is on its way already." in answer.content.decode()
    send_webhooks()
    assert len(receiver.seen) == 2
    assert "0 deliveries are sent once more." in do(do="replay", since=str(timezone.now().date()))
    assert "Say since which day." in do(do="replay", since="x")
    assert "Deliveries are kept for" in do(do="replay", since="2020-01-01")
    assert "There is nothing of that name" in do(do="everything")
    assert "Turned off." in do(do="off")
    html = read(owner_client, f"{PAGE}/{endpoint.pk}")
    assert "Turned off by a person" in html
    assert "turn it on to replay this" in read(owner_client, f"{PAGE}/deliveries/{row.pk}")
    assert "The endpoint is turned off." in do(do="test")
    assert "Turned on." in do(do="on")
    assert "The endpoint is deleted" in do(do="remove")
    assert not WebhookEndpoint.objects.exists()


def test_secrets_are_changed_and_shown(owner_client, actor, account, endpoint, version, receiver):
    answer = owner_client.post(f"{PAGE}/{endpoint.pk}/rotate")
    assert answer.status_code == 200
    secret = find_secret(answer.content.decode())
    assert "signs as well until" in answer.content.decode()
    again = owner_client.post(f"{PAGE}/{endpoint.pk}/rotate", follow=True)
    assert "less than a day ago" in again.content.decode()
    assert "End the old secret" in read(owner_client, f"{PAGE}/{endpoint.pk}")
    owner_client.post(f"{PAGE}/{endpoint.pk}/do", {"do": "end_secret"})
    finish(account, version)
    send_webhooks()
    assert receiver.seen[0].verify(secret)
    assert receiver.seen[0].headers["webhook-signature"].count("v1,") == 1

    first = find_secret(owner_client.post(f"{PAGE}/secret?account=acme").content.decode())
    changed = owner_client.post(f"{PAGE}/secret?account=acme", {"rotate": "1"})
    assert find_secret(changed.content.decode()) != first


def test_secrets_need_a_fresh_proof(owner, account, endpoint):
    client = Client()
    client.force_login(owner)
    session = client.session
    session[CONFIRMED_KEY] = 0
    session.save()

    for url in (f"{PAGE}/{endpoint.pk}/rotate", f"{PAGE}/secret?account=acme"):
        answer = client.post(url)
        assert b"whsec_" not in answer.content
        assert answer.status_code in (302, 422)


def test_a_developer_may_and_a_viewer_may_not(teammate_client, owner_client, account, endpoint):
    assert teammate_client.get(f"{PAGE}?account=acme").status_code == 200
    account.memberships.filter(user__email="teammate@example.com").update(role="viewer")
    for url in (f"{PAGE}?account=acme", f"{PAGE}/{endpoint.pk}", f"{PAGE}/deliveries?account=acme"):
        assert teammate_client.get(url).status_code == 403


# --- The management API -------------------------------------------------------------


def test_the_life_of_an_endpoint(api, account, version, receiver):
    status, made = api("POST", "webhooks", {"account": "acme", "url": receiver.url})
    assert status == 201
    secret, path = made.pop("secret"), f"webhooks/{made['id']}"
    assert (made["events"], made["is_enabled"], made["disabled_reason"]) == ([], True, None)
    assert api("POST", "webhooks", {"account": "acme", "url": receiver.url})[0] == 409
    status, found = api("GET", "webhooks?account=acme")
    assert [one["id"] for one in found["results"]] == [made["id"]]
    assert "secret" not in found["results"][0]

    assert api("POST", f"{path}/test")[0] == 202
    finish(account, version)
    assert send_webhooks() == 2
    for one in receiver.seen:
        Webhook(secret).verify(one.body, one.headers)
    _, found = api("GET", path)
    assert (found["succeeded_24h"], found["failed_24h"], found["waiting"]) == (2, 0, 0)

    status, changed = api("PATCH", path, {"events": ["prediction.started"], "is_enabled": False})
    assert (status, changed["is_enabled"], changed["disabled_reason"]) == (200, False, "person")
    assert api("POST", f"{path}/test")[0] == 409
    assert api("PATCH", path, {"is_enabled": True})[1]["is_enabled"] is True

    status, rotated = api("POST", f"{path}/secret")
    assert (status, rotated["key"] != secret) == (200, True)
    assert rotated["old_secret_until"]
    assert api("POST", f"{path}/secret")[0] == 409
    assert api("DELETE", f"{path}/secret")[0] == 204

    assert api("DELETE", path)[0] == 204
    assert api("GET", path)[0] == 404


def test_deliveries_are_listed_shown_and_replayed(api, account, version, endpoint, receiver):
    receiver.plan, receiver.answer = [500], b"why"
    prediction = finish(account, version, output={"y": 1})
    send_webhooks()
    WebhookDelivery.objects.update(state="failed", ended_at=timezone.now())

    status, page = api(
        "GET", f"webhook-deliveries?account=acme&endpoint={endpoint.pk}&state=failed"
    )
    (found,) = page["results"]
    assert (status, page["next"]) == (200, None)
    assert (found["prediction"], found["attempts"]) == (to_public(prediction.pk), 1)
    assert found["last_error"] == "It answered 500."
    _, shown = api("GET", f"webhook-deliveries/{found['id']}")
    assert shown["message"]["data"]["output"] == {"y": 1}
    (attempt,) = shown["attempt_log"]
    assert (attempt["status"], attempt["answer"]) == (500, "why")
    assert api("POST", f"webhook-deliveries/{found['id']}/replay")[0] == 202
    assert send_webhooks() == 1

    WebhookDelivery.objects.update(state="failed", ended_at=timezone.now())
    since = (timezone.now() - timedelta(hours=1)).isoformat()
    path = f"webhooks/{endpoint.pk}/replay"
    assert api("POST", path, {"since": since}) == (202, {"replayed": 1})
    assert send_webhooks() == 1
    assert len({one.headers["webhook-id"] for one in receiver.seen}) == 1


def test_a_prediction_s_own_is_listed_without_an_endpoint(api, account, version, receiver):
    finish(account, version, url=receiver.url)
    send_webhooks()

    (found,) = api("GET", "webhook-deliveries?account=acme")[1]["results"]
    assert (found["endpoint"], found["url"]) == (None, receiver.url)


def test_the_default_secret(api, account, actor):
    status, first = api("GET", "webhook-secret?account=acme")
    assert (status, first["old_secret_until"]) == (200, None)
    assert first["key"] == webhook.show_default_secret(actor=actor, account=account)[1]
    status, second = api("POST", "webhook-secret", {"account": "acme"})
    assert (status, second["key"] != first["key"]) == (200, True)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "webhooks", {"account": "acme", "url": "https://10.0.0.1/"}, 422),
        ("POST", "webhooks", {"account": "acme", "url": URL, "events": ["ping"]}, 422),
        ("POST", "webhooks", {"account": "elsewhere", "url": URL}, 404),
        ("POST", "webhooks", {"account": "acme"}, 422),
        ("PATCH", "webhooks/{id}", {"url": "http://[::1"}, 422),
        ("POST", "webhooks/{id}/replay", {}, 422),
        ("POST", "webhooks/{id}/replay", {"since": "2020-01-01T00:00:00Z"}, 422),
        ("GET", "webhook-deliveries", None, 422),
        ("GET", "webhook-deliveries?account=acme&before=x", None, 422),
        ("GET", "webhook-deliveries?account=acme&state=x", None, 422),
    ],
)
def test_wrong_calls_are_refused_and_change_nothing(api, endpoint, method, path, body, status):
    before = list(WebhookEndpoint.objects.values())
    code, answer = api(method, path.format(id=endpoint.pk), body)

    assert (code, answer["status"]) == (status, status)
    assert list(WebhookEndpoint.objects.values()) == before
