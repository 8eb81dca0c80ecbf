"""A second of each process beside the running product, and one address in front of both.

What `bin/up` started is called `one`, and its supervisor brings it back; ours is called `two`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from bench.balancer import Balancer
from bench.one_address import Death
from embedded import descendants, environment, home, ports, processes, spawn
from embedded.environment import ROOT, Place
from embedded.home import Home
from embedded.processes import Process
from tests.chaos.children import wait_for
from tests.stack import Stack

NAMES = ("one", "two")
SECOND_NODE_NAME = "node-two"
PARTS = ("keybroker", "web", "gateway", "worker", "node")
# Behind the one address, by part: the balancer's name for them.
BACKENDS = {"gateway": "gateways", "web": "sites", "keybroker": "brokers"}
_ADDRESSES = ("STRONGROOM_KEYBROKER_URL", "STRONGROOM_WEB_URL", "STRONGROOM_GATEWAY_URL")
STOP_WITHIN_S = 60.0
# Several predictions long, at the rate of the test.
_PAUSE_S = 0.5
# The supervisor is quick, and a node's Triton and its model take a while.
_START_WITHIN_S = 180.0


@dataclass
class Second:
    """One of our own processes."""

    process: Process
    log: Path
    running: subprocess.Popen[bytes]
    log_begin: int = 0

    @property
    def pid(self) -> int:
        return self.running.pid


class SecondFleet:
    """The second of each, and the balancer.

    Args:
        stack: The product that runs.
        folder: For state and logs.
    """

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self._folder = stack, folder
        folder.chmod(0o711)
        self._short = Path(tempfile.mkdtemp(prefix="two-", dir="/tmp"))
        self._short.chmod(0o711)
        self._ones = self._read_place(stack)
        chosen = {name: ports.choose() for name in ("web", "gateway", "grpc", *home.PORT_NAMES)}
        self.balancer = Balancer(
            self._short,
            {"one": self._ones.gateway_port, "two": chosen["gateway"]},
            sites={"one": self._ones.web_port, "two": chosen["web"]},
            brokers={"one": self._ones.ports["keybroker"], "two": chosen["keybroker"]},
        )
        self._environments = self._vary(chosen)
        self._seconds: dict[str, Second] = {}
        self.deaths: list[Death] = []

    @staticmethod
    def _read_place(stack: Stack) -> Place:
        where = Home(stack.home)
        inner = json.loads((stack.home / "ports.json").read_text())
        outer = [urlsplit(stack.demo[f"{part}_url"]).port or 0 for part in ("web", "gateway")]
        return Place(
            home=where,
            secrets=home.load_secrets(where),
            ports=inner,
            web_port=outer[0],
            gateway_port=outer[1],
            grpc_port=0,
            run_dir=Path("/"),
            person={},
        )

    def _vary(self, chosen: Mapping[str, int]) -> dict[str, Process]:
        """Ours: other ports and folders, the same home, and all others by the one address."""
        listening = replace(
            self._ones,
            web_port=chosen["web"],
            gateway_port=chosen["gateway"],
            grpc_port=chosen["grpc"],
            ports={**self._ones.ports, "keybroker": chosen["keybroker"]},
        )
        tritons = {name: chosen[name] for name in chosen if name.startswith("triton_")}
        calling = replace(
            self._ones,
            web_port=urlsplit(self.balancer.site_url).port or 0,
            gateway_port=urlsplit(self.balancer.url).port or 0,
            ports={**self._ones.ports, **tritons, "keybroker": self.balancer.broker_port},
            run_dir=self._make("run", self._short),
        )
        listeners = {one.name: one for one in processes.build(listening)}
        callers = {one.name: one for one in processes.build(calling)}
        more = {
            "worker": {"STRONGROOM_STATE_DIR": str(self._make("state"))},
            "node": {
                "STRONGROOM_NODE_NAME": SECOND_NODE_NAME,
                "STRONGROOM_NODE_DIR": str(self._make("node")),
                "STRONGROOM_NODE_JOIN_TOKEN_FILE": str(self._folder / "join-token"),
                # On one machine the ciphertext lies once.
                "STRONGROOM_NODE_CACHE_DIR": str(self._ones.home / "node" / "cache"),
            },
        }
        found = {}
        for part in PARTS:
            one = listeners[part] if part in BACKENDS else callers[part]
            # What it calls is behind the address, whatever it listens on itself.
            for name in (
                "STRONGROOM_KEYBROKER_URL",
                "STRONGROOM_WEB_URL",
                "STRONGROOM_GATEWAY_URL",
            ):
                if name in one.env:
                    one = replace(one, env={**one.env, name: callers["node"].env[name]})
            found[part] = replace(one, env={**one.env, **more.get(part, {})})
        return found

    def _make(self, name: str, parent: Path | None = None) -> Path:
        path = (parent or self._folder) / name
        path.mkdir(mode=0o700)
        return path

    def start_all(self) -> None:
        """Every second, one after the other, until each is ready and behind the address."""
        path = self._folder / "join-token"
        path.touch(mode=0o600)
        with path.open("wb") as file:
            subprocess.run(
                processes.python("manage.py", "create_join_token", "--name", SECOND_NODE_NAME),
                env=environment.for_process(self._ones, "manage"),
                cwd=ROOT,
                stdout=file,
                check=True,
            )
        for part in PARTS:
            self.start(part)

    def start(self, part: str) -> None:
        """Start ours of a part; returns when it is ready."""
        process, log = self._environments[part], self._folder / f"{part}.log"
        begin = log.stat().st_size if log.exists() else 0
        running = spawn.start(process.command, env=process.env, cwd=process.cwd, log=log)
        second = self._seconds[part] = Second(process, log, running, begin)
        is_ready = process.is_ready
        assert is_ready is not None

        def look() -> bool:
            said = second.log.read_text(errors="replace")[second.log_begin :]
            assert running.poll() is None, said[-3000:]
            return is_ready(said)

        wait_for(look, f"our {part}", within_s=_START_WITHIN_S)
        if part in BACKENDS:
            self.balancer.wait_up("two", BACKENDS[part])

    def kill(self, part: str, name: str) -> None:
        """Let all of a process die at once, as the loss of its machine does, and note when."""
        pid = self.stack.pid_of(part) if name == "one" else self._seconds[part].pid
        tree = [pid, *descendants.list_descendants(pid)]
        # So that somebody is in flight there, whatever the moment.
        if part == "gateway":
            _send(tree, signal.SIGSTOP)
            self.balancer.wait_busy(name, 4)
        if part == "node":
            _send(tree, signal.SIGSTOP)
            time.sleep(_PAUSE_S)
        before_s = time.time()
        _send(tree, signal.SIGKILL)
        if name == "two":
            self._seconds[part].running.wait(STOP_WITHIN_S)
        wait_for(lambda: not _list_alive(tree), f"the death of {part} {name}")
        if part == "gateway":
            self.deaths.append(Death(name, before_s, time.time()))
        self._bring_back(part, name, pid)

    def _bring_back(self, part: str, name: str, before: int) -> None:
        if name == "two":
            self.start(part)
            return
        self.stack.wait_ready(part, before)
        if part in BACKENDS:
            self.balancer.wait_up(name, BACKENDS[part])

    def stop(self) -> None:
        """End ours as a person would, the node first; nothing of it is left."""
        for part in reversed(PARTS):
            second = self._seconds.pop(part, None)
            if second is None or second.running.poll() is not None:
                continue
            tree = descendants.list_descendants(second.pid)
            second.running.terminate()
            try:
                second.running.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                _send([second.pid, *tree], signal.SIGKILL)
                raise
        self.balancer.stop()
        shutil.rmtree(self._short)


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _list_alive(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if _state(pid) not in ("", "Z")]


def _state(pid: int) -> str:
    """One letter; empty if there is no such process, Z if only its parent has not looked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
