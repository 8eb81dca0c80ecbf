"""Charges are sealed in batches, once each, and whatever is changed afterwards is seen."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection, connections, transaction
from django.test import Client

from billing.errors import ReceiptKeyError
from billing.models import ReceiptBatch, ReceiptLeaf
from billing.selectors.ledger import check_invariants
from billing.selectors.receipt import describe_keys, describe_published, list_batches
from billing.services import receipt as service
from billing.services.receipt import seal_receipts
from marketplace.core.ids import new_id, to_public
from marketplace.models import Account, Membership, User
from strongroom import receipts
from strongroom.platform_key import follow
from strongroom.receipts import ReceiptError
from strongroom.sealing import signature
from strongroom.sealing.canonical import decode_base64, encode_base64
from tests.billing.conftest import PRICE_NANOS, Shop, hold, settle
from tests.billing.test_ledger import promise_some

pytestmark = pytest.mark.django_db(transaction=True)
KEY = signature.generate_signing_key()


@pytest.fixture
def shop(transactional_db: None, shop: Shop) -> Shop:
    return shop


@pytest.fixture(autouse=True)
def receipt_key(settings: Any) -> bytes:
    settings.RECEIPT_KEY = encode_base64(KEY)
    return signature.derive_public_key(KEY)


def book(shop: Shop, fund: Callable[..., None], count: int = 1) -> list[str]:
    """Book so many predictions; their public ids."""
    fund(10 * count * PRICE_NANOS)
    ids = [hold(shop) for _ in range(count)]
    assert settle(*(shop.item(one) for one in ids)) == ["settled"] * count
    return [to_public(one) for one in ids]


def log_in(account: Account, role: str = "owner") -> Client:
    user = User.objects.create_user(f"{new_id()}@x.example", "a good long password")
    Membership.objects.create(account=account, user=user, role=role)
    client = Client()
    client.force_login(user)
    return client


def fetch(client: Client, prediction: str) -> dict[str, Any]:
    answer = client.get(f"/api/predictions/{prediction}/receipt")
    assert answer.status_code == 200, answer.content
    return answer.json()


def publish() -> list[dict[str, Any]]:
    return [describe_published(one) for one in list_batches(after=0)]


def broken() -> set[str]:
    with transaction.atomic(durable=True):
        found = {one.invariant.name for one in check_invariants() if one.count}
    # Nothing here was asked of a gateway, which notes answers.
    return found - {"usage-equals-answers"}


def check() -> str:
    """What the command says."""
    said = StringIO()
    with suppress(SystemExit):
        call_command("receipts_check", stdout=said)
    return said.getvalue()


def test_consumer_and_creator_get_the_same_receipt_and_it_holds(shop, fund, receipt_key):
    [prediction] = book(shop, fund)
    assert seal_receipts() == 1

    document = fetch(log_in(shop.consumer), prediction)
    assert fetch(log_in(shop.creator), prediction) == document

    found = receipts.verify(document, [receipt_key], consumer_id=str(shop.consumer.pk))
    assert (found.prediction, found.gross_nanos) == (prediction, PRICE_NANOS)
    assert found.creator_nanos == PRICE_NANOS * 8 // 10
    assert document["model"] == "creator/echo:1"
    # Its creator is not told whose it is.
    assert str(shop.consumer.pk) not in str(document)
    assert "consumer" not in str(document["charge"].values())


def test_who_gets_a_royalty_gets_the_receipt_that_says_so(shop, fund, receipt_key):
    promise_some(shop)
    [prediction] = book(shop, fund)
    seal_receipts()
    ancestor = Account.objects.get(slug="ancestor")

    document = fetch(log_in(ancestor), prediction)

    [royalty] = document["charge"]["royalties"]
    assert (royalty["account"], royalty["bps"], royalty["nanos"]) == (str(ancestor.pk), 1_000, 80)
    receipts.verify(document, [receipt_key])
    for name, wrong in (("nanos", 81), ("bps", 1_001), ("account", str(shop.creator.pk))):
        changed = copy.deepcopy(document)
        changed["charge"]["royalties"][0][name] = wrong
        with pytest.raises(receipts.ReceiptError):
            receipts.verify(changed, [receipt_key])
    # Taken out, or twice: not what was sealed.
    for wrong in ([], [royalty, royalty]):
        changed = copy.deepcopy(document)
        changed["charge"]["royalties"] = wrong
        with pytest.raises(receipts.ReceiptError, match="not one of the batch"):
            receipts.verify(changed, [receipt_key])
    del changed["charge"]["royalties"]
    with pytest.raises(receipts.ReceiptError, match="not one of the batch"):
        receipts.verify(changed, [receipt_key])


def test_nobody_else_gets_it(shop, fund):
    [prediction] = book(shop, fund)
    seal_receipts()
    stranger = Account.objects.create(slug="stranger", name="Stranger")

    assert log_in(stranger).get(f"/api/predictions/{prediction}/receipt").status_code == 404
    assert Client().get(f"/api/predictions/{prediction}/receipt").status_code in (401, 403)
    own = log_in(shop.consumer)
    for unknown in ("x", to_public(new_id())):
        assert own.get(f"/api/predictions/{unknown}/receipt").status_code == 404


def test_before_the_batch_is_sealed_it_says_when_to_come_back(shop, fund):
    [prediction] = book(shop, fund)

    answer = log_in(shop.consumer).get(f"/api/predictions/{prediction}/receipt")

    assert (answer.status_code, answer.json()["code"]) == (409, "receipt_pending")
    assert int(answer["Retry-After"]) > 0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9])
def test_each_place_of_a_batch_of_each_size_is_proved(shop, fund, receipt_key, count):
    ids = book(shop, fund, count)
    assert seal_receipts() == count

    client = log_in(shop.creator)
    documents = [fetch(client, one) for one in ids]
    assert sorted(one["index"] for one in documents) == list(range(count))
    for document in documents:
        receipts.verify(document, [receipt_key])
        receipts.check_published(document, receipts.verify_batches(publish(), [receipt_key]))


def test_batches_are_cut_at_their_size_and_chain(shop, fund, receipt_key, monkeypatch):
    monkeypatch.setattr(service, "BATCH_SIZE", 3)
    book(shop, fund, 3)
    assert seal_receipts() == 3
    book(shop, fund, 4)
    assert seal_receipts() == 4
    assert seal_receipts() == 0

    assert [one["size"] for one in publish()] == [3, 3, 1]
    assert set(receipts.verify_batches(publish(), [receipt_key])) == {1, 2, 3}
    assert broken() == set()
    assert check() == "ok     3 batches are as they were sealed\n"


def test_a_run_ends_and_the_next_one_goes_on(shop, fund, monkeypatch):
    monkeypatch.setattr(service, "BATCH_SIZE", 1)
    monkeypatch.setattr(service, "BATCHES_PER_RUN_MAX", 2)
    book(shop, fund, 3)

    assert [seal_receipts(), seal_receipts(), seal_receipts()] == [2, 1, 0]


def test_a_booking_that_commits_late_is_not_passed_over(shop, fund):
    """It has an earlier number than what was sealed before it became visible."""
    fund(10 * PRICE_NANOS)
    late, early = hold(shop), hold(shop)
    begun, may_end = threading.Event(), threading.Event()

    def book_late() -> None:
        with transaction.atomic():
            assert settle(shop.item(late)) == ["settled"]
            begun.set()
            assert may_end.wait(30)
        connections.close_all()

    thread = threading.Thread(target=book_late)
    thread.start()
    assert begun.wait(30)
    try:
        assert seal_receipts() == 0
    finally:
        may_end.set()
        thread.join()
    assert settle(shop.item(early)) == ["settled"]

    assert seal_receipts() == 2
    assert ReceiptLeaf.objects.count() == 2


def test_control_a_mark_by_id_alone_loses_a_late_booking(shop, fund, monkeypatch):
    """The mutant reads by the predictions' own order, as their ids suggest."""
    mutant = service._EVENTS.replace(
        "(u.xid, u.prediction_id) > (%(transaction)s::text::xid8, %(id)s)",
        "u.prediction_id > %(id)s AND %(transaction)s IS NOT NULL",
    ).replace("ORDER BY u.xid, u.prediction_id", "ORDER BY u.prediction_id")
    fund(10 * PRICE_NANOS)
    slow, quick = hold(shop), hold(shop)
    monkeypatch.setattr(service, "_EVENTS", mutant)
    assert settle(shop.item(quick)) == ["settled"]
    assert seal_receipts() == 1
    assert settle(shop.item(slow)) == ["settled"]

    assert seal_receipts() == 0

    monkeypatch.undo()


def test_an_unfinished_booking_holds_back_what_committed_after_it(shop, fund):
    """Else the mark would stand behind it, and it would never be read."""
    book(shop, fund)
    begun, may_end = threading.Event(), threading.Event()

    def write_something() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()")
            begun.set()
            assert may_end.wait(30)
        connections.close_all()

    thread = threading.Thread(target=write_something)
    thread.start()
    assert begun.wait(30)
    book(shop, fund)
    try:
        assert seal_receipts() == 1
    finally:
        may_end.set()
        thread.join()
    assert seal_receipts() == 1


def test_two_workers_seal_each_charge_once(shop, fund):
    book(shop, fund, 20)
    counts: list[int] = []

    def seal() -> None:
        counts.append(seal_receipts())
        connections.close_all()

    threads = [threading.Thread(target=seal) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seal_receipts()

    assert ReceiptLeaf.objects.count() == 20
    assert sum(one.size for one in ReceiptBatch.objects.all()) == 20


def test_after_a_restore_from_a_dump_the_numbers_begin_anew(shop, fund, receipt_key):
    book(shop, fund)
    seal_receipts()
    # As in a new cluster: what was written before has numbers that are not given out yet.
    tamper("UPDATE billing_usageevent SET xid = '4000000000'::xid8")
    tamper("UPDATE billing_receiptbatch SET mark_transaction = 4000000000")
    book(shop, fund, 2)

    assert seal_receipts() == 2
    assert seal_receipts() == 0
    assert ReceiptBatch.objects.order_by("-seq").first().mark_transaction < 4_000_000_000
    assert set(receipts.verify_batches(publish(), [receipt_key])) == {1, 2}


# --- What somebody changes behind our back --------------------------------------------


NOTHING = {
    "receiptbatch": "seq = seq",
    "receiptleaf": "index = index",
    "receiptkey": "kid = kid",
}


def tamper(sql: str) -> None:
    """As the owner of the tables could."""
    tables = ("usageevent", "price", "receiptbatch", "receiptleaf", "royaltyshare")
    with connection.cursor() as cursor:
        for state, change in (("DISABLE", sql), ("ENABLE", "SELECT 1")):
            for table in tables:
                cursor.execute(f"ALTER TABLE billing_{table} {state} TRIGGER USER")
            cursor.execute(change)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE billing_usageevent SET units = units + 1", "charges are not as they were sealed"),
        ("UPDATE billing_price SET creator_share_bps = 1", "charges are not as they were sealed"),
        ("UPDATE billing_receiptleaf SET hash = '\\x00'", "charges are not as they were sealed"),
        ("UPDATE billing_royaltyshare SET amount_nanos = 1", "charges are not as they were sealed"),
        ("DELETE FROM billing_royaltyshare", "charges are not as they were sealed"),
        ("DELETE FROM billing_usageevent", "not those that were sealed"),
        ("DELETE FROM billing_receiptleaf WHERE index = 0", "not those that were sealed"),
        ("UPDATE billing_receiptbatch SET root = repeat('0', 64)", "not those that were sealed"),
        (
            "UPDATE billing_receiptbatch SET sealed_at = sealed_at + interval '1 day'",
            "does not follow",
        ),
        ("UPDATE billing_receiptbatch SET previous = repeat('0', 64)", "does not follow"),
        ("UPDATE billing_receiptbatch SET signature = 'AAAA'", "signature is wrong"),
    ],
)
def test_what_is_changed_in_the_database_is_found(shop, fund, sql, says):
    promise_some(shop)
    book(shop, fund, 3)
    seal_receipts()
    assert "ok" in check()

    tamper(sql)

    assert says in check()


def test_the_database_refuses_changes(shop, fund):
    book(shop, fund)
    seal_receipts()
    for table in ("receiptbatch", "receiptleaf", "receiptkey"):
        for change in (
            f"DELETE FROM billing_{table}",
            f"UPDATE billing_{table} SET {NOTHING[table]}",
        ):
            with (
                pytest.raises(DatabaseError, match="append-only"),
                transaction.atomic(),
                connection.cursor() as cursor,
            ):
                cursor.execute(change)


def test_the_ledgers_check_sees_what_is_not_sealed_and_broken_chains(shop, fund):
    book(shop, fund, 2)
    assert broken() == set()
    tamper("UPDATE billing_usageevent SET occurred_at = occurred_at - interval '11 minutes'")
    assert "charges-are-sealed" in broken()
    seal_receipts()
    assert broken() == set()

    tamper("DELETE FROM billing_receiptleaf WHERE index = 1")
    assert "batches-chain" in broken()


# --- Keys -----------------------------------------------------------------------------


def test_without_a_key_nothing_is_sealed_and_nothing_lost(shop, fund, settings):
    book(shop, fund)
    for wrong in ("", "AAAA", "not base64"):
        settings.RECEIPT_KEY = wrong
        with pytest.raises(ReceiptKeyError):
            seal_receipts()
    settings.RECEIPT_KEY = encode_base64(KEY)
    assert seal_receipts() == 1


def test_a_new_key_is_named_by_the_one_before_it(shop, fund, settings, receipt_key):
    [first] = book(shop, fund)
    seal_receipts()
    new = signature.generate_signing_key()
    settings.RECEIPT_KEY = encode_base64(new)
    [second] = book(shop, fund)
    with pytest.raises(ReceiptKeyError, match="STRONGROOM_RECEIPT_KEY_BEFORE"):
        seal_receipts()
    settings.RECEIPT_KEY_BEFORE = encode_base64(signature.generate_signing_key())
    with pytest.raises(ReceiptKeyError, match="not the newest"):
        seal_receipts()
    settings.RECEIPT_KEY_BEFORE = encode_base64(KEY)
    assert seal_receipts() == 1

    shown = describe_keys()
    keys = follow(
        receipt_key,
        decode_base64(shown["public_key"]),
        shown["successions"],
        payload_type=receipts.KEY_TYPE,
    )
    assert keys == [receipt_key, signature.derive_public_key(new)]
    client = log_in(shop.consumer)
    for prediction in (first, second):
        receipts.verify(fetch(client, prediction), keys)
    receipts.verify_batches(publish(), keys)
    with pytest.raises(ReceiptError, match="signature_invalid"):
        receipts.verify(fetch(client, second), [receipt_key])
    # The old one is over.
    settings.RECEIPT_KEY = encode_base64(KEY)
    book(shop, fund)
    with pytest.raises(ReceiptKeyError, match="followed by another"):
        seal_receipts()


def test_batches_and_keys_are_published_to_everybody(shop, fund, monkeypatch):
    monkeypatch.setattr("billing.selectors.receipt.BATCHES_PER_PAGE", 1)
    assert Client().get("/api/receipt-keys").json()["public_key"] is None
    assert Client().get("/api/receipt-batches").json() == {"results": [], "next_after": None}
    book(shop, fund)
    seal_receipts()
    book(shop, fund)
    seal_receipts()

    first = Client().get("/api/receipt-batches").json()
    assert [one["seq"] for one in first["results"]] == [1]
    second = Client().get(f"/api/receipt-batches?after={first['next_after']}").json()
    assert [one["seq"] for one in second["results"]] == [2]
    assert Client().get("/api/receipt-keys").json()["kid"] == first["results"][0]["kid"]
    for wrong in ("x", "-1", "9" * 19):
        assert Client().get(f"/api/receipt-batches?after={wrong}").status_code == 422
