"""What the web counts, and who may see it."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from marketplace import web_metrics
from marketplace.core.metrics_listener import TOKEN_LENGTH_MIN

pytestmark = pytest.mark.django_db

TOKEN = "w" * TOKEN_LENGTH_MIN


def scrape(**headers):
    return Client().get("/metrics", headers=headers)


def read(name, **labels):
    """The value of a series; 0 where there is none."""
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    line = re.escape(name + (f"{{{inner}}}" if inner else ""))
    found = re.search(rf"^{line} (\S+)$", scrape().content.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_requests_are_counted_by_route_and_never_by_path(account):
    before = read(
        "strongroom_web_requests_total", method="GET", view="marketplace:catalogue", status="200"
    )

    assert Client().get("/").status_code == 200
    Client().get(f"/{account.slug}?secret=hunter2")

    after = read(
        "strongroom_web_requests_total", method="GET", view="marketplace:catalogue", status="200"
    )
    assert after == before + 1
    page = scrape().content.decode()
    assert account.slug not in page
    assert "hunter2" not in page
    assert 'strongroom_web_request_duration_seconds_bucket{view="marketplace:catalogue",le=' in page


def test_addresses_that_strangers_make_up_are_one_series():
    for index in range(5):
        Client().get(f"/no/such/page/{index}/at/all")
    Client().generic("BREW", "/login")

    views = set(
        re.findall(r'requests_total\{method="\w+",view="([^"]*)"', scrape().content.decode())
    )
    assert web_metrics.NO_VIEW in views
    assert not [one for one in views if "such" in one]
    assert f'method="{web_metrics.OTHER_METHOD}"' in scrape().content.decode()


def test_probes_are_no_requests(monkeypatch):
    def probe_all() -> float:
        """How many of them were counted so far."""
        for address in ("/health", "/health/live", "/health/ready"):
            assert Client().get(address).status_code == 200
        page = scrape().content.decode()
        found = re.findall(r'requests_total\{[^}]*view="marketplace:health[^}]*\} (\d+)', page)
        return sum(map(int, found))

    before = probe_all()
    assert probe_all() == before
    # The control.
    monkeypatch.setattr(web_metrics, "PROBED", frozenset())
    assert probe_all() == before + 3


def test_a_fault_of_ours_is_counted_from_zero_on(monkeypatch):
    before = read("strongroom_web_errors_total")
    assert "strongroom_web_errors_total " in scrape().content.decode()

    def fail(*_):
        raise RuntimeError

    monkeypatch.setattr("marketplace.guard.GuardMiddleware.__call__", fail)
    answer = Client(raise_request_exception=False).get("/")

    assert answer.status_code == 500
    assert read("strongroom_web_errors_total") == before + 1


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Via": "1.1 proxy"},
    ],
)
def test_strangers_see_nothing(headers):
    answer = scrape(**headers)

    assert (answer.status_code, answer.content) == (401, b"")
    assert answer["WWW-Authenticate"] == "Bearer"


def test_another_machine_sees_nothing_without_a_token():
    assert Client(REMOTE_ADDR="10.0.0.7").get("/metrics").status_code == 401


def test_with_a_token_it_alone_opens(settings):
    settings.METRICS_TOKEN = TOKEN

    assert scrape().status_code == 401
    assert scrape(Authorization=f"Bearer {TOKEN}x").status_code == 401
    assert scrape(Authorization="Bearer ümlaut").status_code == 401
    assert Client(REMOTE_ADDR="10.0.0.7").get(
        "/metrics", headers={"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "1.2.3.4"}
    ).status_code == 200  # fmt: skip


def test_a_scrape_by_address_is_answered_and_leaves_nothing():
    # Prometheus calls a pod by its address, which is no name of the site.
    answer = Client().get("/metrics", headers={"Host": "10.1.2.3:8000"})

    assert answer.status_code == 200
    assert answer["Cache-Control"] == "no-store"
    assert not answer.cookies
    # The control: any other address is refused under this name.
    assert Client().get("/login", headers={"Host": "10.1.2.3:8000"}).status_code == 400


def test_it_is_only_read():
    answer = Client().post("/metrics")

    assert answer.status_code == 405
    assert answer["Allow"] == "GET, HEAD"
    assert Client().head("/metrics").status_code == 200


def test_no_secret_is_on_the_page(settings):
    page = scrape().content.decode()

    for secret in (settings.SECRET_KEY, settings.KEYBROKER_TOKEN, settings.PLAYGROUND_SECRET):
        assert secret not in page
    assert "postgresql://" not in page
    assert "redis://" not in page
