"""The pages of webhooks in a real browser: readable everywhere, and worked by the keyboard."""

from __future__ import annotations

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from inference.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from inference.services import webhook_delivery
from marketplace.selectors.access import Actor
from tests.factories import ModelVersionFactory
from tests.faults import find_faults
from tests.inference.hooked import add, finish
from tests.site.conftest import out_of_sight

LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture
def endpoint(site, owner, account, digits) -> WebhookEndpoint:
    """One that has been told some things, well and badly."""
    url = f"https://93.184.216.34/{'a-long-path-' * 12}"
    made, _ = add(Actor(user=owner), account, url, description="What the ledger is told")
    version = ModelVersionFactory(model=digits, number=3)
    for _ in range(4):
        finish(account, version, output={"y": "x" * 300})
    webhook_delivery.spread_events()
    first, second, third, _ = WebhookDelivery.objects.order_by("id")
    for row, state, status in ((first, "succeeded", 200), (second, "failed", 500)):
        error = "" if status == 200 else f"It answered {status}."
        WebhookDelivery.objects.filter(pk=row.pk).update(
            state=state, attempts=1, tries=1, ended_at=timezone.now(), last_error=error
        )
        WebhookAttempt.objects.create(
            delivery=row,
            at=timezone.now(),
            duration_ms=123,
            status=status,
            error=error,
            answer="no line break in sight " * 30,
        )
    WebhookDelivery.objects.filter(pk=third.pk).update(state="skipped", ended_at=timezone.now())
    made.refresh_from_db()
    return made


@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_have_no_fault(visit, owner, endpoint, look, request):
    page = visit(owner, **LOOKS[look])
    failed = WebhookDelivery.objects.get(state="failed")
    for url in (
        "/console/webhooks",
        "/console/webhooks/new",
        f"/console/webhooks/{endpoint.pk}",
        f"/console/webhooks/{endpoint.pk}/edit",
        "/console/webhooks/deliveries",
        f"/console/webhooks/deliveries/{failed.pk}",
    ):
        page.goto(url)
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")

        assert find_faults(page) == [], url
        assert width <= 0, url
        assert not any(out_of_sight(page)), url
    WebhookEndpoint.objects.update(is_enabled=False, disabled_reason="gone")
    page.goto(f"/console/webhooks/{endpoint.pk}")
    assert find_faults(page) == []


def test_an_endpoint_is_made_and_deleted_by_the_keyboard(visit, owner, digits):
    page = visit(owner, **LOOKS["light"])
    page.goto("/console/webhooks")
    page.get_by_role("link", name="Add an endpoint").press("Enter")
    page.get_by_label("Address").fill("https://93.184.216.34/hook")
    page.get_by_label("prediction.completed").press("Space")
    page.get_by_role("button", name="Add endpoint").press("Enter")
    expect(page.locator("#secret")).to_contain_text("whsec_")
    assert find_faults(page) == []
    page.get_by_role("link", name="I have copied it").press("Enter")

    # Nothing is deleted before it was asked for twice.
    page.get_by_text("Delete …").press("Enter")
    page.get_by_role("button", name="Delete the endpoint").press("Enter")
    expect(page.get_by_text("The endpoint is deleted")).to_be_visible()
    expect(page.get_by_text("No endpoints yet")).to_be_visible()
