"""Nodes that pull, clients that hand jobs in, and who may kill which of them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from django.db import connection
from django.utils import timezone

from inference.models import APIRequest, Job, Node
from inference.triton.repository import model_name
from marketplace.core.ids import from_public, new_id
from tests.chaos.market import DEAD_AFTER_S, Servers
from tests.chaos.own_servers import OwnPostgres, OwnTriton, Seat
from tests.chaos.postman import Postman
from tests.chaos.queue_judge import Told
from tests.gateway.conftest import Shop
from tests.gateway.processes import ROOT, Wire, eventually
from tests.gateway.pulling import give_token

SLOT_COUNT = 2
OPEN_STATES = ("queued", "leased", "running")
LEASED_STATES = ("leased", "running")
# Of a hundred jobs: how many their client cancels, and how many have a model that fails.
CANCEL_PERCENT, FAIL_PERCENT = 6, 3
# So many run longer than the rest, and so long.
LONG_PER_S, LONG_S = 2.0, (0.5, 2.0)
ANSWER_TIMEOUT_S = 30.0
RETRY_S = 0.25
# Somebody else must have time to take what was lost.
BACK_WITHIN_S = 120.0


class NodeProcess:
    """A place for a node: after each death another process sits there, with the same identity.

    It reaches its gateway over a wire of its own, which can be cut while it runs on.
    """

    def __init__(
        self, folder: Path, node: Node, seat: Seat, triton: OwnTriton, version_id: UUID
    ) -> None:
        self.node, self.seat, self.triton = node, seat, triton
        self.wire = Wire(0)
        self.aim()
        self.journal_path = folder / f"{node.name}.jsonl"
        self._log_path = folder / f"{node.name}.log"
        settings = {
            "gateway_url": f"http://127.0.0.1:{self.wire.port}",
            "token": give_token(node),
            "grpc_url": triton.config.grpc_url,
            "secret": triton.config.secret,
            "version_id": str(version_id),
            "model": model_name(triton.replica_id),
            "slot_count": SLOT_COUNT,
            "journal": str(self.journal_path),
        }
        self._command = [sys.executable, "-m", "tests.chaos.pulling_node", json.dumps(settings)]
        self.start()

    def aim(self) -> None:
        """The wire ends where the gateway is now."""
        self.wire.target_port = urlsplit(self.seat.url).port or 0

    def start(self) -> None:
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"}
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
        self.wire.close()

    def read_told(self) -> list[Told]:
        """What it was answered; a line that its death cut off is none."""
        lines = self.journal_path.read_text().split("\n")[:-1] if self.journal_path.exists() else []
        found = [json.loads(one) for one in lines]
        return [Told(UUID(one["job_id"]), one["epoch"], one["outcome"]) for one in found]

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")


class Feeder(threading.Thread):
    """Hands jobs in under idempotency keys, and asks until each is accepted.

    Args:
        number: Its own.
        key: Of the API.
        seats: Of the gateways, by turns.
        seed: Decides what it wants.
        pause_s: Between two jobs.
        long: How many of its jobs run long, as a share.
    """

    def __init__(
        self,
        number: int,
        key: str,
        seats: Sequence[Seat],
        seed: int,
        *,
        pause_s: float,
        long: float,
    ) -> None:
        super().__init__(name=f"feeder-{number}", daemon=True)
        self._number = number
        self._random = random.Random(f"{seed}-{number}")
        self._seats = seats
        self._pause_s, self._long = pause_s, long
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"}, timeout=ANSWER_TIMEOUT_S
        )
        self._is_stopping = threading.Event()
        self.outputs: dict[UUID, dict[str, Any]] = {}
        self.canceled: set[UUID] = set()
        self.failing: set[UUID] = set()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._is_stopping.is_set():
                self._hand_in()
                time.sleep(self._pause_s)
        except Exception as error:  # noqa: BLE001 - told by `count_accepted`
            self.error = error
        finally:
            self._client.close()

    def finish(self) -> None:
        self._is_stopping.set()

    def _hand_in(self) -> None:
        chance = self._random.random()
        count = len(self.outputs)
        given: dict[str, Any] = {"x": [self._number, count % 100, count // 100, 1]}
        if chance < self._long:
            given["wait_s"] = self._random.uniform(*LONG_S)
        elif chance > 1 - FAIL_PERCENT / 100:
            given["mode"] = "fail"
        key = {"Idempotency-Key": str(new_id()), "Prefer": "respond-async"}
        priority = self._random.choice(["high", "normal", "batch"])
        document = self._insist(
            "/v1/models/maker/echo/predictions", {"input": given, "priority": priority}, key
        )
        job_id = from_public(document["id"])
        self.outputs[job_id] = {"y": [2.0 * one for one in given["x"]]}
        if "mode" in given:
            self.failing.add(job_id)
        if self._random.random() * 100 < CANCEL_PERCENT:
            self.canceled.add(job_id)
            self._insist(f"/v1/predictions/{document['id']}/cancel", {}, {})

    def _insist(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        while True:
            url = self._random.choice(self._seats).url
            try:
                answer = self._client.post(url + path, json=body, headers=headers)
            except httpx.HTTPError:
                time.sleep(RETRY_S)
                continue
            if answer.status_code in (200, 202):
                return dict(answer.json())
            # Busy, or being restarted, or with somebody who has died.
            if answer.status_code not in (409, 429) and answer.status_code < 500:
                raise AssertionError(answer.text)
            time.sleep(RETRY_S)


@dataclass
class Fleet:
    """A shop whose jobs nodes pull through two gateways."""

    shop: Shop
    servers: Servers
    seats: Sequence[Seat]
    postman: Postman
    nodes: list[NodeProcess] = field(default_factory=list)
    feeders: list[Feeder] = field(default_factory=list)

    def feed(self, count: int, *, jobs_per_s: float, seed: int) -> None:
        """Send clients in."""
        for number in range(count):
            pause_s, long = count / jobs_per_s, min(0.5, LONG_PER_S / jobs_per_s)
            key = self.shop.key.text
            self.feeders.append(Feeder(number, key, self.seats, seed, pause_s=pause_s, long=long))
        for one in self.feeders:
            one.start()

    def count_accepted(self) -> int:
        assert [one.error for one in self.feeders if one.error] == []
        return sum(len(one.outputs) for one in self.feeders)

    def list_told(self) -> list[Told]:
        return [told for one in self.nodes for told in one.read_told()]

    def count_stale(self) -> int:
        return sum(one.outcome == "stale" for one in self.list_told())

    def forget_the_dead(self) -> None:
        """Put the clock forward for idempotency keys that nobody works on any more."""
        born_before = timezone.now() - timedelta(seconds=DEAD_AFTER_S)
        APIRequest.objects.filter(completed_at=None, created_at__lt=born_before).update(
            claimed_until=timezone.now()
        )

    def end_leases(self, node: Node) -> int:
        """Put the clock forward for what a node has: nobody has heard of it for too long."""
        held = Job.objects.filter(lease_node_id=node.pk, state__in=LEASED_STATES)
        leases = set(held.values_list("pk", "lease_epoch"))
        held.update(lease_until=timezone.now() - timedelta(seconds=1))

        def check() -> None:
            assert not leases & set(held.values_list("pk", "lease_epoch"))

        eventually(check, timeout_s=BACK_WITHIN_S)
        return len(leases)

    def stop_feeding(self) -> None:
        for one in self.feeders:
            one.finish()
        for one in self.feeders:

            def check(one: Feeder = one) -> None:
                self.forget_the_dead()
                assert not one.is_alive()

            eventually(check, timeout_s=BACK_WITHIN_S)
        self.count_accepted()

    def wait_until_over(self) -> None:
        """Until nothing waits or runs, however much there is."""
        left_count = Job.objects.filter(state__in=OPEN_STATES).count()

        def check() -> None:
            left = Job.objects.filter(state__in=OPEN_STATES)
            assert not left.exists(), [(one.pk, one.state, one.error) for one in left[:5]]

        eventually(check, timeout_s=2 * BACK_WITHIN_S + left_count / 2)


class Blows:
    """Kills and cuts, in an order that a seed decides; each of the deck comes once at least."""

    DECK = (
        ("node",),
        ("node", "node"),
        ("node", "triton"),
        ("triton",),
        ("gateway",),
        ("gateway", "node"),
        ("postgres",),
        ("postgres", "gateway"),
        ("redis",),
        ("redis", "postgres"),
        ("flush",),
        ("postman",),
        ("postman", "postgres"),
        ("cut",),
        ("cut", "gateway"),
        ("cut for long",),
        ("cut for long",),
    )

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self.fleet = fleet
        self.lines: list[str] = []
        self._random = random.Random(seed)
        self._deck = self._random.sample(self.DECK, len(self.DECK))

    def is_any_spared(self) -> bool:
        return len(self.lines) < len(self.DECK)

    def strike(self) -> None:
        """Kill or cut what the next card says, wait a moment, and bring it back."""
        if not self._deck:
            self._deck = self._random.sample(self.DECK, len(self.DECK))
        card = self._deck.pop()
        began_s = time.monotonic()
        cut = self._random.choice(self.fleet.nodes)
        if "cut for long" in card:
            self._wait_busy(cut)
        if card[0].startswith("cut"):
            cut.wire.cut()
        victims = self._choose(card)
        for one in victims:
            one.kill()
        if "flush" in card:
            with self.fleet.servers.redis.client() as client:
                client.flushall()
        time.sleep(self._random.uniform(0.0, 0.6))
        self._bring_back(victims)
        if "cut for long" in card:
            # It runs on and knows nothing; its jobs go to others.
            self.fleet.end_leases(cut.node)
        cut.wire.mend()
        self.fleet.forget_the_dead()
        self.lines.append(f"{' + '.join(card):20} {time.monotonic() - began_s:5.1f} s")

    def _choose(self, card: tuple[str, ...]) -> list[Any]:
        fleet, draw = self.fleet, self._random.sample
        victims: list[Any] = [*draw(fleet.nodes, card.count("node"))]
        victims += draw(list(fleet.seats), card.count("gateway"))
        if "postgres" in card:
            victims.append(fleet.servers.postgres)
            connection.close()
        if "redis" in card:
            victims.append(fleet.servers.redis)
        if "postman" in card:
            victims.append(fleet.postman)
        if "triton" in card:
            victims += draw(list(fleet.servers.tritons), 1)
        return draw(victims, len(victims))

    def _bring_back(self, victims: Sequence[Any]) -> None:
        # A gateway is ready only where there is a Postgres, and a node finds its gateway by a port.
        order: list[Callable[[Any], bool]] = [
            lambda one: isinstance(one, OwnPostgres),
            lambda one: not isinstance(one, OwnPostgres | NodeProcess),
        ]
        for is_due in order:
            for one in filter(is_due, victims):
                one.start()
        for node in self.fleet.nodes:
            node.aim()
        for node in (one for one in victims if isinstance(one, NodeProcess)):
            if self._random.random() < 0.5:
                # Nobody comes back in its place before its leases are over.
                self.fleet.end_leases(node.node)
            node.start()

    def _wait_busy(self, node: NodeProcess) -> None:
        held = Job.objects.filter(lease_node_id=node.node.pk, state__in=LEASED_STATES)

        def check() -> None:
            assert held.exists()

        eventually(check, timeout_s=BACK_WITHIN_S)
