"""Every page as its people see it: no accessibility fault, no sideways scroll, no error."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import SignIn
from tests.faults import find_faults
from tests.stack import Stack

PAGES = {
    "": [
        "/",
        "/login",
        "/sign-up",
        "/password-reset",
        "/demo",
        "/demo/digits",
        "/evidence/demo/digits/1",
        "/nobody/nothing",
        "/sealing",
        "/?q=handwritten&task=image-classification&compare=demo/digits",
        "/compare?m=demo/digits&m=demo/file-type",
        "/industries",
        "/industries/finance",
        "/collections",
    ],
    "creator": [
        "/dashboard",
        "/dashboard/models",
        "/dashboard/models/new",
        "/dashboard/push",
        "/dashboard/models/demo/digits",
        "/dashboard/models/demo/digits/edit",
        "/dashboard/models/demo/digits/versions/1/custody",
        "/dashboard/models/demo/digits/protection",
        "/dashboard/models/demo/digits/monitoring",
        "/dashboard/models/demo/digits/monitoring?range=1h&version=1",
        "/dashboard/models/demo/digits/monitoring/alerts",
        "/dashboard/models/demo/digits/monitoring/slo",
        "/dashboard/earnings",
        "/dashboard/payouts",
        "/dashboard/signing-keys",
        "/demo/smollm2",
        "/accounts/demo/settings",
        "/accounts/demo/members",
        "/accounts/demo/activity",
    ],
    "consumer": [
        "/console",
        "/console/keys",
        "/console/keys/new",
        "/console/wallet",
        "/console/usage",
        "/console/predictions",
        "/console/receipts",
        "/notifications",
        "/notifications/preferences",
        "/demo/file-type",
        "/runs",
        "/profile",
        "/demo/digits/report",
    ],
    "admin": [
        "/platform",
        "/platform/reviews",
        "/platform/accounts",
        "/platform/accounts/demo",
        "/platform/accounts/demo/suspend",
        "/platform/reports",
        "/platform/reports?show=appeals",
        "/platform/fleet",
        "/platform/flags",
        "/platform/flags/model-reports",
        "/platform/announcements",
        "/platform/audit",
        "/profile/security",
        "/profile/confirm",
    ],
}
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
}


@pytest.mark.parametrize("person", PAGES)
@pytest.mark.parametrize("look", LOOKS)
def test_pages(stack: Stack, sign_in: SignIn, new_page, person: str, look: str) -> None:
    first = sign_in(person) if person else None
    state = first.context.storage_state() if first else None
    page = new_page(base_url=stack.demo["web_url"], storage_state=state, **LOOKS[look])

    for path in PAGES[person]:
        answer = page.goto(path)
        assert answer.status == (404 if path.startswith("/nobody") else 200), path
        # Panels fetch themselves; the page is complete when none is busy.
        expect(page.locator(".panel[aria-busy=true]")).to_have_count(0, timeout=20_000)
        assert find_faults(page) == [], f"{path} ({look})"
        width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert width <= 0, f"{path} scrolls sideways by {width} px"


def test_the_check_finds_a_fault(new_page, stack: Stack) -> None:
    page = new_page(base_url=stack.demo["web_url"])
    page.goto("/login")
    page.evaluate("document.querySelectorAll('label').forEach(label => label.remove())")

    assert any(fault.startswith("label:") for fault in find_faults(page))


def test_the_main_menu_works_with_the_keyboard(new_page, stack: Stack) -> None:
    page = new_page(base_url=stack.demo["web_url"])
    page.goto("/")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
