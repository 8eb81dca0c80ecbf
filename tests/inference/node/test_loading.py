"""What becomes of loads that end badly; Triton and the conversation are the test's own."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from inference.node import loading
from inference.node.errors import CancelledError, ReplicaError
from inference.node.health import probe_sandbox
from inference.node.leases import Lease
from inference.node.loading import ReplicaLoader
from inference.node.replica import Desired
from inference.triton.errors import (
    ModelLoadError,
    ModelUnloadError,
    TritonDeadlineError,
    TritonUnavailableError,
)
from inference.triton.repository import model_name
from marketplace.core.ids import new_id
from strongroom.interface import Interface
from strongroom.sealing.policy import Policy
from tests.inference.artifact.onnx_models import LINEAR_INTERFACE


class Triton:
    def __init__(self):
        self.load_error = None
        self.unload_error = None
        self.during_load = lambda: None
        self.unloaded = []

    def load(self, name, *, timeout_s):
        self.during_load()
        if self.load_error is not None:
            raise self.load_error

    def unload(self, name, *, timeout_s):
        self.unloaded.append(name)
        if self.unload_error is not None:
            raise self.unload_error


class Stubs:
    def __init__(self):
        self.session = None
        self.aborted = 0

    def expect(self, session):
        self.session = session

    def forget(self, session):
        pass

    def abort(self, session):
        self.aborted += 1


class Cache:
    def __init__(self):
        self.distrusted = []

    @contextmanager
    def hold(self, version_id, *, on_progress, cancelled, check):
        manifest = SimpleNamespace(
            parsed_interface=Interface.parse(LINEAR_INTERFACE), policy=Policy()
        )
        check(manifest)
        yield SimpleNamespace(manifest=manifest)

    def distrust(self, version_id):
        self.distrusted.append(version_id)


@pytest.fixture
def parts(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_SESSION_END_S", 0.05)
    released = []
    made = SimpleNamespace(
        triton=Triton(), stubs=Stubs(), cache=Cache(), released=released, folder=tmp_path
    )
    made.loader = ReplicaLoader(
        cache=made.cache,
        triton=made.triton,
        stubs=made.stubs,
        leases=SimpleNamespace(release=lambda lease: released.append(lease.lease_id)),
        repository_dir=tmp_path,
        socket_path=tmp_path / "stub.sock",
        support=probe_sandbox({}),
        parallel=1,
    )
    return made


DESIRED = Desired(new_id(), new_id(), "serve")


def load(parts, cancelled=None):
    return parts.loader.load(
        DESIRED,
        on_phase=lambda *_: None,
        on_validation=lambda _: None,
        cancelled=cancelled or threading.Event(),
    )


def converse(parts, *, failure=None, loaded=None, with_lease=True):
    """Let a conversation with the loader happen while Triton loads."""

    def talk():
        session = parts.stubs.session
        session.stub_pid = 1 << 22
        if with_lease:
            session.lease = Lease(str(new_id()), DESIRED.id, 0.0, 0.0)
        session.failure, session.loaded = failure, loaded
        session.over.set()

    parts.triton.during_load = talk


def fails_with(parts):
    with pytest.raises(ReplicaError) as caught:
        load(parts)
    # Nothing is left of it, whatever it was.
    assert parts.triton.unloaded == [model_name(DESIRED.id)]
    assert list(parts.folder.iterdir()) == []
    assert parts.stubs.aborted == 1
    return caught.value


def test_a_load_that_works_keeps_its_lease_and_folder(parts):
    converse(parts, loaded={"threads": 2})

    loaded = load(parts)

    assert loaded.loaded == {"threads": 2}
    assert loaded.lease is parts.stubs.session.lease
    assert parts.released == []
    assert [one.name for one in parts.folder.iterdir()] == [model_name(DESIRED.id)]


def test_the_loaders_reason_counts_more_than_tritons(parts):
    converse(parts, failure=ReplicaError("onnx_custom_op", "An op."))
    parts.triton.load_error = ModelLoadError("RuntimeError: onnx_custom_op")

    error = fails_with(parts)

    assert (error.reason_code, error.detail) == ("onnx_custom_op", "An op.")
    assert parts.released == [parts.stubs.session.lease.lease_id]


@pytest.mark.parametrize(
    ("triton_error", "code"),
    [
        (ModelLoadError("Stub process 'r1_0_0' is not healthy."), "stub_died"),
        (ModelLoadError("RuntimeError: node_unreachable"), "session_broken"),
        (ModelLoadError("SyntaxError: invalid syntax"), "load_failed"),
        (TritonDeadlineError(), "load_timeout"),
        (TritonUnavailableError(), "triton_unavailable"),
    ],
)
def test_without_a_word_of_the_loader_it_is_told_from_outside(parts, triton_error, code):
    parts.triton.load_error = triton_error

    assert fails_with(parts).reason_code == code


def test_a_loader_that_breaks_off_is_told_from_outside_too(parts):
    converse(parts, failure=ReplicaError("session_broken", "Cut."), with_lease=False)
    parts.triton.load_error = ModelLoadError("Stub process 'r1_0_0' is not healthy.")

    assert fails_with(parts).reason_code == "stub_died"


def test_a_model_that_is_ready_without_a_key_is_not_believed(parts):
    """Whatever Triton loaded there, it was not the sealed model."""
    assert fails_with(parts).reason_code == "session_broken"


def test_a_failure_after_tritons_yes_still_counts(parts):
    converse(parts, failure=ReplicaError("output_not_finite", "NaN."), loaded={})

    assert fails_with(parts).reason_code == "output_not_finite"


def test_a_spoiled_cache_is_looked_through_once(parts):
    converse(parts, failure=ReplicaError("tampered", "Segment 0."))
    parts.triton.load_error = ModelLoadError("RuntimeError: tampered")

    with pytest.raises(ReplicaError) as caught:
        load(parts)

    assert caught.value.reason_code == "artifact_corrupt"
    assert parts.cache.distrusted == [DESIRED.version_id]
    assert len(parts.released) == 2


def test_a_cancelled_load_is_no_failure(parts):
    cancelled = threading.Event()
    parts.triton.load_error = ModelLoadError("Stub process 'r1_0_0' is not healthy.")
    parts.triton.during_load = lambda: parts.loader.abort(cancelled)

    with pytest.raises(CancelledError):
        load(parts, cancelled)

    assert parts.stubs.aborted >= 1
    assert list(parts.folder.iterdir()) == []


def test_a_load_waits_for_its_turn_and_can_be_cancelled_there(parts):
    inside, go_on = threading.Event(), threading.Event()

    def hold():
        inside.set()
        go_on.wait(5)

    converse(parts, loaded={})
    talk = parts.triton.during_load
    parts.triton.during_load = lambda: (talk(), hold())
    first = threading.Thread(target=lambda: load(parts))
    first.start()
    assert inside.wait(5)
    cancelled = threading.Event()
    threading.Timer(0.1, cancelled.set).start()

    with pytest.raises(CancelledError):
        load(parts, cancelled)

    go_on.set()
    first.join(5)


def test_what_an_earlier_attempt_left_is_unloaded_first(parts):
    (parts.folder / model_name(DESIRED.id)).mkdir()
    converse(parts, loaded={})

    load(parts)

    assert parts.triton.unloaded == [model_name(DESIRED.id)]
    assert (parts.folder / model_name(DESIRED.id) / "config.pbtxt").exists()


def test_an_unload_without_a_server_removes_the_folder(parts):
    name = model_name(DESIRED.id)
    (parts.folder / name).mkdir()
    parts.triton.unload_error = TritonUnavailableError()

    parts.loader.unload(name)

    assert not (parts.folder / name).exists()


def test_a_model_that_stays_keeps_its_folder(parts):
    name = model_name(DESIRED.id)
    (parts.folder / name).mkdir()
    parts.triton.unload_error = ModelUnloadError("It is UNLOADING.")

    with pytest.raises(ReplicaError) as caught:
        parts.loader.unload(name)

    assert caught.value.reason_code == "deadline"
    assert (parts.folder / name).exists()


def test_a_model_whose_process_ended_is_left_behind(parts):
    name = model_name(DESIRED.id)
    (parts.folder / name).mkdir()
    parts.triton.unload_error = ModelUnloadError("It is UNLOADING.")

    parts.loader.unload(name, is_dead=True)

    assert not (parts.folder / name).exists()
