"""Two gateways and two nodes' servers behind one address, while each is killed and comes back.

Paid requests come at a constant rate, half of them with an Idempotency-Key. Nobody fails but who
was in flight on a gateway at the moment of its death; the books add up; and a rolling restart
fails nobody at all.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import open_loop
from bench.balancer import REQUEST_ID, Balancer, Served
from bench.one_address import Death, find_book_faults, find_caught, find_faults
from bench.open_loop import Outcome
from billing.models import UsageEvent
from embedded import ports
from marketplace.core.ids import from_public
from tests.chaos.own_servers import OwnTriton
from tests.gateway.conftest import PRICE_NANOS, REPLICA_IDS, X, check_ledger, make_node, predict
from tests.gateway.processes import GatewayProcess, eventually

RATE, LIMIT_S = 8, 90.0
NAMES = ("one", "two")


@pytest.fixture(scope="module")
def tritons(tmp_path_factory, interface) -> Iterator[list[OwnTriton]]:
    made = [
        OwnTriton(tmp_path_factory.mktemp(f"triton-{number}"), interface, replica_id)
        for number, replica_id in enumerate(REPLICA_IDS)
    ]
    yield made
    for one in made:
        one.stop()


@pytest.fixture(scope="module")
def triton(tritons) -> OwnTriton:
    return tritons[0]


@pytest.fixture(scope="module")
def gateway() -> SimpleNamespace:
    """None: the shop is visited through the balancer only."""
    return SimpleNamespace(url="", grpc_address="")


class Fleet:
    """Gateways on ports that stay, behind one address."""

    def __init__(self, folder: Path, database_url: str, *, drain_s: int = 2, **given: bool) -> None:
        self._folder, self._database_url, self._drain_s = folder, database_url, drain_s
        self.ports = {name: ports.choose() for name in NAMES}
        self.gateways = {name: self._make(name) for name in NAMES}
        self._short = tempfile.TemporaryDirectory(prefix="balancer-")
        self.balancer = Balancer(Path(self._short.name), self.ports, **given)
        self.began_s = time.perf_counter()
        self.deaths: list[Death] = []

    def _make(self, name: str) -> GatewayProcess:
        return GatewayProcess(
            self._folder,
            self._database_url,
            port=self.ports[name],
            STRONGROOM_GATEWAY_COUNT=str(len(NAMES)),
            STRONGROOM_GATEWAY_DRAIN_S=str(self._drain_s),
        )

    def kill(self, name: str) -> None:
        # So that some are in flight there, with a key and without, whatever the moment.
        self.gateways[name].pause()
        self.balancer.wait_busy(name, 4)
        before_s = time.perf_counter() - self.began_s
        self.gateways[name].kill()
        # Its worker was killed with it, and may be gone a moment later.
        deadline = time.monotonic() + 30
        while ports.is_listening(self.ports[name]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.deaths.append(Death(name, before_s, time.perf_counter() - self.began_s))

    def start(self, name: str) -> None:
        self.gateways[name] = self._make(name)

    def restart_gently(self, name: str) -> None:
        """As a rollout does: SIGTERM, wait, a new one, and back. The balancer is told nothing."""
        self.gateways[name].stop()
        self.start(name)
        self.balancer.wait_up(name)

    def stop(self) -> None:
        self.balancer.stop()
        for one in self.gateways.values():
            one.stop()
        self._short.cleanup()


@pytest.fixture
def open_fleet(shop, tritons, database_urls, tmp_path):
    made: list[Fleet] = []

    def make(**given: bool) -> Fleet:
        shop.add_replica(REPLICA_IDS[1], node=make_node("node-2", tritons[1].config.http_url))
        shop.fund(100_000 * PRICE_NANOS)
        made.append(Fleet(tmp_path, database_urls["gateway"], **given))
        return made[-1]

    yield make
    for one in made:
        one.stop()


class Visitors:
    """Paid requests at a constant rate, until told to stop; they go on while others are killed."""

    def __init__(self, fleet: Fleet, key: str) -> None:
        self._fleet = fleet
        self._call = open_loop.make_call(
            fleet.balancer.url, key, "maker/echo", {"x": X, "wait_s": 0.05}, stream=False
        )
        self._is_over = threading.Event()
        self.outcomes: list[Outcome] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """A second after the other, each an open loop of its own, begun in time."""
        threads = []
        while not self._is_over.is_set():
            slot: list[Outcome] = []
            first_s = time.perf_counter() - self._fleet.began_s
            thread = threading.Thread(target=self._send, args=(first_s, len(threads), slot))
            thread.start()
            threads.append((thread, slot))
            time.sleep(1.0)
        for thread, slot in threads:
            thread.join(2 * LIMIT_S)
            assert len(slot) == RATE
            self.outcomes += slot

    def _send(self, first_s: float, second: int, slot: list[Outcome]) -> None:
        starts = [first_s + number / RATE for number in range(RATE)]
        slot += asyncio.run(
            open_loop.drive(
                self._call,
                starts,
                limit_s=LIMIT_S,
                began_s=self._fleet.began_s,
                headers_of=lambda number: headers_of(second * RATE + number),
            )
        )

    def stop(self) -> list[Outcome]:
        self._is_over.set()
        self._thread.join(3 * LIMIT_S)
        assert self.outcomes
        return self.outcomes


def headers_of(number: int) -> dict[str, str]:
    """Its number for the balancer's log; half of them may be sent again."""
    keyed = {"Idempotency-Key": f"visitor-{number}"} if is_keyed(number) else {}
    return {REQUEST_ID: str(number), **keyed}


def is_keyed(number: int) -> bool:
    """Two with a key, two without: dealt out in turn, each gateway gets both kinds."""
    return number // 2 % 2 == 1


def visit(fleet: Fleet, shop, meanwhile: Callable[[], None]) -> list[str]:
    """Faults of a run in which something happens meanwhile."""
    fleet.outcomes = []
    visitors = Visitors(fleet, shop.key.text)
    time.sleep(2)
    try:
        meanwhile()
        time.sleep(2)
    finally:
        fleet.outcomes = visitors.stop()
    return find_faults(fleet.outcomes, read_served(fleet), fleet.deaths)


def read_served(fleet: Fleet) -> dict[int, Served]:
    return {int(name): one for name, one in fleet.balancer.read_served().items() if name != "-"}


def check_books(fleet: Fleet, shop) -> None:
    """Each answer is booked once; what else is booked was in flight, and is not charged again."""
    client = shop.client(url=fleet.balancer.url)
    failed = [number for number, one in enumerate(fleet.outcomes) if one.error]
    answered = [json.loads(one.text)["id"] for one in fleet.outcomes if not one.error]
    keyed = [number for number in failed if is_keyed(number)]

    def repeat(number: int) -> str:
        again = predict(client, headers=headers_of(number), wait_s=0.05)
        assert again.status_code in (200, 201), again.text
        return again.json()["id"]

    # A retry with its key gets the first run, if there was one.
    answered += [eventually(lambda number=n: repeat(number), timeout_s=150) for n in keyed]
    ids = [from_public(one) for one in answered]
    booked = list(UsageEvent.objects.values_list("pk", flat=True))
    undelivered_max = len(failed) - len(keyed)
    assert find_book_faults(ids, booked, undelivered_max) == []
    assert set(UsageEvent.objects.values_list("gross_nanos", flat=True)) == {PRICE_NANOS}
    check_ledger()


@pytest.mark.timeout(900)
def test_only_who_was_in_flight_on_the_dead_fails(open_fleet, shop, tritons):
    fleet = open_fleet()

    def kill_each() -> None:
        for name in NAMES:
            fleet.kill(name)
            time.sleep(1)
            fleet.start(name)
            fleet.balancer.wait_up(name)
            time.sleep(1)
        for one in tritons:
            one.kill()
            time.sleep(1)
            one.start()
            time.sleep(1)

    assert visit(fleet, shop, kill_each) == []
    served = read_served(fleet)
    assert {one.server for one in served.values()} >= set(NAMES)
    caught = find_caught(fleet.outcomes, served, fleet.deaths)
    assert {is_keyed(number) for number in caught} == {True, False}
    check_books(fleet, shop)


@pytest.mark.timeout(900)
def test_rolling_restart_fails_nobody(open_fleet, shop):
    # Without retries: what is sent to a gateway that has stopped would fail.
    fleet = open_fleet(has_retries=False)

    assert visit(fleet, shop, lambda: [fleet.restart_gently(name) for name in NAMES]) == []
    assert [one.error for one in fleet.outcomes if one.error] == []
    assert {one.server for one in read_served(fleet).values()} >= set(NAMES)
    check_books(fleet, shop)


@pytest.mark.timeout(900)
def test_rolling_restart_without_a_drain_is_found_out(open_fleet, shop):
    fleet = open_fleet(has_retries=False, drain_s=0)

    def restart_slowly() -> None:
        for name in NAMES:
            fleet.gateways[name].stop()
            time.sleep(1)
            fleet.start(name)
            fleet.balancer.wait_up(name)

    assert visit(fleet, shop, restart_slowly) != []


@pytest.mark.timeout(900)
def test_balancer_without_checks_and_retries_is_found_out(open_fleet, shop):
    fleet = open_fleet(has_retries=False, has_checks=False)

    def leave_dead() -> None:
        fleet.kill("one")
        time.sleep(2)

    assert visit(fleet, shop, leave_dead) != []


@pytest.mark.parametrize(
    ("_case", "started_s", "ended_s", "served", "count"),
    [
        ("in flight", 9.0, 10.1, Served("one", 502, was_moved=False), 0),
        ("ends with the first moment", 9.0, 10.0, Served("one", 502, was_moved=False), 0),
        ("starts with the last moment", 10.2, 11.0, Served("one", 502, was_moved=False), 0),
        ("sent again and refused", 9.0, 10.5, Served("two", 409, was_moved=True), 0),
        ("over before", 9.0, 9.9, Served("one", 502, was_moved=False), 1),
        ("begun after", 10.3, 11.0, Served("one", 502, was_moved=False), 1),
        ("begun after, sent again", 10.3, 11.0, Served("two", 502, was_moved=True), 1),
        ("on another gateway", 9.0, 10.1, Served("two", 502, was_moved=False), 1),
        ("never seen", 9.0, 10.1, None, 1),
    ],
)
def test_judge_excuses_only_who_was_in_flight(_case, started_s, ended_s, served, count):
    failed = Outcome(9.0, started_s, ended_s, error="status 502")
    answered = Outcome(9.0, started_s, ended_s)
    seen = {0: served, 1: served} if served else {}

    faults = find_faults([failed, answered], seen, [Death("one", 10.0, 10.2)])

    assert len(faults) == count
    assert all("request 0" in one and "status 502" in one for one in faults)
    assert len(find_faults([failed], seen, [])) == 1


@pytest.mark.parametrize(
    ("answered", "booked", "count"),
    [
        ("ab", "ab", 0),
        ("ab", "abc", 0),
        ("ab", "abcd", 1),
        ("ab", "a", 1),
        ("ab", "abb", 1),
        ("aab", "ab", 1),
        ("", "", 0),
    ],
)
def test_books_that_do_not_fit_are_found(answered, booked, count):
    assert len(find_book_faults(answered, booked, undelivered_max=1)) == count
