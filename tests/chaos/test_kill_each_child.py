"""Each process dies by SIGKILL under steady predictions, and nobody is charged for it.

The clients' own journal is the oracle: what they were answered, and only that, is booked,
once, and has left their wallet.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from uuid import UUID

import pytest

from tests.chaos import children, clients, journal
from tests.chaos.checker import Verdict, check
from tests.chaos.children import ANSWERS_PASS, DEATHS, UNNOTICED, wait_for
from tests.chaos.clients import Client
from tests.chaos.consumer import Consumer
from tests.e2e.terminal import manage
from tests.stack import Stack

KEYED, UNKEYED = 4, 2
# As many new requests are answered before and after each death.
ROUND = 40
# A claim and a hold of a killed gateway run out after two minutes; the sweep comes every
# fifteen seconds, by beat and worker, which were killed as well.
RESOLVED_WITHIN_S = 200.0


@pytest.fixture
def consumer(stack: Stack) -> Consumer:
    return Consumer(stack)


class Crowd:
    """All clients, their keys and their journals."""

    def __init__(self, consumer: Consumer, folder: Path) -> None:
        samples = consumer.collect_samples()
        self.key_ids: list[UUID] = []
        self.journals: list[Path] = []
        self.clients: list[Client] = []
        for kind, count in (("keyed", KEYED), ("unkeyed", UNKEYED)):
            key_id, api_key = consumer.make_key()
            self.key_ids.append(key_id)
            for number in range(count):
                path = folder / f"{kind}-{number}.jsonl"
                self.journals.append(path)
                self.clients.append(
                    Client(
                        path.stem,
                        url=consumer.stack.demo["gateway_url"],
                        api_key=api_key,
                        journal=path,
                        samples=samples,
                        is_keyed=kind == "keyed",
                    )
                )

    def wait_answered(self, what: str) -> float:
        """Wait until new requests of keyed and of other clients are answered; seconds."""
        begin = time.time()
        for some in (self.clients[:KEYED], self.clients[KEYED:]):
            wait_for(
                lambda some=some: clients.count_answered(some, since=begin) >= ROUND // 2,
                f"answers {what}",
            )
        return time.time() - begin

    def finish(self) -> None:
        for client in self.clients:
            client.finish(within_s=RESOLVED_WITHIN_S)
        for client in self.clients:
            client.join(RESOLVED_WITHIN_S + clients.ANSWER_TIMEOUT_S)
            assert not client.is_alive()
            assert client.error is None, client.error


@pytest.fixture
def crowd(consumer: Consumer, tmp_path: Path) -> Iterator[Crowd]:
    crowd = Crowd(consumer, tmp_path)
    yield crowd
    for client in crowd.clients:
        client.finish(within_s=0)
    for client in crowd.clients:
        if client.is_alive():
            client.join(clients.ANSWER_TIMEOUT_S)


@pytest.mark.timeout(2_400)
def test_nothing_is_lost_or_charged_twice_whoever_dies(
    stack: Stack, consumer: Consumer, crowd: Crowd, capsys: pytest.CaptureFixture[str]
) -> None:
    price = consumer.read_price()
    # Of what other tests have asked for, a slice may still be here.
    wait_for(lambda: consumer.books.count_pending_holds() == 0, "the end of earlier holds")
    before = consumer.books.read_wallet()
    for client in crowd.clients:
        client.start()
    crowd.wait_answered("at the beginning")

    lines = [kill(stack, crowd, parts) for parts in DEATHS]
    crowd.finish()
    wait_for(
        lambda: consumer.books.count_pending_holds() == 0,
        "the sweep of holds",
        within_s=RESOLVED_WITHIN_S,
    )

    verdict = compare(consumer, crowd, before, price)
    with capsys.disabled():
        print("\n" + "\n".join([*lines, describe(verdict)]))
    assert verdict.faults == []
    # A death between booking and answer takes at most the one request of each client, and only
    # of those that cannot ask again with their key.
    takers = [parts for parts in DEATHS if not ANSWERS_PASS.isdisjoint(parts)]
    assert verdict.undelivered <= UNKEYED * len(takers)
    assert consumer.books.list_failed_charges(crowd.key_ids) == []
    # More than a few of each kind: else the comparison would say little.
    assert verdict.answered > ROUND * len(DEATHS)
    assert verdict.died + sum(verdict.refused.values()) > 0
    after = consumer.books.read_wallet()
    assert before.posted_nanos - after.posted_nanos == verdict.booked * price * 10**9
    assert after.held_nanos == before.held_nanos == 0
    assert "BROKEN" not in manage(stack, "ledger_check")


def kill(stack: Stack, crowd: Crowd, parts: Sequence[str]) -> str:
    """Kill parts at once, see them come back and predictions with them; a line for people."""
    name = " + ".join(parts)
    pids = {part: children.find(stack, part) for part in parts}
    killed_at = time.time()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    for part, pid in pids.items():
        children.wait_back(stack, part, pid)
    back_after_s = time.time() - killed_at
    crowd.wait_answered(f"after the death of {name}")
    failed = clients.list_failed(crowd.clients, since=killed_at)
    answered_after_s = time.time() - killed_at
    if UNNOTICED.issuperset(parts):
        assert failed == [], name
    return (
        f"{name:21} back after {back_after_s:5.1f} s, {ROUND} new answers after"
        f" {answered_after_s:5.1f} s, {len(failed)} attempts failed {sorted(set(failed))}"
    )


def compare(consumer: Consumer, crowd: Crowd, before, price: Fraction) -> Verdict:
    attempts = [attempt for path in crowd.journals for attempt in journal.read(path)]
    usages = consumer.books.list_usages(crowd.key_ids)
    return check(attempts, usages, consumer.books.list_entries(before), price=price)


def describe(verdict: Verdict) -> str:
    refused = ", ".join(f"{code} {count}" for code, count in sorted(verdict.refused.items()))
    return (
        f"answered {verdict.answered}, booked {verdict.booked}, of these without a key and"
        f" undelivered {verdict.undelivered}; attempts that died {verdict.died}; refused: {refused}"
    )
