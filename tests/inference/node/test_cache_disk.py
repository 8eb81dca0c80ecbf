"""Disks that are full, and disks that forget."""

from __future__ import annotations

import os

import pytest

from inference.node import store as store_module
from inference.node.errors import ReplicaError
from inference.node.store import PartState, PartStore
from tests.inference.node.caches import Holder, assign, digests, fetch, names_in, version

SIZE = 200_000
# Mounts a disk of 1 MiB that is gone with the process; root in a space of its own may do that.
_ON_A_SMALL_DISK = (
    *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"',
)


@pytest.fixture(autouse=True)
def no_reserve(monkeypatch):
    """Of the disk of whoever runs the tests."""
    monkeypatch.setattr(store_module, "DISK_RESERVE_BYTES", 0)


@pytest.fixture
def sealed(platform, tmp_path):
    return assign(platform, tmp_path, os.urandom(SIZE), os.urandom(SIZE))


def spoil(path):
    """A bit turns over; the file keeps its times, as it does when a disk forgets."""
    about, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_a_part_that_went_bad_is_found_before_its_use(platform, make_cache, sealed, tmp_path):
    bad = fetch(make_cache(), sealed).parts[1]
    spoil(bad)
    platform.parts_sent.clear()

    # Another process, or this node after a restart.
    artifact = fetch(make_cache(node="2"), sealed)

    assert artifact.parts[1].read_bytes() == sealed.parts[1].read_bytes()
    assert [one[1:] for one in platform.parts_sent] == [(1, 0)]
    assert [one.split("-")[0] for one in names_in(tmp_path / "cache/damaged")] == [bad.name]
    # The control of the control: what was right stays as it was.
    assert artifact.parts[0].read_bytes() == sealed.parts[0].read_bytes()


def test_without_the_check_the_bad_part_would_be_used(platform, make_cache, sealed, monkeypatch):
    """The control: it is the hash that finds it."""
    bad = fetch(make_cache(), sealed).parts[1]
    spoil(bad)
    monkeypatch.setattr(store_module, "_is_intact", lambda *_: True)

    artifact = fetch(make_cache(node="2"), sealed)

    assert artifact.parts[1].read_bytes() != sealed.parts[1].read_bytes()


def test_what_the_loader_found_spoiled_is_read_again(platform, make_cache, sealed):
    """Its bits turned over after this process had read it: only the cipher's tag can tell."""
    cache = make_cache()
    bad = fetch(cache, sealed).parts[0]
    spoil(bad)
    assert fetch(cache, sealed).parts[0].read_bytes() != sealed.parts[0].read_bytes()

    cache.distrust(version(sealed))

    assert fetch(cache, sealed).parts[0].read_bytes() == sealed.parts[0].read_bytes()
    assert cache.store.damage_count() == 1


@pytest.mark.parametrize("size_bytes", [0, 1000, SIZE * 2])
def test_a_part_of_another_size_is_damage(make_cache, sealed, size_bytes):
    path = fetch(make_cache(), sealed).parts[0]
    os.truncate(path, size_bytes)
    cache = make_cache(node="2")

    assert fetch(cache, sealed).parts[0].read_bytes() == sealed.parts[0].read_bytes()
    assert cache.store.damage_count() == 1


def test_a_link_in_place_of_a_part_is_damage(make_cache, sealed, tmp_path):
    path = fetch(make_cache(), sealed).parts[0]
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)

    artifact = fetch(make_cache(node="2"), sealed)

    assert not artifact.parts[0].is_symlink()
    assert elsewhere.read_bytes() == sealed.parts[0].read_bytes()


def test_a_part_that_cannot_be_read_is_damage(make_cache, sealed, monkeypatch):
    cache = make_cache()
    fetch(cache, sealed)
    real = os.pread
    broken = cache.store.path_of(digests(sealed)[0]).stat().st_ino

    def read(handle, count, at):
        if os.fstat(handle).st_ino == broken:
            raise OSError(5, "Input/output error")
        return real(handle, count, at)

    monkeypatch.setattr(os, "pread", read)
    other = make_cache(node="2")

    assert fetch(other, sealed).parts[0].read_bytes() == sealed.parts[0].read_bytes()
    assert other.store.damage_count() == 1


def test_the_last_damaged_parts_are_kept_and_all_are_counted(make_cache, sealed, tmp_path):
    count = store_module.DAMAGED_KEPT + 2
    for number in range(count):
        spoil(fetch(make_cache(node=f"a{number}"), sealed).parts[0])
    cache = make_cache(node="last")
    fetch(cache, sealed)

    assert cache.store.damage_count() == count
    assert len(names_in(tmp_path / "cache/damaged")) == store_module.DAMAGED_KEPT
    assert cache.store.describe()["damage"] == count


def test_damaged_parts_are_the_first_to_make_room(platform, make_cache, tmp_path):
    first, second = (assign(platform, tmp_path, os.urandom(SIZE)) for _ in range(2))
    limit_bytes = int(2.5 * SIZE)
    spoil(fetch(make_cache(limit_bytes), first).parts[0])
    cache = make_cache(limit_bytes, node="2")
    fetch(cache, first)
    assert cache.store.status().damaged_bytes

    fetch(cache, second)

    assert names_in(tmp_path / "cache/damaged") == []
    assert cache.store.status().part_count == 2


def test_a_damaged_part_finds_room_where_there_was_just_enough(platform, make_cache, tmp_path):
    sealed = assign(platform, tmp_path, os.urandom(SIZE))
    size_bytes = sealed.parts[0].stat().st_size
    spoil(fetch(make_cache(size_bytes), sealed).parts[0])
    cache = make_cache(size_bytes, node="2")

    fetch(cache, sealed)

    assert cache.store.status().used_bytes == size_bytes


def test_to_verify_reads_everything(make_cache, sealed):
    cache = make_cache()
    paths = fetch(cache, sealed).parts
    assert cache.store.verify() == (2, 0)
    spoil(paths[1])
    seen = {}

    assert cache.store.verify(on_part=seen.__setitem__) == (1, 1)

    assert seen == {paths[0].name: True, paths[1].name: False}
    assert cache.store.verify() == (1, 0)


def test_a_file_that_is_no_part_is_set_aside(tmp_path):
    store = PartStore(tmp_path / "cache", limit_bytes=1)
    (tmp_path / "cache/parts/note.txt").write_text("hello")

    assert store.verify() == (0, 1)


def test_what_another_process_fetched_anew_is_not_set_aside(make_cache, sealed, monkeypatch):
    cache = make_cache()
    path = fetch(cache, sealed).parts[0]
    spoil(path)
    right = sealed.parts[0].read_bytes()
    real = store_module._is_intact

    def meanwhile(handle, part):
        found = real(handle, part)
        new = path.with_name("new")
        new.write_bytes(right)
        new.replace(path)
        return found

    other = make_cache(node="2")
    monkeypatch.setattr(store_module, "_is_intact", meanwhile)
    part = sealed.manifest.files[0].parts[0]

    assert other.store.look_at(part) is PartState.MISSING
    assert path.read_bytes() == right
    assert other.store.damage_count() == 0


# --- A disk without room -----------------------------------------------------------


@pytest.fixture
def on_small_disk(platform, control_plane, tmp_path):
    """A process whose cache lies on a disk of 1 MiB; its limit knows nothing of that."""
    started = []
    folder = tmp_path / "small"
    folder.mkdir()

    def start(*sealed, **options):
        prefix = (*_ON_A_SMALL_DISK, str(folder))
        started.append(Holder(platform, tmp_path, folder, *sealed, prefix=prefix, **options))
        return started[-1]

    yield start
    for one in started:
        one.kill()


# The second sees more room than there is: it is the write that the kernel refuses.
@pytest.mark.parametrize("reserve_bytes", [0, -(1 << 40)], ids=["seen before", "met on the way"])
def test_a_disk_that_is_full_refuses_one_model_and_no_other(
    platform, on_small_disk, tmp_path, reserve_bytes
):
    small = assign(platform, tmp_path, os.urandom(600_000))
    large = assign(platform, tmp_path, os.urandom(2_000_000))
    other = assign(platform, tmp_path, os.urandom(300_000))

    # The first stays in use; the second has no room; the third has.
    holder = on_small_disk(small, large, other, reserve_bytes=reserve_bytes)

    assert [holder.word() for _ in range(3)] == ["held", "disk_full", "held"]


def test_a_write_that_finds_no_room_makes_some(platform, make_cache, tmp_path, monkeypatch):
    """Somebody else filled the disk since the room was promised."""
    old, new = (assign(platform, tmp_path, os.urandom(SIZE)) for _ in range(2))
    cache = make_cache()
    old_path = fetch(cache, old).parts[0]
    real = os.pwrite

    def write(handle, data, at):
        # As the kernel answers while the old part takes the room.
        if len(data) > 1000 and old_path.exists():
            raise OSError(28, "No space left on device")
        return real(handle, data, at)

    monkeypatch.setattr(os, "pwrite", write)

    assert fetch(cache, new).parts[0].read_bytes() == new.parts[0].read_bytes()
    assert not old_path.exists()


def test_a_write_that_finds_no_room_takes_nothing_in_use(
    platform, make_cache, tmp_path, monkeypatch
):
    old, new = (assign(platform, tmp_path, os.urandom(SIZE)) for _ in range(2))
    cache = make_cache()
    cache.keep(frozenset({version(old)}))
    old_path = fetch(cache, old).parts[0]
    real = os.pwrite

    def write(handle, data, at):
        if len(data) > 1000:
            raise OSError(28, "No space left on device")
        return real(handle, data, at)

    monkeypatch.setattr(os, "pwrite", write)

    with pytest.raises(ReplicaError) as caught:
        fetch(cache, new)
    assert caught.value.reason_code == "disk_full"
    assert caught.value.is_infrastructure
    assert old_path.read_bytes() == old.parts[0].read_bytes()
