"""Long names, large numbers and narrow windows: nothing is cut, squeezed or out of sight."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from marketplace.models import Account, AIModel
from marketplace.views import site as site_views
from tests.factories import (
    AIModelFactory,
    ChannelFactory,
    MembershipFactory,
    ModelVersionFactory,
    UserFactory,
)
from tests.site.conftest import Visit

WIDE = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
LONG = "The model with the long name Supercalifragilisticexpialidocious-and-then-some-more-words"
LINES = """element => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return new Set([...range.getClientRects()].map(one => Math.round(one.top))).size;
}"""


def right_of(page: Page, selector: str) -> float:
    """Where its right edge is, in pixels of the window."""
    box = page.locator(selector).first.bounding_box()
    assert box is not None
    return box["x"] + box["width"]


def wait_for_panels(page: Page) -> None:
    expect(page.locator(".panel[aria-busy=true]")).to_have_count(0, timeout=30_000)


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_panel_is_as_wide_as_its_page(visit: Visit, owner, account, is_broken):
    page = visit(owner, **WIDE)
    page.goto("/console?account=acme")
    wait_for_panels(page)
    if is_broken:
        # The name of a size was once that of a width as well.
        page.locator(".panel").last.evaluate("panel => panel.classList.add('medium')")

    is_wide = right_of(page, ".panel >> nth=-1") == right_of(page, ".page-head")
    assert is_wide is not is_broken


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_long_title_is_not_squeezed_by_buttons(visit: Visit, owner, digits, is_broken):
    AIModel.objects.filter(pk=digits.pk).update(title=LONG)
    page = visit(owner, **WIDE)
    page.goto("/dashboard/models/acme/digits")
    heading = page.locator(".page-head h1")
    if is_broken:
        page.locator(".page-head > div").first.evaluate("one => one.style.flexBasis = '20rem'")

    assert (heading.evaluate(LINES) <= 2) is not is_broken


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_large_number_stays_on_its_line(visit: Visit, owner, account, is_broken):
    page = visit(owner, **WIDE)
    page.goto("/dashboard/earnings?account=acme")
    wait_for_panels(page)
    numbers = page.locator(".stats .stat dd")
    count = numbers.count()
    assert count >= 5
    size = "26px" if is_broken else ""
    numbers.evaluate_all(
        "(all, size) => { for (const one of all) {"
        " one.firstChild.textContent = '$1,950,651.18'; one.style.fontSize = size; } }",
        size,
    )

    lines = [
        numbers.nth(place).evaluate(
            "one => { const range = document.createRange(); range.selectNode(one.firstChild);"
            " return range.getClientRects().length; }"
        )
        for place in range(count)
    ]
    assert (set(lines) == {1}) is not is_broken, lines


@pytest.mark.parametrize("is_broken", [False, True])
def test_on_a_phone_the_current_tab_is_in_sight(visit: Visit, owner, account, is_broken):
    page = visit(owner, **PHONE)
    page.goto("/dashboard/signing-keys?account=acme")
    if is_broken:
        page.locator(".tabs").first.evaluate("row => { row.scrollLeft = 0; }")

    is_seen = right_of(page, ".tabs [aria-current]") <= 390
    assert is_seen is not is_broken
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == 390


@pytest.mark.parametrize("is_broken", [False, True])
def test_on_a_phone_a_long_address_leaves_room_for_the_role(
    visit: Visit, owner, account: Account, is_broken
):
    person = UserFactory(email="somebody.with.a.long.address@department.example-company.com")
    MembershipFactory(account=account, user=person)
    page = visit(owner, **PHONE)
    page.goto("/accounts/acme/members")
    if is_broken:
        page.locator("tbody th").evaluate_all(
            "all => { for (const one of all) one.style.overflowWrap = 'normal'; }"
        )

    is_seen = right_of(page, "tbody select") <= 390
    assert is_seen is not is_broken


def test_on_a_phone_what_was_found_stays_in_its_card(visit: Visit, owner, digits):
    AIModel.objects.filter(pk=digits.pk).update(title=LONG)
    page = visit(owner, **PHONE)
    page.goto("/search?q=digits")

    edge = right_of(page, ".link-list")
    found = page.locator(".link-list a > *")
    assert found.count() >= 3
    for place in range(found.count()):
        box = found.nth(place).bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= edge + 0.5


@pytest.mark.parametrize("is_broken", [False, True])
def test_models_side_by_side_share_the_width(visit: Visit, digits, account, is_broken):
    AIModel.objects.filter(pk=digits.pk).update(title=LONG)
    for name in ("second", "third"):
        other = AIModelFactory(account=account, name=name, visibility="public")
        version = ModelVersionFactory(model=other, state="approved")
        ChannelFactory(model=other, name="prod", version=version)
    page = visit(**WIDE)
    page.goto("/compare?m=acme/digits&m=acme/second&m=acme/third")
    heads = page.locator("thead th")
    expect(heads).to_have_count(3)
    if is_broken:
        heads.evaluate_all("all => { for (const one of all) one.style.whiteSpace = 'nowrap'; }")

    title = heads.first.get_by_role("link").first
    assert (title.evaluate(LINES) >= 2) is not is_broken


NOTE_LABELS = """
    window.labels = [];
    const write = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
        window.labels.push([text, Math.round(y)]);
        return write.apply(this, arguments);
    };
"""


def _on_one_line(route) -> None:
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.text().replace("line += 1", "break"))


@pytest.mark.parametrize("is_broken", [False, True])
def test_events_of_one_moment_stand_below_each_other(
    visit: Visit, settings, monkeypatch, is_broken
):
    settings.DEVELOPMENT = True
    describe = site_views.sample_context

    def describe_two() -> dict[str, object]:
        context = describe()
        at = context["times"][60]
        markers = [{"time": at, "label": "Price set"}, {"time": at, "label": "Version 1 in prod"}]
        return context | {"markers": markers}

    monkeypatch.setattr(site_views, "sample_context", describe_two)
    page = visit()
    page.add_init_script(NOTE_LABELS)
    if is_broken:
        page.route("**/js/chart.js", _on_one_line)
    page.goto("/styleguide")
    page.locator("#guide-chart canvas").wait_for()
    page.wait_for_function("window.labels.some(one => one[0] === 'Version 1 in prod')")

    heights = dict(page.evaluate("window.labels"))
    are_apart = heights["Price set"] != heights["Version 1 in prod"]
    assert are_apart is not is_broken
