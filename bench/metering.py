"""How many predictions a second are booked, by the size of a commit and the number of wallets.

    .venv/bin/python -m bench.metering [--seconds 5] [--predictions 200000]

Starts the product in a home of its own, and sends to its Postgres the statement with which the
gateway books (usage, transfers, holds, the predictions' rows; synchronous_commit on) from two
connections, as two gateways do. Beside each figure stands the floor: as many bare rows, inserted
and committed in the same way. Then it books until there are as many as asked for, waits until all
are sealed for receipts, and runs both checks of the books. Stops by itself; 1 if a check fails.
`bench.million` does that through a real gateway, with the comparison with Stripe and an invoice.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from bench import product
from embedded import postgres
from inference.gateway.meter import _SETTLE
from marketplace.core.ids import new_id
from tests.e2e.terminal import manage
from tests.stack import Stack

CONNECTIONS = 2
BATCHES = (1, 8, 64, 256)
WALLETS = (1, 10_000)
# Of each wallet: more than all predictions of a run cost.
CREDIT_NANOS = 10**13
HOLD_TTL_S = 3_600
SEALED_WITHIN_S = 600.0
_FUND_AT_ONCE = 1_000
_BARE_TABLE = "CREATE TABLE bench_row (id uuid PRIMARY KEY, content text NOT NULL)"
_BARE = "INSERT INTO bench_row SELECT i, repeat('x', 200) FROM unnest(%(ids)s::uuid[]) i"


@dataclass(frozen=True, slots=True)
class Offer:
    """What is sold in this bench."""

    version_id: UUID
    creator_id: UUID
    price_id: UUID
    price_nanos: int


@dataclass(frozen=True, slots=True)
class Hold:
    """Reserved money of a wallet, enough for all of a run."""

    id: UUID
    account_id: UUID


@dataclass(frozen=True, slots=True)
class Row:
    """One way to book."""

    wallets: int
    batch: int
    settled_per_s: float
    p50_ms: float
    p99_ms: float
    of_bare: float


def main() -> int:
    """Measure and print; 1 if the books do not hold."""
    options = _parse()
    with (
        tempfile.TemporaryDirectory(prefix="strongroom-metering-") as name,
        product.run(Path(name)) as running,
    ):
        owner, gateway = _urls(running)
        with psycopg.connect(owner, autocommit=True) as connection:
            offer = _find_offer(connection)
            accounts = _make_wallets(connection, max(WALLETS))
            connection.execute(_BARE_TABLE)
        holds = _reserve(gateway, accounts)
        print("| wallets | predictions per commit | booked/s | p50 ms | p99 ms | of bare rows |")
        print("|---|---|---|---|---|---|")
        for row in _measure(owner, gateway, offer, holds, options.seconds):
            print(
                f"| {row.wallets:,} | {row.batch} | {row.settled_per_s:,.0f} | {row.p50_ms:.1f} "
                f"| {row.p99_ms:.1f} | {row.of_bare:.2f} |",
                flush=True,
            )
        return _fill_and_check(running, owner, gateway, offer, holds, options.predictions)


# --- What is booked ------------------------------------------------------------------


def _urls(running: Stack) -> tuple[str, str]:
    """Where the tables' owner and the gateway connect."""
    secrets = json.loads((running.home / "secrets.json").read_text())
    port = json.loads((running.home / "ports.json").read_text())["postgres"]
    owner, gateway = (
        postgres.url(port, role, secrets[role]) for role in (postgres.OWNER, postgres.GATEWAY)
    )
    return owner, gateway


def _find_offer(connection: psycopg.Connection[Any]) -> Offer:
    row = connection.execute(
        """SELECT v.id, m.account_id, p.id, p.nanos_per_prediction FROM marketplace_aimodel m
           JOIN marketplace_modelversion v ON v.model_id = m.id
           JOIN billing_price p ON p.model_id = m.id AND p.valid_until IS NULL
               AND p.account_id IS NULL
           WHERE m.name = 'digits'"""
    ).fetchone()
    assert row is not None
    return Offer(*row)


def _make_wallets(connection: psycopg.Connection[Any], count: int) -> list[UUID]:
    """Accounts with credit, by the function that books top-ups."""
    accounts = [new_id() for _ in range(count)]
    connection.execute(
        """INSERT INTO marketplace_account (id, slug, name, kind, created_at)
           SELECT i, 'bench-' || n, 'Bench', 'person', now()
           FROM unnest(%s::uuid[]) WITH ORDINALITY AS a(i, n)""",
        [accounts],
    )
    wallets = [
        row[0]
        for row in connection.execute(
            "SELECT billing_account(i, 'wallet') FROM unnest(%s::uuid[]) i", [accounts]
        )
    ]
    [clearing] = connection.execute("SELECT billing_account(NULL, 'stripe_clearing')").fetchone()  # type: ignore[misc]
    for begin in range(0, count, _FUND_AT_ONCE):
        some = wallets[begin : begin + _FUND_AT_ONCE]
        entries = [{"account": str(one), "amount": CREDIT_NANOS} for one in some]
        entries.append({"account": str(clearing), "amount": -CREDIT_NANOS * len(some)})
        connection.execute(
            "SELECT billing_transfer(%s, 'top_up', %s, '', %s, NULL)",
            [new_id(), f"bench:{begin}", json.dumps(entries)],
        )
    return accounts


def _reserve(gateway: str, accounts: Sequence[UUID]) -> list[Hold]:
    """A hold of half of each wallet."""
    found = []
    with psycopg.connect(gateway, autocommit=True) as connection:
        for begin in range(0, len(accounts), _FUND_AT_ONCE):
            items = [
                {
                    "hold_id": str(new_id()),
                    "account_id": str(one),
                    "api_key_id": None,
                    "least_nanos": CREDIT_NANOS // 2,
                    "most_nanos": CREDIT_NANOS // 2,
                }
                for one in accounts[begin : begin + _FUND_AT_ONCE]
            ]
            connection.execute(
                "SELECT * FROM billing_reserve(%s, %s)", [json.dumps(items), HOLD_TTL_S]
            )
            found += [Hold(UUID(one["hold_id"]), UUID(one["account_id"])) for one in items]
    return found


def _values(offer: Offer, holds: Sequence[Hold], batch: int, turn: int) -> dict[str, Any]:
    """The parameters of one booking: of one wallet, or each prediction of another one."""
    chosen = [holds[(turn * batch + place) % len(holds)] for place in range(batch)]
    groups = {one.id: no for no, one in enumerate(dict.fromkeys(chosen))}
    now = datetime.now(UTC)
    return {
        "groups": json.dumps(
            [
                {
                    "no": groups[one.id],
                    "account_id": str(one.account_id),
                    "api_key_id": None,
                    "version_id": str(offer.version_id),
                    "creator_id": str(offer.creator_id),
                    "price_id": str(offer.price_id),
                    "mode": "live",
                    "hold_id": str(one.id),
                    "source": "api",
                    "protocol": "native",
                }
                for one in dict.fromkeys(chosen)
            ]
        ),
        "ids": [new_id() for _ in chosen],
        "nos": [groups[one.id] for one in chosen],
        "units": [1] * batch,
        "gross": [offer.price_nanos] * batch,
        "completed": [now] * batch,
        "created": [now] * batch,
        "times": [1_000] * batch,
    }


# --- Measuring ------------------------------------------------------------------------


def _measure(
    owner: str, gateway: str, offer: Offer, holds: Sequence[Hold], seconds: float
) -> Iterator[Row]:
    for wallets in WALLETS:
        for batch in BATCHES:
            # One wallet is everybody's; of many, each connection has its own.
            parts = [
                holds[:1] if wallets == 1 else holds[number::CONNECTIONS]
                for number in range(CONNECTIONS)
            ]
            bare = _run(owner, _BARE, parts, offer, batch, seconds / 2)
            booked = _run(gateway, _SETTLE, parts, offer, batch, seconds)
            rate = _rate(booked, batch, seconds)
            ordered = sorted(one for latencies in booked for one in latencies)
            yield Row(
                wallets=wallets,
                batch=batch,
                settled_per_s=rate,
                p50_ms=statistics.median(ordered) * 1e3,
                p99_ms=ordered[int(len(ordered) * 0.99)] * 1e3,
                of_bare=rate / _rate(bare, batch, seconds / 2),
            )


def _rate(latencies: Sequence[Sequence[float]], batch: int, seconds: float) -> float:
    return sum(len(one) for one in latencies) * batch / seconds


def _run(
    url: str,
    statement: str,
    parts: Sequence[Sequence[Hold]],
    offer: Offer,
    batch: int,
    seconds: float,
) -> list[list[float]]:
    """The seconds of each commit, by connection."""
    end = time.monotonic() + seconds

    def is_over(_: int) -> bool:
        return time.monotonic() >= end

    return _in_threads(
        [lambda part=part: _book(url, statement, part, offer, batch, is_over) for part in parts]
    )


def _book(
    url: str,
    statement: str,
    holds: Sequence[Hold],
    offer: Offer,
    batch: int,
    is_over: Callable[[int], bool],
) -> list[float]:
    latencies: list[float] = []
    with psycopg.connect(url, autocommit=True) as connection:
        while not is_over(len(latencies)):
            values = _values(offer, holds, batch, len(latencies))
            begin = time.perf_counter()
            cursor = connection.execute(statement, values)  # type: ignore[call-overload]
            latencies.append(time.perf_counter() - begin)
            if cursor.description:
                [(_, count)] = cursor.fetchall()
                assert int(count) == batch, "a prediction was not booked"
    return latencies


def _in_threads(calls: Sequence[Callable[[], list[float]]]) -> list[list[float]]:
    found: list[list[float] | BaseException] = [[] for _ in calls]

    def keep(number: int) -> None:
        try:
            found[number] = calls[number]()
        except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
            found[number] = error

    threads = [threading.Thread(target=keep, args=[number]) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if isinstance(one, list)]


# --- The books -------------------------------------------------------------------------


def _fill_and_check(
    running: Stack, owner: str, gateway: str, offer: Offer, holds: Sequence[Hold], total: int
) -> int:
    batch = 64
    with psycopg.connect(owner, autocommit=True) as connection:
        left = max(0, total - _count(connection, "billing_usageevent"))
        commits = left // batch // CONNECTIONS
        _in_threads(
            [
                lambda part=holds[number::CONNECTIONS]: _book(
                    gateway, _SETTLE, part, offer, batch, lambda done: done >= commits
                )
                for number in range(CONNECTIONS)
            ]
        )
        booked = _count(connection, "billing_usageevent")
        begin = time.perf_counter()
        _wait_sealed(connection)
        seconds = time.perf_counter() - begin
    print(f"\n{booked:,} predictions booked; all were sealed {seconds:.0f} s after the last.")
    status = 0
    for command in ("ledger_check", "receipts_check"):
        begin = time.perf_counter()
        broken = "BROKEN" in manage(running, command)
        seconds = time.perf_counter() - begin
        status |= int(broken)
        print(f"{command}: {'BROKEN' if broken else 'clean'} in {seconds:.1f} s")
    return status


def _count(connection: psycopg.Connection[Any], table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


def _wait_sealed(connection: psycopg.Connection[Any]) -> None:
    deadline = time.monotonic() + SEALED_WITHIN_S
    while _count(connection, "billing_receiptleaf") < _count(connection, "billing_usageevent"):
        if time.monotonic() > deadline:
            raise TimeoutError("not all charges were sealed")
        time.sleep(1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.metering",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure (default 5)")
    parser.add_argument(
        "--predictions", type=int, default=200_000, help="in the books when they are checked"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
