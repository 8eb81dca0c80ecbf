"""Load by k6 with objectives, at a gateway of this machine: 99 when an objective was missed.

    .venv/bin/python -m bench.k6 ramp [--low 3] [--seconds 15] [--sync-p95-ms 250]
    .venv/bin/python -m bench.k6 steady|spike|soak|stress --url http://127.0.0.1:8001 \\
        --model owner/name --input '{…}' [--rate 5] [--seconds 30] [--p95-ms 250] [--summary FILE]
    .venv/bin/python -m bench.k6 stream --url … --model … --input '{"prompt": "…"}'

The key comes from STRONGROOM_API_KEY. `ramp` without `--url` starts Postgres, Redis, a gateway, a
tritonserver with a model that doubles four numbers, and a node that pulls jobs, and waits in the
end until every job is over. k6 is pinned by its hash (bench/k6_program.py); see
docs/load-tests.md.
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

from bench.k6_program import MISSED, explain_failure, find_k6
from bench.memory_watch import MemoryWatch
from bench.queue_stand import Stand, describe_machine, stand

SCRIPTS = Path(__file__).with_name("k6")
RAMP = "ramp"
STREAM = "stream"
SOAK = "soak"
KINDS = ("steady", RAMP, "spike", SOAK, "stress", STREAM)
# Ours, for a run that k6 ends with 0 and that measured nothing.
NOTHING_MEASURED = 1
_DROPPED = "dropped_iterations"
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
    """k6, with its figures judged, and as JSON in the file that was asked for."""
    print(describe_machine(), flush=True)
    drifts = []
    with tempfile.TemporaryDirectory(prefix="strongroom-k6-") as folder:
        path = Path(folder) / "summary.json"
        if options.kind == SOAK:
            with MemoryWatch(target.url, options.seconds) as memory:
                status = _start(target, options, path)
            drifts.append(memory.describe_growth(options.memory_drift_max))
            print(f"memory: of {memory.watched or 'nobody: no process at that port can be seen'}")
        else:
            status = _start(target, options, path)
        summary = json.loads(path.read_text()) if path.exists() else {"metrics": {}}
        if options.summary and path.exists():
            options.summary.write_bytes(path.read_bytes())
    if options.kind == SOAK:
        drifts.append(find_drift(summary, options.drift_max))
    print("\n".join(render(summary)))
    status, sentence = judge(summary, status, [one for one in drifts if one])
    print(f"{sentence}; {describe_machine()}")
    return status


def render(summary: Mapping[str, Any]) -> list[str]:
    """Each threshold of a summary, whether it held, and the figures it was judged by."""
    lines = []
    for name, metric in sorted(summary["metrics"].items()):
        values = ", ".join(f"{key} {value:.6g}" for key, value in metric["values"].items())
        for condition, judged in metric.get("thresholds", {}).items():
            lines.append(f"{'ok ' if judged['ok'] else 'NOT'} {name} {condition}: {values}")
    return lines


def judge(summary: Mapping[str, Any], status: int, drifts: Sequence[str] = ()) -> tuple[int, str]:
    """The status of a whole run, and what it means.

    Four ends are told apart: the objectives held, one was missed, k6 itself could not send what it
    should (then nothing is known of them), and k6 failed.

    Args:
        summary: k6's figures; without metrics if it left none.
        status: k6's own.
        drifts: What was worse late in a soak than early.
    """
    if status not in (0, MISSED):
        return status, f"failed with {status}: {explain_failure(status)}; nothing was judged"
    metrics = summary["metrics"]
    # k6 ends with 0 where no request was made: no figure was beyond its limit.
    if not _count(metrics, "http_reqs"):
        return status or NOTHING_MEASURED, "failed: not one request was sent; nothing was judged"
    missed = [
        name
        for name, metric in metrics.items()
        if not all(one["ok"] for one in metric.get("thresholds", {}).values())
    ]
    dropped = _count(metrics, _DROPPED)
    unsent = f"{dropped:g} requests were not sent in time, by k6: the driver may be too small"
    reasons = sorted({*missed} - {_DROPPED}) + list(drifts)
    if reasons:
        reasons += [unsent] * (dropped > 0)
        return MISSED, f"missed: the objectives: {', '.join(reasons)}"
    if dropped or missed:
        return MISSED, f"not measured: {unsent}; nothing is known of the objectives"
    return status, "kept: the objectives"


def _count(metrics: Mapping[str, Any], name: str) -> float:
    return float(metrics.get(name, {}).get("values", {}).get("count", 0))


def find_drift(summary: Mapping[str, Any], ratio_max: float) -> str:
    """What is slower in the last quarter of a soak than in the first; empty if it is not."""
    quarters = [
        summary["metrics"].get(f"http_req_duration{{quarter:{number}}}", {}).get("values", {})
        for number in (1, 4)
    ]
    if not all(one.get("count") for one in quarters):
        return "a quarter has no requests"
    first, last = (one["p(95)"] for one in quarters)
    if not first:
        return "the first quarter's p95 is nothing: no server answered"
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
    command: list[str | Path] = [find_k6(), "run", "--quiet", "--no-usage-report"]
    command += ["--include-system-env-vars", SCRIPTS / f"{options.kind}.js"]
    return subprocess.run(command, env=env, check=False).returncode


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
        "--drift-max", type=_ratio, default=1.5, help="soak: last quarter's p95 to the first's"
    )
    parser.add_argument(
        "--memory-drift-max", type=_ratio, default=1.25, help="soak: the same of its memory"
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


def _ratio(text: str) -> float:
    number = float(text)
    # Also of what is no number.
    if not number >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
