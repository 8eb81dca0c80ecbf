"""The three journeys, from the first page to the last, with the keyboard alone."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from marketplace.core.money import format_nanos, parse_dollars
from tests.chaos.children import wait_for
from tests.e2e.keyboard import Keyboard
from tests.e2e.terminal import Login, Person, manage, predict
from tests.e2e.test_main_job import X, Y, read_stat, write_model
from tests.faults import find_faults
from tests.stack import Stack

# Stripe's number of a card whose money need not be waited for.
CARD = "4000 0000 0000 0077"
EXAMPLE = "demo/digits"
PRICE = "20"
# Eight tenths of two predictions.
EARNED_CENTS = 3_200
ON_SALE_WITHIN_S = 120.0
SEALED_WITHIN_S = 60.0
# A new creator's earnings wait for two weeks.
RESERVE_DAYS = 20

NewPage = Callable[..., Page]


def sign_up(keys: Keyboard, name: str) -> Login:
    """Somebody new, at the first page; signed in afterwards."""
    login = Login(f"{name}@example.com", f"{name}-{secrets.token_hex(6)}")
    keys.page.goto("/")
    keys.follow(keys.page.get_by_role("link", name="Sign up"), "**/sign-up")
    keys.write("E-mail address", login.email)
    keys.write("Account name", name)
    keys.write("Password", login.password)
    keys.page.keyboard.press("Enter")
    keys.page.wait_for_url(lambda url: "/sign-up" not in url)
    return login


def sign_in(keys: Keyboard, login: Login) -> None:
    keys.page.goto("/login")
    keys.write("E-mail address", login.email)
    keys.write("Password", login.password)
    keys.page.keyboard.press("Enter")
    keys.page.wait_for_url(lambda url: "/login" not in url)


def buy_credit(keys: Keyboard, dollars: int) -> None:
    """From any page of the site, at Stripe's page."""
    page = keys.page
    keys.follow(page.get_by_role("link", name="Console", exact=True), "**/console")
    tabs = page.get_by_role("navigation", name="Consumer")
    keys.follow(tabs.get_by_role("link", name="Wallet"), "**/console/wallet**")
    keys.write("Amount", str(dollars))
    keys.follow(page.get_by_role("button", name="Continue to payment"), "**/checkout/**")
    keys.write("Card number", CARD)
    keys.follow(page.get_by_role("button", name="Pay"), "**/console/topups/**")
    page.get_by_text(f"${dollars}.00 were added").wait_for()


def make_key(keys: Keyboard) -> str:
    page = keys.page
    tabs = page.get_by_role("navigation", name="Consumer")
    if not tabs.is_visible():
        keys.follow(page.get_by_role("link", name="Console", exact=True), "**/console")
    keys.follow(tabs.get_by_role("link", name="API keys"), "**/console/keys**")
    keys.follow(page.get_by_role("link", name="New key").first, "**/console/keys/new**")
    keys.write("Name", "journey")
    keys.press(page.get_by_role("button", name="Make the key"))
    shown = page.locator("#secret")
    shown.wait_for()
    return shown.inner_text()


def run_until_sold(stack: Stack, model: str, key: str) -> dict:
    """The first answer of a model whose replica is on its way."""
    answers = []

    def is_answered() -> bool:
        answers.append(predict(stack, model, key, {"x": X}))
        return answers[-1].status_code not in (404, 503)

    wait_for(is_answered, f"an answer of {model}", within_s=ON_SALE_WITHIN_S)
    assert answers[-1].status_code == 201, answers[-1].text
    return answers[-1].json()


def new_name(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(4)}"


def push(stack: Stack, folder: Path, login: Login, account: str) -> str:
    """A small model from a machine of its own; its name when it waits for its review."""
    name = new_name("linear")
    (folder / name).mkdir(parents=True)
    write_model(folder / name)
    person = Person(stack, folder, login)
    person.init(name, title="Tiny linear", price=PRICE)
    assert "in_review" in person.run("push", name, "--wait")
    return f"{account}/{name}"


def find_version(stack: Stack, model: str) -> str:
    owner, name = model.split("/")
    script = (
        "from marketplace.models import ModelVersion as V;"
        f"print(V.objects.get(model__account__slug='{owner}', model__name='{name}').pk)"
    )
    return manage(stack, "shell", "-v0", "-c", script).split()[-1]


@pytest.mark.timeout(1_900)
def test_a_creator_from_sign_up_to_the_first_payout(
    stack: Stack, new_page: NewPage, tmp_path: Path
) -> None:
    keys = Keyboard(new_page(base_url=stack.demo["web_url"]))
    page, slug = keys.page, new_name("maker")
    login = sign_up(keys, slug)
    keys.follow(page.get_by_role("link", name="Creator", exact=True), "**/dashboard")
    page.get_by_text("Push your first model").wait_for()

    # Where the money goes, before there is any.
    tabs = page.get_by_role("navigation", name="Creator")
    keys.follow(tabs.get_by_role("link", name="Payouts"), "**/dashboard/payouts**")
    keys.choose("Country", "Germany")
    keys.follow(page.get_by_role("button", name="Continue to Stripe"), "**/connect/**")
    keys.follow(page.get_by_role("button").first, "**/dashboard/payouts/return**")
    # Nothing is missing but earnings.
    page.get_by_text("A payout is $25.00 or more").wait_for()

    model = push(stack, tmp_path, login, slug)
    admin = stack.demo["admin"]["email"]
    reason = "--reason=Looked at."
    manage(
        stack, "review_version", find_version(stack, model), "--approve", reason, "--email", admin
    )
    buyer = Keyboard(new_page(base_url=stack.demo["web_url"]))
    sign_up(buyer, new_name("buyer"))
    buy_credit(buyer, 50)
    key = make_key(buyer)
    predictions = [run_until_sold(stack, model, key)["id"]]
    predictions.append(predict(stack, model, key, {"x": X}).json()["id"])

    keys.follow(tabs.get_by_role("link", name="Earnings"), "**/dashboard/earnings**")
    row = page.locator("tr", has_text=model)
    expect(row).to_contain_text("$40.00")
    expect(row).to_contain_text("$32.00")
    person = Person(stack, tmp_path, login)
    for number, prediction in enumerate(predictions):
        out = tmp_path / f"{number}.json"
        wait_for(
            lambda prediction=prediction, out=out: _has_receipt(person, prediction, out),
            "a receipt",
            within_s=SEALED_WITHIN_S,
        )

    # Two weeks later; and the day of the week on which payouts begin.
    _let_days_pass(stack, slug)
    page.reload()
    assert read_stat(page.inner_text("main"), "Payable") == "$32.00"
    manage(
        stack,
        "shell",
        "-c",
        "from marketplace.models import User; from marketplace.selectors.access import Actor;"
        "from billing.services.payout import advance_payouts, start_run;"
        f"start_run(Actor(user=User.objects.get(email='{admin}'))); advance_payouts()",
    )
    keys.follow(tabs.get_by_role("link", name="Payouts"), "**/dashboard/payouts**")
    assert read_stat(page.inner_text("main"), "Paid") == "$32.00"
    expect(page.locator("tbody tr")).to_contain_text("Paid")
    assert find_faults(page) == []

    # The statement holds without the platform; and not with a cent more.
    with page.expect_download() as download:
        keys.press(page.get_by_role("link", name="Document of the payout of $32.00"))
    document = tmp_path / "payout.jsonl"
    download.value.save_as(document)
    found = json.loads(person.run("verify-payout", str(document), "--json"))
    assert EARNED_CENTS in _numbers(found)
    lines = document.read_text().replace(f'"amount_cents":{EARNED_CENTS}', '"amount_cents":3201')
    (tmp_path / "forged.jsonl").write_text(lines)
    with pytest.raises(AssertionError):
        person.run("verify-payout", str(tmp_path / "forged.jsonl"))
    assert "BROKEN" not in manage(stack, "ledger_check")


@pytest.mark.timeout(900)
def test_a_consumer_from_sign_up_to_a_verified_receipt(
    stack: Stack, new_page: NewPage, tmp_path: Path
) -> None:
    keys = Keyboard(new_page(base_url=stack.demo["web_url"]))
    page = keys.page
    login = sign_up(keys, new_name("buyer"))
    buy_credit(keys, 5)
    key = make_key(keys)
    example = next(one for one in stack.demo["models"] if one["name"] == EXAMPLE)
    answer = predict(stack, EXAMPLE, key, example["example_input"])
    assert answer.status_code == 201, answer.text
    cost_nanos = answer.json()["metrics"]["cost_nano_usd"]

    keys.follow(page.get_by_role("link", name="I have copied it"), "**/console/keys**")
    tabs = page.get_by_role("navigation", name="Consumer")
    keys.follow(tabs.get_by_role("link", name="Usage"), "**/console/usage**")
    prediction = answer.json()["id"]
    row = page.locator("tr", has_text=prediction)
    expect(row).to_contain_text(format_nanos(cost_nanos))
    keys.follow(row.get_by_role("link").first, f"**/predictions/{prediction}**")
    assert find_faults(page) == []
    keys.follow(page.get_by_role("link", name="Console", exact=True), "**/console")
    keys.follow(tabs.get_by_role("link", name="Wallet"), "**/console/wallet**")
    left = parse_dollars(read_stat(page.inner_text("main"), "Balance"))
    assert left == 5 * 10**9 - cost_nanos

    person = Person(stack, tmp_path, login)
    receipt, chain = tmp_path / "receipt.json", tmp_path / "chain.json"
    wait_for(
        lambda: _has_receipt(person, prediction, receipt), "a receipt", within_s=SEALED_WITHIN_S
    )
    person.run("receipt", "batches", "--out", str(chain))
    found = person.run("verify-receipt", str(receipt), "--batches", str(chain), "--json")
    assert json.loads(found)["gross_nanos"] == cost_nanos


@pytest.mark.timeout(1_900)
def test_an_admin_from_a_review_to_a_refund(
    stack: Stack, new_page: NewPage, tmp_path: Path
) -> None:
    maker = Keyboard(new_page(base_url=stack.demo["web_url"]))
    slug = new_name("maker")
    model = push(stack, tmp_path, sign_up(maker, slug), slug)

    keys = Keyboard(new_page(base_url=stack.demo["web_url"]))
    page, demo = keys.page, stack.demo["admin"]
    sign_in(keys, Login(demo["email"], demo["password"]))
    keys.follow(page.get_by_role("link", name="Platform", exact=True), "**/platform")
    tabs = page.get_by_role("navigation", name="Platform")
    keys.follow(tabs.get_by_role("link", name="Reviews"), "**/platform/reviews")
    keys.follow(page.get_by_role("link", name=f"{model}:1"), "**/platform/reviews/*")
    assert find_faults(page) == []
    keys.reach(page.locator("#id_approve_reason"))
    page.keyboard.type("Its scan, its tests and its card are in order.")
    keys.follow(page.get_by_role("button", name="Approve"), "**/platform/reviews")
    page.get_by_text(f"{model}:1 is approved.").wait_for()

    buyer = Keyboard(new_page(base_url=stack.demo["web_url"]))
    consumer = new_name("buyer")
    sign_up(buyer, consumer)
    buy_credit(buyer, 30)
    run = run_until_sold(stack, model, make_key(buyer))
    assert run["output"] == {"y": Y}

    # The consumer wants the rest back: from the account's page, to the card.
    keys.follow(tabs.get_by_role("link", name="Accounts"), "**/platform/accounts")
    keys.write("Search accounts", consumer)
    page.keyboard.press("Enter")
    keys.follow(page.get_by_role("link", name=consumer).first, f"**/platform/accounts/{consumer}")
    keys.follow(page.get_by_role("link", name="Pay back …"), "**/refund")
    keys.write("Amount (optional)", "10")
    keys.write("Reason", "Asked for by mail.")
    keys.press(page.get_by_role("button", name="Pay back to the card"))
    page.locator("tr", has_text="$10.00").first.wait_for()
    assert find_faults(page) == []
    buyer.page.goto("/console/wallet")
    assert read_stat(buyer.page.inner_text("main"), "Balance") == "$0.00"

    # More than one person may give alone waits for a second one.
    _propose_and_approve(stack, keys, new_page, consumer)
    buyer.page.reload()
    assert read_stat(buyer.page.inner_text("main"), "Balance") == "$2,000.00"
    assert "BROKEN" not in manage(stack, "ledger_check")


def _propose_and_approve(stack: Stack, keys: Keyboard, new_page: NewPage, account: str) -> None:
    page = keys.page
    page.goto(f"/platform/accounts/{account}")
    keys.follow(page.get_by_role("link", name="Give credit …"), "**/adjustments/credit**")
    expect(page.get_by_label("Account", exact=True)).to_have_value(account)
    keys.write("Amount", "2000")
    keys.write("Reason", "For the outage.")
    keys.press(page.get_by_role("button", name="Propose"))
    page.get_by_text("Waits for another admin").wait_for()
    assert page.get_by_role("button", name="Approve").count() == 0

    login = Login(f"{new_name('second')}@example.com", secrets.token_hex(12))
    manage(
        stack,
        "shell",
        "-c",
        "from marketplace.models import User;"
        f"User.objects.create_superuser(email='{login.email}', password='{login.password}')",
    )
    second = Keyboard(new_page(base_url=stack.demo["web_url"]))
    sign_in(second, login)
    second.page.goto(page.url)
    second.press(second.page.get_by_role("button", name="Approve and post $2,000.00"))
    second.page.get_by_text("Transfer").first.wait_for()


def _has_receipt(person: Person, prediction: str, out: Path) -> bool:
    try:
        person.run("receipt", "fetch", prediction, "--out", str(out))
    except AssertionError as error:
        if "pending" not in str(error):
            raise
        return False
    return True


def _let_days_pass(stack: Stack, slug: str) -> None:
    """As the nightly task does it, for one creator and on a day that is still to come."""
    script = (
        "from datetime import timedelta; from django.utils import timezone;"
        "from marketplace.models import Account;"
        "from billing.services.release import release_creator;"
        f"account = Account.objects.get(slug='{slug}');"
        f"moment = timezone.now() + timedelta(days={RESERVE_DAYS});"
        "assert release_creator(account.pk, moment) == 1"
    )
    manage(stack, "shell", "-c", script)


def _numbers(found: object) -> set[int]:
    if isinstance(found, dict):
        return set().union(*map(_numbers, found.values())) if found else set()
    if isinstance(found, list):
        return set().union(*map(_numbers, found)) if found else set()
    return {found} if isinstance(found, int) else set()


def test_what_has_no_key_is_noticed(stack: Stack, new_page: NewPage) -> None:
    """The control of all above: a link that only a mouse can press, and one that hides it."""
    keys = Keyboard(new_page(base_url=stack.demo["web_url"]))
    keys.page.goto("/login")
    link = keys.page.get_by_role("link", name="Sign up").first
    link.evaluate("link => { link.tabIndex = -1 }")

    with pytest.raises(AssertionError, match="cannot be reached"):
        keys.reach(link)
    keys.page.reload()
    link.evaluate("link => { link.style.outline = 'none' }")
    with pytest.raises(AssertionError, match="shows no focus"):
        keys.reach(link)
