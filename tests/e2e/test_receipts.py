"""On the running product: what was paid for has a receipt within a minute, and it holds offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.chaos.children import wait_for
from tests.e2e.conftest import SignIn
from tests.e2e.terminal import Creator, manage, predict
from tests.faults import find_faults
from tests.stack import Stack

SEALED_WITHIN_S = 60.0
MODEL = "demo/digits"


@pytest.mark.timeout(600)
def test_consumer_and_creator_prove_a_charge(stack: Stack, sign_in: SignIn, tmp_path: Path) -> None:
    example = next(one for one in stack.demo["models"] if one["name"] == MODEL)["example_input"]
    key = stack.demo["consumer"]["api_key"]
    answer = predict(stack, MODEL, key, example)
    assert answer.status_code == 201, answer.text
    prediction = answer.json()["id"]
    url = f"{stack.demo['gateway_url']}/v1/predictions/{prediction}/receipt"
    found: list[dict[str, Any]] = []

    def fetch() -> bool:
        got = httpx.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        assert got.status_code in (200, 409), got.text
        if got.status_code == 200:
            found.append(got.json())
        return bool(found)

    wait_for(fetch, "a receipt", within_s=SEALED_WITHIN_S)
    theirs = tmp_path / "theirs.json"
    theirs.write_text(json.dumps(found[0]))
    creator = Creator(stack, tmp_path)
    ours, chain = tmp_path / "ours.json", tmp_path / "chain.json"
    creator.run("receipt", "fetch", prediction, "--out", str(ours))
    creator.run("receipt", "batches", "--out", str(chain))

    # One and the same, and each holds.
    assert json.loads(ours.read_text()) == found[0]
    summed = json.loads(
        creator.run("verify-receipt", str(ours), str(theirs), "--batches", str(chain), "--json")
    )
    assert summed["receipts"] == 1
    assert summed["gross_nanos"] == answer.json()["metrics"]["cost_nano_usd"]
    # The control: a nano-dollar less.
    found[0]["charge"]["gross_nanos"] -= 1
    theirs.write_text(json.dumps(found[0]))
    with pytest.raises(AssertionError, match="wrong_sum"):
        creator.run("verify-receipt", str(theirs))
    assert "BROKEN" not in manage(stack, "receipts_check")

    page = sign_in("consumer")
    page.goto(f"/predictions/{prediction}")
    assert find_faults(page) == []
    page.get_by_role("link", name="Signed proof").press("Enter")
    expect(page.locator("body")).to_contain_text('"strongroom-receipt/1"')
