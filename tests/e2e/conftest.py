"""A real browser, and people who use the running product with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    sync_playwright,
)

from tests.stack import Stack

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Chromium talks to nobody but the pages it is told to open.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_MS = 20_000
DESKTOP = {"width": 1280, "height": 900}

SignIn = Callable[[str], Page]


def find_program() -> str:
    """The Chromium of this machine."""
    return next(path for name in NAMES if (path := shutil.which(name)))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_program(), args=ARGUMENTS)
        yield browser
        browser.close()


def is_fault(message: ConsoleMessage) -> bool:
    # A page that is not there, and a form that is refused, say so in the console as well.
    expected = ("404 (Not Found)", "422 (Unprocessable Entity)")
    return message.type == "error" and not any(one in message.text for one in expected)


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a window of its own; at the end no page may have logged an error."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open_page(**options: object) -> Page:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda message: faults.append(message.text) if is_fault(message) else None,
        )
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def sign_in(stack: Stack, new_page: Callable[..., Page]) -> SignIn:
    """Signs a person of the demo in (creator, consumer, admin) and returns its window."""

    def sign(person: str) -> Page:
        login = stack.demo[person]
        page = new_page(base_url=stack.demo["web_url"])
        page.goto("/login")
        page.fill("input[name=email]", login["email"])
        page.fill("input[name=password]", login["password"])
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/login" not in url)
        return page

    return sign
