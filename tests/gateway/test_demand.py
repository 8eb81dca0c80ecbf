"""What a gateway tells of the nodes that each pool should have."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator, Mapping
from datetime import timedelta
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from inference.core import scaling
from inference.gateway import demand
from inference.gateway.database import Database
from inference.gateway.demand import Demand, QueueDemand
from inference.gateway.pool_settings import ByPool, PoolSettings
from inference.models import Deployment, Job, JobPace, Node, Replica
from marketplace.core.env import SettingError
from marketplace.core.ids import lowest_id, new_id
from tests.factories import AccountFactory, ModelVersionFactory
from tests.gateway.conftest import predict
from tests.gateway.processes import eventually
from tests.gateway.scrape import Scrape
from tests.inference import queued

RUN_S = 2.0
WINDOW_S = demand.ARRIVALS_WINDOW.total_seconds()


def look(url: str, settings: PoolSettings | None = None) -> Demand:
    """What a gateway sees with the rights of its role."""

    async def see() -> Demand:
        database = Database(url)
        await database.open()
        watch = Demand(database, settings or PoolSettings())
        watch.queue = {"gone": QueueDemand(1, 1, 1)}
        try:
            await watch.look()
        finally:
            await database.close()
        return watch

    return asyncio.run(see())


def see_queue(url: str, settings: PoolSettings | None = None) -> Mapping[str, QueueDemand]:
    seen = look(url, settings).queue
    assert seen is not None
    return seen


@pytest.fixture
def version(transactional_db):
    made = ModelVersionFactory()
    JobPace.objects.create(version=made, mean_us=int(RUN_S * 1e6))
    return made


@pytest.fixture
def url(database_urls) -> str:
    return database_urls["gateway"]


@pytest.fixture
def pools(transactional_db) -> Iterator[None]:
    """Nodes have a pool and may leave it, whether or not the schema knows it yet."""
    wanted = {"pool": "varchar(63) DEFAULT 'default'", "left_at": "timestamptz"}
    with connection.cursor() as cursor:
        table = connection.introspection.get_table_description(cursor, "inference_node")
        made = wanted.keys() - {one.name for one in table}
        for name in made:
            cursor.execute(f"ALTER TABLE inference_node ADD {name} {wanted[name]}")
    yield
    with connection.cursor() as cursor:
        for name in made:
            cursor.execute(f"ALTER TABLE inference_node DROP COLUMN {name}")


def make_node(name: str, pool: str = "") -> Node:
    node = queued.make_node(name, last_seen_at=timezone.now())
    if pool:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE inference_node SET pool = %s WHERE id = %s", [pool, node.pk])
    return node


def place(version, node: Node, state: str = "ready") -> Replica:
    return Replica.objects.create(version=version, node=node, purpose="serve", state=state)


def make_old(version) -> None:
    """What came is no longer new, as if the last minutes had been quiet."""
    long_ago = timezone.now() - 2 * demand.ARRIVALS_WINDOW
    for number, job in enumerate(Job.objects.filter(version=version)):
        lowest = lowest_id(long_ago)
        Job.objects.filter(pk=job.pk).update(id=UUID(int=lowest.int + number + 1))


def test_an_empty_queue_wants_nothing_and_says_so(version, url):
    make_node("node-1")

    assert see_queue(url) == {"default": QueueDemand(nodes=0, wait_s=0, ready_count=1)}


def test_what_waits_is_counted_by_the_time_that_it_takes(version, url):
    make_node("node-1")
    account = AccountFactory()
    for _ in range(6):
        queued.submit(account, version)
    make_old(version)

    [seen] = see_queue(url).values()

    assert seen.nodes == pytest.approx(6 * RUN_S / 30)
    assert seen.wait_s == pytest.approx(6 * RUN_S)


def test_what_comes_is_kept_up_with(version, url):
    make_node("node-1")
    for _ in range(6):
        queued.submit(AccountFactory(), version)

    [seen] = see_queue(url).values()

    catching_up = 6 * RUN_S / 30
    keeping_up = 6 * RUN_S / WINDOW_S / scaling.BUSY_MAX
    assert seen.nodes == pytest.approx(catching_up + keeping_up)


def test_a_version_that_never_ran_is_expected_to_take_what_was_thought(transactional_db, url):
    version = ModelVersionFactory()
    queued.submit(AccountFactory(), version, expected_ms=90_000)
    make_old(version)

    [seen] = see_queue(url).values()

    assert seen.nodes == pytest.approx(3)
    # Nobody is there: the wait is that of a node as well.
    assert seen.wait_s == pytest.approx(180 + 90)


def test_batches_may_wait_longer(version, url):
    make_node("node-1")
    queued.submit(AccountFactory(), version, priority=2)
    make_old(version)

    [seen] = see_queue(url).values()

    assert seen.nodes == pytest.approx(RUN_S / 900)
    # Who comes now with the usual urgency passes them.
    assert seen.wait_s == 0


def test_a_job_that_runs_keeps_its_slot(version, url):
    node = make_node("node-1")
    queued.submit(AccountFactory(), version)
    assert queued.claim(node, [version]) is not None
    job = Job.objects.get()
    Job.objects.filter(pk=job.pk).update(id=UUID(int=lowest_id(job.created_at).int - (1 << 112)))

    [seen] = see_queue(url).values()

    assert (seen.nodes, seen.wait_s) == (1, 0)


def test_what_is_over_wants_nothing(version, url):
    node = make_node("node-1")
    queued.submit(AccountFactory(), version)
    job = queued.claim(node, [version])
    assert job is not None
    queued.finish(job)
    make_old(version)

    assert see_queue(url)["default"].nodes == 0


def test_a_version_that_is_awake_has_nodes_for_its_replicas(version, url):
    deployed = Deployment.objects.create(version=version, replica_count=3)
    assert see_queue(url)["default"].nodes == 3

    Deployment.objects.filter(pk=deployed.pk).update(slept_at=timezone.now(), idle_after_s=60)
    assert see_queue(url)["default"].nodes == 0

    Deployment.objects.filter(pk=deployed.pk).update(slept_at=None, waking_since=timezone.now())
    assert see_queue(url)["default"].nodes == 3

    Deployment.objects.filter(pk=deployed.pk).update(stopped_at=timezone.now())
    assert see_queue(url)["default"].nodes == 0


@pytest.mark.parametrize(
    "silent_case",
    [
        {"triton_ready": False},
        {"last_seen_at": None},
        {"drain_requested_at": "now"},
        {"revoked_at": "now"},
    ],
    ids=lambda case: next(iter(case)),
)
def test_nodes_that_do_not_answer_are_not_counted(version, url, silent_case):
    make_node("node-1")
    silent = make_node("node-2")
    changes = {name: timezone.now() if now == "now" else now for name, now in silent_case.items()}
    Node.objects.filter(pk=silent.pk).update(**changes)

    assert see_queue(url)["default"].ready_count == 1


def test_the_load_goes_to_the_pools_that_have_the_replicas(version, url, pools):
    nodes = [make_node("a", "gpu"), make_node("b", "gpu"), make_node("c", "gpu-spot")]
    make_node("d", "empty")
    for node in nodes:
        place(version, node)
    place(version, make_node("e", "broken"), "failed")
    for _ in range(9):
        queued.submit(AccountFactory(), version)
    make_old(version)

    seen = see_queue(url)

    work = 9 * RUN_S / 30
    assert {pool: pytest.approx(one.nodes) for pool, one in seen.items()} == {
        "gpu": work * 2 / 3,
        "gpu-spot": work / 3,
        "empty": 0,
        "broken": 0,
        "default": 0,
    }
    assert {pool: one.ready_count for pool, one in seen.items()} == {
        "gpu": 2,
        "gpu-spot": 1,
        "empty": 1,
        "broken": 1,
        "default": 0,
    }


def test_a_node_that_said_goodbye_is_not_counted(version, url, pools):
    make_node("a", "gpu")
    left = make_node("b", "gpu")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE inference_node SET left_at = now() WHERE id = %s", [left.pk])

    assert see_queue(url)["gpu"].ready_count == 1


def test_a_pool_without_nodes_for_days_is_not_told_of(version, url, pools):
    node = make_node("a", "gone")
    days = timezone.now() - timedelta(days=2)
    Node.objects.filter(pk=node.pk).update(last_seen_at=days)

    assert see_queue(url).keys() == {"default"}


def test_pools_have_numbers_of_their_own(version, url, pools):
    place(version, make_node("a", "gpu"))
    settings = PoolSettings(
        target_wait_s=ByPool(30, {"gpu": 60}),
        slot_count=ByPool(1, {"gpu": 4}),
        unplaced="small",
    )
    queued.submit(AccountFactory(), version, expected_ms=1)
    lost = ModelVersionFactory()
    queued.submit(AccountFactory(), lost, expected_ms=30_000)
    make_old(version)
    make_old(lost)

    seen = see_queue(url, settings)

    assert seen["gpu"].nodes == pytest.approx(RUN_S / 60 / 4)
    assert seen["small"].nodes == pytest.approx(1)
    assert "default" not in seen


def test_requests_count_where_their_version_is(version, url, pools):
    place(version, make_node("a", "gpu"))
    watch = look(url)

    asked = watch.count_requests([(version.pk, 6), (new_id(), 2), (version.pk, 2)])

    told = {pool: (one.pending, one.nodes) for pool, one in asked.items()}
    assert told == {"default": (2, 0.5), "gpu": (8, 2)}


def test_without_postgres_nothing_is_said():
    watch = look("postgresql://127.0.0.1:1/none")

    assert watch.queue is None
    assert watch.count_requests([(new_id(), 5)]) == {}


@pytest.mark.django_db(transaction=True)
def test_the_metrics_tell_of_it(shop, start_gateway):
    Node.objects.update(last_seen_at=timezone.now())
    for _ in range(3):
        queued.submit(AccountFactory(), shop.version, expected_ms=20_000)
    make_old(shop.version)
    process = start_gateway(STRONGROOM_POOL_TARGET_WAIT_S="20")

    def check() -> None:
        seen = Scrape(process.url)
        [queue] = seen.find("strongroom_pool_demand_nodes", pool="default", part="queue")
        [requests] = seen.find("strongroom_pool_demand_nodes", pool="default", part="requests")
        assert (queue.value, requests.value) == (3, 0)
        assert seen.sum("strongroom_pool_predicted_wait_seconds", pool="default") == 60
        assert seen.sum("strongroom_pool_ready_nodes", pool="default") == 1
        assert seen.sum("strongroom_pool_pending_requests", pool="default") == 0

    eventually(check, timeout_s=demand.LOOK_S * 4)


def test_a_request_is_pending_until_it_has_an_answer(shop, start_gateway):
    Node.objects.update(last_seen_at=timezone.now())
    process = start_gateway()
    client = shop.client(url=process.url)

    def check(pending: int) -> None:
        seen = Scrape(process.url)
        assert seen.sum("strongroom_pool_pending_requests", pool="default") == pending
        [one] = seen.find("strongroom_pool_demand_nodes", pool="default", part="requests")
        assert one.value == pending / 4

    eventually(lambda: check(0), timeout_s=demand.LOOK_S * 2)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(predict, client, wait_s=3) for _ in range(2)]
        eventually(lambda: check(2), timeout_s=20)
        assert [one.result().status_code for one in asked] == [201, 201]
    eventually(lambda: check(0), timeout_s=20)


NAMES = (
    "STRONGROOM_POOL_TARGET_WAIT_S",
    "STRONGROOM_POOL_BATCH_TARGET_WAIT_S",
    "STRONGROOM_POOL_SLOTS",
    "STRONGROOM_POOL_SLOT_REQUESTS",
    "STRONGROOM_POOL_COLD_START_S",
)


def test_without_settings_there_are_defaults():
    assert PoolSettings.from_env({}) == PoolSettings()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "bad_case", ["0", "-1", "many", "30,", "30,gpu", "30,gpu=0", "30,GPU=1", "30,a=1,a=2", "1e3"]
)
def test_a_malformed_setting_is_refused_by_its_name(name, bad_case):
    with pytest.raises(SettingError, match=name):
        PoolSettings.from_env({name: bad_case})


def test_each_pool_may_have_its_number():
    settings = PoolSettings.from_env({"STRONGROOM_POOL_SLOTS": "1, gpu-big=8"})

    assert settings.shape("gpu-big").slot_count == 8
    assert settings.shape("default").slot_count == 1


def test_a_pool_for_what_is_nowhere_has_a_pools_name():
    with pytest.raises(SettingError, match="STRONGROOM_POOL_UNPLACED"):
        PoolSettings.from_env({"STRONGROOM_POOL_UNPLACED": "no pool"})
