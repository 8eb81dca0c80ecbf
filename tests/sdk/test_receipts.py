"""Receipts: whatever is changed in one, it does not hold; and the command line says which."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strongroom import receipts
from strongroom.receipts import ReceiptError
from strongroom.sealing import signature
from strongroom.sealing.canonical import encode_base64
from tests.sdk.command_line import log_in, run
from tests.sdk.platform_server import Platform

KEY, OTHER = signature.generate_signing_key(), signature.generate_signing_key()
PUBLIC = signature.derive_public_key(KEY)
CONSUMER = "01a20000-0000-7000-8000-000000000001"
RATE_NANOS = 1_001


def make_charge(number: int, **changes: Any) -> dict[str, Any]:
    prediction = f"prediction{number}"
    return {
        "prediction": prediction,
        "consumer": receipts.hide_consumer(CONSUMER, prediction),
        "creator": "01a20000-0000-7000-8000-000000000002",
        "version": "01a20000-0000-7000-8000-000000000003",
        "price": "01a20000-0000-7000-8000-000000000004",
        "mode": "live",
        "units": {"prediction": 2},
        "rates_nanos": {"prediction": RATE_NANOS},
        "creator_share_bps": 8_000,
        "gross_nanos": 2 * RATE_NANOS,
        "creator_nanos": 2 * RATE_NANOS * 8 // 10,
        "transfer": "01a20000-0000-7000-8000-000000000005",
        "occurred_at": "2026-11-22T00:00:00.000000Z",
    } | changes


def seal(
    charges: list[dict[str, Any]],
    *,
    seq: int = 1,
    previous: str = receipts.GENESIS,
    key: bytes = KEY,
) -> list[dict[str, Any]]:
    """The receipts of one batch."""
    leaves = [receipts.hash_leaf(one) for one in charges]
    batch = {
        "seq": seq,
        "size": len(leaves),
        "root": receipts.hash_root(leaves).hex(),
        "previous": previous,
        "sealed_at": "2026-11-22T00:00:10.000000Z",
    }
    signed = signature.sign(key, receipts.BATCH_TYPE, receipts.batch_payload(batch))
    return [
        {
            "format": receipts.FORMAT,
            "platform": "https://platform.example",
            "model": "acme/digits:1",
            "charge": charge,
            "index": index,
            "path": [one.hex() for one in receipts.list_path(leaves, index)],
            "batch": batch,
            "signature": encode_base64(signed),
            "kid": receipts.derive_kid(signature.derive_public_key(key)),
        }
        for index, charge in enumerate(charges)
    ]


def publish(document: dict[str, Any]) -> dict[str, Any]:
    return {**document["batch"], "signature": document["signature"], "kid": document["kid"]}


def make_chain(count: int) -> list[dict[str, Any]]:
    """A receipt out of each of so many batches."""
    found: list[dict[str, Any]] = []
    previous = receipts.GENESIS
    for seq in range(1, count + 1):
        [document] = seal([make_charge(seq)], seq=seq, previous=previous)
        previous = receipts.hash_batch(document["batch"])
        found.append(document)
    return found


def test_the_tree_is_that_of_certificate_transparency() -> None:
    """The reference leaves and roots of RFC 6962's first implementation."""
    contents = [
        *("", "00", "10", "2021", "3031", "40414243"),
        *("5051525354555657", "606162636465666768696a6b6c6d6e6f"),
    ]
    leaves = [hashlib.sha256(b"\0" + bytes.fromhex(one)).digest() for one in contents]

    assert receipts.hash_root(leaves[:1]).hex() == (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    assert receipts.hash_root(leaves).hex() == (
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )


@pytest.mark.parametrize("size", [*range(1, 18), 100, 255, 256, 257])
def test_every_place_of_a_tree_has_a_path_and_no_other_place_that_one(size: int) -> None:
    leaves = [hashlib.sha256(bytes([index % 256, index // 256])).digest() for index in range(size)]
    root = receipts.hash_root(leaves)
    for index, leaf in enumerate(leaves):
        path = receipts.list_path(leaves, index)
        assert receipts.follow_path(leaf, index, size, path) == root
        assert receipts.follow_path(leaf, index, size, [*path, leaf]) is None
        assert receipts.follow_path(leaf, size, size, path) is None
        if path:
            assert receipts.follow_path(leaf, index, size, path[:-1]) is None
        if size > 1:
            elsewhere = (index + 1) % size
            assert receipts.follow_path(leaf, elsewhere, size, path) != root


def test_a_leaf_is_never_taken_for_an_inner_node() -> None:
    """The attack: two leaves' hashes given as the content of one leaf."""
    leaves = [receipts.hash_leaf(make_charge(one)) for one in range(2)]
    assert hashlib.sha256(b"\0" + leaves[0] + leaves[1]).digest() != receipts.hash_root(leaves)


def test_a_receipt_holds() -> None:
    for document in seal([make_charge(one) for one in range(5)]):
        found = receipts.verify(document, [signature.derive_public_key(OTHER), PUBLIC])
        assert (found.gross_nanos, found.creator_nanos) == (2_002, 1_601)
        receipts.verify(document, [PUBLIC], consumer_id=CONSUMER)


def put(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return change


CHANGES = {
    "prediction": (put("charge", "prediction", value="another"), "not_in_batch"),
    "consumer": (put("charge", "consumer", value="0" * 64), "not_in_batch"),
    "creator": (put("charge", "creator", value="x"), "not_in_batch"),
    "time": (put("charge", "occurred_at", value="2026-11-23T00:00:00.000000Z"), "not_in_batch"),
    "transfer": (put("charge", "transfer", value=None), "not_in_batch"),
    "gross": (put("charge", "gross_nanos", value=2_001), "wrong_sum"),
    "part": (put("charge", "creator_nanos", value=1_602), "wrong_sum"),
    "units": (put("charge", "units", "prediction", value=1), "wrong_sum"),
    "rate": (put("charge", "rates_nanos", "prediction", value=1), "wrong_sum"),
    "mode": (put("charge", "mode", value="test"), "wrong_sum"),
    "fraction": (put("charge", "gross_nanos", value=2_002.0), "not_a_receipt"),
    "negative": (put("charge", "gross_nanos", value=-1), "not_a_receipt"),
    "truth": (put("charge", "gross_nanos", value=True), "not_a_receipt"),
    "huge": (put("charge", "gross_nanos", value=10**30), "not_a_receipt"),
    "index": (put("index", value=0), "not_in_batch"),
    "index beyond": (put("index", value=5), "not_in_batch"),
    "path": (put("path", 0, value="0" * 64), "not_in_batch"),
    "path in capitals": (put("path", 0, value="A" * 64), "not_a_receipt"),
    "path too short": (put("path", value=[]), "not_in_batch"),
    "root": (put("batch", "root", value="0" * 64), "not_in_batch"),
    "size": (put("batch", "size", value=4), "not_in_batch"),
    "seq": (put("batch", "seq", value=2), "signature_invalid"),
    "previous": (put("batch", "previous", value="0" * 64), "signature_invalid"),
    "sealed_at": (put("batch", "sealed_at", value="2026"), "signature_invalid"),
    "signature": (put("signature", value=encode_base64(bytes(64))), "signature_invalid"),
    "format": (put("format", value="strongroom-receipt/2"), "not_a_receipt"),
    "no charge": (put("charge", value=None), "not_a_receipt"),
    "no batch": (put("batch", value=[]), "not_a_receipt"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_is_noticed(name: str) -> None:
    change, code = CHANGES[name]
    document = copy.deepcopy(seal([make_charge(one) for one in range(5)])[2])
    receipts.verify(document, [PUBLIC])
    change(document)

    with pytest.raises(ReceiptError) as caught:
        receipts.verify(document, [PUBLIC])
    assert caught.value.code == code


def test_a_changed_charge_is_refused_though_its_sums_are_right() -> None:
    document = copy.deepcopy(seal([make_charge(1)])[0])
    document["charge"] |= {"units": {"prediction": 1}, "gross_nanos": 1_001, "creator_nanos": 800}

    with pytest.raises(ReceiptError, match="not_in_batch"):
        receipts.verify(document, [PUBLIC])


def test_another_accounts_receipt_and_another_key_are_refused() -> None:
    [document] = seal([make_charge(1)])
    with pytest.raises(ReceiptError, match="other_consumer"):
        receipts.verify(document, [PUBLIC], consumer_id="01a20000-0000-7000-8000-000000000009")
    for keys in ([], [signature.derive_public_key(OTHER)]):
        with pytest.raises(ReceiptError, match="signature_invalid"):
            receipts.verify(document, keys)


def test_tests_are_free() -> None:
    [document] = seal([make_charge(1, mode="test", gross_nanos=0, creator_nanos=0, transfer=None)])
    assert receipts.verify(document, [PUBLIC]).gross_nanos == 0


def test_a_chain_shows_what_was_taken_out_or_replaced() -> None:
    documents = make_chain(4)
    chain = [publish(one) for one in documents]
    hashes = receipts.verify_batches(chain, [PUBLIC])
    assert set(hashes) == {1, 2, 3, 4}
    for document in documents:
        receipts.check_published(document, hashes)
    # It may begin anywhere.
    assert set(receipts.verify_batches(chain[2:], [PUBLIC])) == {3, 4}

    for wrong in (chain[:1] + chain[2:], [chain[1], chain[0]], [chain[0], chain[0]]):
        with pytest.raises(ReceiptError, match="chain_broken"):
            receipts.verify_batches(wrong, [PUBLIC])
    with pytest.raises(ReceiptError, match="batch_unknown"):
        receipts.check_published(documents[3], receipts.verify_batches(chain[:3], [PUBLIC]))
    # Written anew, by who has the key, without the charge of the second batch.
    [replaced] = seal([make_charge(9)], seq=2, previous=chain[1]["previous"])
    anew = receipts.verify_batches([chain[0], publish(replaced)], [PUBLIC])
    with pytest.raises(ReceiptError, match="batch_replaced"):
        receipts.check_published(documents[1], anew)


# --- The command line -------------------------------------------------------------------


@pytest.fixture
def platform(platform: Platform, config: Path) -> Platform:
    log_in(platform)
    for document in make_chain(3):
        document["platform"] = platform.url
        platform.receipts[document["charge"]["prediction"]] = document
        platform.receipt_batches.append(publish(document))
    platform.receipt_keys = {
        "kid": receipts.derive_kid(PUBLIC),
        "public_key": encode_base64(PUBLIC),
        "successions": [],
    }
    return platform


def test_receipts_are_fetched_and_added_up_offline(platform: Platform, tmp_path: Path) -> None:
    files = [tmp_path / f"{one}.json" for one in (1, 2, 3)]
    for number, file in enumerate(files, start=1):
        told = run("receipt", "fetch", f"prediction{number}", "--out", file).stderr
    assert "cost $0.000002002" in told
    chain = tmp_path / "chain.json"
    run("receipt", "batches", "--out", chain)
    requests = len(platform.requests)

    told = run("verify-receipt", *files, "--batches", chain, "--consumer", CONSUMER).stderr

    assert "Right: 3 receipts, $0.000006006 in all" in told
    # A file that is given twice counts once.
    summed = json.loads(run("verify-receipt", *files, files[0], "--json").stdout)
    assert (summed["receipts"], summed["gross_nanos"], summed["creator_nanos"]) == (3, 6_006, 4_803)
    assert len(platform.requests) == requests
    assert "file_exists" in run("receipt", "fetch", "prediction1", "--out", files[0], code=1).stderr


def test_the_first_wrong_file_is_named(platform: Platform, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    run("receipt", "fetch", "prediction1", "--out", good)
    document = json.loads(good.read_text())
    document["charge"]["gross_nanos"] = 1
    bad.write_text(json.dumps(document))

    refused = run("verify-receipt", good, bad, code=1).stderr
    assert "wrong_sum" in refused
    assert "bad.json" in refused
    for content in ("", "[]", "{}", "[" * 100_000):
        bad.write_text(content)
        assert "not_a_receipt" in run("verify-receipt", bad, code=1).stderr


def test_a_platform_that_lies_is_not_believed(platform: Platform, tmp_path: Path) -> None:
    run("receipt", "fetch", "prediction1")
    platform.receipts["prediction1"] = platform.receipts["prediction2"]
    assert "other_prediction" in run("receipt", "fetch", "prediction1", code=1).stderr
    platform.receipts["prediction1"] = copy.deepcopy(platform.receipts["prediction2"])
    platform.receipts["prediction1"]["charge"]["creator"] = "x"
    assert "not_in_batch" in run("receipt", "fetch", "prediction1", code=1).stderr
    # Another key, which the pinned one did not name.
    platform.receipt_keys["public_key"] = encode_base64(signature.derive_public_key(OTHER))
    assert "receipt_key_changed" in run("receipt", "fetch", "prediction2", code=1).stderr


def test_a_batch_that_is_gone_since_the_last_time_is_named(
    platform: Platform, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier.json"
    run("receipt", "batches", "--out", earlier)
    run("receipt", "batches", "--previous", earlier)
    platform.receipt_batches.pop()

    refused = run("receipt", "batches", "--previous", earlier, code=1).stderr

    assert "batch_replaced: Batch 3" in refused


def test_a_key_is_followed_and_old_receipts_still_hold(platform: Platform, tmp_path: Path) -> None:
    old = tmp_path / "old.json"
    run("receipt", "fetch", "prediction1", "--out", old)
    successor = signature.derive_public_key(OTHER)
    statement = {
        "kid": receipts.derive_kid(successor),
        "public_key": encode_base64(successor),
        "created_at": "2026-11-22T01:00:00.000000Z",
    }
    signed = signature.sign(KEY, receipts.KEY_TYPE, signature.platform_key_payload(**statement))
    platform.receipt_keys = {
        "kid": statement["kid"],
        "public_key": statement["public_key"],
        "successions": [statement | {"signature": encode_base64(signed)}],
    }
    [new] = seal([make_charge(7)], key=OTHER)
    platform.receipts["prediction7"] = {**new, "platform": platform.url}

    told = run("receipt", "fetch", "prediction7", "--out", tmp_path / "new.json").stderr

    assert "names it as its successor" in told
    run("verify-receipt", old, tmp_path / "new.json")


def test_elsewhere_the_key_has_to_be_named(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "one.json"
    run("receipt", "fetch", "prediction1", "--out", file)
    monkeypatch.setenv("STRONGROOM_CONFIG_DIR", str(tmp_path / "fresh"))

    assert "receipt_key_unknown" in run("verify-receipt", file, code=1).stderr
    run("verify-receipt", file, "--receipt-key", encode_base64(PUBLIC))
    wrong = encode_base64(signature.derive_public_key(OTHER))
    assert "signature_invalid" in run("verify-receipt", file, "--receipt-key", wrong, code=1).stderr


def test_before_the_first_batch_it_says_so(platform: Platform) -> None:
    platform.receipt_keys = {"kid": None, "public_key": None, "successions": []}
    assert "sealed no receipts yet" in run("receipt", "batches", code=1).stderr
