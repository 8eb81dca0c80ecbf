"""The status pages in a real browser: in every look, with and without scripts."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import expect

from inference.models import Metric
from marketplace.core.clock import utc_now
from marketplace.core.ids import new_id
from marketplace.models import AIModel, Part, StatusDay
from marketplace.selectors.access import Actor
from marketplace.services.incident import add_update, open_incident
from tests.faults import find_faults
from tests.site.test_styleguide import LOOKS

# Where somebody who wants to look at the pages gets them.
PICTURES = os.environ.get("STRONGROOM_TEST_PICTURES", "")
PAGES = ["/status", "/acme/digits/status", "/acme/digits"]
LONG = "a" * 100


@pytest.fixture
def busy(digits: AIModel, platform_admin) -> None:
    """Ninety days with some trouble, open incidents, and work to come."""
    now = utc_now()
    for number, part in enumerate(Part):
        for back in range(90):
            down = 30 if (back + number * 7) % 23 == 3 else 0
            down = 300 if back == 40 + number else down
            if part is Part.BILLING and back > 60:
                continue
            StatusDay.objects.create(
                part=part,
                day=now.date() - timedelta(days=back),
                up=1_100 - down,
                down=down,
                unknown=5,
                sampled_at=now,
                state=list(StatusDay.State)[number % 4],
            )
    for back in range(60):
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        Metric.objects.create(
            model_id=digits.pk,
            version_id=new_id(),
            resolution="day",
            starts_at=midnight - timedelta(days=back),
            succeeded=5 if back == 9 else 1_000,
            failed_platform=40 if back % 17 == 2 else 0,
        )
    actor = Actor(user=platform_admin)
    fields = {"state": "investigating", "text": "Some answers take longer.\nWe look into it."}
    for title, impact in (("Predictions are slow", "critical"), (LONG, "none")):
        made = open_incident(
            actor=actor,
            title=title,
            impact=impact,
            parts=["gateway", "serving"],
            models=["acme/digits"],
            **fields,
        )
        add_update(actor=actor, incident=made, seen=1, state="identified", text=LONG * 3)
    open_incident(
        actor=actor,
        title="New machines",
        impact="maintenance",
        state="planned",
        text="For an hour, predictions may take longer.",
        parts=["serving"],
        planned_from=now + timedelta(days=1),
        planned_until=now + timedelta(days=1, hours=1),
    )
    open_incident(
        actor=actor,
        title="Invoices were late",
        impact="minor",
        state="resolved",
        text="All of them are there.",
        parts=["billing"],
    )


def keep_picture(page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name.replace(' ', '-')}.png", full_page=True)


@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_have_no_fault(visit, busy, look):
    page = visit(**LOOKS[look])
    for url in PAGES:
        page.goto(url)
        expect(page.locator(".panel[aria-busy=true]")).to_have_count(0, timeout=30_000)
        keep_picture(page, f"{look} {url.replace('/', '_')}")

        assert find_faults(page) == [], url
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, url


@pytest.mark.parametrize("look", ["light", "dark phone"])
def test_without_any_data_too(visit, digits, look):
    page = visit(**LOOKS[look])
    for url in PAGES[:2]:
        page.goto(url)
        keep_picture(page, f"empty {look} {url.replace('/', '_')}")

        assert find_faults(page) == [], url
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, url


def test_a_cell_without_a_name_would_be_a_fault(visit, busy):
    page = visit()
    page.goto("/status")
    page.evaluate("document.querySelectorAll('.dayrow svg').forEach(one => one.ariaLabel = '')")
    page.evaluate("document.querySelectorAll('.dayrow title').forEach(one => one.remove())")

    assert any(fault.startswith("svg-img-alt:") for fault in find_faults(page))


@pytest.mark.parametrize("has_scripts", [True, False])
def test_the_row_is_read_as_a_table_with_the_keyboard(visit, busy, has_scripts):
    page = visit(java_script_enabled=has_scripts)
    page.goto("/status")
    part = page.locator("#part-site")

    assert part.get_by_role("img").get_attribute("aria-label").startswith("Website, uptime 9")
    part.locator("summary").press("Enter")
    region = part.get_by_role("region", name="Website, days")
    expect(region).to_be_visible()
    expect(region.get_by_role("row")).to_have_count(91)


@pytest.mark.parametrize("look", ["light", "dark phone"])
@pytest.mark.parametrize("has_scripts", [True, False])
def test_an_incident_is_published_and_told_of(visit, platform_admin, digits, look, has_scripts):
    page = visit(platform_admin, java_script_enabled=has_scripts, **LOOKS[look])
    page.goto("/platform/incidents")
    page.get_by_label("Title").fill("Predictions are slow")
    page.get_by_label("Impact").select_option("major")
    page.get_by_label("Prediction API").check()
    page.get_by_label("And these models").fill("acme/digits")
    page.get_by_label("First update").fill("We look into it.")
    page.get_by_role("button", name="Look at it").click()

    expect(page.get_by_text("Not published yet")).to_be_visible()
    keep_picture(page, f"preview {look}")
    if has_scripts:
        assert find_faults(page) == []
    page.get_by_role("button", name="Publish").click()

    expect(page.get_by_role("heading", name="Predictions are slow", level=1)).to_be_visible()
    expect(page.get_by_label("Incident", exact=True)).to_contain_text("Major incident")
    keep_picture(page, f"incident {look}")
    if has_scripts:
        assert find_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0

    page.get_by_label("Where it stands").select_option("resolved")
    page.get_by_label("Update").fill("Over.")
    page.get_by_role("button", name="Look at it").click()
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_text("It is over since")).to_be_visible()
    expect(page.get_by_label("Incident", exact=True)).to_have_count(0)
