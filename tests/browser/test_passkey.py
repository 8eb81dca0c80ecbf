"""Passkeys in a real browser, with a device that Chromium plays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.core.cache import cache
from playwright.sync_api import Browser, CDPSession, Page, expect, sync_playwright

from marketplace.models import Passkey, RecoveryCode, User
from tests.e2e.conftest import ARGUMENTS, find_program
from tests.factories import PASSWORD, AccountFactory, UserFactory
from tests.faults import find_faults

DEVICE = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    # Closed after the file: as long as it runs, no other test could use asyncio, and Django
    # takes this thread for one that does.
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=find_program(), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _site(chromium, settings, live_server) -> None:
    settings.WEB_URL = live_server.url
    cache.clear()


@pytest.fixture
def person(_site, transactional_db) -> User:
    user = UserFactory(email="ada@example.com")
    AccountFactory(slug="ada", owner=user)
    return user


@pytest.fixture
def page(chromium, live_server) -> Iterator[Page]:
    context = chromium.new_context(base_url=live_server.url)
    context.set_default_timeout(20_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda one: faults.append(one.text) if one.type == "error" else None)
    yield page
    context.close()
    assert [one for one in faults if "422" not in one] == []


@pytest.fixture
def device(page) -> tuple[CDPSession, str]:
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    added = session.send("WebAuthn.addVirtualAuthenticator", {"options": DEVICE})
    return session, added["authenticatorId"]


def sign_in(page: Page) -> None:
    page.goto("/login")
    page.fill("input[name=email]", "ada@example.com")
    page.fill("input[name=password]", PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def add_passkey(page: Page) -> None:
    page.goto("/profile/security")
    page.get_by_label("Name", exact=False).last.fill("laptop")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("heading", name="Your recovery codes")).to_be_visible()


def sign_out(page: Page) -> None:
    page.goto("/profile")
    page.locator("details.menu > summary").first.click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("link", name="Sign in")).to_be_visible()


def test_a_passkey_is_made_and_signs_in(person, page, device):
    sign_in(page)
    add_passkey(page)
    assert page.locator(".codes li").count() == 10
    assert find_faults(page) == []
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    text = download.value.path().read_text()
    assert download.value.suggested_filename == "strongroom-recovery-codes.txt"
    assert text.splitlines()[4:] == page.locator(".codes li").all_inner_texts()
    sign_out(page)

    page.goto("/login?next=/profile/security")
    assert find_faults(page) == []
    page.get_by_role("button", name="Sign in with a passkey").click()

    page.wait_for_url("**/profile/security")
    expect(page.get_by_text("laptop").first).to_be_visible()
    assert find_faults(page) == []
    row = Passkey.objects.get()
    assert row.user == person
    # Chromium's device counts each signature.
    assert row.sign_count > 0


def test_it_is_the_second_step_and_confirms(person, page, device):
    sign_in(page)
    add_passkey(page)
    sign_out(page)

    sign_in(page)
    page.wait_for_url("**/login/second-factor")
    assert find_faults(page) == []
    page.get_by_role("button", name="Use a passkey").click()
    page.wait_for_url("**/console")

    page.goto("/profile/confirm?next=/profile")
    assert find_faults(page) == []
    page.get_by_role("button", name="Use a passkey").click()
    page.wait_for_url("**/profile")


def test_a_device_that_does_not_know_its_user_is_refused(person, page, device):
    sign_in(page)
    add_passkey(page)
    sign_out(page)
    session, device_id = device
    session.send(
        "WebAuthn.setUserVerified", {"authenticatorId": device_id, "isUserVerified": False}
    )

    page.goto("/login")
    page.get_by_role("button", name="Sign in with a passkey").click()

    expect(page.get_by_text("No passkey was shown")).to_be_visible()
    assert page.url.endswith("/login")


def test_a_copied_device_is_refused(person, page, device):
    sign_in(page)
    add_passkey(page)
    sign_out(page)
    Passkey.objects.update(sign_count=1_000)

    page.goto("/login")
    page.get_by_role("button", name="Sign in with a passkey").click()

    expect(page.get_by_text("may be a copy")).to_be_visible()


def test_a_passkey_that_was_removed_signs_nobody_in(person, page, device):
    sign_in(page)
    add_passkey(page)
    page.goto("/profile/security")
    page.get_by_role("button", name="Remove laptop").click()
    page.get_by_role("alertdialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("laptop is removed.")).to_be_visible()
    assert Passkey.objects.count() == RecoveryCode.objects.count() == 0
    sign_out(page)

    page.goto("/login")
    page.get_by_role("button", name="Sign in with a passkey").click()

    expect(page.get_by_text("is not known here")).to_be_visible()


def test_without_a_device_the_page_says_so(person, page):
    """And goes on to work by password."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    page.goto("/login")
    page.evaluate(
        "() => { navigator.credentials.get = () =>"
        " Promise.reject(new DOMException('', 'NotAllowedError')); }"
    )
    page.get_by_role("button", name="Sign in with a passkey").click()

    expect(page.get_by_text("No passkey was shown")).to_be_visible()
    sign_in(page)
    page.wait_for_url("**/console")
