"""A ramp to ten times the traffic and back, with objectives: k6 at a gateway with a toy model.

    .venv/bin/python -m bench.k6 [--low 3] [--seconds 15] [--sync-p95-ms 250] [--async-p95-ms 250]
    .venv/bin/python -m bench.k6 --url https://… --key sk_… --model owner/name --input '{…}'

Without `--url` it starts Postgres, Redis, a gateway, a tritonserver with a model that doubles four
numbers, and a node that pulls jobs, and waits in the end until every job is over. k6 is installed
once, pinned by its hash, below var/bench. 1 if an objective of `bench/k6/ramp.js` is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import servers
from bench.queue_stand import Stand, describe_machine, stand

SCRIPT = Path(__file__).with_name("k6") / "ramp.js"
OVER_WITHIN_S = 300.0
SLOTS = 4


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked, and by whom."""

    url: str
    key: str
    model: str
    input: str


def main() -> int:
    """Run the ramp; k6's own status."""
    options = _parse()
    with ExitStack() as stack:
        if options.url:
            target = Target(options.url, options.key, options.model, options.input)
            return run(target, options)
        made = stack.enter_context(stand())
        target = stack.enter_context(serve(made))
        status = run(target, options)
        wait_until_over()
    return status


def run(target: Target, options: argparse.Namespace) -> int:
    """k6, with its figures as it prints them."""
    print(describe_machine(), flush=True)
    program = servers.install("k6").with_name("k6")
    given: Mapping[str, Any] = {
        "URL": target.url,
        "KEY": target.key,
        "MODEL": target.model,
        "INPUT": target.input,
        "LOW": options.low,
        "SECONDS": options.seconds,
        "SYNC_P95_MS": options.sync_p95_ms,
        "ASYNC_P95_MS": options.async_p95_ms,
    }
    env = {name: str(value) for name, value in given.items()}
    # By the environment: a command line can be read by every user.
    env |= {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "NO_COLOR": "1"}
    command = [program, "run", "--quiet", "--no-usage-report", "--include-system-env-vars", SCRIPT]
    status = subprocess.run(command, env=env, check=False).returncode
    print(f"{'missed' if status else 'kept'}: the objectives; {describe_machine()}")
    return status


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


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--url", default="")
    parser.add_argument("--key", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--input", default="{}")
    parser.add_argument("--low", type=int, default=3, help="requests a second of each kind")
    parser.add_argument("--seconds", type=int, default=15, help="of each of the four stages")
    parser.add_argument("--sync-p95-ms", type=int, default=250)
    parser.add_argument("--async-p95-ms", type=int, default=250)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
