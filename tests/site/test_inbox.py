"""The bell and the inbox in a browser."""

from __future__ import annotations

import pytest
from django.db import transaction
from playwright.sync_api import Page, expect

from marketplace.models import Account, Notification
from marketplace.services.notification import notify
from tests.faults import find_faults
from tests.gateway.processes import eventually

Kind = Notification.Kind
LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}
COME_BACK = "document.dispatchEvent(new Event('visibilitychange'))"
HIDE = "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"


def tell(account: Account, count: int = 1, kind: Notification.Kind = Kind.ALERT) -> None:
    begin = Notification.objects.count()
    with transaction.atomic():
        for number in range(begin, begin + count):
            notify(
                kind,
                account,
                key=f"x:{number}",
                title=f"Error rate of acme/digits: firing ({number})",
                text="5.1 % of 400 requests failed in 15 minutes; the rule allows 2 %.",
                path="/dashboard/models",
            )


def bell(page: Page):
    return page.locator("#bell .bell-count")


def check_unread(count: int) -> None:
    assert Notification.objects.filter(read_at=None).count() == count


def test_news_arrives_while_somebody_sees_the_page(visit, digits, account, owner):
    tell(account)
    page = visit(owner)
    page.goto("/notifications")
    expect(bell(page)).to_have_text("1")
    expect(page.locator(".inbox > li")).to_have_count(1)

    tell(account)
    page.evaluate(COME_BACK)

    expect(bell(page)).to_have_text("2")
    expect(page.locator(".inbox > li")).to_have_count(2)
    # The control: a page that nobody sees does not ask.
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(HIDE)
    tell(account)
    page.evaluate(COME_BACK)
    page.wait_for_load_state("networkidle")
    assert asked == []


def test_what_has_the_focus_is_not_taken_away(visit, digits, account, owner):
    tell(account)
    page = visit(owner)
    page.goto("/notifications")
    page.locator(".inbox button").focus()

    tell(account)
    page.evaluate(COME_BACK)

    expect(bell(page)).to_have_text("2")
    expect(page.locator(".inbox > li")).to_have_count(1)
    expect(page.locator(".inbox button")).to_be_focused()


def test_who_follows_a_line_has_read_it(visit, digits, account, owner):
    tell(account, 2)
    page = visit(owner)
    page.goto("/notifications")
    page.locator(".inbox a.title").first.click()
    page.wait_for_url("**/dashboard/models")

    # It is marked beside, while the browser is on its way already.
    eventually(lambda: check_unread(1), timeout_s=30)
    page.reload()
    expect(bell(page)).to_have_text("1")


def test_all_are_marked_and_brought_back(visit, digits, account, owner):
    tell(account, 3)
    page = visit(owner)
    page.goto("/notifications")
    page.get_by_role("button", name="Mark all as read").click()
    expect(page.get_by_text("3 notifications marked read.")).to_be_visible()
    expect(bell(page)).to_have_count(0)

    page.get_by_role("button", name="Undo").click()

    expect(bell(page)).to_have_text("3")
    expect(page.locator(".inbox [data-unread]")).to_have_count(3)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("count", [0, 31])
def test_the_pages_have_no_fault(visit, digits, account, owner, look, count):
    tell(account, count)
    Notification.objects.filter(key__endswith="5").update(read_at="2026-01-01T00:00:00Z")
    page = visit(owner, **LOOKS[look])
    for url in ("/notifications", "/notifications/preferences"):
        page.goto(url)
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")

        assert find_faults(page) == []
        assert width <= 0
