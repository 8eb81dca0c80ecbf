from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading

import pytest

from inference.node import cache as cache_module
from inference.node.errors import CancelledError, ReplicaError
from tests.inference.node.caches import (
    INTERFACE,
    NEVER,
    assign,
    digests,
    fetch,
    names_in,
    version,
)
from tests.inference.serving.sealed import seal


@pytest.fixture
def sealed(tmp_path, platform):
    return assign(platform, tmp_path, b"a" * 3000, b"b" * 100)


def test_all_parts_come_in_the_order_of_the_manifest(make_cache, sealed):
    shares = []

    artifact = fetch(make_cache(), sealed, on_progress=shares.append)

    assert [one.read_bytes() for one in artifact.parts] == [
        one.read_bytes() for one in sealed.parts
    ]
    assert artifact.manifest == sealed.manifest
    assert artifact.manifest_text.encode() == sealed.manifest.canonical_bytes()
    assert shares[-1] == 1.0


def test_descriptors_are_for_reading_only(make_cache, sealed):
    handles = fetch(make_cache(), sealed).open_parts()

    try:
        modes = [fcntl.fcntl(one, fcntl.F_GETFL) & os.O_ACCMODE for one in handles]
        assert modes == [os.O_RDONLY] * 2
    finally:
        for handle in handles:
            os.close(handle)


def test_a_cut_fetch_goes_on_where_it_was(platform, make_cache, sealed):
    artifact = fetch(make_cache(), sealed)
    artifact.parts[1].unlink()
    platform.parts_sent.clear()

    again = fetch(make_cache(), sealed)

    assert [one[1:] for one in platform.parts_sent] == [(1, 0)]
    assert again.parts[1].read_bytes() == sealed.parts[1].read_bytes()


def test_a_version_that_is_here_needs_no_web(platform, make_cache, sealed):
    fetch(make_cache(), sealed)
    platform.is_web_down = True
    try:
        assert fetch(make_cache(), sealed).manifest == sealed.manifest
    finally:
        platform.is_web_down = False


def test_a_spoiled_part_never_gets_its_name(platform, make_cache, sealed, tmp_path):
    platform.spoiled_parts = 1000
    try:
        with pytest.raises(ReplicaError) as caught:
            fetch(make_cache(), sealed)
    finally:
        platform.spoiled_parts = 0

    assert caught.value.reason_code == "artifact_corrupt"
    assert not caught.value.is_infrastructure
    assert names_in(tmp_path / "cache/parts") == []


def test_without_the_check_the_spoiled_part_would_be_kept(
    platform, make_cache, tmp_path, monkeypatch
):
    """The control: what the test above sees is the work of the hash."""
    sealed = assign(platform, tmp_path, b"a" * 3000)
    (promised,) = digests(sealed)

    class Blind:
        def update(self, _):
            pass

        def hexdigest(self):
            return promised

    monkeypatch.setattr(hashlib, "sha256", lambda *_: Blind())
    platform.spoiled_parts = 1

    (part,) = fetch(make_cache(), sealed).parts

    assert part.read_bytes() != sealed.parts[0].read_bytes()


def test_an_outage_is_bridged_and_a_long_one_reported(platform, make_cache, sealed, monkeypatch):
    platform.is_web_down = True
    threading.Timer(0.5, lambda: setattr(platform, "is_web_down", False)).start()
    assert fetch(make_cache(), sealed).parts

    other = make_cache(name="other")
    monkeypatch.setattr(cache_module, "RETRY_TIMEOUT_S", 0.5)
    platform.is_web_down = True
    try:
        with pytest.raises(ReplicaError) as caught:
            fetch(other, sealed)
    finally:
        platform.is_web_down = False
    assert caught.value.reason_code == "fetch_failed"
    assert caught.value.is_infrastructure


def test_a_version_that_is_not_ours_is_refused(make_cache, sealed, platform):
    del platform._assigned[next(reversed(platform._assigned))]

    with pytest.raises(ReplicaError, match="not_found") as caught:
        fetch(make_cache(), sealed)

    assert caught.value.reason_code == "fetch_failed"


def test_a_fetch_can_be_cancelled(platform, make_cache, sealed):
    cancelled = threading.Event()
    platform.is_web_down = True
    threading.Timer(0.3, cancelled.set).start()
    try:
        with pytest.raises(CancelledError):
            fetch(make_cache(), sealed, cancelled)
    finally:
        platform.is_web_down = False


def test_the_longest_unused_version_makes_room(platform, make_cache, tmp_path):
    size = 200_000
    versions = [assign(platform, tmp_path, bytes([index]) * size) for index in range(3)]
    cache = make_cache(limit_bytes=int(2.5 * size))
    for one in versions[:2]:
        fetch(cache, one)
    fetch(cache, versions[0])  # Now the second is the one that was not used for longest.

    fetch(cache, versions[2])

    kept = digests(versions[0]) + digests(versions[2])
    assert names_in(tmp_path / "cache/parts") == sorted(kept)
    assert cache.store.status().used_bytes <= 2.5 * size


def test_a_version_in_use_is_not_removed_for_another(platform, make_cache, tmp_path):
    size = 200_000
    first, second = (assign(platform, tmp_path, bytes([index]) * size) for index in range(2))
    cache = make_cache(limit_bytes=int(1.5 * size))

    with cache.hold(version(first), on_progress=lambda _: None, cancelled=NEVER) as artifact:
        with pytest.raises(ReplicaError) as caught:
            fetch(cache, second)
        assert artifact.parts[0].exists()

    assert caught.value.reason_code == "disk_full"
    assert fetch(cache, second).parts
    assert not artifact.parts[0].exists()


def test_a_full_disk_has_its_own_code(make_cache, sealed, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))

    with pytest.raises(ReplicaError) as caught:
        fetch(make_cache(), sealed)

    assert caught.value.reason_code == "disk_full"


def test_a_manifest_of_another_version_is_refused(platform, make_cache, sealed, monkeypatch):
    other = seal(
        sealed.parts[0].parent,
        {"a.bin": ("external_data", b"x")},
        runtime="onnx",
        interface=INTERFACE,
    )
    monkeypatch.setattr(platform, "_find_artifact", lambda _: other)

    with pytest.raises(ReplicaError) as caught:
        fetch(make_cache(), sealed)

    assert caught.value.reason_code == "manifest_mismatch"


def test_a_version_that_the_check_refuses_is_not_fetched(make_cache, sealed, platform):
    cache, before = make_cache(), len(platform.parts_sent)

    def refuse(manifest):
        assert manifest == sealed.manifest
        raise ReplicaError("landlock_required", "No.")

    options = {"on_progress": lambda _: None, "cancelled": NEVER}
    with pytest.raises(ReplicaError, match="landlock_required"):  # noqa: SIM117 - what is entered fails
        with cache.hold(version(sealed), check=refuse, **options):
            pass
    assert len(platform.parts_sent) == before
    # It was the check: without it, the parts come.
    fetch(cache, sealed)
    assert len(platform.parts_sent) == before + 2
