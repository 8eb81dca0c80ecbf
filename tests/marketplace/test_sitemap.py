"""Which pages of status search engines are told of: those that everybody may see."""

from __future__ import annotations

from datetime import timedelta
from xml.etree import ElementTree

import pytest
from django.conf import settings
from django.utils import timezone

from marketplace.core import limits
from marketplace.models import AIModel, Incident, IncidentUpdate
from marketplace.views import meta
from tests.factories import AccountFactory, AIModelFactory, ChannelFactory, ModelVersionFactory

pytestmark = pytest.mark.django_db

LOCATION = "{http://www.sitemaps.org/schemas/sitemap/0.9}loc"


def locations(client) -> list[str]:
    root = ElementTree.fromstring(client.get("/sitemap.xml").content)
    return [(one.text or "").removeprefix(settings.WEB_URL) for one in root.iter(LOCATION)]


def sell(visibility: str) -> AIModel:
    """A model with a version in prod."""
    model = AIModelFactory(account=AccountFactory(), visibility=visibility)
    version = ModelVersionFactory(model=model, state="approved")
    ChannelFactory(model=model, name="prod", version=version)
    return model


def publish(admin, *models: AIModel, parts: tuple[str, ...] = ()) -> Incident:
    """An incident that is over."""
    now = timezone.now() - timedelta(days=1)
    incident = Incident.objects.create(
        title="Slow",
        impact="minor",
        state="resolved",
        parts=list(parts),
        created_at=now,
        updated_at=now,
        resolved_at=now,
    )
    incident.named_models.set(models)
    IncidentUpdate.objects.create(
        incident=incident, number=1, state="resolved", text="Over.", author=admin, created_at=now
    )
    return incident


def path_of(incident: Incident) -> str:
    return f"/status/incidents/{incident.pk}"


@pytest.fixture
def public() -> AIModel:
    return sell("public")


@pytest.fixture
def private() -> AIModel:
    return sell("private")


def test_status_incidents_and_public_models_are_named(client, platform_admin, public, private):
    told = publish(platform_admin, parts=("gateway",))
    of_public = publish(platform_admin, public)
    of_private = publish(platform_admin, private)

    found = locations(client)

    assert "/status" in found
    assert f"/{public}/status" in found
    assert {path_of(told), path_of(of_public)} <= set(found)
    assert path_of(of_private) not in found
    assert not [one for one in found if str(private) in one]
    assert len(found) == len(set(found))


def test_without_the_rule_private_ones_would_be_named(client, platform_admin, private, monkeypatch):
    """The control of the test above."""
    monkeypatch.setattr(meta, "list_visible_incidents", lambda actor: Incident.objects.all())
    of_private = publish(platform_admin, private)

    assert path_of(of_private) in locations(client)


def test_what_is_named_may_be_indexed(client, platform_admin, public):
    publish(platform_admin, public, parts=("gateway",))
    named = [one for one in locations(client) if "status" in one]
    assert len(named) == 3

    for path in named:
        page = client.get(path)
        assert page.status_code == 200
        assert b"noindex" not in page.content, path
        assert f'<link rel="canonical" href="{settings.WEB_URL}{path}">' in page.content.decode()
    # The control: a page that nobody should index says so.
    assert b"noindex" in client.get("/?q=anything").content


@pytest.mark.parametrize("most", [3, 4])
def test_there_are_no_more_addresses_than_the_format_allows(client, public, monkeypatch, most):
    monkeypatch.setattr(limits, "SITEMAP_ADDRESSES_MAX", most)

    assert len(locations(client)) == most


def test_it_asks_no_more_for_more(client, platform_admin, public, django_assert_max_num_queries):
    for _ in range(3):
        publish(platform_admin, sell("public"), parts=("gateway",))

    with django_assert_max_num_queries(12):
        locations(client)
