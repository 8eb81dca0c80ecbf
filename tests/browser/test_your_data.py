"""The pages of an account's data in a browser: axe finds nothing, in both themes and widths."""

from __future__ import annotations

import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from marketplace.models import AccountDeletion
from marketplace.selectors.access import Actor
from marketplace.services import account_deletion
from tests.browser.bench import NAMES
from tests.factories import AIModelFactory, APIKeyFactory
from tests.marketplace.test_pages import make_export

pytestmark = pytest.mark.django_db(transaction=True)
VIEWS = ((1440, 900, "light"), (390, 844, "dark"))
BAD = ("error", "warning")
PAGES = ("/accounts/acme/data", "/accounts/acme/delete", "/profile/delete", "/profile")


def look(origin: str, session: str, url: str, view: tuple[int, int, str], folder) -> None:
    width, height, theme = view
    with sync_playwright() as playwright:
        path = next(found for name in NAMES if (found := shutil.which(name)))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        context = browser.new_context(base_url=origin, viewport={"width": width, "height": height})
        named = {"sessionid": session, "theme": theme}
        context.add_cookies([{"name": one, "value": named[one], "url": origin} for one in named])
        page, said = context.new_page(), []
        page.on("console", lambda one: said.append(one.text) if one.type in BAD else None)
        page.goto(url)
        page.screenshot(path=folder / f"{url.strip('/').replace('/', '-')}-{theme}.png")
        wide = page.evaluate("document.documentElement.scrollWidth")
        found = Axe().run(page).response["violations"]
        browser.close()
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    assert said == []
    assert wide <= width


@pytest.mark.parametrize("view", VIEWS, ids=["light", "dark-phone"])
def test_the_pages_are_for_everybody(account, owner, client, live_server, view, tmp_path):
    AIModelFactory(account=account)
    APIKeyFactory(account=account)
    make_export(account)
    client.force_login(owner)
    session = client.cookies["sessionid"].value

    for url in PAGES:
        look(live_server.url, session, url, view, tmp_path)
    account_deletion.request_deletion(
        actor=Actor(user=owner), account=account, confirm="acme", credit="refund"
    )
    AccountDeletion.objects.update(waiting_for=["A payment is disputed at the bank. Wait."])
    look(live_server.url, session, "/accounts/acme/delete", view, tmp_path)
