"""Jobs through two gateways to nodes that pull, while all of them die at random.

What clients were promised and nodes were answered is the oracle; see `queue_judge`. The judge is
itself tried on queues that are wrong on purpose, in `test_queue_judge`.

`STRONGROOM_CHAOS_JOBS` says how many jobs there are at least, `STRONGROOM_CHAOS_SEED` in which
order who dies; without it the order is another one each time, and is printed.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from embedded import postgres
from inference.models import Job, JobAttempt, WebhookDelivery, WebhookEvent
from inference.services.job import replay_job
from marketplace.core.ids import to_public
from marketplace.selectors.access import Actor
from tests.chaos.market import DEADLINE_S, SETTLE_WAIT_S
from tests.chaos.own_servers import Seat
from tests.chaos.postman import Postman, bring_all, list_missing
from tests.chaos.queue_fleet import Blows, Fleet, NodeProcess
from tests.chaos.queue_judge import Known, judge
from tests.chaos.test_two_gateways import gateway as gateway  # noqa: PLC0414 - a fixture
from tests.chaos.test_two_gateways import servers as servers  # noqa: PLC0414 - a fixture
from tests.chaos.test_two_gateways import triton as triton  # noqa: PLC0414 - a fixture
from tests.factories import MembershipFactory
from tests.gateway.conftest import PRICE_NANOS, REPLICA_IDS, make_node
from tests.gateway.processes import eventually
from tests.inference.hooked import add
from tests.inference.receivers import Receiver, receive

JOBS = int(os.environ.get("STRONGROOM_CHAOS_JOBS", "600"))
SEED = int(os.environ.get("STRONGROOM_CHAOS_SEED") or random.randrange(10**6))
NODE_COUNT, FEEDER_COUNT = 4, 4
# The machine's tests want some of it too.
JOBS_PER_S = max(15.0, JOBS / 150)
RICH_NANOS = 10**6 * PRICE_NANOS
# A receiver of webhooks answers so, by chance, while others die.
ANSWERS = (204,) * 8 + (500, 503)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receive() as found:
        moody = random.Random(SEED)
        found.plan = moody.choices(ANSWERS, k=4 * JOBS)
        yield found


@pytest.fixture
def fleet(shop, servers, tmp_path: Path, receiver: Receiver) -> Iterator[Fleet]:
    shop.fund(RICH_NANOS)
    owner = MembershipFactory(account=shop.consumer, role="owner").user
    _, receiver.secret = add(Actor(user=owner), shop.consumer, receiver.url)
    settings = {
        "STRONGROOM_REDIS_URL": servers.redis.url,
        "STRONGROOM_GATEWAY_COUNT": "2",
        "STRONGROOM_GATEWAY_DEADLINE_S": str(DEADLINE_S),
        "STRONGROOM_GATEWAY_SETTLE_WAIT_S": str(SETTLE_WAIT_S),
    }
    url = servers.postgres.url(postgres.GATEWAY)
    seats = [Seat(tmp_path, url, **settings) for _ in range(2)]
    made = Fleet(shop, servers, seats, Postman(tmp_path, servers.postgres.url(postgres.APP)))
    second = make_node("node-1b", servers.tritons[1].config.http_url)
    shop.add_replica(REPLICA_IDS[1], node=second)
    for number in range(NODE_COUNT):
        own = servers.tritons[number % 2]
        made.nodes.append(
            NodeProcess(
                tmp_path,
                make_node(f"puller-{number}", own.config.http_url, own.config.grpc_url),
                made.seats[number // 2 % 2],
                own,
                shop.version.pk,
            )
        )
    yield made
    for feeder in made.feeders:
        feeder.finish()
    for node in made.nodes:
        node.stop()
    made.postman.kill()
    for seat in made.seats:
        seat.stop()
    for feeder in made.feeders:
        feeder.join(60)
    # The tables are emptied next, maybe by the first statement after a restart.
    connection.close()


@pytest.mark.timeout(JOBS + 600)
def test_each_job_is_run_and_paid_for_once_whoever_dies(
    fleet: Fleet, receiver: Receiver, platform_admin, capsys
):
    blows = Blows(fleet, SEED)
    with capsys.disabled():
        print(f"\nSTRONGROOM_CHAOS_SEED={SEED}")
    fleet.feed(FEEDER_COUNT, jobs_per_s=JOBS_PER_S, seed=SEED)

    while blows.is_any_spared() or fleet.count_accepted() < JOBS or not fleet.count_stale():
        blows.strike()
        check_going_on(fleet)
    fleet.stop_feeding()
    fleet.wait_until_over()
    replays = replay_the_dead(fleet, Actor(user=platform_admin))
    receiver.plan = []
    bring_all(fleet.postman)

    outputs = {key: value for one in fleet.feeders for key, value in one.outputs.items()}
    known = Known(
        outputs=outputs,
        told=fleet.list_told(),
        consumer=fleet.shop.consumer,
        funded_nanos=fleet.shop.funded_nanos,
        price_nanos=PRICE_NANOS,
        replays=replays,
        is_hooked=True,
    )
    with capsys.disabled():
        print("\n".join([*blows.lines, describe(fleet, replays, receiver)]))
    # What is left of holds goes back within a second or two.
    faults = eventually(lambda: _require_none(judge(known)), timeout_s=30)
    assert faults == []
    check_ends(fleet)
    check_told(fleet, receiver)


def check_going_on(fleet: Fleet) -> None:
    """Jobs come to their end again; else it would only prove that what is dead does nothing."""
    count = Job.objects.filter(state="succeeded").count() + 5

    def check() -> None:
        fleet.forget_the_dead()
        fleet.count_accepted()
        assert Job.objects.filter(state="succeeded").count() >= count

    eventually(check, timeout_s=120)


def replay_the_dead(fleet: Fleet, admin: Actor) -> Counter:
    """As an admin does once all is well again: nothing is lost then. How often each."""
    replays: Counter = Counter()
    while dead := list(Job.objects.filter(state="dead").values_list("pk", flat=True)):
        for one in dead:
            replay_job(actor=admin, job_id=one)
            replays[one] += 1
        fleet.wait_until_over()
        assert max(replays.values()) < 3
    return replays


def check_ends(fleet: Fleet) -> None:
    """Only what was canceled is canceled, only what had to fail has failed, all else succeeded."""
    states = dict(Job.objects.values_list("pk", "state"))
    canceled = {one for feeder in fleet.feeders for one in feeder.canceled}
    failing = {one for feeder in fleet.feeders for one in feeder.failing}
    for key, state in states.items():
        assert state in {"failed" if key in failing else "succeeded"} | (
            {"canceled"} if key in canceled else set()
        ), Job.objects.get(pk=key).error
    assert set(JobAttempt.objects.filter(outcome="lost").values_list("code", flat=True)) >= {
        "node_lost"
    }


def check_told(fleet: Fleet, receiver: Receiver) -> None:
    """Each event has come, signed, as often as it takes; and of each job, that it is over."""
    deliveries = WebhookDelivery.objects.filter(account=fleet.shop.consumer)
    told = set(deliveries.values_list("event_id", flat=True))
    assert told == set(WebhookEvent.objects.values_list("pk", flat=True))
    assert set(deliveries.values_list("state", flat=True)) == {"succeeded"}
    assert list_missing(receiver) == []
    messages = [json.loads(one.body) for one in receiver.seen]
    over = {one["data"]["id"] for one in messages if one["type"] == "prediction.completed"}
    assert over == {to_public(one) for one in Job.objects.values_list("pk", flat=True)}


def describe(fleet: Fleet, replays: Counter, receiver: Receiver) -> str:
    states = Counter(Job.objects.values_list("state", flat=True))
    lost = Counter(JobAttempt.objects.filter(outcome="lost").values_list("code", flat=True))
    told = Counter(one.outcome for one in fleet.list_told())
    return (
        f"{fleet.count_accepted()} jobs {dict(states)}, leases lost {dict(lost)}, nodes were told"
        f" {dict(told)}, replayed {sum(replays.values())}, {WebhookEvent.objects.count()} events"
        f" came as {len(receiver.seen)} messages"
    )


def _require_none(faults: list[str]) -> list[str]:
    assert faults == [], faults[:10]
    return faults
