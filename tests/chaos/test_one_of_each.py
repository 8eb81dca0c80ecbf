"""Two of each process behind one address; one of each dies while paid requests come.

Gateways, webs, key brokers, workers and node agents are processes of this machine, with their real
Postgres, Redis and Tritons, and k6 sends predictions, jobs and views of a page. Nobody fails but
who was in flight on a gateway at the moment of its death, every job ends, and the books add up.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
import pytest

from bench.one_address import find_book_faults, find_caught, find_faults
from bench.open_loop import Outcome
from bench.visitors import Visit, Visitors, is_keyed
from embedded.environment import NODE_NAME
from marketplace.core.ids import from_public
from tests.chaos import children, database
from tests.chaos.children import MODEL, wait_for
from tests.chaos.consumer import Consumer
from tests.chaos.second_fleet import NAMES, SECOND_NODE_NAME, SecondFleet
from tests.e2e.terminal import manage
from tests.stack import Stack

# What dies, in this order: what gateways leave behind has the time of all the others to run out.
DEATHS = (
    ("gateway", "two"),
    ("gateway", "one"),
    ("keybroker", "one"),
    ("web", "one"),
    ("worker", "one"),
    ("node", "one"),
    ("node", "two"),
)
RATE = 16
# Before the first death, and after each: all is well, and under load.
QUIET_S = 2.0
# A claim and a hold of a killed gateway run out after two minutes.
RESOLVED_WITHIN_S = 200.0
LOADED_WITHIN_S = 180.0
NODES = {"one": NODE_NAME, "two": SECOND_NODE_NAME}
ACCOUNT, NAME = MODEL.split("/")


@pytest.fixture
def fleet(stack: Stack, tmp_path: Path) -> Iterator[SecondFleet]:
    fleet = SecondFleet(stack, tmp_path)
    try:
        fleet.start_all()
        yield fleet
    finally:
        set_copies(stack, 1)
        fleet.stop()


def set_copies(stack: Stack, count: int) -> None:
    """Have the model run on so many nodes."""
    with psycopg.connect(database.find_url(stack.home)) as connection:
        connection.execute(
            """UPDATE inference_deployment d SET replica_count = %s
            FROM marketplace_modelversion v JOIN marketplace_aimodel m ON m.id = v.model_id
            JOIN marketplace_account a ON a.id = m.account_id
            WHERE v.id = d.version_id AND a.slug = %s AND m.name = %s AND d.stopped_at IS NULL""",
            [count, ACCOUNT, NAME],
        )


def wait_copies(stack: Stack, count: int) -> None:
    """Until so many nodes have the model ready."""
    wait_for(
        lambda: len(children.list_triton_names(stack, MODEL)) >= count,
        f"{count} ready copies",
        within_s=LOADED_WITHIN_S,
    )


def wait_loaded(stack: Stack, node: str, since_s: float) -> None:
    """Until a node that died has loaded the model anew."""
    query = """
        SELECT count(*) FROM inference_replica r JOIN inference_node n ON n.id = r.node_id
        JOIN marketplace_modelversion v ON v.id = r.version_id
        JOIN marketplace_aimodel m ON m.id = v.model_id
        WHERE n.name = %s AND m.name = %s AND r.state = 'ready' AND r.purpose = 'serve'
            AND r.changed_at > to_timestamp(%s)"""
    wait_for(
        lambda: database.fetch(stack.home, query, [node, NAME, since_s])[0][0],
        f"the model at {node}",
        within_s=LOADED_WITHIN_S,
    )


@pytest.fixture
def consumer(stack: Stack) -> Consumer:
    return Consumer(stack)


@pytest.mark.timeout(1_500)
def test_only_who_was_in_flight_on_a_dead_gateway_fails(
    stack: Stack,
    fleet: SecondFleet,
    consumer: Consumer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key_id, key = consumer.make_key()
    wait_for(lambda: consumer.books.count_pending_holds() == 0, "the end of earlier holds")
    before = consumer.books.read_wallet()
    set_copies(stack, 2)
    wait_copies(stack, 2)
    target = {
        "URL": fleet.balancer.url,
        "SITE_URL": fleet.balancer.site_url,
        "KEY": key,
        "MODEL": MODEL,
        "INPUT": json.dumps(stack.demo["models"][0]["example_input"]),
    }
    visitors = Visitors(tmp_path, target, rate=RATE)
    lines = []
    try:
        time.sleep(QUIET_S)
        for part, name in DEATHS:
            begin_s = time.time()
            fleet.kill(part, name)
            if part == "node":
                wait_loaded(stack, NODES[name], begin_s)
            lines.append(f"{part} {name} back after {time.time() - begin_s:.1f} s")
            time.sleep(QUIET_S)
        visits = visitors.stop()
    finally:
        visitors.kill()

    numbered = [one for one in visits if one.kind != "site"]
    failed = [one for one in numbered if one.error]
    caught = judge(fleet, numbered)
    with capsys.disabled():
        print("\n" + "\n".join([*lines, describe(visits, failed, caught)]))
    assert [one for one in visits if one.kind == "site" and one.error] == []
    # The deaths were felt: of both kinds somebody was in flight.
    assert {is_keyed(number) for number in caught} == {True, False}
    ids = collect_ids(fleet, key, visitors, visits)
    wait_for(
        lambda: consumer.books.count_pending_holds() == 0,
        "the sweep of holds",
        within_s=RESOLVED_WITHIN_S,
    )
    check_books(consumer, key_id, before, ids, failed)
    assert "BROKEN" not in manage(stack, "ledger_check")


def judge(fleet: SecondFleet, visits: Sequence[Visit]) -> list[int]:
    """Numbers of those who were in flight on a gateway that died; nobody else may fail."""
    served = {int(name): one for name, one in fleet.balancer.read_served().items() if name != "-"}
    outcomes = [Outcome(math.nan, one.started_s, one.ended_s, error=one.error) for one in visits]
    seen = {place: served[one.number] for place, one in enumerate(visits) if one.number in served}
    assert find_faults(outcomes, seen, fleet.deaths) == []
    # The control: without the deaths there is no excuse.
    assert len(find_faults(outcomes, seen, [])) == sum(bool(one.error) for one in visits) > 0
    assert {one.server for one in seen.values()} == set(NAMES)
    return [visits[place].number for place in find_caught(outcomes, seen, fleet.deaths)]


def collect_ids(
    fleet: SecondFleet, key: str, visitors: Visitors, visits: Sequence[Visit]
) -> list[UUID]:
    """Predictions that were answered, in the end: who has a key asks again, and jobs end."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=fleet.balancer.url, headers=headers, timeout=60) as client:
        paid = [one.id for one in visits if one.kind == "paid" and not one.error]
        jobs = [one.id for one in visits if one.kind == "job" and not one.error]
        content = {"input": fleet.stack.demo["models"][0]["example_input"]}
        for one in visits:
            if one.error and one.kind != "site" and is_keyed(one.number):
                (paid if one.kind == "paid" else jobs).append(
                    ask_again(client, one, content, visitors.headers_of(one.number))
                )
        for job in jobs:
            wait_for(lambda job=job: is_done(client, job), job, within_s=RESOLVED_WITHIN_S)
    return [from_public(one) for one in [*paid, *jobs]]


def ask_again(client: httpx.Client, visit: Visit, content: dict, headers: dict) -> str:
    """The id that a retry with the same key gets."""
    wish = {"Prefer": "respond-async"} if visit.kind == "job" else {}

    def ask() -> str:
        answer = client.post(
            f"/v1/models/{MODEL}/predictions",
            json=content,
            headers={**headers, **wish},
        )
        # Its first try may still count as running.
        return answer.json()["id"] if answer.status_code in (200, 201, 202) else ""

    return wait_for(ask, f"the answer to request {visit.number}", within_s=RESOLVED_WITHIN_S)


def is_done(client: httpx.Client, job: str) -> bool:
    state = client.get(f"/v1/predictions/{job}").raise_for_status().json()["status"]
    assert state not in ("failed", "canceled"), job
    return state == "succeeded"


def check_books(consumer: Consumer, key_id: UUID, before, ids, failed: Sequence[Visit]) -> None:
    """What was answered is charged once, and has left the wallet; so has what nobody asks for."""
    usages = consumer.books.list_usages([key_id])
    booked = [one.prediction_id for one in usages]
    undelivered_max = len([one for one in failed if not is_keyed(one.number)])

    assert find_book_faults(ids, booked, undelivered_max) == []
    # The controls: what is missing, or there twice, is found.
    assert find_book_faults(ids, booked[1:], undelivered_max)
    assert find_book_faults(ids, [*booked, booked[0]], undelivered_max)
    price_nanos = consumer.read_price() * 10**9
    assert {one.gross_nanos for one in usages} == {price_nanos}
    after = consumer.books.read_wallet()
    assert before.posted_nanos - after.posted_nanos == len(booked) * price_nanos
    assert consumer.books.list_failed_charges([key_id]) == []


def describe(visits: Sequence[Visit], failed: Sequence[Visit], caught: Sequence[int]) -> str:
    counts = {kind: sum(one.kind == kind for one in visits) for kind in ("paid", "job", "site")}
    again = [number for number in caught if number not in {one.number for one in failed}]
    return (
        f"{counts['paid']} predictions, {counts['job']} jobs, {counts['site']} pages; in flight on"
        f" a gateway that died {len(caught)}, of these answered all the same {len(again)};"
        f" failed {len(failed)}"
    )
