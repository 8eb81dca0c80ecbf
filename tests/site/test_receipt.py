"""A receipt is checked in the browser, in the same steps and with the same result as here."""

from __future__ import annotations

import copy
import json

import pytest
from playwright.sync_api import expect

from billing.selectors.receipt_check import TITLES, check_steps, list_published_keys
from inference.models import Prediction
from marketplace.core.ids import from_public
from marketplace.models import Membership, User
from strongroom import receipts
from strongroom.sealing.canonical import encode_base64
from tests.billing.conftest import Shop, fund, shop  # noqa: F401 - fixtures
from tests.billing.sealing import seal_all
from tests.billing.test_receipt_pages import CHANGES
from tests.billing.test_receipts import KEY, book, fetch, log_in
from tests.faults import find_faults

LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}
CHECK = """async ([module, texts, keys]) => {
    const { checkSteps } = await import(module);
    return Promise.all(texts.map((text) => checkSteps(text, keys)));
}"""


@pytest.fixture
def buyer(site, shop: Shop) -> User:  # noqa: F811
    user = User.objects.create_user("buyer@example.com", "a good long password")
    Membership.objects.create(account=shop.consumer, user=user, role="owner")
    return user


@pytest.fixture
def document(settings, buyer, shop, fund) -> dict:  # noqa: F811
    settings.RECEIPT_KEY = encode_base64(KEY)
    ids = book(shop, fund, 5)
    seal_all()
    client = log_in(shop.consumer)
    found = next(one for one in (fetch(client, one) for one in ids) if one["index"] == 2)
    event_id = from_public(found["charge"]["prediction"])
    Prediction.objects.create(
        id=event_id,
        account_id=shop.consumer.pk,
        version_id=found["charge"]["version"],
        state="succeeded",
        cost_nanos=found["charge"]["gross_nanos"],
        created_at=found["charge"]["occurred_at"],
        completed_at=found["charge"]["occurred_at"],
    )
    return found


def test_it_holds_and_what_was_changed_does_not(visit, buyer, document):
    page = visit(buyer)
    sent: list[str] = []
    page.goto(f"/console/receipts/{document['charge']['prediction']}")
    page.on("request", lambda request: sent.append(request.url))

    page.get_by_role("button", name="Verify", exact=True).click()

    expect(page.get_by_text("Verified in your browser; nothing was sent.")).to_be_visible()
    expect(page.locator(".receipt-result [data-state=done]")).to_have_count(len(TITLES))
    # Drawings are fetched when they like.
    assert [url for url in sent if "/static/" not in url] == []

    # The control: one digit of the price.
    field = page.locator("textarea")
    text = field.input_value()
    price = document["charge"]["gross_nanos"]
    field.fill(text.replace(f'"gross_nanos": {price}', f'"gross_nanos": {price + 1}'))
    page.get_by_role("button", name="Verify", exact=True).click()

    expect(page.get_by_text("The receipt does not hold.")).to_be_visible()
    failed = page.locator(".receipt-result [data-state=failed]")
    expect(failed).to_have_count(2)
    expect(failed.first).to_contain_text("it comes to")
    assert find_faults(page) == []


def test_the_server_checks_where_the_browser_cannot(visit, buyer, document):
    page = visit(buyer)
    page.add_init_script("crypto.subtle.importKey = () => Promise.reject(new Error('none'))")
    page.goto(f"/console/receipts/{document['charge']['prediction']}")
    page.get_by_role("button", name="Verify", exact=True).click()

    word = "Checked on the server: that is the platform's own word."
    expect(page.get_by_text(word)).to_be_visible()
    expect(page.locator(".receipt-result [data-state=done]")).to_have_count(len(TITLES))


def with_terms(document: dict, **terms: object) -> dict:
    """The same with a price that is more than an amount; its sums are looked at alone."""
    found = copy.deepcopy(document)
    charge = found["charge"]
    charge["units"] = {"prediction": 7, "input_token": 1_234_567}
    charge["rates_nanos"] = {"prediction": 1_000}
    charge["terms"] = {
        "nanos_per_million": {"input_token": 3_333_333},
        "minimum_nanos": 0,
        "free_units": 0,
        "tiers": [],
        "position": None,
    } | terms
    return found


def test_browser_and_server_agree_on_every_step(visit, buyer, document):
    tampered = []
    for _, change, _ in CHANGES:
        one = copy.deepcopy(document)
        change(one)
        tampered.append(json.dumps(one))
    for name in ("charge", "batch", "index", "path", "signature", "kid"):
        whole = {key: value for key, value in document.items() if key != name}
        tampered.append(json.dumps(whole))
        tampered += [json.dumps(document | {name: value}) for value in (None, [], "x", {})]
    priced = [
        with_terms(document),
        with_terms(document, minimum_nanos=10**12),
        with_terms(document, free_units=3, position=0),
        with_terms(document, free_units=100, position=0),
        with_terms(document, tiers=[[2, 9_000], [5, 5_000]], position=1),
        with_terms(document, position=1),
        with_terms(document, nanos_per_million={"pixel": 1}),
    ]
    # With the sum that is right, and with one that is not.
    for one in copy.deepcopy(priced):
        try:
            gross = find_gross(one)
        except ValueError:
            continue
        one["charge"]["gross_nanos"] = gross
        one["charge"]["creator_nanos"] = gross * one["charge"]["creator_share_bps"] // 10_000
        priced.append(one)
    texts = [json.dumps(document), *tampered, *(json.dumps(one) for one in priced), "{", "[]"]
    keys = list_published_keys()
    page = visit(buyer)
    page.goto("/console/receipts")

    found = page.evaluate(CHECK, ["/static/js/receipt.js", texts, keys])

    for text, steps in zip(texts, found, strict=True):
        ours = [(one.name, one.state) for one in check_steps(text, keys)]
        assert [(one["name"], one["state"]) for one in steps] == ours, text
    # What holds says the same, too.
    assert [one["text"] for one in found[0]] == [one.text for one in check_steps(texts[0], keys)]
    sums = [steps[1]["state"] for steps in found[len(tampered) + 1 : -2]]
    assert (sums.count("failed"), sums.count("done")) == (7, 5)


def find_gross(document: dict) -> int:
    return receipts.compute_gross(document["charge"])


@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_have_no_fault(visit, buyer, document, look):
    page = visit(buyer, **LOOKS[look])
    prediction = document["charge"]["prediction"]
    for url in (
        "/console/receipts",
        f"/console/receipts/{prediction}",
        "/console/predictions",
        f"/predictions/{prediction}",
    ):
        page.goto(url)
        expect(page.locator(".panel[aria-busy=true]")).to_have_count(0)
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")

        assert find_faults(page) == []
        assert width <= 0
