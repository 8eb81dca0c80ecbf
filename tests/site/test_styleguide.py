"""The living page of components: all of them, without a fault, in every look."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.test.signals import template_rendered
from playwright.sync_api import expect

from marketplace.templatetags import ui
from tests.faults import find_faults

ROOT = Path(settings.BASE_DIR)
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1440, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 360, "height": 740}},
}


@pytest.fixture
def development(settings) -> None:
    settings.DEVELOPMENT = True


def list_components() -> set[str]:
    return {path.name for path in (ROOT / "templates" / "components").iterdir()}


def test_every_component_is_on_the_page(owner_client, development):
    shown: set[str] = set()

    def note(template, **_):
        if (template.name or "").startswith("components/"):
            shown.add(template.name.removeprefix("components/"))

    template_rendered.connect(note)
    try:
        assert owner_client.get("/styleguide").status_code == 200
    finally:
        template_rendered.disconnect(note)

    assert list_components() - shown == set()


@pytest.mark.parametrize("url", ["/styleguide", "/styleguide/panel"])
@pytest.mark.parametrize("is_development", [True, False])
def test_it_exists_in_development_only(client, db, settings, url, is_development):
    settings.DEVELOPMENT = is_development

    assert client.get(url).status_code == (200 if is_development else 404)


def test_the_document_names_every_component():
    text = (ROOT / "docs/ui.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    tags, filters = set(ui.register.tags), set(ui.register.filters)

    # Templates without a tag of their own are included by pages.
    included = {
        name.removesuffix(".html")
        for name in list_components()
        if not re.search(rf'components/{re.escape(name)}"', Path(ui.__file__).read_text())
    }
    closing = {name for name in tags if name.startswith("end")}
    assert rows == (tags - closing) | filters | included


@pytest.mark.parametrize("look", LOOKS)
def test_the_page_has_no_fault(visit, development, look):
    page = visit(**LOOKS[look])
    page.goto("/styleguide")
    expect(page.locator(".panel[aria-busy=true]")).to_have_count(0)
    expect(page.locator("#guide-chart canvas")).to_be_visible()

    assert find_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_the_check_finds_a_fault(visit, development):
    page = visit()
    page.goto("/styleguide")
    page.evaluate("document.querySelectorAll('label').forEach(label => label.remove())")

    assert any(fault.startswith("label:") for fault in find_faults(page))


def test_dialogs_and_tabs_work_with_the_keyboard(visit, development):
    page = visit()
    page.goto("/styleguide")

    page.get_by_role("link", name="Open a dialog").press("Enter")
    expect(page.get_by_role("dialog", name="A dialog")).to_be_visible()
    assert find_faults(page) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="A dialog")).to_be_hidden()
    assert page.evaluate("document.activeElement.textContent") == "Open a dialog"

    page.get_by_role("tab", name="curl").press("ArrowRight")
    expect(page.get_by_role("tab", name="Python")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Python")).to_contain_text("import strongroom")
    expect(page.get_by_role("tabpanel", name="curl")).to_be_hidden()
    page.reload()  # The language that somebody reads is remembered.
    expect(page.get_by_role("tab", name="Python")).to_have_attribute("aria-selected", "true")


def test_without_scripts_all_of_it_is_there(visit, development):
    page = visit(java_script_enabled=False)
    page.goto("/styleguide")

    expect(page.get_by_text("import strongroom")).to_be_visible()
    expect(page.locator("#guide-chart .chart-plot svg")).to_be_visible()
    expect(page.get_by_role("link", name="A part of another package")).to_be_visible()
    page.get_by_text("Numbers of Requests").click()
    expect(page.get_by_role("cell").first).to_be_visible()


def test_a_chart_follows_the_theme_and_the_pointer(visit, development):
    page = visit(color_scheme="light")
    page.goto("/styleguide")
    canvas = page.locator("#guide-chart canvas")
    before = canvas.evaluate("canvas => canvas.toDataURL()")

    page.emulate_media(color_scheme="dark")
    expect(canvas).to_be_visible()
    assert canvas.evaluate("canvas => canvas.toDataURL()") != before
    page.locator("#guide-chart .u-over").hover()
    expect(page.locator("#guide-chart [data-value]").nth(1)).not_to_have_text("")
