"""A prediction that runs later, of a version that sleeps, told by webhooks that are checked."""

from __future__ import annotations

import base64
import io
import re
import time
import wave
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from embedded.demo import speech
from inference.gateway.config import NODE_TTL_S
from tests.e2e.conftest import SignIn
from tests.inference.receivers import Receiver, receive
from tests.stack import Stack

MODEL = f"demo/{speech.NAME}"
# The least that a creator may choose.
IDLE_AFTER_S = 60
# Everything around it may be busy: what is asked is that it comes, not when.
PATIENCE_S = 480.0
# Of a webhook; what is larger is fetched.
MESSAGE_BYTES_MAX = 64 * 1024


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as opened:
        yield opened


@pytest.fixture
def consumer(stack: Stack) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {stack.demo['consumer']['api_key']}"}
    with httpx.Client(base_url=stack.demo["gateway_url"], headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def sleeping(stack: Stack, consumer: httpx.Client) -> Iterator[Callable[[], str]]:
    """Puts the model to sleep, as its creator chooses; returns what tells its state.

    In the end it is awake, for the tests after these.
    """
    headers = {"Authorization": f"Bearer {stack.demo['creator']['api_token']}"}
    url = f"{stack.demo['web_url']}/api/models/{MODEL}/deployments/1"
    with httpx.Client(headers=headers, timeout=60) as client:

        def choose(idle_after_s: int | None) -> None:
            policy = {"idle_after_s": idle_after_s, "is_always_warm": False}
            client.put(url, json=policy).raise_for_status()

        def find_state() -> str:
            return client.get(url).raise_for_status().json()["state"]

        choose(IDLE_AFTER_S)
        wait_for(lambda: find_state() == "cold")
        yield find_state
        choose(None)
        body = {"input": {"text": speech.SENTENCES[0]}}
        wait_for(
            lambda: consumer.post(f"/v1/models/{MODEL}/predictions", json=body).status_code == 201
        )


def wait_for(check: Callable[[], Any]) -> Any:
    """What a check finds, once it finds something."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := check()):
        assert time.monotonic() < deadline_s
        time.sleep(0.5)
    return found


def show_secret(sign_in: SignIn) -> str:
    """What signs the webhooks of single predictions, as its owner reads it."""
    page = sign_in("consumer")
    page.goto("/console/webhooks")
    page.get_by_role("button", name="Show the signing secret").click()
    return page.locator("#secret").inner_text()


@pytest.mark.timeout(1800)
def test_a_sleeping_model_speaks_later_and_tells(stack, sign_in, sleeping, consumer, receiver):
    secret = show_secret(sign_in)
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]+=*", secret)

    accepted = consumer.post(
        f"/v1/models/{MODEL}/predictions",
        json={
            "input": {"text": speech.SENTENCES[0]},
            "webhook": receiver.url,
            "webhook_events_filter": ["start", "completed"],
        },
        headers={"Prefer": "respond-async"},
    )

    assert accepted.status_code == 202, accepted.text
    job = accepted.json()
    assert job["status"] == "starting"
    assert job["output"] is None
    url = job["urls"]["get"]

    def look() -> dict[str, Any]:
        return consumer.get(url).raise_for_status().json()

    done = wait_for(lambda: (seen := look())["status"] not in ("starting", "processing") and seen)
    assert done["status"] == "succeeded", done
    assert done["metrics"]["cost_nano_usd"] == speech.PRICE_NANOS
    # The load is not part of what it took, and nobody pays for it.
    assert done["metrics"]["predict_time"] < done["metrics"]["total_time"]
    assert sleeping() == "warm"
    kind, _, data = done["output"]["speech"].partition(",")
    assert kind == "data:audio/wav;base64"
    with wave.open(io.BytesIO(base64.b64decode(data))) as sound:
        assert sound.getnframes() / sound.getframerate() > 1

    wait_for(lambda: len(receiver.seen) >= 2)
    told = [one.verify(secret) for one in receiver.seen]
    # Each shows the prediction as it was when it left; so much sound is too large for a message.
    assert {one["id"] for one in told} == {job["id"]}
    assert {one["status"] for one in told} <= {"processing", "succeeded"}
    assert "succeeded" in {one["status"] for one in told}
    assert {one["output"] for one in told} == {None}
    assert len(data) > MESSAGE_BYTES_MAX
    # Each in the log, delivered.
    page = sign_in("consumer")
    page.goto("/console/webhooks/deliveries")
    links = page.locator(f"tbody a[href*='{job['id']}']")
    assert links.count() == 2, page.locator("main").inner_text()


@pytest.fixture
def drained(sign_in: SignIn) -> Iterator[None]:
    """An admin has the node take no more, for as long as the test runs."""
    page = sign_in("admin")

    def do(action: str, told: str) -> None:
        page.goto("/admin/inference/node/")
        page.locator("input.action-select").first.check()
        page.select_option("select[name=action]", action)
        page.click("button[name=index]")
        page.get_by_text(told).wait_for()

    do("drain", "drains.")
    # Gateways believe for so long what they know of a node.
    time.sleep(NODE_TTL_S + 1)
    yield
    do("undrain", "takes work again.")


def test_one_that_waits_is_canceled_and_costs_nothing(drained, consumer):
    accepted = consumer.post(
        f"/v1/models/{MODEL}/predictions",
        json={"input": {"text": speech.SENTENCES[1]}, "priority": "batch"},
        headers={"Prefer": "respond-async, wait=2"},
    )
    job = accepted.json()
    assert job["progress"]["stage"] == "queued", job
    assert job["progress"]["position"] == 1

    canceled = consumer.post(job["urls"]["cancel"])

    assert canceled.status_code == 200, canceled.text
    assert canceled.json()["status"] == "canceled"
    seen = consumer.get(job["urls"]["get"]).json()
    assert (seen["status"], seen["metrics"]["cost_nano_usd"]) == ("canceled", 0)
