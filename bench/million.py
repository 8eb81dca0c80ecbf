"""A million predictions over HTTP through a real gateway, and then every check of the books.

    .venv/bin/python -m bench.million [--predictions 1000000] [--minutes 25] [--json FILE]

Starts a Postgres that flushes what it commits, a Redis, a tritonserver whose model does nothing
but y = -x, the stand-in for Stripe, and one gateway as in production; all on loopback, in a
folder that is removed. One consumer is on credit, the others buy theirs by card. Each answer that
a client got is counted; then all charges are sealed, an hour of the one on credit is reported and
invoiced, and `ledger_check`, `receipts_check`, `reconcile` and `strongroom verify-invoice` run over
everything. Ends by itself: no more is sent after so many minutes, and 1 is returned if anything
is not clean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import django

from embedded import postgres, spawn
from tests import servers
from tests.fakestripe.process import SECRET_KEY, WEBHOOK_SECRET, FakeStripeProcess
from tests.gateway import traffic
from tests.gateway.traffic import Sending

PREDICTIONS = 1_000_000
MINUTES = 25.0
CONSUMERS = 4
CONNECTIONS = 128
# Between two looks at the clock.
SLICE = 20_000
WIDTH = 4


@dataclass
class Figures:
    """What was seen; seconds unless it says otherwise."""

    answered: int = 0
    booked: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    predictions_per_s: float = 0.0
    settle_batch_mean: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    is_clean: dict[str, bool] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def main() -> int:
    """Send, settle up and check; 1 if anything is not clean."""
    options = _parse()
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    figures = Figures()
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="strongroom-million-"))
        folder = Path(name)
        folder.chmod(0o711)
        provided = servers.provide()
        _start_postgres(stack, folder / "postgres", provided)
        stripe = FakeStripeProcess(folder)
        stripe.start()
        stack.callback(stripe.stop)
        os.environ |= {
            "STRONGROOM_STRIPE_SECRET_KEY": SECRET_KEY,
            "STRONGROOM_STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "STRONGROOM_STRIPE_API_BASE": stripe.url,
        }
        django.setup()
        # Its models can be imported from here on.
        from bench.million_market import Market

        market = Market(stack, folder, provided, stripe, consumers=options.consumers)
        _send(market.port, market.keys, options, figures)
        market.settle_up(figures)
    _show(figures)
    if options.json:
        options.json.write_text(json.dumps(asdict(figures), indent=2) + "\n")
    return 0 if figures.is_clean and all(figures.is_clean.values()) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.million",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--predictions", type=int, default=PREDICTIONS, help="sent in all")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of sending, at most")
    parser.add_argument("--consumers", type=int, default=CONSUMERS, help="one is on credit")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="open at once")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    return parser.parse_args()


def _start_postgres(stack: ExitStack, folder: Path, provided: servers.Servers) -> None:
    """Unlike the tests' own it flushes what it commits."""
    user = postgres.server_user(folder)
    postgres.prepare(folder, password=provided.superuser_password, user=user)
    process = spawn.start(
        postgres.command(folder, provided.postgres_port),
        env=postgres.environment(),
        cwd=folder,
        log=folder / "log",
        user=user,
    )

    def stop() -> None:
        process.send_signal(postgres.STOP_SIGNAL)
        process.wait(60)

    stack.callback(stop)
    while not postgres.is_ready(provided.superuser_url):
        if process.poll() is not None:
            raise RuntimeError((folder / "log").read_text()[-2000:])
        time.sleep(0.05)
    postgres.ensure_roles(provided.postgres_port, provided.superuser_password, provided.passwords)


def _send(port: int, keys: list[str], options: argparse.Namespace, figures: Figures) -> None:
    """Each consumer's requests in turn, until there were enough or time is up."""
    body = json.dumps({"input": {"x": [1.0] * WIDTH}}).encode()
    sendings = [
        Sending(
            f"POST /v1/models/maker/negate/predictions HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body,
            "prediction",
        )
        for key in keys
    ]
    answered: Counter[tuple[str, int]] = Counter()
    began_s = time.monotonic()
    for begin in range(0, options.predictions, SLICE):
        numbers = range(begin, min(begin + SLICE, options.predictions))
        answered += asyncio.run(
            traffic.drive(
                port,
                lambda number: sendings[number % len(sendings)],
                numbers,
                connections=options.connections,
            )
        )
        took_s = time.monotonic() - began_s
        print(f"{sum(answered.values()):>9,} sent in {took_s:5.0f} s", file=sys.stderr, flush=True)
        if took_s > options.minutes * 60:
            break
    took_s = time.monotonic() - began_s
    figures.answered = answered["prediction", 201]
    figures.refused = {str(status): n for (_, status), n in answered.items() if status != 201}
    figures.predictions_per_s = figures.answered / took_s
    figures.seconds["send"] = took_s


def _show(figures: Figures) -> None:
    print(f"{figures.answered:,} answered, {figures.booked:,} booked; refused: {figures.refused}")
    print(
        f"{figures.predictions_per_s:,.0f} predictions/s, "
        f"{figures.settle_batch_mean:.1f} in a commit"
    )
    for name, seconds in figures.seconds.items():
        state = {True: "clean", False: "NOT CLEAN", None: ""}[figures.is_clean.get(name)]
        print(f"{name:16} {seconds:8.1f} s  {state:9} {figures.notes.get(name, '')}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
