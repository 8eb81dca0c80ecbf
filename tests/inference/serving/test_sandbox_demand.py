"""A version whose creator demands Landlock, on a machine that was told to do without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.serving import landlock, sandbox
from inference.serving.errors import SandboxError
from strongroom.sealing.policy import Policy
from tests.inference.artifact.onnx_models import LINEAR_INTERFACE, linear
from tests.inference.serving.sealed import SealedModel, seal
from tests.inference.serving.triton import LoadFailedError, Triton

DEMAND = Policy(sandbox="landlock")


@pytest.fixture(scope="module")
def weak_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A server whose stubs are told that this is a developer's machine without Landlock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_ENV", "development")
        patch.setenv("STRONGROOM_SANDBOX", sandbox.SECCOMP_ONLY)
        server = Triton(tmp_path_factory.mktemp("weak"))
    yield server
    server.stop()


def seal_graph(parts: Path, policy: Policy) -> SealedModel:
    files = {"model.onnx": ("onnx", linear())}
    sealed = seal(parts, files, runtime="onnx", interface=LINEAR_INTERFACE)
    return sealed.with_manifest(policy=policy)


def test_it_is_refused_before_the_key_is_asked_for(weak_triton, parts):
    name, peer = weak_triton.prepare(seal_graph(parts, DEMAND))

    with peer, pytest.raises(LoadFailedError, match="landlock_required"):
        weak_triton.load(name)

    assert peer.find("failed") == {
        "reason_code": "landlock_required",
        "detail": "The version demands a sandbox with Landlock; this node was told to do without.",
    }
    assert not [one for one in peer.messages if "ready_for_key" in one]


def test_a_version_without_demands_is_loaded_there(weak_triton, parts):
    name, peer = weak_triton.prepare(seal_graph(parts, Policy()))

    with peer:
        weak_triton.load(name)

    assert peer.find("loaded") is not None
    weak_triton.unload(name)


def test_it_is_loaded_where_landlock_is(load, parts):
    _, peer = load(seal_graph(parts, DEMAND))

    assert peer.find("loaded")["sandbox"]["landlock_abi"] >= 1


@pytest.mark.parametrize(
    ("_demanded", "_mode", "_abi"),
    [(None, "", 0), (None, sandbox.SECCOMP_ONLY, 0), ("landlock", "", 1)],
)
def test_demand_that_is_met(monkeypatch, _demanded, _mode, _abi):
    monkeypatch.setattr(landlock, "find_abi", lambda: _abi)

    sandbox.check_demand(_demanded, _mode)
    sandbox.check_demand(_demanded, _mode, landlock_abi=_abi)


@pytest.mark.parametrize(("_mode", "_abi"), [("", 0), (sandbox.SECCOMP_ONLY, 7)])
def test_demand_that_is_not(monkeypatch, _mode, _abi):
    monkeypatch.setattr(landlock, "find_abi", lambda: _abi)

    for given in (None, _abi):
        with pytest.raises(SandboxError, match="landlock_required"):
            sandbox.check_demand("landlock", _mode, landlock_abi=given)
