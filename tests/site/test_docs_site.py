"""The documentation in a browser: to everybody's use, in both themes, with and without scripts."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from marketplace.selectors.docs import load_docs
from tests.faults import find_faults

PHONE, DESK = {"width": 360, "height": 740}, {"width": 1440, "height": 900}
FIXED = ["/docs", "/docs/reference", "/docs/search?q=receipt", "/docs/search?q=zxqwv"]
THEMES = [("light", DESK), ("dark", PHONE)]
# Each test looks at a part of the pages, so that none takes long.
PARTS = 3


def all_pages():
    return [*FIXED, *(page.url for page in load_docs().pages)]


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(("theme", "viewport"), THEMES, ids=["light-desk", "dark-phone"])
def test_every_page_is_without_fault_and_as_wide_as_the_window(visit, theme, viewport, part):
    page = visit(color_scheme=theme, viewport=viewport)
    for url in all_pages()[part::PARTS]:
        page.goto(url)
        assert find_faults(page) == [], url
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], url


def test_every_page_is_without_fault_in_dark_on_a_desk(visit):
    page = visit(color_scheme="dark", viewport=DESK)
    for url in all_pages()[::4]:
        page.goto(url)
        assert find_faults(page) == [], url


def test_control_text_that_is_too_pale_is_a_fault(visit):
    page = visit(color_scheme="light")
    page.goto("/docs/consumers/errors")
    page.evaluate(
        """() => {
            const sheet = new CSSStyleSheet();
            sheet.replaceSync(".prose p { color: #ccc; background: #fff; }");
            document.adoptedStyleSheets.push(sheet);
        }"""
    )

    assert any("color-contrast" in fault for fault in find_faults(page))


def test_search_answers_as_one_types(visit):
    page = visit()
    page.goto("/docs/search")
    page.get_by_label("What are you looking for?").type("idempot")

    expect(page.get_by_role("link", name="Idempotency keys")).to_be_visible()
    expect(page.locator("mark").first).to_be_visible()
    page.wait_for_url("**/docs/search?q=idempot")
    # What was typed is still there, with the cursor in it.
    expect(page.get_by_label("What are you looking for?")).to_be_focused()
    page.get_by_label("What are you looking for?").fill("zxqwv")
    expect(page.get_by_text("Nothing fits")).to_be_visible()


def test_search_and_menu_work_without_scripts(visit):
    page = visit(java_script_enabled=False, viewport=PHONE)
    page.goto("/docs/consumers/quick-start")
    page.get_by_text("All pages").click()
    page.get_by_role("link", name="Streaming", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Streaming")
    page.get_by_label("Search the documentation").fill("refund")
    page.get_by_label("Search the documentation").press("Enter")

    expect(page.get_by_role("link", name="Credit", exact=True).first).to_be_visible()
    page.get_by_role("link", name="Credit", exact=True).first.click()
    assert page.url.endswith("/docs/consumers/money#credit")


def test_code_is_copied(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.goto("/docs/consumers/quick-start")
    block = page.locator(".code-block").nth(0)
    block.get_by_role("button", name="Copy").click()

    expect(block.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == (
        "export STRONGROOM_API_KEY=sk_live_..."
    )


def test_the_palette_leads_to_a_guide(visit):
    page = visit()
    page.goto("/")
    page.keyboard.press("Control+k")
    page.locator("#palette-input").fill("idempotency keys")
    page.get_by_role("option", name="Idempotency keys").first.click()

    page.wait_for_url("**/docs/consumers/retries#idempotency-keys")


def test_by_keyboard_alone(visit):
    page = visit(viewport=DESK)
    page.goto("/docs/consumers/errors")
    link = page.get_by_role("navigation", name="On this page").get_by_role("link", name="All codes")
    link.focus()
    page.keyboard.press("Enter")

    assert page.url.endswith("#all-codes")
    heading = page.get_by_role("heading", name="All codes")
    # The header that stays does not hide it.
    assert heading.bounding_box()["y"] >= 56
