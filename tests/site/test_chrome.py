"""What stands around every page: menu, theme, palette, messages."""

from __future__ import annotations

import gzip
import re

import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from playwright.sync_api import expect

from marketplace.models import AuditEvent, Channel
from tests.factories import AIModelFactory
from tests.faults import find_faults

PAGE_BYTES_MAX = 150_000
PHONE = {"width": 360, "height": 740}


def test_a_page_weighs_little(client, db):
    answer = client.get("/")
    text = answer.content.decode()
    addresses = set(re.findall(r'(?:src|href)="/static/([^"#]+\.(?:css|js|woff2))"', text))
    files = {address: finders.find(address) for address in addresses}

    assert {"css/app.css", "js/app.js"} <= set(files)
    weights = {"page": len(gzip.compress(answer.content))}
    for address, path in files.items():
        with open(path, "rb") as file:  # noqa: PTH123
            content = file.read()
        is_packed = address.endswith("woff2")
        weights[address] = len(content) if is_packed else len(gzip.compress(content))
    assert sum(weights.values()) < PAGE_BYTES_MAX, weights


# --- Theme


@pytest.mark.parametrize(
    ("cookie", "attribute"),
    [
        ("dark", ' data-theme="dark"'),
        ("light", ' data-theme="light"'),
        ('"><script>', ""),
        ("", ""),
    ],
)
def test_the_server_writes_the_theme_into_the_page(client, db, cookie, attribute):
    if cookie:
        client.cookies["theme"] = cookie

    assert f'<html lang="en"{attribute}>' in client.get("/").content.decode()


@pytest.mark.parametrize(
    ("referrer", "place"),
    [
        ("http://testserver/login?next=/x", "/login?next=/x"),
        ("https://evil.example/login", "/"),
        ("http://testserver//evil.example", "/"),
        ("", "/"),
    ],
)
def test_the_theme_leads_back_to_this_site_only(client, db, referrer, place):
    answer = client.post("/theme", {"theme": "dark"}, HTTP_REFERER=referrer)

    assert (answer.status_code, answer.url) == (302, place)
    assert answer.cookies["theme"].value == "dark"


@pytest.mark.parametrize("theme", ["", "neon", "dark;x"])
def test_there_is_no_other_theme(client, db, theme):
    answer = client.post("/theme", {"theme": theme})

    assert answer.status_code == 422
    assert "theme" not in answer.cookies


def test_the_theme_needs_the_token_against_forgery(db):
    assert Client(enforce_csrf_checks=True).post("/theme", {"theme": "dark"}).status_code == 403


@pytest.mark.parametrize("has_scripts", [True, False])
def test_the_theme_is_chosen_and_kept(visit, has_scripts):
    page = visit(java_script_enabled=has_scripts, color_scheme="light")
    page.goto("/login")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground) if has_scripts else None

    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    page.goto("/")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    if has_scripts:
        assert page.evaluate(ground) != light
    page.get_by_role("button", name="System").click()
    expect(page.locator("html:not([data-theme])")).to_have_count(1)
    page.reload()
    expect(page.locator("html:not([data-theme])")).to_have_count(1)


# --- Menu


@pytest.mark.parametrize("has_scripts", [True, False])
def test_the_menu_of_a_phone_opens_with_the_keyboard(visit, owner, account, has_scripts):
    page = visit(owner, viewport=PHONE, java_script_enabled=has_scripts)
    page.goto("/console")
    links = page.get_by_role("navigation", name="Main").get_by_role("link", name="Creator")
    expect(links).to_be_hidden()

    page.get_by_role("button", name="Menu").press("Enter")
    expect(links).to_be_visible()
    page.keyboard.press("Escape")
    expect(links).to_be_hidden()
    page.get_by_role("button", name="Menu").press("Enter")
    links.press("Enter")
    page.wait_for_url("**/dashboard")


def test_the_open_menu_has_no_fault(visit, owner, account):
    page = visit(owner, viewport=PHONE)
    page.goto("/profile")
    page.get_by_role("button", name="Menu").click()

    assert find_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


# --- Palette


def results(client: Client, query: str) -> dict[str, list[dict[str, str]]]:
    answer = client.get("/search/results", {"q": query})
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    return {group["label"]: group["items"] for group in answer.json()["groups"]}


def test_the_palette_finds_models_of_the_person_and_public_ones(
    client, owner_client, outsider_client, account
):
    AIModelFactory(account=account, name="secret", title="Sealed plans", visibility="private")
    AIModelFactory(account=account, name="open", title="Open plans", visibility="public")

    assert {item["text"] for item in results(owner_client, "plans")["Models"]} == {
        "acme/open",
        "acme/secret",
    }
    for other in (client, outsider_client):
        assert [item["url"] for item in results(other, "plans")["Models"]] == ["/acme/open"]
        assert "Models" not in results(other, "sealed plans")


def test_the_palette_would_tell_without_the_access_rules(outsider_client, account, monkeypatch):
    # The control: it is this one selector that keeps tenants apart.
    from marketplace.models import AIModel
    from marketplace.selectors import palette

    AIModelFactory(account=account, name="secret", title="Sealed plans", visibility="private")
    everything = AIModel.objects.select_related("account").order_by("name")
    monkeypatch.setattr(palette, "list_visible_models", lambda actor: everything)

    assert results(outsider_client, "sealed plans")["Models"]


def test_the_palette_offers_what_the_person_may_do(
    owner_client, teammate_client, teammate, account
):
    account.memberships.filter(user=teammate).update(role="viewer")

    titles = {item["title"] for item in results(owner_client, "")["Actions"]}
    assert {"Make an API key", "Top up the wallet", "Push a model from this browser"} <= titles
    assert "Actions" not in results(teammate_client, "")


def test_only_an_admin_is_led_to_the_platform(admin_client, owner_client):
    admins = {item["title"] for item in results(admin_client, "")["Pages"]}
    others = {item["title"] for item in results(owner_client, "")["Pages"]}

    assert {"Platform", "Reviews", "Reconciliation"} <= admins
    assert not {"Platform", "Reviews", "Reconciliation"} & others


def test_a_visitor_is_offered_to_sign_in(client, db):
    found = results(client, "")

    assert {"Sign in", "Sign up", "Catalogue"} <= {item["title"] for item in found["Pages"]}
    assert "Wallet" not in {item["title"] for item in found["Pages"]}


@pytest.mark.parametrize("length", [200, 201, 5000])
def test_long_searches_are_cut(client, account, length):
    AIModelFactory(account=account, name="open", title="A" * 100, visibility="public")

    assert client.get("/search", {"q": "a " * length}).status_code == 200
    assert results(client, "a" * length) == {}


@pytest.mark.parametrize("query", ["%", "_", "'", '"><script>alert(1)</script>', "é", "🔑"])
def test_odd_searches_find_nothing_and_break_nothing(client, account, query):
    AIModelFactory(account=account, name="open", title="Plans", visibility="public")

    answer = client.get("/search", {"q": query})
    assert answer.status_code == 200
    assert b"<script>alert" not in answer.content
    assert "Models" not in results(client, query)


def test_the_palette_with_the_keyboard(visit, owner, digits):
    page = visit(owner)
    page.goto("/console")
    page.keyboard.press("Control+k")
    box = page.get_by_role("combobox", name="Search pages, models and actions")
    expect(box).to_be_focused()
    expect(page.get_by_role("option", name="Wallet").first).to_be_visible()
    assert find_faults(page) == []

    page.keyboard.type("digits")
    expect(page.get_by_role("option").first).to_contain_text("acme/digits")
    page.keyboard.press("ArrowDown")
    chosen = page.get_by_role("option", selected=True)
    expect(chosen).to_contain_text("versions and channels")
    expect(box).to_have_attribute("aria-activedescendant", chosen.get_attribute("id"))
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard/models/acme/digits")

    page.keyboard.press("Control+k")
    expect(box).to_be_focused()
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()


def test_the_palette_switches_the_theme_and_says_when_nothing_fits(visit):
    page = visit()
    page.goto("/login")
    page.get_by_role("link", name="Search or go to").click()
    page.keyboard.type("theme dark")
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")

    page.get_by_role("link", name="Search or go to").click()
    page.keyboard.type("xyzzy")
    expect(page.get_by_text("Nothing fits. Try fewer words.")).to_be_visible()


def test_without_scripts_the_palette_is_a_page(visit, digits):
    page = visit(java_script_enabled=False)
    page.goto("/")
    page.get_by_role("link", name="Search or go to").click()
    page.get_by_role("searchbox").fill("digits")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("main").get_by_role("link", name="Digits").click()

    page.wait_for_url("**/acme/digits")


def test_shortcuts_are_explained_and_can_be_switched_off(visit, owner, account):
    page = visit(owner)
    page.goto("/console")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    assert find_faults(page) == []
    page.get_by_label("Shortcuts of a single key").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_hidden()

    page.evaluate("localStorage.clear()")
    page.reload()
    page.keyboard.press("g")
    page.keyboard.press("d")
    page.wait_for_url("**/dashboard")


# --- Messages, undo, second thoughts


def test_a_moved_channel_is_moved_back(visit, owner, digits):
    page = visit(owner)
    page.goto("/dashboard/models/acme/digits")
    page.get_by_label("Version for prod").select_option("2")
    page.get_by_role("row", name="prod").get_by_role("button", name="Publish").click()
    expect(page.get_by_text("prod is version 2 now.")).to_be_visible()
    assert find_faults(page) == []

    page.get_by_role("button", name="Undo").press("Enter")
    expect(page.get_by_text("prod is version 1 now.")).to_be_visible()
    assert Channel.objects.get().version.number == 1
    assert AuditEvent.objects.filter(action="channel.move").count() == 2
    page.get_by_role("button", name="Dismiss").click()
    expect(page.get_by_text("prod is version 1 now.")).to_be_hidden()


def test_an_undo_does_not_undo_what_others_did_since(owner_client, digits):
    address = "/dashboard/models/acme/digits/publish"
    owner_client.post(address, {"channel": "prod", "version": 2})
    owner_client.post(address, {"channel": "prod", "version": 1})

    answer = owner_client.post(
        address, {"channel": "prod", "version": 1, "only_from": 2}, follow=True
    )

    assert "has been moved since" in answer.content.decode()
    assert AuditEvent.objects.filter(action="channel.move").count() == 2


@pytest.mark.parametrize("only_from", ["0", "x", "-1", "99999999999"])
def test_an_undo_from_nowhere_is_refused(owner_client, digits, only_from):
    address = "/dashboard/models/acme/digits/publish"

    answer = owner_client.post(address, {"channel": "prod", "version": 2, "only_from": only_from})

    assert answer.status_code == 422
    assert Channel.objects.get().version.number == 1


def send_toast(page, **detail: object) -> None:
    """As htmx does with what an answer's HX-Trigger says."""
    page.evaluate("detail => htmx.trigger(document.body, 'toast', detail)", detail)


def test_an_answer_to_htmx_can_show_a_message(visit):
    page = visit()
    page.goto("/")
    undo = {"url": "/theme", "fields": {"theme": "dark"}}
    send_toast(page, text="<b>Saved</b>", tone="good", undo=undo)
    expect(page.get_by_text("<b>Saved</b>")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_message_leads_to_no_other_site(visit):
    page = visit()
    page.goto("/")
    send_toast(page, text="Saved", undo={"url": "https://evil.example/", "fields": {}})

    expect(page.get_by_text("Saved")).to_be_visible()
    expect(page.get_by_role("button", name="Undo")).to_have_count(0)


def test_what_cannot_be_undone_is_asked_about(visit, owner, account, teammate):
    page = visit(owner)
    page.goto("/accounts/acme/members")
    remove = page.get_by_role("row", name="teammate@example.com").get_by_role(
        "button", name="Remove"
    )
    remove.click()
    question = page.get_by_role("alertdialog")
    expect(question).to_contain_text("Remove teammate@example.com?")
    expect(question.get_by_role("button", name="Cancel")).to_be_focused()
    assert find_faults(page) == []
    page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    assert account.memberships.count() == 2

    remove.click()
    question.get_by_role("button", name="Remove").press("Enter")
    expect(page.get_by_text("teammate@example.com is no member any more.")).to_be_visible()
    assert account.memberships.count() == 1
