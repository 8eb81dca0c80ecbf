"""The Drift page in a browser: in both themes, on a phone, without faults."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from inference.models import DriftWatch
from tests.factories import ModelVersionFactory
from tests.faults import find_faults
from tests.inference.drifting import HOUR, INTERFACE, add_block

PAGE = "/dashboard/models/acme/digits/monitoring/drift"


@pytest.fixture
def drifted(digits):
    """A version whose choices and lengths have moved."""
    version = ModelVersionFactory(model=digits, number=3, state="approved", interface=INTERFACE)
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    for day in range(10, 0, -1):
        for length in (96, 100, 104):
            add_block(version, now - timedelta(days=day), predictions=200, length=length)
    add_block(version, now - HOUR, fast=88, length=120)
    DriftWatch.objects.create(model=digits)
    return version


@pytest.mark.parametrize("state", ["empty", "waiting", "full"])
@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 390), ("light", 360)])
def test_no_page_has_faults(request, visit, owner, digits, state, theme, width) -> None:
    if state == "waiting":
        DriftWatch.objects.create(model=digits)
    elif state == "full":
        request.getfixturevalue("drifted")
    page = visit(owner, color_scheme=theme, viewport={"width": width, "height": 900})
    page.goto(PAGE)

    expect(page.get_by_role("heading", name="Drift", level=1)).to_be_visible()
    assert find_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if folder := os.environ.get("DRIFT_PICTURES"):
        page.screenshot(path=Path(folder) / f"{state}-{theme}-{width}.png", full_page=True)


def test_it_is_begun_looked_at_and_ended_by_keys(visit, owner, digits) -> None:
    page = visit(owner)
    page.goto(PAGE)
    page.get_by_role("button", name="Watch for drift").press("Enter")
    expect(page.get_by_text("Not enough data yet")).to_be_visible()
    expect(page.get_by_role("link", name="Drift")).to_have_attribute("aria-current", "page")

    page.locator("summary", has_text="Watch no more").press("Enter")
    page.get_by_role("button", name="Delete and watch no more").press("Enter")
    expect(page.get_by_text("Nothing is counted", exact=True)).to_be_visible()
