"""Sessions that end, pages that were left behind, and fingers that press twice."""

from __future__ import annotations

import pytest
from django.contrib.sessions.models import Session
from django.test import Client
from playwright.sync_api import expect

from marketplace.models import APIKey
from tests.factories import PASSWORD

HTMX = {"HTTP_HX_REQUEST": "true"}


def sign_in(page) -> None:
    page.get_by_label("E-mail address").fill("owner@example.com")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()


@pytest.mark.parametrize(
    ("page", "next_path"),
    [
        ("http://testserver/console?account=acme", "/console%3Faccount%3Dacme"),
        ("https://evil.example/console", "/"),
        ("//evil.example", "/"),
        ("", "/"),
    ],
)
def test_an_ended_session_sends_htmx_to_sign_in(client, db, page, next_path):
    answer = client.get("/panels/wallet?account=acme", HTTP_HX_CURRENT_URL=page, **HTMX)

    assert answer.status_code == 200
    assert answer["HX-Redirect"] == f"/login?next={next_path}"
    assert b"<form" not in answer.content


@pytest.mark.parametrize(
    ("referrer", "next_path"),
    [
        ("http://testserver/accounts/acme/members?page=2", "/accounts/acme/members%3Fpage%3D2"),
        ("https://evil.example/accounts", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
    ],
)
def test_a_form_of_an_ended_session_comes_back_to_its_page(client, db, referrer, next_path):
    answer = client.post("/account/switch", {"account": "acme"}, HTTP_REFERER=referrer)

    assert answer.status_code == 302
    assert answer.url == f"/login?next={next_path}"


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "javascript:x"])
def test_signing_in_leads_to_no_other_site(client, owner, account, target):
    form = {"email": owner.email, "password": PASSWORD, "next": target}

    assert client.post(f"/login?next={target}", form).url == "/home"


def test_the_person_comes_back_to_the_page(visit, owner, account):
    page = visit(owner)
    page.goto("/console?account=acme")
    expect(page.locator(".panel[aria-busy=true]")).to_have_count(0)
    Session.objects.all().delete()

    # As a panel does that wants to stay fresh; later, since the page goes away with it.
    page.evaluate(
        """() => void setTimeout(() => {
            htmx.ajax("GET", "/panels/wallet?account=acme", document.querySelector(".panel"));
        }, 200)"""
    )
    page.wait_for_url(lambda url: "/login?next=/console" in url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    sign_in(page)

    page.wait_for_url(lambda url: url.endswith("/console?account=acme"))
    expect(page.get_by_role("heading", level=1)).to_have_text("Console")


def test_pages_of_a_person_are_stored_nowhere(owner_client, client, account):
    for address in ("/", "/console", "/nobody/nothing", "/search", "/api/accounts"):
        assert "no-store" in owner_client.get(address)["Cache-Control"], address
    # A visitor's page may come back quickly.
    assert "no-store" not in client.get("/").get("Cache-Control", "")


def test_the_back_button_shows_nothing_after_signing_out(visit, owner, account):
    page = visit(owner)
    page.goto("/console")
    expect(page.get_by_role("heading", level=1)).to_have_text("Console")
    page.get_by_label("Account menu, acme").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(lambda url: not url.endswith("/console"))

    page.go_back()

    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert "owner@example.com" not in page.content()


def test_a_form_is_not_sent_twice(visit, owner, account):
    page = visit(owner)
    page.goto("/console/keys/new?account=acme")
    page.get_by_label("Name").fill("Twice")
    page.evaluate(
        """() => {
            const form = document.querySelector("main form[method=post]");
            const button = form.querySelector("[type=submit]");
            for (const _ of [1, 2, 3]) button.click();
            form.requestSubmit();
        }"""
    )
    expect(page.get_by_role("heading", level=1)).not_to_have_text("New key")

    assert APIKey.objects.filter(account=account).count() == 1


def test_without_the_guard_it_would_be(owner_client, account):
    # The control: the server itself makes as many keys as it is asked for.
    form = {"name": "Twice", "mode": "live"}
    for _ in range(2):
        owner_client.post("/console/keys/new?account=acme", form)

    assert APIKey.objects.filter(account=account).count() == 2


def test_a_forged_session_is_no_session(client: Client, db):
    client.cookies["sessionid"] = "x" * 32

    assert client.get("/console").url.startswith("/login?next=/console")
