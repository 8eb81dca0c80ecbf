"""Every page as its people see it: no accessibility fault, no sideways scroll, no error."""

from __future__ import annotations

import gzip

import pytest
from playwright.sync_api import Response, expect

from tests.e2e.conftest import SignIn
from tests.faults import BUSY_PANELS, find_faults
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
        "/dashboard/models/demo/digits/monitoring/drift",
        "/dashboard/earnings",
        "/dashboard/payouts",
        "/dashboard/signing-keys",
        "/demo/smollm2",
        "/accounts/demo/settings",
        "/accounts/demo/retention",
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
        "/console/batches",
        "/console/batches/new",
        "/console/files",
        "/console/webhooks",
        "/console/webhooks/new",
        "/console/receipts",
        "/console/queue",
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
        "/platform/queue",
        "/platform/queue/dead",
        "/platform/flags",
        "/platform/flags/model-reports",
        "/platform/announcements",
        "/platform/audit",
        "/profile/security",
        "/profile/confirm",
    ],
}
# Compressed, as it goes over the line.
PAGE_BYTES_MAX = 150_000
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
        assert find_faults(page) == [], f"{path} ({look})"
        width = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert width <= 0, f"{path} scrolls sideways by {width} px"


@pytest.mark.parametrize("person", PAGES)
def test_a_first_visit_weighs_little(stack: Stack, sign_in: SignIn, new_page, person: str) -> None:
    """All that a page sends to somebody who has nothing of it yet, but for pictures."""
    first = sign_in(person) if person else None
    state = first.context.storage_state() if first else None

    for path in PAGES[person]:
        page = new_page(base_url=stack.demo["web_url"], storage_state=state)
        answers: list[Response] = []
        page.on("response", lambda one, into=answers: into.append(one))
        page.goto(path)
        expect(page.locator(BUSY_PANELS)).to_have_count(0, timeout=20_000)
        weights = {one.url: weigh(one) for one in answers if one.request.resource_type != "image"}
        weight_bytes = sum(weights.values())
        assert 20_000 < weight_bytes < PAGE_BYTES_MAX, f"{path}: {weights}"
        page.context.close()


def weigh(answer: Response) -> int:
    """Bytes as production sends them: files lie there compressed, which development spares."""
    body = answer.body() if answer.status == 200 else b""
    is_text = answer.headers.get("content-type", "").startswith(("text/", "image/svg"))
    return len(gzip.compress(body)) if is_text else len(body)


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
