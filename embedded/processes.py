"""The children of the supervisor: what they run, with which environment, in which order."""

from __future__ import annotations

import signal
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embedded import environment, postgres, redis
from embedded.environment import ROOT, Place
from embedded.system_user import OURSELVES, SystemUser

PROBE_TIMEOUT_S = 2.0
# A worker may be in the middle of a step, a node drains its Triton first.
SLOW_STOP_TIMEOUT_S = 25.0

Probe = Callable[[str], bool]


@dataclass(frozen=True)
class Process:
    """One child.

    Args:
        name: As it is shown, and of its log file.
        command: Program (absolute) and arguments.
        env: Its whole environment.
        after: Names of those that must be ready (or done) before it starts, and that are
            stopped only after it.
        is_ready: Asked until it says yes; gets what the child wrote to its log since its
            start. None for a task, which is ready when it has ended with 0.
        where: Address, for people.
        start_timeout_s: From start to ready.
        stop_timeout_s: From the stop signal to SIGKILL.
    """

    name: str
    command: list[str | Path]
    env: Mapping[str, str] = field(repr=False)
    after: tuple[str, ...] = ()
    is_ready: Probe | None = None
    where: str = ""
    start_timeout_s: float = 120.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0
    user: SystemUser = OURSELVES
    cwd: Path = ROOT

    @property
    def is_task(self) -> bool:
        """Whether it does its work once and ends."""
        return self.is_ready is None


def build(place: Place) -> list[Process]:
    """Every part of the product, in the order in which they start."""
    parts = [_postgres(place), _redis(place), _prepare(place), _keybroker(place)]
    if not place.has_real_stripe:
        parts.append(_fakestripe(place))
    return [*parts, _web(place), _gateway(place), _worker(place), _beat(place), _node(place)]


def python(*arguments: str | Path) -> list[str | Path]:
    """A command of this very interpreter, which never imports from the working folder."""
    return [sys.executable, "-P", *arguments]


def answers(url: str, ca: Path | None = None) -> Probe:
    """Whether an HTTP server is there and well: any status below 500.

    Args:
        url: Asked with GET.
        ca: File with the authority of the server's certificate, if it has one.
    """

    def probe(_log: str) -> bool:
        context = ssl.create_default_context(cafile=ca) if ca else None
        try:
            with urllib.request.urlopen(  # noqa: S310
                url, timeout=PROBE_TIMEOUT_S, context=context
            ) as answer:
                return int(answer.status) < 500
        except urllib.error.HTTPError as error:
            error.close()
            return error.code < 500
        except OSError:
            return False

    return probe


def says(text: str) -> Probe:
    """Whether the log has a text: for those that listen nowhere."""
    return lambda log: text in log


def _postgres(place: Place) -> Process:
    port = place.ports["postgres"]
    superuser = postgres.url(
        port, postgres.SUPERUSER, place.secrets["postgres_superuser"], "postgres"
    )
    folder = place.home / "postgres"
    return Process(
        name="postgres",
        command=postgres.command(folder, port),
        env=postgres.environment(),
        is_ready=lambda _log: postgres.is_ready(superuser),
        where=f"127.0.0.1:{port}",
        stop_signal=postgres.STOP_SIGNAL,
        stop_timeout_s=SLOW_STOP_TIMEOUT_S,
        user=postgres.server_user(folder),
        cwd=Path("/"),
    )


def _redis(place: Place) -> Process:
    port = place.ports["redis"]
    folder = place.home / "redis"
    return Process(
        name="redis",
        command=redis.prepare(
            folder,
            port=port,
            password=place.secrets["redis"],
            gateway_password=place.secrets["redis_gateway"],
        ),
        env={"PATH": "/usr/bin:/bin"},
        is_ready=lambda _log: redis.is_ready(place.redis_url),
        where=f"127.0.0.1:{port}",
        cwd=folder,
    )


def _prepare(place: Place) -> Process:
    return Process(
        name="prepare",
        command=python("-m", "embedded.prepare", place.home.path),
        env=environment.for_process(place, "manage"),
        after=("postgres",),
        start_timeout_s=600.0,
    )


def _keybroker(place: Place) -> Process:
    port = place.ports["keybroker"]
    return Process(
        name="keybroker",
        command=python("-m", "inference.keybroker"),
        env=environment.for_process(place, "keybroker"),
        after=("prepare",),
        is_ready=answers(f"{place.keybroker_url}/health", place.home.tls_ca),
        where=f"127.0.0.1:{port}",
    )


def _fakestripe(place: Place) -> Process:
    return Process(
        name="fakestripe",
        command=python("-m", "fakestripe"),
        env=environment.for_process(place, "fakestripe"),
        is_ready=answers(f"{place.fakestripe_url}/health"),
        where=place.fakestripe_url,
    )


def _web(place: Place) -> Process:
    return Process(
        name="web",
        command=python("-m", "marketplace", "web"),
        env=environment.for_process(place, "web"),
        after=("prepare", "redis", "keybroker"),
        is_ready=answers(f"{place.web_url}/health/ready"),
        where=place.web_url,
    )


def _gateway(place: Place) -> Process:
    return Process(
        name="gateway",
        command=python("-m", "inference.gateway"),
        env=environment.for_process(place, "gateway"),
        after=("prepare", "redis"),
        is_ready=answers(f"{place.gateway_url}/health"),
        where=f"{place.gateway_url}, gRPC at {place.grpc_address}",
    )


def _worker(place: Place) -> Process:
    return Process(
        name="worker",
        command=python("-m", "marketplace", "worker"),
        env=environment.for_process(place, "worker"),
        after=("prepare", "redis", "keybroker"),
        is_ready=says(" ready."),
        stop_timeout_s=SLOW_STOP_TIMEOUT_S,
    )


def _beat(place: Place) -> Process:
    return Process(
        name="beat",
        command=python("-m", "marketplace", "beat"),
        env=environment.for_process(place, "beat"),
        after=("prepare", "redis"),
        is_ready=says("beat: Starting"),
    )


def _node(place: Place) -> Process:
    port = place.ports["triton_http"]
    return Process(
        name="node",
        command=python("-m", "inference.node"),
        env=environment.for_process(place, "node"),
        after=("web", "keybroker"),
        is_ready=answers(f"http://127.0.0.1:{port}/v2/health/ready"),
        where=f"Triton at 127.0.0.1:{port}",
        stop_timeout_s=SLOW_STOP_TIMEOUT_S,
    )
