"""A key's life: made at the command line or on the page, used, looked at, revoked."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from playwright.sync_api import expect

from tests.chaos.children import wait_for
from tests.e2e.conftest import SignIn
from tests.e2e.terminal import Creator, predict
from tests.faults import find_faults
from tests.stack import Stack

MODEL = "demo/digits"
# The gateway notes last uses together, every few seconds.
NOTED_WITHIN_S = 60.0


def example_of(stack: Stack) -> dict:
    return next(one["example_input"] for one in stack.demo["models"] if one["name"] == MODEL)


def test_a_key_at_the_command_line(stack: Stack, tmp_path: Path) -> None:
    creator = Creator(stack, tmp_path)
    name = f"nightly-{secrets.token_hex(3)}"
    flags = ["--mode=test", "--scope=predict", "--expires-at=2099-01-31T00:00:00Z"]
    key = creator.run("keys", "create", "--name", name, *flags).strip()

    def listed() -> str:
        rows = creator.run("keys", "list").splitlines()
        return next(row for row in rows if f" {name} " in row)

    before = listed()
    assert key[:12] in before
    assert " predict " in before
    assert "never" in before
    assert "2099-01-31 00:00" in before

    assert predict(stack, MODEL, key, example_of(stack)).status_code == 201
    wait_for(lambda: "never" not in listed(), "the last use", within_s=NOTED_WITHIN_S)
    assert key not in creator.run("keys", "list") + creator.run("keys", "list", "--json")

    creator.run("keys", "revoke", listed().split()[0])
    assert predict(stack, MODEL, key, example_of(stack)).status_code == 401


def test_a_key_on_the_page(stack: Stack, sign_in: SignIn) -> None:
    page = sign_in("consumer")
    name = f"reader-{secrets.token_hex(3)}"
    page.goto("/console/keys/new")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Read models, usage and wallet").check()
    page.get_by_label("Expires").select_option("7")
    page.click("main form button")
    key = re.search(r"sk_live_[0-9A-Za-z]{38}", page.content())[0]
    page.get_by_text("I have copied it").click()

    # What it may do, its last use and its end are there; the key is not.
    row = page.locator("tr", has_text=name)
    assert row.locator("td").all_inner_texts()[:4] == ["Live key", "read", "never", "in 7 d"]
    assert key not in page.content()
    # It may not do more than was ticked.
    refused = predict(stack, MODEL, key, example_of(stack))
    assert refused.status_code == 403, refused.text

    row.get_by_role("link", name="Revoke").click()
    page.click("button:has-text('Revoke the key')")
    page.get_by_text(f"{name} is revoked.").wait_for()
    assert predict(stack, MODEL, key, example_of(stack)).status_code == 401


def test_a_key_is_limited_on_its_page(stack: Stack, sign_in: SignIn) -> None:
    page = sign_in("consumer")
    name = f"limited-{secrets.token_hex(3)}"
    page.goto("/console/keys/new")
    page.get_by_label("Name").fill(name)
    page.get_by_text("Limits, budgets and allow-lists").press("Enter")
    page.locator("#id_allowed_models").fill("demo/elsewhere")
    page.click("main form button")
    key = re.search(r"sk_live_[0-9A-Za-z]{38}", page.content())[0]
    page.get_by_text("I have copied it").click()
    refused = predict(stack, MODEL, key, example_of(stack))
    assert (refused.status_code, refused.json()["code"]) == (403, "model_not_allowed")

    page.get_by_role("link", name=name, exact=True).click()
    page.get_by_role("link", name="Change limits").click()
    page.locator("#id_allowed_models").fill(MODEL)
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved.").wait_for()

    def is_answered() -> bool:
        return predict(stack, MODEL, key, example_of(stack)).status_code == 201

    wait_for(is_answered, "the changed list", within_s=NOTED_WITHIN_S)
    page.get_by_text("No budget").wait_for()
    page.get_by_role("link", name="Change limits").click()
    page.get_by_label("Budget per month").fill("5")
    page.get_by_label("Budget per month").press("Enter")
    expect(page.get_by_role("meter", name="This month")).to_be_visible()
    page.get_by_text(re.compile(r"of \$5\.00 spent")).wait_for()
    assert find_faults(page) == []
    page.get_by_role("link", name="Change limits").click()
    assert find_faults(page) == []
