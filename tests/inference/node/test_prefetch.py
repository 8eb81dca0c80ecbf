"""Fetching ahead: what, when, and at whose cost."""

from __future__ import annotations

import os
import threading
import time

import pytest

from inference.node import prefetch as prefetch_module
from inference.node import store as store_module
from inference.node.errors import CancelledError, ReplicaError
from inference.node.prefetch import Likely, Prefetcher, choose, fetch_ahead, parse_likely
from tests.inference.node.caches import NEVER, assign, digests, fetch, version
from tests.inference.node.platform import wait_for

SIZE = 200_000
DAY_S = 24 * 3600


@pytest.fixture(autouse=True)
def no_reserve(monkeypatch):
    monkeypatch.setattr(store_module, "DISK_RESERVE_BYTES", 0)


@pytest.fixture
def likely(platform, tmp_path):
    """Versions that the platform names."""
    made = [assign(platform, tmp_path, os.urandom(SIZE)) for _ in range(3)]
    platform.likely = [describe(one, index) for index, one in enumerate(made)]
    platform.parts_sent.clear()
    yield made
    platform.likely = []
    platform.chunk_delay_s = 0.0


def describe(sealed, index):
    size_bytes = sum(one.stat().st_size for one in sealed.parts)
    name = f"acme/model-{index}:1"
    return {"version_id": str(version(sealed)), "name": name, "size_bytes": size_bytes}


@pytest.fixture
def start(control_plane):
    started = []

    def start(cache, is_busy=lambda: False):
        started.append(Prefetcher(cache, control_plane, is_busy=is_busy))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop(timeout_s=5)


def is_here(cache, sealed):
    return all(cache.store.path_of(one).exists() for one in digests(sealed))


def age(cache, sealed, seconds):
    for one in digests(sealed):
        then = time.time() - seconds
        os.utime(cache.store.path_of(one), (then, then))


def test_what_is_named_comes_and_no_key_is_asked_for(platform, make_cache, likely, start):
    cache, leases = make_cache(), len(platform.lease_requests)

    start(cache)
    wait_for(lambda: all(is_here(cache, one) for one in likely))

    # In the platform's order, and each once.
    assert [one[0] for one in platform.parts_sent] == [str(version(one)) for one in likely]
    assert len(platform.lease_requests) == leases


def test_nothing_is_fetched_while_the_node_is_busy(platform, make_cache, likely, start):
    cache, busy = make_cache(), threading.Event()
    busy.set()

    start(cache, busy.is_set)
    time.sleep(0.4)
    assert platform.parts_sent == []

    busy.clear()
    wait_for(lambda: all(is_here(cache, one) for one in likely))


def test_a_load_that_begins_goes_first_and_uses_what_came(platform, make_cache, tmp_path, start):
    sealed = assign(platform, tmp_path, os.urandom(4 << 20))
    platform.likely = [describe(sealed, 0)]
    platform.chunk_delay_s = 0.02
    cache, busy = make_cache(), threading.Event()
    start(cache, busy.is_set)
    drafts = cache.store.folder / "drafts"
    wait_for(lambda: any(one.stat().st_size for one in drafts.iterdir()))
    platform.ranges.clear()

    busy.set()
    platform.chunk_delay_s = 0.0
    fetch(cache, sealed)

    assert len(platform.ranges) == 1
    platform.likely = []


def test_what_was_used_lately_makes_no_room_for_it(platform, make_cache, likely):
    used, ahead, _ = likely
    cache = make_cache(limit_bytes=int(1.5 * SIZE))
    fetch(cache, used)
    age(cache, used, DAY_S - 60)

    with pytest.raises(ReplicaError) as caught:
        fetch_ahead(cache, version(ahead), NEVER)
    assert caught.value.reason_code == "disk_full"
    assert is_here(cache, used)

    # A day after its last use it may go; and for a load it might have gone at once.
    age(cache, used, DAY_S + 60)
    fetch_ahead(cache, version(ahead), NEVER)
    assert not is_here(cache, used)


def test_what_is_in_use_never_goes_however_old(platform, make_cache, likely):
    used, ahead, _ = likely
    cache = make_cache(limit_bytes=int(1.5 * SIZE))
    cache.keep(frozenset({version(used)}))
    fetch(cache, used)
    age(cache, used, 10 * DAY_S)

    with pytest.raises(ReplicaError):
        fetch_ahead(cache, version(ahead), NEVER)
    assert is_here(cache, used)


def test_what_came_ahead_goes_for_a_load(platform, make_cache, likely):
    ahead, wanted, _ = likely
    cache = make_cache(limit_bytes=int(1.5 * SIZE))
    fetch_ahead(cache, version(ahead), NEVER)

    fetch(cache, wanted)

    assert is_here(cache, wanted)
    assert not is_here(cache, ahead)


def test_one_part_is_fetched_at_a_time(platform, make_cache, tmp_path, monkeypatch):
    sealed = assign(platform, tmp_path, *(os.urandom(1000) for _ in range(4)))
    running, most = [0], [0]
    real, lock = platform.send_slowly, threading.Lock()

    def count(file, data):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        # Before it is sent: whoever has it may ask for the next at once.
        with lock:
            running[0] -= 1
        real(file, data)

    monkeypatch.setattr(platform, "send_slowly", count)
    fetch_ahead(make_cache(), version(sealed), NEVER)
    assert most[0] == 1

    # The control: a load fetches several.
    fetch(make_cache(name="other"), sealed)
    assert most[0] > 1


def test_without_room_it_is_said_once_and_not_each_minute(
    platform, make_cache, likely, start, monkeypatch, caplog
):
    monkeypatch.setattr(prefetch_module, "ASK_EVERY_S", 0.05)
    asked = []
    monkeypatch.setattr(
        prefetch_module,
        "parse_likely",
        lambda document: asked.append(1) or parse_likely(document),
    )
    caplog.set_level("INFO", "node.prefetch")

    start(make_cache(limit_bytes=1000))
    wait_for(lambda: len(asked) > 3)

    assert sum("prefetch.failed" in one.getMessage() for one in caplog.records) == len(likely)


def test_an_outage_ends_nothing(platform, make_cache, likely, start, monkeypatch):
    monkeypatch.setattr(prefetch_module, "ASK_EVERY_S", 0.05)
    platform.is_web_down = True
    cache = make_cache()
    start(cache)
    time.sleep(0.2)
    platform.is_web_down = False

    wait_for(lambda: all(is_here(cache, one) for one in likely))


def test_it_stops_when_it_is_told(platform, make_cache, likely, start):
    platform.chunk_delay_s = 0.1
    prefetcher = start(make_cache())
    wait_for(lambda: platform.parts_sent)

    prefetcher.stop(timeout_s=5)

    assert not prefetcher._thread.is_alive()


def test_a_cancelled_one_raises(make_cache, likely):
    stop = threading.Event()
    stop.set()

    with pytest.raises(CancelledError):
        fetch_ahead(make_cache(), version(likely[0]), stop)


@pytest.mark.parametrize(
    "document",
    [
        *({}, {"versions": 7}, {"versions": ["x"]}, {"versions": [{"version_id": "x"}]}),
        {"versions": [{"version_id": None, "name": "a", "size_bytes": 1}]},
    ],
)
def test_an_answer_of_another_form_is_refused(document):
    with pytest.raises(ValueError, match="to fetch ahead"):
        parse_likely(document)


def test_versions_are_chosen_by_name_model_or_id(likely, platform):
    found = parse_likely({"versions": platform.likely})
    other = Likely(found[0].version_id, "acme/model-0:2", 1)

    assert choose(found, []) == (found, [])
    assert choose(found, ["acme/model-1:1"]) == ([found[1]], [])
    assert choose([*found, other], ["acme/model-0"]) == ([found[0], other], [])
    assert choose(found, [str(found[2].version_id), "acme/none"]) == ([found[2]], ["acme/none"])
