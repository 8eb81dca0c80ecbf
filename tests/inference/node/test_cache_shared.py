"""One folder of ciphertext, several processes: who fetches, who waits, what may go."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from inference.node import store as store_module
from inference.node.errors import CancelledError, ReplicaError
from inference.node.store import PartStore
from tests.inference.node.caches import (
    NEVER,
    Holder,
    assign,
    digests,
    fetch,
    names_in,
    version,
)
from tests.inference.node.platform import wait_for

SIZE = 200_000


@pytest.fixture(autouse=True)
def no_reserve(monkeypatch):
    """Of the disk of whoever runs the tests."""
    monkeypatch.setattr(store_module, "DISK_RESERVE_BYTES", 0)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def start(platform, control_plane, tmp_path, folder):
    started = []

    def start(*sealed, **options):
        started.append(Holder(platform, tmp_path, folder, *sealed, **options))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def test_a_part_is_fetched_by_one_process_for_all(platform, start, tmp_path, folder):
    sealed = assign(platform, tmp_path, os.urandom(SIZE), os.urandom(SIZE))
    platform.parts_sent.clear()
    platform.part_delay_s = 0.3

    holders = [start(sealed) for _ in range(4)]

    assert [one.word() for one in holders] == ["held"] * 4
    platform.part_delay_s = 0.0
    assert len(platform.parts_sent) == 2
    assert names_in(folder / "parts") == sorted(digests(sealed))
    assert names_in(folder / "drafts") == []
    assert len(names_in(folder / "pins")) == 4


def test_a_second_node_needs_no_octet_from_the_platform(platform, make_cache, sealed_once):
    first, second = make_cache(node="1"), make_cache(node="2")
    fetch(first, sealed_once)
    platform.parts_sent.clear()

    artifact = fetch(second, sealed_once)

    assert platform.parts_sent == []
    assert artifact.parts[0].read_bytes() == sealed_once.parts[0].read_bytes()
    # The control: in a folder of its own it fetches.
    fetch(make_cache(name="own"), sealed_once)
    assert len(platform.parts_sent) == 1


@pytest.fixture
def sealed_once(platform, tmp_path):
    return assign(platform, tmp_path, os.urandom(SIZE))


@pytest.fixture
def large(platform, tmp_path):
    """Long enough to be met on its way."""
    yield assign(platform, tmp_path, os.urandom(4 << 20))
    platform.chunk_delay_s = 0.0


def draft_of(folder, sealed):
    return folder / "drafts" / f"{digests(sealed)[0]}-{sealed.parts[0].stat().st_size}"


def test_what_a_killed_process_began_is_gone_on_with(platform, start, make_cache, large, folder):
    platform.chunk_delay_s = 0.02
    dying = start(large)
    draft = draft_of(folder, large)
    wait_for(lambda: draft.exists() and draft.stat().st_size)
    dying.kill()
    platform.chunk_delay_s = 0.0
    here_bytes = draft.stat().st_size
    assert here_bytes < large.parts[0].stat().st_size
    platform.ranges.clear()

    artifact = fetch(make_cache(), large)

    assert platform.ranges == [f"bytes={here_bytes}-"]
    assert artifact.parts[0].read_bytes() == large.parts[0].read_bytes()
    assert names_in(folder / "drafts") == names_in(folder / "pins") == []


def test_a_beginning_that_is_not_right_costs_one_more_fetch(
    platform, make_cache, sealed_once, folder
):
    cache = make_cache()
    draft_of(folder, sealed_once).write_bytes(b"x" * 1000)
    platform.parts_sent.clear()

    artifact = fetch(cache, sealed_once)

    assert artifact.parts[0].read_bytes() == sealed_once.parts[0].read_bytes()
    assert len(platform.parts_sent) == 2


def test_one_that_waits_takes_over_when_the_other_dies(platform, start, large, folder):
    platform.chunk_delay_s = 0.05
    dying = start(large)
    wait_for(draft_of(folder, large).exists)
    waiting = start(large)
    wait_for(lambda: len(names_in(folder / "pins")) == 2)
    dying.kill()
    platform.chunk_delay_s = 0.0

    assert waiting.word() == "held"
    assert names_in(folder / "parts") == digests(large)


def test_one_that_waits_for_a_process_that_hangs_gives_up(
    platform, start, make_cache, large, folder, monkeypatch
):
    monkeypatch.setattr(store_module, "STALL_S", 0.3)
    platform.chunk_delay_s = 0.1
    hanging = start(large)
    wait_for(draft_of(folder, large).exists)
    os.kill(hanging.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(ReplicaError, match="does not get on") as caught:
            fetch(make_cache(), large)
    finally:
        hanging.kill()
    assert caught.value.is_infrastructure


def test_one_that_waits_can_be_cancelled(platform, start, make_cache, large, folder):
    platform.chunk_delay_s = 0.1
    start(large)
    wait_for(draft_of(folder, large).exists)
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    with pytest.raises(CancelledError):
        fetch(make_cache(), large, cancelled)


def test_what_another_process_uses_stays_until_that_dies(platform, start, make_cache, tmp_path):
    first, second = (assign(platform, tmp_path, os.urandom(SIZE)) for _ in range(2))
    holder = start(first)
    assert holder.word() == "held"
    cache = make_cache(limit_bytes=int(1.5 * SIZE))

    with pytest.raises(ReplicaError) as caught:
        fetch(cache, second)
    assert caught.value.reason_code == "disk_full"
    assert cache.store.path_of(digests(first)[0]).exists()

    holder.kill()
    fetch(cache, second)
    assert not cache.store.path_of(digests(first)[0]).exists()


def test_a_claim_without_its_lock_protects_nothing(platform, make_cache, tmp_path, folder):
    """The control: what keeps a part is the kernel's lock, and not the file of the claim."""
    first, second = (assign(platform, tmp_path, os.urandom(SIZE)) for _ in range(2))
    cache = make_cache(limit_bytes=int(1.5 * SIZE))
    fetch(cache, first)
    claim = {"label": "", "parts": {digests(first)[0]: first.parts[0].stat().st_size}}
    (folder / "pins" / "of-a-dead-process").write_text(json.dumps(claim))

    fetch(cache, second)

    assert not cache.store.path_of(digests(first)[0]).exists()
    assert names_in(folder / "pins") == []


def test_the_limit_holds_over_all_processes_to_the_octet(
    platform, start, tmp_path, folder, make_cache
):
    versions = [assign(platform, tmp_path, os.urandom(SIZE)) for _ in range(3)]
    size_bytes = versions[0].parts[0].stat().st_size

    # Three that need two rooms: each claims before it fetches, so one of them is refused.
    exact = [start(one, limit_bytes=2 * size_bytes) for one in versions]
    assert sorted(one.word() for one in exact) == ["disk_full", "held", "held"]
    status = PartStore(folder, limit_bytes=1).status()
    assert (status.part_bytes, status.pinned_bytes) == (2 * size_bytes, 2 * size_bytes)
    for one in exact:
        one.kill()
    for one in (folder / "parts").iterdir():
        one.unlink()

    # One octet less, and only one of two fits.
    less = [start(one, limit_bytes=2 * size_bytes - 1) for one in versions[:2]]
    assert sorted(one.word() for one in less) == ["disk_full", "held"]


def test_a_version_without_room_leaves_no_claim(platform, make_cache, sealed_once, folder):
    size_bytes = sealed_once.parts[0].stat().st_size

    with pytest.raises(ReplicaError) as caught:
        fetch(make_cache(limit_bytes=size_bytes - 1), sealed_once)

    assert caught.value.reason_code == "disk_full"
    assert names_in(folder / "pins") == names_in(folder / "parts") == []
    fetch(make_cache(limit_bytes=size_bytes), sealed_once)


def test_a_loaded_model_keeps_its_parts_until_it_goes(platform, make_cache, tmp_path):
    first, second = (assign(platform, tmp_path, os.urandom(SIZE)) for _ in range(2))
    cache = make_cache(limit_bytes=int(1.5 * SIZE))
    cache.keep(frozenset({version(first)}))
    fetch(cache, first)

    with pytest.raises(ReplicaError):
        fetch(cache, second)

    cache.keep(frozenset())
    fetch(cache, second)
    assert not cache.store.path_of(digests(first)[0]).exists()


def test_a_draft_that_nobody_fetches_makes_room(platform, make_cache, sealed_once, folder):
    size_bytes = sealed_once.parts[0].stat().st_size
    cache = make_cache(limit_bytes=size_bytes)
    stale = folder / "drafts" / f"{'0' * 64}-{size_bytes}"
    stale.write_bytes(b"x" * 1000)

    fetch(cache, sealed_once)

    assert not stale.exists()


def test_a_lock_that_another_process_never_lets_go_ends_the_wait(
    make_cache, sealed_once, folder, monkeypatch
):
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_S", 0.2)
    cache = make_cache()
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    store_module.fcntl.flock(handle, store_module.fcntl.LOCK_EX)
    try:
        with pytest.raises(ReplicaError, match="held the node's cache") as caught:
            fetch(cache, sealed_once)
    finally:
        os.close(handle)
    assert caught.value.is_infrastructure
    fetch(cache, sealed_once)


def test_a_manifest_of_another_node_is_not_believed(platform, make_cache, sealed_once, tmp_path):
    """It says how a version is confined: the shared folder has none, and each node asks itself."""
    fetch(make_cache(node="1"), sealed_once)

    # Whoever looks through all that nodes share finds parts alone.
    assert not [one for one in (tmp_path / "cache").rglob("*.json") if one.name != "damage.json"]
    platform.is_web_down = True
    try:
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(CancelledError):
            fetch(make_cache(node="2"), sealed_once, stop)
    finally:
        platform.is_web_down = False


def test_the_folder_of_before_is_cleared(make_cache, tmp_path, sealed_once):
    old = tmp_path / "cache" / sealed_once.manifest.artifact_id
    old.mkdir(parents=True)
    (old / "0-0.part").write_bytes(b"x")

    fetch(make_cache(), sealed_once)

    assert not old.exists()


def test_the_status_counts_what_is_there(make_cache, sealed_once, folder):
    cache = make_cache(limit_bytes=10 * SIZE)
    size_bytes = sealed_once.parts[0].stat().st_size
    fetch(cache, sealed_once)
    before = cache.store.status()
    with cache.hold(version(sealed_once), on_progress=lambda _: None, cancelled=NEVER):
        during = cache.store.status()

    assert (before.part_count, before.part_bytes, before.pinned_bytes) == (1, size_bytes, 0)
    assert during.pinned_bytes == size_bytes
    assert json.dumps(before.to_json())


def test_the_nodes_report_waits_for_nobody(make_cache, sealed_once, folder, monkeypatch):
    monkeypatch.setattr(store_module, "_ROUND_BYTES", 1)
    cache = make_cache(limit_bytes=10 * SIZE)
    fetch(cache, sealed_once)
    handle = os.open(folder / "lock", os.O_RDWR)
    store_module.fcntl.flock(handle, store_module.fcntl.LOCK_EX)
    try:
        found = cache.store.describe()
    finally:
        os.close(handle)
    size_bytes = sealed_once.parts[0].stat().st_size
    assert found == {"used_bytes": size_bytes, "limit_bytes": 10 * SIZE, "damage": 0}


def test_use_is_what_counts_not_age(platform, make_cache, tmp_path):
    versions = [assign(platform, tmp_path, os.urandom(SIZE)) for _ in range(3)]
    cache = make_cache(limit_bytes=int(2.5 * SIZE))
    for one in versions[:2]:
        fetch(cache, one)
        time.sleep(0.01)
    fetch(cache, versions[0])

    fetch(cache, versions[2])

    assert names_in(cache.store.folder / "parts") == sorted(
        digests(versions[0]) + digests(versions[2])
    )
