"""Payouts on the command line: recomputed without a network, and what is wrong is named.

What is refused and why is tested on real payouts in tests/billing/test_payout_document.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from strongroom import payouts, receipts
from strongroom.payouts import (
    AMOUNT_CENTS_MAX,
    FORMAT,
    LINE_BYTES_MAX,
    NANOS_PER_CENT,
    PayoutError,
    PayoutReader,
    VerifiedPayout,
    read_lines,
)
from strongroom.sealing.canonical import encode_base64
from tests.sdk.command_line import log_in, run
from tests.sdk.platform_server import Platform
from tests.sdk.test_receipts import KEY, PUBLIC, make_charge, publish, seal

CREATOR = make_charge(0)["creator"]
PART_NANOS = make_charge(0)["creator_nanos"]
# Makes payouts of whole cents out of what receipts alone would never come to.
GIFT_NANOS = 30 * 10**9


def make_document(
    number: int, *, opening_nanos: int = 0, seq: int = 1, platform: str = "https://platform.example"
) -> list[dict[str, Any]]:
    """A payout for two predictions and a gift."""
    sealed = seal([make_charge(2 * number), make_charge(2 * number + 1)], seq=seq)
    payable_nanos = opening_nanos + 2 * PART_NANOS + GIFT_NANOS
    amount_cents = payable_nanos // NANOS_PER_CENT
    lines: list[dict[str, Any]] = [
        {
            "type": "payout",
            "format": FORMAT,
            "platform": platform,
            "payout": f"payout{number}",
            "creator": CREATOR,
            "created_at": "2026-11-22T00:00:00.000000Z",
            "amount_cents": amount_cents,
            "previous": f"payout{number - 1}" if number > 1 else None,
            "opening_nanos": opening_nanos,
        },
        {
            "type": "movement",
            "kind": "release",
            "transfer": "x",
            "amount_nanos": 2 * PART_NANOS,
            "day": "2026-11-01",
            "predictions": 2,
        },
        {"type": "batch", "batch": sealed[0]["batch"], "signature": sealed[0]["signature"]},
        *(
            {"type": "charge"} | {name: one[name] for name in ("charge", "index", "path")}
            for one in sealed
        ),
        {"type": "movement", "kind": "adjustment", "transfer": "x", "amount_nanos": GIFT_NANOS},
    ]
    closing_nanos = payable_nanos - amount_cents * NANOS_PER_CENT
    return [*lines, {"type": "end", "lines": len(lines) + 1, "closing_nanos": closing_nanos}]


def encode(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def verify(lines: list[dict[str, Any]]) -> VerifiedPayout:
    return PayoutReader([PUBLIC]).verify(encode(lines).splitlines())


@pytest.fixture
def platform(platform: Platform, config: Path) -> Platform:
    log_in(platform)
    first = make_document(1, platform=platform.url)
    left = first[-1]["closing_nanos"]
    second = make_document(2, opening_nanos=left, seq=2, platform=platform.url)
    platform.payout_documents = {"payout1": encode(first), "payout2": encode(second)}
    platform.receipt_keys = {
        "kid": receipts.derive_kid(PUBLIC),
        "public_key": encode_base64(PUBLIC),
        "successions": [],
    }
    platform.payouts["results"] = [
        {
            "id": "payout1",
            "created_at": "2026-11-22T00:00:00Z",
            "state": "paid",
            "amount_cents": 3_005,
            "reason": "",
        }
    ]
    platform.payouts["obstacle"] = {"code": "below_minimum", "detail": "Too little."}
    return platform


def test_payouts_are_fetched_and_recomputed_offline(platform: Platform, tmp_path: Path) -> None:
    files = [tmp_path / f"{one}.jsonl" for one in (1, 2)]
    told = " ".join(run("payout", "fetch", "payout1", "--out", files[0]).stderr.split())
    assert "payout payout1 is $30.00: 2 receipts prove $0.000003202" in told
    run("payout", "fetch", "payout2", "--out", files[1])
    requests = len(platform.requests)

    told = " ".join(run("verify-payout", *files).stderr.split())
    assert told.count("Right:") == 2
    assert "carried forward $0.000003202" in told
    summed = json.loads(run("verify-payout", *files, "--json").stdout)["payouts"]
    assert [one["predictions"] for one in summed] == [2, 2]
    assert summed[1]["opening_nanos"] == summed[0]["closing_nanos"] == 2 * PART_NANOS
    assert len(platform.requests) == requests
    # The other way round they do not follow.
    assert "carry_forward_broken" in run("verify-payout", *reversed(files), code=1).stderr
    assert "file_exists" in run("payout", "fetch", "payout1", "--out", files[0], code=1).stderr


def test_payouts_and_what_stands_in_the_way_are_listed(platform: Platform) -> None:
    told = run("payout", "list", "--account", "acme")

    assert "$30.05" in told.stdout
    assert "Too little." in told.stderr
    assert json.loads(run("payout", "list", "--json").stdout)["obstacle"]["detail"]


def test_what_does_not_hold_is_not_kept(platform: Platform, tmp_path: Path) -> None:
    out = tmp_path / "payout.jsonl"
    whole = platform.payout_documents["payout1"]
    for wrong, code in (
        (whole.replace(b'"amount_cents": 3000', b'"amount_cents": 3001'), "wrong_amount"),
        (whole[: len(whole) // 2], "not_a_payout"),
        (platform.payout_documents["payout2"], "other_payout"),
        (b"", "truncated"),
    ):
        platform.payout_documents["payout1"] = wrong
        assert code in run("payout", "fetch", "payout1", "--out", out, code=1).stderr
    assert list(tmp_path.glob("payout.jsonl*")) == []


def test_the_wrong_file_is_named_with_its_line(platform: Platform, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    lines = make_document(1, platform=platform.url)
    lines[3]["charge"] |= {"prediction": "another"}
    bad.write_bytes(encode(lines))
    run("payout", "fetch", "payout1", "--out", tmp_path / "good.jsonl")

    refused = run("verify-payout", bad, code=1).stderr

    assert "not_in_batch" in refused
    assert "bad.jsonl: Line 4" in refused
    for content in (b"", b"[]", b"{", b"[" * 100_000):
        bad.write_bytes(content)
        assert "not_a_payout" in run("verify-payout", bad, code=1).stderr


def test_batches_must_be_published(platform: Platform, tmp_path: Path) -> None:
    file, chain = tmp_path / "payout.jsonl", tmp_path / "chain.json"
    run("payout", "fetch", "payout1", "--out", file)
    platform.receipt_batches = [publish(seal([make_charge(2), make_charge(3)])[0])]
    run("receipt", "batches", "--out", chain)
    assert "Right" in run("verify-payout", file, "--batches", chain).stderr

    platform.receipt_batches = [publish(seal([make_charge(9)])[0])]
    run("receipt", "batches", "--out", chain, "--force")
    assert "batch_replaced" in run("verify-payout", file, "--batches", chain, code=1).stderr


def test_the_key_can_be_named(platform: Platform, tmp_path: Path) -> None:
    file = tmp_path / "payout.jsonl"
    file.write_bytes(platform.payout_documents["payout1"])

    assert "receipt_key_unknown" in run("verify-payout", file, code=1).stderr
    key = encode_base64(PUBLIC)
    assert "Right" in run("verify-payout", file, "--receipt-key", key).stderr
    other = encode_base64(bytes(32))
    assert "signature_invalid" in run("verify-payout", file, "--receipt-key", other, code=1).stderr


def test_a_line_may_be_so_long_and_no_longer(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_bytes(b"x" * (LINE_BYTES_MAX - 1) + b"\n" + b"x" * (LINE_BYTES_MAX + 1))
    with file.open("rb") as opened:
        lines = read_lines(opened)
        assert len(next(lines)) == LINE_BYTES_MAX
        with pytest.raises(PayoutError, match="not_a_payout"):
            next(lines)


def test_the_largest_amount_leaves_the_rest() -> None:
    lines = make_document(1)
    more = AMOUNT_CENTS_MAX * NANOS_PER_CENT
    lines[5]["amount_nanos"] = more
    lines[0]["amount_cents"] = AMOUNT_CENTS_MAX
    lines[-1]["closing_nanos"] = 2 * PART_NANOS
    assert verify(lines).amount_cents == AMOUNT_CENTS_MAX

    lines[5]["amount_nanos"] = more + NANOS_PER_CENT
    lines[-1]["closing_nanos"] += NANOS_PER_CENT
    assert verify(lines).closing_nanos == 2 * PART_NANOS + NANOS_PER_CENT
    lines[0]["amount_cents"] += 1
    with pytest.raises(PayoutError, match="wrong_amount"):
        verify(lines)


def test_nothing_is_no_payout() -> None:
    lines = make_document(1)
    lines[5]["amount_nanos"] = 0
    lines[0]["amount_cents"] = 0
    lines[-1]["closing_nanos"] = 2 * PART_NANOS

    with pytest.raises(PayoutError, match="wrong_amount"):
        verify(lines)


def test_control_without_the_memory_of_what_came_a_double_would_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = make_document(1)
    lines[1] |= {"predictions": 3, "amount_nanos": 3 * PART_NANOS}
    doubled = [*lines[:4], lines[3], *lines[4:]]
    doubled[-1] |= {"lines": len(doubled), "closing_nanos": 3 * PART_NANOS}
    with pytest.raises(PayoutError, match="counted_twice"):
        verify(doubled)

    class Forgetful(set):
        def add(self, _one: object) -> None:
            pass

    reader = PayoutReader([PUBLIC], _seen=Forgetful())
    assert reader.verify(encode(doubled).splitlines()).predictions == 3
    assert payouts.CHARGES_MAX > 1
    assert KEY
