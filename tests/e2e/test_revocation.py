"""A creator takes a version back, and then its key, on the running product."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from strongroom.sealing import signature
from strongroom.sealing.canonical import canonicalize, decode_base64
from tests.chaos.children import wait_for
from tests.e2e.conftest import SignIn
from tests.e2e.terminal import Creator, manage, predict
from tests.e2e.test_canary import PUBLISHED_WITHIN_S, publish, try_predict, write_onnx
from tests.stack import Stack

# Of nodes that are reachable, from the withdrawal to the last replica's end.
UNLOADED_WITHIN_S = 30.0


def count_wanted(stack: Stack, version_id: str) -> str:
    """What the desired state and the nodes' reports say of a version."""
    script = (
        "from inference.models import Replica;"
        f"rows = Replica.objects.filter(version='{version_id}').order_by('pk');"
        "print([(one.wanted, one.state) for one in rows])"
    )
    return manage(stack, "shell", "-c", script)


@pytest.mark.timeout(1_900)
def test_a_version_is_withdrawn_unloaded_and_shredded(
    stack: Stack, sign_in: SignIn, tmp_path: Path
) -> None:
    creator = Creator(stack, tmp_path)
    name = f"taken-back-{secrets.token_hex(3)}"
    (tmp_path / name).mkdir()
    written = write_onnx(tmp_path / name)
    publish(stack, creator, name, written)
    model = f"demo/{name}"
    wait_for(lambda: try_predict(stack, model, written.input), model, within_s=PUBLISHED_WITHIN_S)
    version: dict[str, Any] = json.loads(creator.run("versions", model, "--json"))[0]
    assert "ready" in count_wanted(stack, version["id"])
    with pytest.raises(AssertionError, match="version_state"):
        creator.run("model", "shred", f"{model}:1", "--yes")

    page = sign_in("creator")
    creator.run("model", "withdraw", f"{model}:1", "--yes")
    page.goto(f"/dashboard/models/{model}/versions/1/custody")

    # Gateways route nobody to it any more, and its node unloads it.
    key = stack.demo["consumer"]["api_key"]
    assert predict(stack, model, key, written.input).status_code in (404, 410, 503)
    wait_for(
        lambda: "unloaded" in count_wanted(stack, version["id"]),
        "unloaded",
        within_s=UNLOADED_WITHIN_S,
    )
    assert "True" not in count_wanted(stack, version["id"])

    # Whoever has the page of custody open sees both, without a hand of theirs.
    followed = UNLOADED_WITHIN_S * 1_000
    expect(page.locator("#withdrawn")).to_contain_text("loaded nowhere", timeout=followed)
    expect(page.locator("#log tbody tr").first).to_contain_text("Ended")

    proof = json.loads(creator.run("model", "shred", f"{model}:1", "--yes", "--json"))

    said = {name: value for name, value in proof.items() if name != "signature"}
    assert (said["artifact_id"], said["provider"]) == (version["id"], "local")
    platform = httpx.get(f"{stack.demo['web_url']}/api/platform", timeout=30).json()
    public_key = decode_base64(platform["platform_key"]["public_key"])
    signed = decode_base64(proof["signature"])
    signature.verify(public_key, signature.SHRED_TYPE, canonicalize(said), signed)
    assert "ended" in creator.run("audit", "show", f"{model}:1")
