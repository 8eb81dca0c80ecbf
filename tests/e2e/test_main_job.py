"""The main job, as its people do it: push, approve, buy credit, predict, and compare notes."""

from __future__ import annotations

import json
import os
import re
import secrets
from pathlib import Path

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.e2e.conftest import SignIn
from tests.e2e.terminal import Creator, manage, predict
from tests.stack import Stack

WEIGHTS = numpy.array([[1, 0], [0, 2], [1, 1]], numpy.float32)
BIAS = numpy.array([0.5, -0.5], numpy.float32)
X = [1.0, 2.0, 3.0]
Y = [4.5, 6.5]
PRICE = "0.002"
TOPUP = "12.50"


def write_model(folder: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(WEIGHTS, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
    vectors = [{"input": {"x": X}, "expected": {"y": Y}, "tolerance": 1e-6}]
    (folder.parent / "vectors.json").write_text(json.dumps(vectors))


def read_stat(text: str, label: str) -> str:
    """The amount below a label, in the text of a page."""
    found = re.search(rf"{label}\s+(\$[\d.,]+)", text)
    assert found, text
    return found[1]


def dollars(text: str) -> int:
    from marketplace.core.money import parse_dollars

    return parse_dollars(text)


@pytest.mark.timeout(1_900)
def test_push_approve_buy_and_predict(stack: Stack, sign_in: SignIn, tmp_path: Path) -> None:
    name = f"affine-{secrets.token_hex(3)}"
    model = f"demo/{name}"
    folder = tmp_path / name
    folder.mkdir()
    write_model(folder)
    creator = Creator(stack, tmp_path)
    creator.init(name, title="Tiny linear", price=PRICE)
    pushed = creator.run("push", name, "--wait")
    assert "in_review" in pushed

    # The admin approves in the console, with a reason.
    admin = sign_in("admin")
    admin.goto("/admin/marketplace/modelversion/?state__exact=in_review")
    admin.locator("tr", has_text=f"{model}:1").locator("input.action-select").check()
    admin.select_option("select[name=action]", "approve")
    admin.click("button[name=index]")
    admin.fill("textarea[name=reason]", "Small, and its vectors pass.")
    admin.click("input[value=Approve]")
    admin.get_by_text(f"{model}:1: done.").wait_for()

    # The consumer buys credit on Stripe's page and makes a key.
    consumer = sign_in("consumer")
    consumer.goto("/console/wallet")
    before = dollars(read_stat(consumer.inner_text("body"), "Balance"))
    consumer.fill("input[name=amount_dollars]", TOPUP)
    consumer.click("text=Continue to payment")
    consumer.wait_for_url("**/checkout/**")
    consumer.click("button:has-text('Pay')")
    consumer.wait_for_url("**/console/topups/**")
    consumer.get_by_text(f"${TOPUP} were added").wait_for()
    consumer.goto("/console/keys/new")
    consumer.fill("input[name=name]", "end to end")
    consumer.click("main form button")
    key = re.search(r"sk_live_[0-9A-Za-z]{38}", consumer.content())[0]

    # The version is on sale once a replica is ready.
    deadline_tries = 60
    for _ in range(deadline_tries):
        answer = predict(stack, model, key, {"x": X})
        if answer.status_code not in (404, 503):
            break
        admin.wait_for_timeout(1_000)
    assert answer.status_code == 201, answer.text
    assert answer.json()["output"] == {"y": Y}
    assert answer.json()["metrics"]["cost_nano_usd"] == dollars(PRICE)
    refused = predict(stack, model, key, {"x": [1.0, 2.0]})
    assert refused.status_code == 422

    # Consumer, creator and admin see the same amounts.
    prediction_id = answer.json()["id"]
    consumer.goto("/console/usage")
    row = consumer.locator("tr", has_text=prediction_id)
    assert f"${PRICE}" in row.inner_text()
    consumer.goto("/console/wallet")
    after = dollars(read_stat(consumer.inner_text("body"), "Balance"))
    assert after == before + dollars(TOPUP) - dollars(PRICE)
    person = sign_in("creator")
    person.goto("/dashboard/earnings")
    earned = person.locator("tr", has_text=model).inner_text()
    assert f"${PRICE}" in earned
    assert "$0.0016" in earned
    admin.goto("/admin/billing/usageevent/")
    assert f"${PRICE}" in admin.locator("tr", has_text=prediction_id).inner_text()
    admin.goto("/admin/billing/ledgeraccount/?kind__exact=wallet")
    from marketplace.core.money import format_nanos

    assert format_nanos(after) in admin.locator("tr", has_text="acme").inner_text()
    assert "BROKEN" not in manage(stack, "ledger_check")
    assert "BROKEN" not in manage(stack, "audit_check")


def test_every_demo_model_is_served(stack: Stack) -> None:
    key = stack.demo["consumer"]["api_key"]

    for model in stack.demo["models"]:
        answer = predict(stack, model["name"], key, model["example_input"])
        assert answer.status_code == 201, answer.text
        assert answer.json()["status"] == "succeeded"


def test_a_page_tries_a_model_and_shows_its_cost(stack: Stack, sign_in: SignIn) -> None:
    page = sign_in("consumer")
    page.goto("/demo/sentence-embeddings")
    page.get_by_label("text", exact=True).fill("A man is eating pizza")
    page.click("button:has-text('Run')")

    page.get_by_text("Cost $0.0001").wait_for()


def test_a_stranger_sees_the_catalogue_and_no_console(stack: Stack, new_page) -> None:
    page = new_page(base_url=stack.demo["web_url"])
    page.goto("/")
    for model in stack.demo["models"]:
        assert model["name"] in page.inner_text("main")
    page.goto("/console")

    assert "/login" in page.url


def test_the_environment_of_the_node_holds_no_database(stack: Stack) -> None:
    for part, has_database in (("node", False), ("web", True)):
        environ = Path(f"/proc/{stack.pid_of(part)}/environ").read_bytes()
        assert (b"DATABASE_URL" in environ) is has_database, part
    assert os.environ.get("STRONGROOM_HOME") != str(stack.home)
