"""The creator's pages in a browser: the card's editor, the first push, collections, charts."""

from __future__ import annotations

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from marketplace.core import card as cards
from marketplace.models import AIModel, APIKey, ModelVersion
from marketplace.selectors.access import Actor
from marketplace.services.card import save_card
from marketplace.services.collection import add_model, create_collection
from marketplace.views import site as site_views
from tests.factories import AIModelFactory, APIKeyFactory, ChannelFactory
from tests.faults import find_faults
from tests.site.conftest import Visit

EDITOR = "/dashboard/models/acme/digits/card"
CARD = "---\nlicense: mit\ntags: {a: b}\n---\n# Digits\n\nReads **digits**.\n"
LOOKS = [
    {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
]
HOSTILE = "<script>alert(1)</script>\n\n<img src=http://127.0.0.1:9/x onerror=alert(2)>\n\nend"


def write(page: Page, text: str) -> None:
    page.get_by_label("Source").fill(text)


# --- the editor


def test_the_preview_follows_what_is_typed(visit: Visit, owner, digits):
    page = visit(owner)
    page.goto(EDITOR)

    write(page, CARD)
    expect(page.locator("#card-preview strong", has_text="digits")).to_be_visible()
    expect(page.locator("#card-preview h3, #card-preview h2", has_text="Digits")).to_be_visible()

    page.get_by_role("link", name="Line 3").click()
    expect(page.get_by_label("Source")).to_be_focused()
    chosen = page.evaluate(
        "getSelection().toString() || document.activeElement.value.slice("
        "document.activeElement.selectionStart, document.activeElement.selectionEnd)"
    )
    assert chosen == "tags: {a: b}"


def test_ctrl_s_saves_and_an_undo_takes_it_back(visit: Visit, owner, digits):
    save_card(actor=Actor(user=owner), model=digits, text="# One", base=0)
    page = visit(owner)
    page.goto(EDITOR)

    write(page, "# Two")
    expect(page.locator("[data-unsaved]")).to_have_text("Not saved yet.")
    page.keyboard.press("Control+s")
    expect(page.get_by_text("The card is saved.")).to_be_visible()
    expect(page.locator("[data-unsaved]")).to_have_text("")
    assert AIModel.objects.get().card == "# Two"

    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_label("Source")).to_have_value("# One")


def test_what_is_not_saved_is_not_left_by_accident(visit: Visit, owner, digits):
    page = visit(owner)
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.goto(EDITOR)

    # The control: nothing was typed, nobody is asked.
    page.get_by_role("link", name="History").click()
    page.wait_for_url("**/card/history")
    page.goto(EDITOR)
    page.get_by_label("Source").press_sequentially("x")
    page.get_by_role("link", name="History").click(no_wait_after=True)
    page.wait_for_timeout(500)

    assert asked == ["beforeunload"]
    assert page.url.endswith(EDITOR)


def test_of_two_editors_the_second_sees_both(visit: Visit, owner, teammate, digits):
    first, second = visit(owner), visit(teammate)
    for page in (first, second):
        page.goto(EDITOR)

    write(first, "theirs")
    first.keyboard.press("Control+s")
    expect(first.get_by_text("The card is saved.")).to_be_visible()
    write(second, "mine")
    second.keyboard.press("Control+s")

    expect(second.get_by_text("Somebody else has saved the card")).to_be_visible()
    expect(second.locator("del", has_text="theirs")).to_be_visible()
    expect(second.get_by_label("Source")).to_have_value("mine")
    assert AIModel.objects.get().card == "theirs"
    assert find_faults(second) == []

    second.get_by_role("button", name="Save over theirs").click()
    expect(second.get_by_text("The card is saved.")).to_be_visible()
    assert AIModel.objects.get().card == "mine"


def test_the_editor_works_without_scripts(visit: Visit, owner, digits):
    page = visit(owner, java_script_enabled=False)
    page.goto(EDITOR)

    write(page, "# Plain\n\n**bold**")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#card-preview strong", has_text="bold")).to_be_visible()
    expect(page.get_by_label("Source")).to_have_value("# Plain\n\n**bold**")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("The card is saved.")).to_be_visible()
    assert AIModel.objects.get().card == "# Plain\n\n**bold**"


def hostile_preview(page: Page) -> list[str]:
    """What a hostile card got the page to do while it was previewed."""
    done: list[str] = []
    page.on("dialog", lambda dialog: (done.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda one: done.append(one.url) if ":9/" in one.url else None)
    page.goto(EDITOR)
    write(page, HOSTILE)
    expect(page.locator("#card-preview .prose", has_text="end")).to_be_visible()
    return done + [one.evaluate("x => x.tagName") for one in page.locator(".prose img").all()]


def test_a_hostile_card_does_nothing_in_the_preview(visit: Visit, owner, digits):
    assert hostile_preview(visit(owner)) == []


def test_the_control_without_the_cleaning_it_would(
    browser, site, owner, client, digits, monkeypatch
):
    monkeypatch.setattr(cards.nh3, "clean", lambda html, **_: html)
    client.force_login(owner)
    context = browser.new_context(base_url=site.url)
    session = client.cookies["sessionid"].value
    context.add_cookies([{"name": "sessionid", "value": session, "url": site.url}])

    # The policy stops the script all the same; the element is there, and tries to be fetched.
    assert "IMG" in hostile_preview(context.new_page())
    context.close()


def test_the_keyboard_reaches_all_of_the_editor(visit: Visit, owner, digits):
    page = visit(owner)
    page.goto(EDITOR)
    page.get_by_label("Source").focus()

    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim().slice(0, 24)"))
    assert reached[:3] == ["Save", "Preview", "Back"]
    assert reached[3] == "What may stand in a card"


# --- the first push


def test_the_steps_tick_by_themselves(visit: Visit, owner, account, site):
    page = visit(owner)
    page.goto("/dashboard/first-push?account=acme")
    expect(page.get_by_text("0 of 7 done")).to_be_visible()

    APIKeyFactory(account=account, mode=APIKey.Mode.TOKEN, last_used_at=timezone.now())
    expect(page.get_by_text("2 of 7 done")).to_be_visible(timeout=15_000)

    model = AIModelFactory(account=account, name="digits")
    ModelVersion.objects.create(model=model, number=1, state="onboarding")
    expect(page.get_by_text("3 of 7 done")).to_be_visible(timeout=15_000)
    expect(page.get_by_role("heading", name="Onboarding")).to_be_visible(timeout=15_000)


# --- collections


def test_models_are_ordered_by_keyboard(visit: Visit, owner, account, site):
    made = create_collection(
        actor=Actor(user=owner), account=account, title="Best", summary="", is_public=True
    )
    for name in ("one", "two"):
        model = AIModelFactory(account=account, name=name)
        ChannelFactory(version__model=model)
        add_model(actor=Actor(user=owner), collection=made, model=model)
    page = visit(owner)
    page.goto("/dashboard/collections/acme/best")

    page.get_by_role("button", name="Move acme/two up").press("Enter")
    expect(page.locator(".ordered > li").first).to_contain_text("acme/two")
    # From the model that moved, Tab leads to its buttons.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith(
        "Move acme/two"
    )


# --- a lone point


def draw_lone(visit: Visit, monkeypatch, *, is_broken: bool = False) -> Page:
    """A chart with one measurement between gaps."""
    describe = site_views.sample_context

    def describe_lone() -> dict[str, object]:
        context = describe()
        count = len(context["times"])
        values = [None] * count
        values[count // 2] = 5
        return context | {"series": [{"label": "Lone", "values": values}], "markers": []}

    monkeypatch.setattr(site_views, "sample_context", describe_lone)
    page = visit()
    if is_broken:
        page.route("**/js/chart.js", _without_dots)
    page.goto("/styleguide")
    page.locator("#guide-chart canvas").wait_for()
    return page


def _without_dots(route) -> None:
    answer = route.fetch()
    route.fulfill(response=answer, body=answer.text().replace("lone(one.values)", "null"))


# Pixels of the series' colour, which the axes do not have.
COUNT = """canvas => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const series = [0x0b, 0x64, 0x74];
    let found = 0;
    for (let at = 0; at < pixels.length; at += 4) {
        const isSeries = series.every((one, i) => Math.abs(pixels[at + i] - one) < 12);
        if (isSeries && pixels[at + 3] > 200) found += 1;
    }
    return found;
}"""


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_lone_point_is_a_dot(visit: Visit, settings, monkeypatch, is_broken):
    settings.DEVELOPMENT = True
    page = draw_lone(visit, monkeypatch, is_broken=is_broken)

    found = page.locator("#guide-chart canvas").evaluate(COUNT)
    assert (found >= 9) is not is_broken, found


# --- every page, in its looks

PAGES = [
    EDITOR,
    f"{EDITOR}/history",
    f"{EDITOR}/history/2",
    "/dashboard/first-push?account=acme",
    "/dashboard?account=acme",
    "/dashboard/collections?account=acme",
    "/dashboard/collections/new?account=acme",
    "/dashboard/collections/acme/best",
    "/dashboard/collections/acme/best/delete",
    "/collections/acme/best",
    "/acme",
]


@pytest.mark.parametrize("look", LOOKS, ids=["wide light", "narrow dark"])
def test_no_page_has_a_fault(visit: Visit, owner, account, digits, look):
    save_card(actor=Actor(user=owner), model=digits, text="# One\n\nx", base=0)
    save_card(actor=Actor(user=owner), model=digits, text=CARD.replace("{a: b}", "ocr"), base=1)
    made = create_collection(
        actor=Actor(user=owner), account=account, title="Best", summary="Why", is_public=True
    )
    add_model(actor=Actor(user=owner), collection=made, model=digits)
    page = visit(owner, **look)

    for address in PAGES:
        page.goto(address)
        expect(page.locator(".panel[aria-busy=true]")).to_have_count(0, timeout=30_000)
        assert (address, find_faults(page)) == (address, [])
        width = page.evaluate("document.documentElement.scrollWidth")
        assert (address, width) == (address, look["viewport"]["width"])
