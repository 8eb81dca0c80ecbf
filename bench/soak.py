"""A million predictions through one gateway, and what its memory says to that.

    .venv/bin/python -m bench.soak [--predictions 1000000] [--connections 64]

Starts the product in a home of its own, sells a model that costs nothing to run, and sends mixed
traffic: predictions on /v1 and /v2, keyed ones and their retries, wrong ones, unknown keys and
models, callers who leave. Prints the gateway's resident memory while it goes, then start, peak,
end and how much it grows each 100,000 requests. Stops by itself; 1 if it is not flat.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bench import product
from bench.product import TINY
from tests.gateway import traffic
from tests.gateway.traffic import Sample, Shape

PREDICTIONS = 1_000_000
STEPS = 100
# Of one gateway, after a million: docs/benchmarks.md.
GOAL_MIB = 120
# What it may grow in 100,000 requests once it is warm, and still be called flat.
GROWTH_MIB_MAX = 1.0
# Of the requests until then memory is only taken, not kept: arenas, caches, connections.
WARM_RATIO = 0.2
_MIB = 1024 * 1024


def main() -> int:
    """Send and print; 1 if memory grows or is above the goal, or an answer was wrong."""
    options = _parse()
    _raise_file_limit(options.connections)
    with (
        tempfile.TemporaryDirectory(prefix="strongroom-soak-") as name,
        product.run(Path(name)) as running,
    ):
        sold = product.sell(running, Path(name), "tiny", TINY)
        key = running.demo["consumer"]["api_key"]
        pid = traffic.find_worker(running.pid_of("gateway"))
        make = traffic.mix(Shape(sold.name, [1.0] * TINY), key, run="soak")
        began_s = time.monotonic()
        samples, answered = asyncio.run(
            traffic.soak(
                urlsplit(running.demo["gateway_url"]).port or 80,
                pid,
                make,
                total=options.predictions,
                steps=STEPS,
                connections=options.connections,
                on_sample=_show,
            )
        )
        duration_s = time.monotonic() - began_s
    return _judge(samples, answered, duration_s)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--predictions", type=int, default=PREDICTIONS, help="requests in all, mistakes included"
    )
    parser.add_argument("--connections", type=int, default=64, help="open at the same time")
    return parser.parse_args()


def _raise_file_limit(connections: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 1024
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def _show(sample: Sample) -> None:
    print(f"{sample.requests:>9} {sample.rss_bytes / _MIB:7.1f} MiB", file=sys.stderr, flush=True)


def _judge(samples: Sequence[Sample], answered: Counter[tuple[str, int]], duration_s: float) -> int:
    first, last = samples[0], samples[-1]
    warm = [one for one in samples if one.requests >= WARM_RATIO * last.requests]
    growth_mib = traffic.fit_growth(warm) * 100_000 / _MIB
    peak_mib, end_mib = max(one.rss_bytes for one in samples) / _MIB, last.rss_bytes / _MIB
    print(
        f"{last.requests} requests in {duration_s:.0f} s: {dict(answered)}",
        f"start {first.rss_bytes / _MIB:.1f} MiB, peak {peak_mib:.1f} MiB, end {end_mib:.1f} MiB",
        f"growth {growth_mib:+.2f} MiB per 100,000 requests after the first {WARM_RATIO:.0%}",
        sep="\n",
    )
    faults = [f"{count} answers {pair}" for pair, count in answered.items() if pair[1] >= 500]
    if peak_mib > GOAL_MIB:
        faults.append(f"above {GOAL_MIB} MiB")
    if growth_mib > GROWTH_MIB_MAX:
        faults.append(f"grows by more than {GROWTH_MIB_MAX} MiB per 100,000")
    print("; ".join(faults) or "flat and within the goal")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
