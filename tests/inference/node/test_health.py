"""What a node says of the walls that its machine has."""

from __future__ import annotations

import resource

import pytest

from inference.node import health
from inference.node.health import SandboxSupport, probe_sandbox
from inference.serving import landlock, memory, sandbox
from inference.serving.errors import SandboxError


def support(**changes) -> SandboxSupport:
    members = {
        "landlock_abi": 7,
        "seccomp": True,
        "mlock": "full",
        "swap": False,
        "core_pattern": "core",
        "mode": "",
    }
    return SandboxSupport(**{**members, **changes})


def test_this_machine_is_described():
    found = probe_sandbox({}).to_json()

    assert found["landlock_abi"] == landlock.find_abi()
    assert found["seccomp"] is True
    assert found["mlock"] in ("full", "partial", "none")
    assert found["swap"] == memory.has_swap()
    assert found["core_pattern"] == health._CORE_PATTERN.read_text().strip()[:128]
    assert found["mode"] == "full"


@pytest.mark.parametrize(
    ("_soft_hard", "_may_lock", "_mlock"),
    [
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), False, "full"),
        ((1024, 1024), True, "full"),
        ((1024, resource.RLIM_INFINITY), False, "full"),
        ((1024, 1024), False, "partial"),
        ((0, 0), False, "none"),
    ],
)
def test_how_much_can_be_kept_out_of_swap(monkeypatch, _soft_hard, _may_lock, _mlock):
    monkeypatch.setattr(health.resource, "getrlimit", lambda _: _soft_hard)
    monkeypatch.setattr(health.kernel, "has_capability", lambda _: _may_lock)

    assert probe_sandbox({}).mlock == _mlock


def test_a_long_core_pattern_is_cut(monkeypatch, tmp_path):
    path = tmp_path / "core_pattern"
    monkeypatch.setattr(health, "_CORE_PATTERN", path)
    for length, kept in ((128, 128), (129, 128)):
        path.write_text("x" * length)
        assert len(probe_sandbox({}).core_pattern) == kept
    path.unlink()
    assert probe_sandbox({}).core_pattern == ""


@pytest.mark.parametrize(
    ("_environment", "_mode"),
    [
        ({"STRONGROOM_ENV": "development", "STRONGROOM_SANDBOX": "seccomp-only"}, "seccomp-only"),
        # Every load will say the same.
        ({"STRONGROOM_SANDBOX": "seccomp-only"}, "sandbox_refused"),
    ],
)
def test_a_weaker_mode_is_told(_environment, _mode):
    assert probe_sandbox(_environment).to_json()["mode"] == _mode


def test_demand_is_compared_with_what_was_found():
    support().check_demand("landlock")
    support(landlock_abi=0).check_demand(None)
    for weak in (support(landlock_abi=0), support(mode=sandbox.SECCOMP_ONLY)):
        with pytest.raises(SandboxError, match="landlock_required"):
            weak.check_demand("landlock")
