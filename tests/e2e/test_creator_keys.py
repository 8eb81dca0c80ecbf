"""A creator's keys: a version comes back, and another machine seals it anew under new ones."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from strongroom.config import IDENTITY_FILE, ConfigFolder
from tests.e2e.conftest import SignIn
from tests.e2e.terminal import Creator, manage, predict
from tests.e2e.test_main_job import PRICE, X, Y, write_model
from tests.e2e.test_pages import LOOKS
from tests.faults import find_faults
from tests.stack import Stack


@pytest.mark.timeout(1_900)
def test_a_version_is_recovered_and_sealed_anew(
    stack: Stack, sign_in: SignIn, new_page, tmp_path: Path
) -> None:
    name = f"affine-{secrets.token_hex(3)}"
    model = f"demo/{name}"
    (tmp_path / name).mkdir()
    write_model(tmp_path / name)
    first = Creator(stack, tmp_path)
    first.init(name, title="Tiny linear", price=PRICE)
    pushed = json.loads(first.run("push", name, "--wait", "--json"))
    approve(stack, pushed["id"])

    # From the real store, by the creator's own key alone.
    first.run("model", "recover", f"{model}:1", "back")
    back, source = tmp_path / "back" / "model.onnx", tmp_path / name / "model.onnx"
    assert back.read_bytes() == source.read_bytes()
    shutil.rmtree(tmp_path / name)

    # Another machine: the data key is changed, with a signing key that nobody knows yet.
    (tmp_path / "other").mkdir()
    other = Creator(stack, tmp_path / "other", has_own_keys=True)
    saved = first.config / IDENTITY_FILE
    resealed = json.loads(
        other.run("model", "reseal", f"{model}:1", "--recovery-file", str(saved), "--json")
    )
    assert resealed["version"] == 2
    page = sign_in("creator")
    wait_for_review(page, other, model)
    with pytest.raises(AssertionError, match="signing_key_cooling"):
        approve(stack, resealed["id"], "--key-confirmed")

    # The owner confirms the key, with the password.
    fingerprint = ConfigFolder(other.config).load_identity().fingerprint
    page.goto("/dashboard/signing-keys?account=demo")
    state = page.context.storage_state()
    page.locator("tr", has_text=fingerprint).get_by_role("link", name="Confirm").click()
    assert fingerprint in page.inner_text("main")
    question = page.url
    page.fill("input[name=password]", stack.demo["creator"]["password"])
    for look in LOOKS.values():
        seen = new_page(base_url=stack.demo["web_url"], storage_state=state, **look)
        for url in ("/dashboard/signing-keys?account=demo", question, _revoke(question)):
            seen.goto(url)
            assert find_faults(seen) == [], url
            width = seen.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert width <= 0, f"{url} scrolls sideways by {width} px"
    page.click("text=Confirm the key")
    page.get_by_text("The key is confirmed.").wait_for()

    # The reviewer is asked as well.
    admin = sign_in("admin")
    admin.goto("/admin/marketplace/modelversion/?state__exact=in_review")
    admin.locator("tr", has_text=f"{model}:2").locator("input.action-select").check()
    admin.select_option("select[name=action]", "approve")
    admin.click("button[name=index]")
    assert "Signed by a new key" in admin.inner_text("body")
    assert fingerprint in admin.inner_text("body")
    admin.fill("textarea[name=reason]", "Asked them on the phone.")
    admin.check(f"input[name=confirmed-{resealed['id']}]")
    admin.click("input[value=Approve]")
    admin.get_by_text(f"{model}:2: done.").wait_for()

    other.run("publish", model, "2")
    listed = json.loads(other.run("signing-key", "list", "--json"))
    (own,) = [one for one in listed if one["fingerprint"] == fingerprint]
    assert (own["state"], own["last_used_for"]) == ("trusted", f"{model}:2")
    for _ in range(60):
        answer = predict(stack, f"{model}", stack.demo["consumer"]["api_key"], {"x": X})
        if answer.status_code not in (404, 503):
            break
        admin.wait_for_timeout(1_000)
    assert answer.status_code == 201, answer.text
    assert answer.json()["output"] == {"y": Y}


def approve(stack: Stack, version_id: str, *flags: str) -> None:
    email = stack.demo["admin"]["email"]
    decision = ("--approve", "--reason", "Test.", "--email", email)
    manage(stack, "review_version", version_id, *decision, *flags)


def wait_for_review(page, creator: Creator, model: str) -> None:
    for _ in range(240):
        newest = json.loads(creator.run("versions", model, "--json"))[0]
        if newest["state"] == "in_review":
            return
        assert newest["state"] == "onboarding", newest
        page.wait_for_timeout(500)
    raise subprocess.TimeoutExpired("onboarding", 120)


def _revoke(url: str) -> str:
    return re.sub(r"confirm$", "revoke", url)
