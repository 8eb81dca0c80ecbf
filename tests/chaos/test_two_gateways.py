"""Thousands of predictions through two gateways, while everything below them dies at random.

The clients' own journal is the oracle, as in `test_kill_each_child`. Here money and limits are
tight as well, connections are closed in mid-request, and the same checks are turned on gateways
and functions that are wrong on purpose.

`STRONGROOM_CHAOS_SECONDS` says how long it lasts, `STRONGROOM_CHAOS_SEED` in which order who
dies; without it the order is another one each time, and is printed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from django.db import connection

from billing.models import LedgerAccount, Transfer, UsageEvent
from billing.services import ledger
from embedded import postgres
from inference.gateway.gcra import burst_of
from marketplace.core.ids import new_id, to_public
from tests.chaos import wrong_money
from tests.chaos.buyers import Kind
from tests.chaos.checker import Verdict
from tests.chaos.market import (
    CAP,
    DEADLINE_S,
    RATE_BURST,
    RATE_PER_MINUTE,
    SETTLE_WAIT_S,
    Deaths,
    Market,
    Servers,
)
from tests.chaos.own_servers import OwnPostgres, OwnTriton, Seat
from tests.factories import AccountFactory, APIKeyFactory
from tests.gateway.conftest import PRICE_NANOS, REPLICA_IDS, make_node
from tests.gateway.limiting import OwnRedis
from tests.gateway.processes import Wire, eventually

SECONDS = float(os.environ.get("STRONGROOM_CHAOS_SECONDS", "45"))
SEED = int(os.environ.get("STRONGROOM_CHAOS_SEED") or random.randrange(10**6))
# What the poor account and the key with a budget can pay for.
POOR_COUNT, BUDGET_COUNT = 150, 120
RICH_NANOS = 10**6 * PRICE_NANOS
CONTROL_S = 3.0


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, database_urls: dict[str, str], interface: Any
) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("killable")
    folder.chmod(0o711)
    name = urlsplit(database_urls["owner"]).path.strip("/")
    made = Servers(
        OwnPostgres(folder / "postgres", name),
        OwnRedis(folder),
        [
            OwnTriton(folder / f"triton-{number}", interface, replica_id)
            for number, replica_id in enumerate(REPLICA_IDS)
        ],
    )
    yield made
    made.postgres.stop()
    made.redis.kill()
    for one in made.tritons:
        one.stop()


@pytest.fixture(scope="module")
def triton(servers: Servers) -> Iterator[OwnTriton]:
    """What `shop` stands on. From here on, Django's rows are in the Postgres that may die."""
    shared_port = connection.settings_dict["PORT"]
    connection.close()
    connection.settings_dict["PORT"] = servers.postgres.port
    yield servers.tritons[0]
    connection.close()
    connection.settings_dict["PORT"] = shared_port


@pytest.fixture(scope="module")
def gateway() -> SimpleNamespace:
    """None: `shop` is visited through the gateways of `open_market` only."""
    return SimpleNamespace(url="", grpc_address="")


@pytest.fixture
def open_market(shop, servers: Servers, tmp_path: Path) -> Iterator[Callable[..., Market]]:
    """Makes a market with two gateways, and keys of all kinds."""
    made: list[Market] = []

    def make(*, database_urls: Sequence[str] = (), **settings: Any) -> Market:
        url = servers.postgres.url(postgres.GATEWAY)
        settings |= {
            "STRONGROOM_REDIS_URL": servers.redis.url,
            "STRONGROOM_GATEWAY_COUNT": "2",
            "STRONGROOM_GATEWAY_DEADLINE_S": str(DEADLINE_S),
            "STRONGROOM_GATEWAY_SETTLE_WAIT_S": str(SETTLE_WAIT_S),
        }
        seats = [Seat(tmp_path, one, **settings) for one in database_urls or (url, url)]
        market = Market(shop, servers, seats, tmp_path, SEED)
        made.append(market)
        shop.add_replica(
            REPLICA_IDS[1], node=make_node("node-2", servers.tritons[1].config.http_url)
        )
        shop.fund(RICH_NANOS)
        add_keys(market)
        check_shared_limits(seats)
        return market

    yield make
    for market in made:
        for one in market.buyers:
            one.finish(within_s=0)
        for seat in market.seats:
            seat.stop()
        for one in market.buyers:
            one.join(30)
    # The tables are emptied next, maybe by the first statement after a restart.
    connection.close()


def add_keys(market: Market) -> None:
    poor = AccountFactory(slug="poor")
    market.accounts = {"buyer": market.shop.consumer, "poor": poor}
    fields: dict[str, dict[str, int]] = {
        "keyed": {},
        "counted": {},
        "unkeyed": {},
        "wrong": {},
        "rated": {"requests_per_minute": RATE_PER_MINUTE},
        "capped": {"concurrency_max": CAP},
        "budgeted": {"budget_total_nanos": BUDGET_COUNT * PRICE_NANOS},
    }
    for name, limits in fields.items():
        market.keys[name] = APIKeyFactory(account=market.shop.consumer, **limits)
    market.keys["poor"] = APIKeyFactory(account=poor)
    wallet_id = ledger.get_ledger_account_id(LedgerAccount.Kind.WALLET, holder_id=poor.pk)
    clearing_id = ledger.get_ledger_account_id(LedgerAccount.Kind.STRIPE_CLEARING)
    nanos = POOR_COUNT * PRICE_NANOS
    ledger.post_transfer(
        transfer_id=new_id(),
        kind=Transfer.Kind.TOP_UP,
        idempotency_key=f"test:{new_id()}",
        amounts_nanos={clearing_id: -nanos, wallet_id: nanos},
    )


def check_shared_limits(seats: Sequence[Seat]) -> None:
    def check():
        for seat in seats:
            assert httpx.get(f"{seat.url}/health", timeout=10).json()["limits"] == "shared"

    eventually(check, timeout_s=20)


def list_kinds(market: Market, *names: str) -> list[Kind]:
    """All kinds of clients, or some."""
    keys = {name: key.text for name, key in market.keys.items()}
    kinds = [
        Kind("keyed", keys["keyed"], count=6, is_keyed=True, leaves=True),
        Kind("counted", keys["counted"], count=3, is_counted=True, leaves=True),
        Kind("unkeyed", keys["unkeyed"], count=3, leaves=True),
        Kind("wrong", keys["wrong"], is_wrong=True, pause_s=0.1),
        Kind("rated", keys["rated"], count=6, expects=("rate_limited",), pause_s=0.04),
        Kind(
            "capped",
            keys["capped"],
            count=4,
            expects=("concurrency_limited",),
            wait_s=0.04,
            pause_s=0.06,
        ),
        Kind("budgeted", keys["budgeted"], count=3, expects=("budget_exceeded",), pause_s=0.15),
        Kind("poor", keys["poor"], count=3, expects=("insufficient_credit",), pause_s=0.15),
    ]
    return [one for one in kinds if not names or one.name in names]


def test_limits_of_the_gateways_are_the_ones_that_are_checked():
    assert burst_of(RATE_PER_MINUTE) == RATE_BURST


@pytest.mark.timeout(SECONDS + 600)
def test_nothing_is_lost_doubled_or_exceeded_whoever_dies(open_market, capsys):
    market = open_market()
    deaths = Deaths(market)
    market.open(list_kinds(market))
    until_s = time.monotonic() + SECONDS
    with capsys.disabled():
        print(f"\nSTRONGROOM_CHAOS_SEED={SEED}")

    while time.monotonic() < until_s or deaths.is_any_spared():
        deaths.strike()
        check_going_on(market)
        market.forget_the_dead()
    market.close()

    with capsys.disabled():
        print("\n".join([*deaths.lines, *map(describe, market.judge().values())]))
    assert market.list_faults() == []
    market.check_books()
    for kind in list_kinds(market):
        assert kind.is_wrong or market.count_answered(kind.name) > 0, kind.name
    check_undelivered(market)
    # Neither a wallet nor a budget is exceeded, and nothing of them is lost either.
    booked = {name: market.count_booked(name) for name in ("poor", "budgeted")}
    assert booked["poor"] + market.sell_out("poor") == POOR_COUNT
    assert booked["budgeted"] + market.sell_out("budgeted") == BUDGET_COUNT
    eventually(market.check_books)


def check_going_on(market: Market) -> None:
    """Predictions are answered again; else it would only prove that what is dead does nothing."""
    count = market.count_answered() + 60

    def check():
        assert [one.error for one in market.buyers if one.error] == []
        assert market.count_answered() >= count

    eventually(check, timeout_s=120)


def check_undelivered(market: Market) -> None:
    """What was booked and never answered can be asked for by whoever has paid for it."""
    answered = {one.id for one in market.attempts(*market.keys) if one.is_answered}
    client = market.shop.client(url=market.seats[0].url)
    booked = UsageEvent.objects.filter(account=market.shop.consumer).values_list("pk", flat=True)
    for prediction_id in set(booked) - answered:
        shown = client.get(f"/v1/predictions/{to_public(prediction_id)}")
        assert (shown.status_code, shown.json()["status"]) == (200, "succeeded")
        assert shown.headers["x-cost-nano-usd"] == str(PRICE_NANOS)


def describe(verdict: Verdict) -> str:
    refused = ", ".join(f"{code} {count}" for code, count in sorted(verdict.refused.items()))
    return (
        f"answered {verdict.answered}, booked {verdict.booked}, of these without a key and"
        f" undelivered {verdict.undelivered}; attempts that died {verdict.died}; refused: {refused}"
    )


# --- What is wrong on purpose is noticed by the same checks ---


def rehearse(
    market: Market,
    *names: str,
    times: int = 2,
    refused: Sequence[str] = (),
    meanwhile: Callable[[], None] = lambda: None,
) -> set[str]:
    """A short time without random deaths: the kinds of the faults that are found.

    Args:
        market: Fresh.
        names: Of the clients' kinds; none are all.
        times: How many more clients than usual, as the time is short.
        refused: It lasts at least until each of these was the answer.
        meanwhile: What else happens, ten times a second.
    """
    kinds = list_kinds(market, *names)
    market.open([replace(one, count=times * one.count, pause_s=0.005) for one in kinds])
    until_s, limit_s = time.monotonic() + CONTROL_S, time.monotonic() + 60
    while time.monotonic() < until_s or not market.list_refusals().issuperset(refused):
        assert time.monotonic() < limit_s
        meanwhile()
        time.sleep(0.1)
    market.close()
    return {fault.partition(":")[0] for fault in market.list_faults()}


def test_nothing_is_found_where_nothing_is_wrong(open_market):
    market = open_market()

    assert rehearse(market) == set()
    market.check_books()


def test_answers_before_their_commit_are_found(open_market):
    market = open_market(target="tests.gateway.broken:answers_before_commit")
    kill_at_s = time.monotonic() + 1

    def kill():
        for seat in market.seats:
            if time.monotonic() > kill_at_s and seat.process.process.poll() is None:
                seat.kill()
                seat.start()

    assert "lost" in rehearse(market, "unkeyed", meanwhile=kill)


def test_holds_that_check_and_then_deduct_are_found(open_market, servers):
    market = open_market()

    with wrong_money.check_then_deduct(servers.postgres.superuser_url):
        found = rehearse(market, "poor", times=6, refused=("insufficient_credit",))

    assert "floor" in found


@pytest.fixture
def wires(servers: Servers) -> Iterator[list[Wire]]:
    wires = [Wire(servers.postgres.port) for _ in range(2)]
    yield wires
    for one in wires:
        one.close()


@pytest.mark.parametrize("_is_right", [True, False])
def test_second_booking_of_a_repeat_is_found(open_market, servers, wires, _is_right):
    address = servers.postgres.url(postgres.GATEWAY)
    ports = [f":{one.port}/" for one in wires]
    market = open_market(
        database_urls=[address.replace(f":{servers.postgres.port}/", port) for port in ports]
    )

    def lose() -> None:
        for one in wires:
            one.lose_next_booking = True

    is_wrong = wrong_money.book_repeats_anew(servers.postgres.superuser_url)
    with nullcontext() if _is_right else is_wrong:
        found = rehearse(market, "unkeyed", "keyed", meanwhile=lose)

    assert sum(one.lost_count for one in wires) > 2
    assert found == set() if _is_right else "unanswered" in found


def test_keys_that_are_forgotten_are_found(open_market):
    market = open_market(target="tests.gateway.broken:forgets_keys")

    assert "double" in rehearse(market, "keyed")


def test_limits_that_each_gateway_keeps_alone_are_found(open_market):
    market = open_market(target="tests.gateway.broken:keeps_limits_alone")

    refused = ("rate_limited", "concurrency_limited")
    assert {"rate", "cap"} <= rehearse(market, "rated", "capped", refused=refused)
