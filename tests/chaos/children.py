"""The processes of the running product, one by one, and how each is known to be back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx

from tests.chaos import database
from tests.stack import Stack

MODEL = "demo/digits"
# What dies, alone or together, in this order: what gateway and Postgres leave behind (claims,
# holds) has the time of all the others to run out.
DEATHS = (
    ("gateway",),
    ("gateway worker",),
    ("postgres",),
    ("gateway", "postgres"),
    ("redis",),
    ("keybroker",),
    ("fakestripe",),
    ("stub",),
    ("tritonserver",),
    ("web",),
    ("beat",),
    ("worker",),
    ("node",),
    ("node", "worker", "redis"),
)
# A consumer must not even notice that these are away.
UNNOTICED = frozenset({"redis", "keybroker", "fakestripe", "web", "beat", "worker"})
# Through these a booking and its answer pass.
ANSWERS_PASS = frozenset({"gateway", "gateway worker", "postgres"})
BACK_WITHIN_S = 120.0

T = TypeVar("T")


def find(stack: Stack, part: str) -> int:
    """The pid of a part.

    Raises:
        LookupError: It does not run.
    """
    match part:
        case "gateway worker":
            # Granian's parent only watches: predictions pass through its child.
            return _first(stack, lambda pid: _parent(pid) == stack.pid_of("gateway"), part)
        case "tritonserver":
            return _first(stack, lambda pid: _program(pid) == "tritonserver", part)
        case "stub":
            return find_stub(stack, MODEL)
    return stack.pid_of(part)


def find_stub(stack: Stack, model: str) -> int:
    """The process that serves a model; with several replicas, one of them."""
    names = list_triton_names(stack, model)

    def is_it(pid: int) -> bool:
        command = _command(pid)
        return _program(pid) == "triton_python_backend_stub" and any(
            f"/{name}/" in command for name in names
        )

    return _first(stack, is_it, model)


def list_triton_names(stack: Stack, model: str) -> list[str]:
    """Under which names the ready replicas of a model are known to Triton."""
    query = """
        SELECT r.id FROM inference_replica r
        JOIN marketplace_modelversion v ON v.id = r.version_id
        JOIN marketplace_aimodel m ON m.id = v.model_id
        JOIN marketplace_account a ON a.id = m.account_id
        WHERE a.slug || '/' || m.name = %s AND r.state = 'ready' AND r.purpose = 'serve'"""
    return [f"r{row[0].hex}" for row in database.fetch(stack.home, query, [model])]


def wait_back(stack: Stack, part: str, before: int) -> None:
    """Wait until another process has taken the place of a part that was killed."""
    if part not in ("gateway worker", "tritonserver", "stub"):
        stack.wait_ready(part, before)
        return

    def is_back() -> bool:
        try:
            return find(stack, part) != before
        except LookupError:
            return False

    wait_for(is_back, f"{part} to come back")
    if part == "tritonserver":
        url = stack.demo["nodes"][0]["triton_http"]
        wait_for(lambda: _answers(f"{url}/v2/health/ready"), f"{part} to be ready")


def wait_for(look: Callable[[], T], what: str, *, within_s: float = BACK_WITHIN_S) -> T:
    """The first true value of `look`."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}"
        time.sleep(0.1)
    return found


def _first(stack: Stack, is_it: Callable[[int], bool], what: str) -> int:
    for pid in stack.pids:
        if is_it(pid):
            return pid
    raise LookupError(what)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _program(pid: int) -> str:
    return Path(_command(pid).partition(" ")[0]).name


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
