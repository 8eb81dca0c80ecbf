"""A gateway that is told to stop says so first, and loses nobody."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from embedded import ports
from inference.gateway.closing import DRAIN_S, DRAIN_S_MAX, DRAIN_SETTING, read_drain_s
from marketplace.core.env import SettingError
from tests.gateway.conftest import PRICE_NANOS, check_books, predict
from tests.gateway.processes import GatewayProcess, eventually, with_grpc

pytestmark = pytest.mark.django_db(transaction=True)
# Longer than a request takes on a busy machine, shorter than anybody likes to wait.
LONG_S = "30"


def ask(gateway: GatewayProcess, part: str) -> httpx.Response:
    return httpx.get(f"{gateway.url}/health/{part}", timeout=10)


def wait_draining(gateway: GatewayProcess) -> None:
    def look() -> None:
        answer = ask(gateway, "ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")

    eventually(look)


def test_it_says_so_and_answers_on(shop, start_gateway):
    gateway = start_gateway(**{DRAIN_SETTING: LONG_S})
    client = shop.client(url=gateway.url)
    before = predict(client)
    assert ask(gateway, "ready").status_code == 200

    gateway.tell_to_stop()
    wait_draining(gateway)

    after = predict(client)
    assert (before.status_code, after.status_code) == (201, 201)
    # A client that keeps its connection is asked to look for another gateway.
    assert "connection" not in before.headers
    assert after.headers["connection"] == "close"
    assert ask(gateway, "live").status_code == 200
    # The database is well: that is not why.
    assert ask(gateway, "ready").json()["database"] is True
    assert gateway.process.poll() is None
    check_books(shop, [before.json()["id"], after.json()["id"]])


def test_a_second_signal_ends_the_drain_and_not_what_runs(shop, start_gateway):
    gateway = start_gateway(**with_grpc(**{DRAIN_SETTING: LONG_S}))
    client = shop.client(url=gateway.url)
    gateway.tell_to_stop()
    wait_draining(gateway)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(predict, client, wait_s=2)
        eventually(lambda: count_open(gateway))
        began_s = time.monotonic()

        gateway.tell_to_stop()

        answer = running.result()
    assert answer.status_code == 201
    assert gateway.process.wait(20) == 0
    assert time.monotonic() - began_s < int(LONG_S)
    assert not ports.is_listening(gateway.port)
    check_books(shop, [answer.json()["id"]])


def count_open(gateway: GatewayProcess) -> None:
    text = httpx.get(f"{gateway.url}/metrics", timeout=10).text
    lines = [one for one in text.splitlines() if one.startswith("strongroom_gateway_open_requests")]
    assert any(float(one.split()[-1]) > 0 for one in lines), lines


def test_it_ends_by_itself_when_the_drain_is_over(shop, start_gateway):
    gateway = start_gateway(**{DRAIN_SETTING: "1"})
    shop.fund(1_000 * PRICE_NANOS)
    client = shop.client(url=gateway.url)
    is_over = threading.Event()
    answers: list[int] = []

    def visit() -> None:
        """Until it is gone; what begins during the drain ends after it."""
        while not is_over.is_set():
            try:
                answers.append(predict(client, wait_s=0.3).status_code)
            except httpx.ConnectError:
                return

    with ThreadPoolExecutor(1) as pool:
        visiting = pool.submit(visit)
        eventually(lambda: check(answers))
        gateway.tell_to_stop()
        code = gateway.process.wait(30)
        is_over.set()
        visiting.result()

    assert code == 0
    assert set(answers) == {201}


def check(answers: list[int]) -> None:
    assert answers


def test_without_a_drain_it_never_says_so(shop, start_gateway):
    gateway = start_gateway(**{DRAIN_SETTING: "0"})
    states = {ask(gateway, "ready").status_code}
    gateway.tell_to_stop()
    while gateway.process.poll() is None:
        try:
            states.add(ask(gateway, "ready").status_code)
        except httpx.HTTPError:
            break

    assert gateway.process.wait(20) == 0
    assert states == {200}


@pytest.mark.parametrize(
    ("text", "seconds"), [("", DRAIN_S), ("0", 0), (str(DRAIN_S_MAX), DRAIN_S_MAX)]
)
def test_setting_at_its_limits(monkeypatch, text, seconds):
    monkeypatch.setenv(DRAIN_SETTING, text)
    assert read_drain_s() == seconds


@pytest.mark.parametrize("text", ["-1", str(DRAIN_S_MAX + 1), "soon", "1.5"])
def test_setting_past_its_limits(monkeypatch, text):
    monkeypatch.setenv(DRAIN_SETTING, text)
    with pytest.raises(SettingError, match=DRAIN_SETTING):
        read_drain_s()
