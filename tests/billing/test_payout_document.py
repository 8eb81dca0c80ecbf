"""A payout is recomputed from its document, to the nano-dollar and without the platform."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from billing.errors import PayoutTooLargeError
from billing.models import LedgerAccount, PayoutItem
from billing.selectors.payout_document import stream_document
from billing.selectors.payout_invariants import PAYOUT_INVARIANTS
from billing.selectors.statement import make_statement
from billing.services import payout as service
from billing.services import receipt as receipt_service
from billing.services.payout import start_run
from billing.services.release import release_earnings
from marketplace.core.receipt import ReceiptPendingError
from marketplace.models import Account, User
from marketplace.selectors.access import Actor
from strongroom import payouts, receipts
from strongroom.payouts import PayoutError, PayoutReader, VerifiedPayout
from strongroom.receipts import ReceiptError
from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests.billing.conftest import Shop
from tests.billing.payouts import PART_NANOS, Fund, at, book, connect, correct, shift_days, today
from tests.billing.sealing import seal_all
from tests.billing.test_ledger import promise_some
from tests.factories import MembershipFactory

pytestmark = pytest.mark.django_db
KEY = signature.generate_signing_key()
PUBLIC = signature.derive_public_key(KEY)
PAYABLE = LedgerAccount.Kind.CREATOR_PAYABLE
Lines = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _settings(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.RECEIPT_KEY = encode_base64(KEY)
    settings.PAYOUT_MINIMUM_CENTS = 1
    # Batches that span days, and days that span batches.
    monkeypatch.setattr(receipt_service, "BATCH_SIZE", 4)


@pytest.fixture
def pay(shop: Shop, fund: Fund, platform_admin: User) -> Callable[[], PayoutItem]:
    """Payouts of a creator with two days of earnings each, one of them with a correction."""
    connect(shop.creator)

    def run() -> PayoutItem:
        days_ago = 40 if PayoutItem.objects.exists() else 80
        book(shop, fund, 3)
        correct(shop, -5)
        shift_days(1, of_last_days=3)
        book(shop, fund, 2)
        correct(shop, 30 * 10**9 + 123, PAYABLE)
        shift_days(days_ago, of_last_days=3)
        seal_all()
        release_earnings(at(20 - days_ago))
        item = start_run(Actor(user=platform_admin)).items.get()
        # As if it had been paid: what the ledger says of the payable is the same.
        service._refuse(item, "Not now.")
        return item

    return run


def document(item: PayoutItem) -> Lines:
    return [json.loads(line) for line in stream_document(item)]


def verify(*documents: Lines, hashes: dict[int, str] | None = None) -> VerifiedPayout:
    """The last of several documents that follow upon each other."""
    reader = PayoutReader([PUBLIC], hashes)
    found = [reader.verify(json.dumps(line).encode() for line in one) for one in documents]
    return found[-1]


def test_the_amount_follows_from_the_receipts(pay) -> None:
    item = pay()

    found = verify(document(item))

    assert (found.payout, found.predictions) == (str(item.pk), 5)
    assert found.earned_nanos == 5 * PART_NANOS
    assert (found.corrected_nanos, found.moved_nanos) == (-5, 30 * 10**9 + 123)
    assert found.amount_cents == item.amount_cents == 3_000
    assert found.closing_nanos == 5 * PART_NANOS + 123 - 5


def test_payouts_are_a_chain_and_what_is_left_is_carried_forward(pay) -> None:
    first, second = pay(), pay()

    documents = [document(first), document(second)]
    found = verify(*documents)

    assert documents[1][0]["previous"] == str(first.pk)
    assert documents[1][0]["opening_nanos"] == documents[0][-1]["closing_nanos"] > 0
    # The first was not paid in the end: it is payable once more.
    assert found.amount_cents == second.amount_cents == 6_000
    verify(documents[1])
    with pytest.raises(PayoutError) as caught:
        verify(documents[1], documents[0])
    assert caught.value.code == "carry_forward_broken"


def test_the_document_is_the_same_whenever_it_is_asked_for(pay) -> None:
    first = pay()
    before = document(first)
    pay()

    assert document(first) == before


def find(lines: Lines, kind: str) -> int:
    """Where the first line of a kind stands; of the movements the first release."""
    return next(
        no
        for no, line in enumerate(lines)
        if line["type"] == kind and (kind != "movement" or line["kind"] == "release")
    )


def change(it: Lines, kind: str, **values: Any) -> Lines:
    """The first line of a kind, changed."""
    number = find(it, kind)
    return [*it[:number], {**it[number], **values}, *it[number + 1 :]]


def without(lines: Lines, kind: str) -> Lines:
    """Without the first line of a kind, and counted anew."""
    number = find(lines, kind)
    return recount([*lines[:number], *lines[number + 1 :]])


def doubled(lines: Lines, kind: str) -> Lines:
    number = find(lines, kind)
    return recount([*lines[: number + 1], lines[number], *lines[number + 1 :]])


def recount(lines: Lines) -> Lines:
    return [*lines[:-1], {**lines[-1], "lines": len(lines)}]


def of(lines: Lines, kind: str) -> dict[str, Any]:
    return lines[find(lines, kind)]


def recharge(lines: Lines, **values: Any) -> Lines:
    return change(lines, "charge", charge={**of(lines, "charge")["charge"], **values})


HARMS: dict[str, tuple[str, Callable[[Lines], Lines]]] = {
    "a receipt is missing": ("receipt_missing", lambda it: without(it, "charge")),
    "a receipt is missing and nobody says so": (
        "wrong_release",
        lambda it: change(
            without(it, "charge"), "movement", predictions=of(it, "movement")["predictions"] - 1
        ),
    ),
    "a prediction is counted twice": ("counted_twice", lambda it: doubled(it, "charge")),
    "a charge is dearer": (
        "wrong_sum",
        lambda it: recharge(it, creator_nanos=of(it, "charge")["charge"]["creator_nanos"] + 1),
    ),
    "a charge has more units": (
        "not_in_batch",
        lambda it: recharge(it, units={"prediction": 10}, gross_nanos=10_010, creator_nanos=8_008),
    ),
    "a charge is another creator's": ("not_in_batch", lambda it: recharge(it, creator="x")),
    "the payout is another creator's": (
        "other_creator",
        lambda it: change(it, "payout", creator="x"),
    ),
    "a charge is at another place": (
        "not_in_batch",
        lambda it: change(it, "charge", index=of(it, "charge")["index"] ^ 1),
    ),
    "a batch is signed by another": (
        "signature_invalid",
        lambda it: change(it, "batch", signature=encode_base64(bytes(64))),
    ),
    "a release is off by one nano": (
        "wrong_release",
        lambda it: change(it, "movement", amount_nanos=of(it, "movement")["amount_nanos"] - 1),
    ),
    "the payout is off by a cent": (
        "wrong_amount",
        lambda it: change(it, "payout", amount_cents=of(it, "payout")["amount_cents"] - 1),
    ),
    "what is left is off by one nano": (
        "wrong_amount",
        lambda it: change(it, "end", closing_nanos=of(it, "end")["closing_nanos"] - 1),
    ),
    "it begins with one nano more": (
        "carry_forward_broken",
        lambda it: change(it, "payout", opening_nanos=1),
    ),
    "a correction is off by one nano": (
        "wrong_release",
        lambda it: change(it, "correction", amount_nanos=-6),
    ),
    "a correction is gone": ("wrong_release", lambda it: without(it, "correction")),
    "the end is missing": ("truncated", lambda it: it[:-1]),
    "a line is said to be there that is not": (
        "truncated",
        lambda it: change(it, "end", lines=len(it) + 1),
    ),
    "it goes on behind its end": ("not_a_payout", lambda it: [*it, it[-1]]),
    "the header comes twice": ("not_a_payout", lambda it: [it[0], *it]),
    "another format": ("not_a_payout", lambda it: change(it, "payout", format="x")),
    "an unknown line": ("not_a_payout", lambda it: change(it, "movement", type="gift")),
    "an amount that is no number": (
        "not_a_payout",
        lambda it: change(it, "movement", amount_nanos="1"),
    ),
    "an amount that is a float": ("not_a_payout", lambda it: change(it, "end", lines=1.0)),
    "a charge without a release": (
        "not_a_payout",
        lambda it: [it[0], of(it, "batch"), of(it, "charge"), it[-1]],
    ),
    "nothing": ("truncated", lambda it: []),
}


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_changed_is_refused_with_its_code(pay, harm: str) -> None:
    lines = document(pay())
    code, spoil = HARMS[harm]
    verify(lines)

    with pytest.raises((PayoutError, ReceiptError)) as caught:
        verify(spoil(lines))

    assert caught.value.code == code, caught.value.detail


def test_a_prediction_in_two_payouts_is_refused(pay) -> None:
    """The release of the first payout stands in the second one again."""
    first, second = document(pay()), document(pay())
    begin = find(first, "movement")
    end = next(no for no in range(begin + 1, len(first)) if first[no]["type"] == "movement")

    with pytest.raises(PayoutError) as caught:
        verify(first, [second[0], *first[begin:end], *second[1:]])

    assert caught.value.code == "counted_twice"


def test_control_with_the_sums_alone_a_swapped_receipt_would_pass(
    pay, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = document(pay())
    monkeypatch.setattr(receipts, "_check_place", lambda *args: None)

    found = verify(recharge(lines, prediction="another"))

    assert found.predictions == 5


def test_who_shares_in_a_prediction_is_paid_by_the_same_receipt(
    shop: Shop, fund: Fund, platform_admin: User
) -> None:
    """The creator has what its royalty leaves, the owner of the parent has the royalty."""
    promise_some(shop)
    ancestor = Account.objects.get(slug="ancestor")
    found = {}
    book(shop, fund, 3)
    shift_days(40)
    seal_all()
    release_earnings()
    for creator in (shop.creator, ancestor):
        connect(creator, f"acct_{creator.slug}")
        correct(replace(shop, creator=creator), 30 * 10**9, PAYABLE)
    run = start_run(Actor(user=platform_admin))
    for item in run.items.all():
        found[item.creator.slug] = verify(document(item))

    royalty = PART_NANOS // 10
    assert found["ancestor"].earned_nanos == 3 * royalty
    assert found["creator"].earned_nanos == 3 * (PART_NANOS - royalty)
    assert {one.predictions for one in found.values()} == {3}
    for creator in (shop.creator, ancestor):
        month = today() - timedelta(days=40)
        assert make_statement(creator, month).earned_nanos == found[creator.slug].earned_nanos
        assert broken_earnings() == []


def broken_earnings() -> list[tuple]:
    (invariant,) = [one for one in PAYOUT_INVARIANTS if one.name == "earnings-add-up"]
    with connection.cursor() as cursor:
        cursor.execute(invariant.sql)
        return list(cursor.fetchall())


def test_batches_must_be_the_published_ones(pay) -> None:
    lines = document(pay())
    published = {
        line["batch"]["seq"]: receipts.hash_batch(line["batch"])
        for line in lines
        if line["type"] == "batch"
    }
    verify(lines, hashes=published)

    for code, hashes in (
        ("batch_unknown", {}),
        ("batch_replaced", dict.fromkeys(published, "0" * 64)),
    ):
        with pytest.raises(ReceiptError) as caught:
            verify(lines, hashes=hashes)
        assert caught.value.code == code


def test_as_many_predictions_as_there_may_be_and_one_more(
    pay, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = pay()
    lines = document(item)
    monkeypatch.setattr(payouts, "CHARGES_MAX", 5)
    assert verify(document(item)).predictions == 5

    monkeypatch.setattr(payouts, "CHARGES_MAX", 4)
    with pytest.raises(PayoutTooLargeError):
        document(item)
    with pytest.raises(PayoutError) as caught:
        verify(lines)
    assert caught.value.code == "payout_too_large"


def test_without_receipts_there_is_no_document(
    shop: Shop, fund: Fund, platform_admin: User
) -> None:
    connect(shop.creator)
    book(shop, fund)
    correct(shop, 30 * 10**9)
    shift_days(40)
    release_earnings()
    item = start_run(Actor(user=platform_admin)).items.get()

    with pytest.raises(ReceiptPendingError):
        stream_document(item)


def test_the_api_answers_it_to_the_creator_only(
    pay, shop: Shop, owner: User, outsider_client: Client, consumer_only: Client
) -> None:
    item = pay()
    MembershipFactory(account=shop.creator, user=owner, role="viewer")
    client = Client()
    client.force_login(owner)
    url = f"/api/payouts/{item.pk}/document"

    answer = client.get(url)
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/x-ndjson")
    lines = b"".join(answer.streaming_content).splitlines(keepends=True)
    assert PayoutReader([PUBLIC]).verify(lines).predictions == 5
    # A creator does not learn who its consumers are.
    assert str(shop.consumer.pk).encode() not in b"".join(lines)
    for other in (outsider_client, consumer_only):
        assert other.get(url).status_code == 404
        assert other.get(f"/api/payouts/{item.pk}").status_code == 404


@pytest.fixture
def consumer_only(shop: Shop, teammate: User) -> Client:
    MembershipFactory(account=shop.consumer, user=teammate, role="owner")
    client = Client()
    client.force_login(teammate)
    return client
