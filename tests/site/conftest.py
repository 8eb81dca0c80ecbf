"""The site in a real browser, against a live server with one account and its models."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.core.cache import cache
from django.db import connections
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from marketplace.models import Account, AIModel, User
from tests.factories import AIModelFactory, ChannelFactory, ModelVersionFactory

# What Chromium itself says of an answer that is no success; some tests are about one.
NETWORK_NOISE = "Failed to load resource"

Visit = Callable[..., Page]


def out_of_sight(page: Page) -> list[int]:
    """By how many pixels tables are wider than the room that they have, one number for each."""
    found: list[int] = page.locator(".table-wrap").evaluate_all(
        "all => all.map(one => one.scrollWidth - one.clientWidth)"
    )
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package", autouse=True)
def _sync() -> Iterator[None]:
    """Playwright's loop runs in this thread, though nothing here is asynchronous."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield


@pytest.fixture(autouse=True)
def _empty_cache() -> None:
    cache.clear()


@pytest.fixture
def site(transactional_db, live_server, monkeypatch):
    """The live server; its threads keep no connection, which would outlive the database."""
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)
    return live_server


@pytest.fixture
def digits(site, account: Account) -> AIModel:
    """A public model with two approved versions, of which `prod` names the first."""
    model = AIModelFactory(
        account=account, name="digits", title="Digits", visibility=AIModel.Visibility.PUBLIC
    )
    first = ModelVersionFactory(model=model, number=1, state="approved")
    ModelVersionFactory(model=model, number=2, state="approved")
    ChannelFactory(model=model, name="prod", version=first)
    return model


@pytest.fixture
def visit(site, browser) -> Iterator[Visit]:
    """Opens a page of its own context; at the end nothing may stand in its console."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open_page(user: User | None = None, **options: object) -> Page:
        context = browser.new_context(base_url=site.url, **options)
        contexts.append(context)
        if user is not None:
            client = Client()
            client.force_login(user)
            session = client.cookies["sessionid"].value
            context.add_cookies([{"name": "sessionid", "value": session, "url": site.url}])
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda message: (
                faults.append(message.text)
                if message.type in ("error", "warning") and NETWORK_NOISE not in message.text
                else None
            ),
        )
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
