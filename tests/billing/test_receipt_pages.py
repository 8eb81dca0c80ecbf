"""The page of a receipt: it is shown to whom it concerns, and each step of the check can fail."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from billing.models import ReceiptKey
from billing.selectors.receipt_check import (
    DOCUMENT_LENGTH_MAX,
    TITLES,
    check_steps,
    is_valid,
    list_published_keys,
)
from billing.services.receipt import seal_receipts
from strongroom import receipts
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64
from tests.billing.conftest import Shop
from tests.billing.sealing import seal_all
from tests.billing.test_receipts import KEY, book, fetch, log_in

pytestmark = pytest.mark.django_db(transaction=True)
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


@pytest.fixture(autouse=True)
def receipt_key(settings: Any) -> bytes:
    settings.RECEIPT_KEY = encode_base64(KEY)
    return signature.derive_public_key(KEY)


@pytest.fixture
def consumer(shop: Shop) -> Client:
    return log_in(shop.consumer)


@pytest.fixture
def document(shop: Shop, fund, consumer: Client) -> dict[str, Any]:
    """A receipt from the middle of a batch of five."""
    ids = book(shop, fund, 5)
    seal_all()
    found = [fetch(consumer, one) for one in ids]
    return next(one for one in found if one["index"] == 2)


def states(document: Any) -> dict[str, str]:
    text = document if isinstance(document, str) else json.dumps(document)
    return {step.name: step.state for step in check_steps(text, list_published_keys())}


def failed(document: Any) -> set[str]:
    return {name for name, state in states(document).items() if state == "failed"}


def test_a_receipt_holds_in_every_step(document):
    steps = check_steps(json.dumps(document), list_published_keys())

    assert is_valid(steps)
    assert [step.name for step in steps] == list(TITLES)
    texts = {step.name: step.text for step in steps}
    assert texts["leaf"] == receipts.hash_leaf(document["charge"]).hex()
    assert texts["path"].startswith("Charge 3 of 5, in 3 steps to ")
    assert texts["path"].endswith(f"{document['batch']['root']}.")


def other_hash(text: str) -> str:
    return ("0" if text[0] != "0" else "1") + text[1:]


def swap_signature(one: dict[str, Any]) -> None:
    raw = bytearray(decode_base64(one["signature"]))
    raw[0] ^= 1
    one["signature"] = encode_base64(bytes(raw))


# Each control breaks one thing, and exactly those steps fail that depend on it.
CHANGES: list[tuple[str, Change, set[str]]] = [
    ("a nano more", lambda one: one["charge"].update(gross_nanos=one["charge"]["gross_nanos"] + 1),
     {"sum", "root"}),
    ("for the creator", lambda one: one["charge"].update(creator_nanos=0), {"sum", "root"}),
    ("another moment", lambda one: one["charge"].update(occurred_at="2026-01-01T00:00:00.000000Z"),
     {"root"}),
    ("a hash of the path", lambda one: one["path"].__setitem__(0, other_hash(one["path"][0])),
     {"root"}),
    ("a step too few", lambda one: one["path"].pop(), {"path", "root"}),
    ("a step too many", lambda one: one["path"].append("0" * 64), {"path", "root"}),
    ("no hash", lambda one: one["path"].__setitem__(0, "zz"), {"path", "root"}),
    ("a short hash", lambda one: one["path"].__setitem__(0, "00"), {"path", "root"}),
    ("another place", lambda one: one.update(index=0), {"root"}),
    ("past the end", lambda one: one.update(index=5), {"path", "root"}),
    ("no place", lambda one: one.update(index=True), {"path", "root"}),
    ("another root", lambda one: one["batch"].update(root=other_hash(one["batch"]["root"])),
     {"root", "signature"}),
    ("another batch", lambda one: one["batch"].update(seq=7), {"signature"}),
    ("the signature", swap_signature, {"signature"}),
    ("no signature", lambda one: one.update(signature="x"), {"signature"}),
    ("another key", lambda one: one.update(kid="0" * 32), {"signature", "key"}),
    ("a member less", lambda one: one["charge"].pop("mode"), {"sum", "leaf", "path", "root"}),
]  # fmt: skip


@pytest.mark.parametrize(("_case", "change", "expected"), CHANGES)
def test_what_was_changed_fails_where_it_was(document, _case, change, expected):
    tampered = copy.deepcopy(document)
    change(tampered)

    assert failed(tampered) == expected
    assert failed(document) == set()


def test_what_was_signed_by_another_key_under_the_same_name_fails(document):
    tampered = copy.deepcopy(document)
    payload = receipts.batch_payload(tampered["batch"])
    stranger = signature.generate_signing_key()
    signed = signature.sign(stranger, receipts.BATCH_TYPE, payload)
    tampered["signature"] = encode_base64(signed)

    assert failed(tampered) == {"signature"}
    # The control: as soon as the platform published that key, it would hold.
    keys = [
        {"kid": document["kid"], "public_key": encode_base64(signature.derive_public_key(stranger))}
    ]
    found = {step.name: step.state for step in check_steps(json.dumps(tampered), keys)}
    assert (found["signature"], found["key"]) == ("done", "failed")


def test_a_receipt_of_an_old_key_still_holds(document):
    ReceiptKey.objects.create(
        kid="1" * 32, public_key=encode_base64(b"2" * 32), created_at="2030-01-01T00:00:00Z"
    )

    assert failed(document) == set()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '"x"', "{}", '{"format": "strongroom-receipt/2"}', "[" * 9_999],
)
def test_what_is_no_receipt_is_said_so(document, text):
    found = states(text)

    assert found.pop("format") == "failed"
    assert set(found.values()) == {"todo"}


@pytest.mark.parametrize("value", [None, [], "x", 1, {}])
@pytest.mark.parametrize("member", ["charge", "batch", "index", "path", "signature", "kid"])
def test_parts_of_another_form_fail_and_nothing_breaks(document, member, value):
    tampered = document | {member: value}

    assert failed(tampered)


def test_the_page_shows_it_and_checks_it(document, consumer):
    url = f"/console/receipts/{document['charge']['prediction']}"

    text = consumer.get(url).content.decode()
    assert "strongroom-receipt/1" in text
    assert f"strongroom receipt fetch {document['charge']['prediction']}" in text
    assert "The receipt holds" not in text.split("<template")[0]

    sent = consumer.post(url, {"document": json.dumps(document)}).content.decode()
    assert "Checked on the server: that is the platform's own word." in sent
    assert sent.count('data-state="done"') == len(TITLES)


def test_the_page_marks_what_was_changed(document, consumer):
    tampered = copy.deepcopy(document)
    tampered["charge"]["gross_nanos"] += 1
    sent = consumer.post("/console/receipts", {"document": json.dumps(tampered)}).content.decode()

    assert "The receipt does not hold." in sent.split("<template")[0]
    assert (sent.count('data-state="failed"'), sent.count('data-state="done"')) == (2, 5)


@pytest.mark.parametrize(
    ("length", "status"), [(DOCUMENT_LENGTH_MAX, 200), (DOCUMENT_LENGTH_MAX + 1, 422)]
)
def test_a_text_that_is_too_long_is_refused(consumer, length, status):
    assert consumer.post("/console/receipts", {"document": "x" * length}).status_code == status


def test_what_was_sent_is_shown_as_text(consumer):
    sent = consumer.post("/console/receipts", {"document": "</textarea><script>1"}).content.decode()

    assert "<script>1" not in sent


def test_payer_and_creator_see_it_and_nobody_else(shop, document, consumer, outsider_client):
    url = f"/console/receipts/{document['charge']['prediction']}"

    assert consumer.get(url).status_code == 200
    assert log_in(shop.creator).get(url).status_code == 200
    assert outsider_client.get(url).status_code == 404
    assert Client().get(url).status_code == 302
    assert consumer.get("/console/receipts/x").status_code == 404


def test_a_charge_that_is_not_sealed_yet_is_said_so(shop, fund, consumer):
    [prediction] = book(shop, fund)

    assert "not sealed yet" in consumer.get(f"/console/receipts/{prediction}").content.decode()
    assert "Being sealed" in consumer.get("/console/receipts").content.decode()
    seal_receipts()


def test_the_list_costs_the_same_for_many(
    shop, fund, consumer, django_assert_num_queries, django_assert_max_num_queries
):
    book(shop, fund)
    consumer.get("/console/receipts")
    with django_assert_max_num_queries(12) as asked:
        consumer.get("/console/receipts")
    book(shop, fund, 24)

    with django_assert_num_queries(len(asked.captured_queries)):
        text = consumer.get("/console/receipts").content.decode()
    assert text.count("/console/receipts/") == 20
