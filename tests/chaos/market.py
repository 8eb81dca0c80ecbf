"""Two gateways, their servers and their clients, and who may kill which of them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from django.db import connection
from django.utils import timezone

from billing.models import Hold, LedgerAccount, UsageEvent
from billing.services import ledger
from inference.models import APIRequest
from marketplace.models import Account, APIKey
from tests.chaos import journal, limits
from tests.chaos.books import Books, Wallet
from tests.chaos.buyers import Buyer, Kind
from tests.chaos.checker import Verdict, check
from tests.chaos.journal import Attempt
from tests.chaos.limits import Disturbance
from tests.chaos.own_servers import OwnPostgres, OwnTriton, Seat
from tests.gateway.conftest import PRICE_NANOS, Shop, check_ledger, predict
from tests.gateway.limiting import OwnRedis
from tests.gateway.processes import eventually

RATE_PER_MINUTE, RATE_BURST = 600, 60
CAP = 2
PRICE = Fraction(PRICE_NANOS, 10**9)
# A gateway here gives a run up after that, and its booking as long after.
DEADLINE_S, SETTLE_WAIT_S = 6, 6
# No run whose claim is older has anybody who works on it.
DEAD_AFTER_S = DEADLINE_S + SETTLE_WAIT_S + 2
FINISH_S = 90.0
# A request that its client left lies unread while its gateway is busy.
LATE_S = 5.0


@dataclass
class Servers:
    """All of them may be killed."""

    postgres: OwnPostgres
    redis: OwnRedis
    tritons: Sequence[OwnTriton]


@dataclass
class Market:
    """A shop, its two gateways, and all kinds of clients."""

    shop: Shop
    servers: Servers
    seats: Sequence[Seat]
    folder: Path
    seed: int
    buyers: list[Buyer] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)
    keys: dict[str, APIKey] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    begun: dict[str, Wallet] = field(default_factory=dict)

    def open(self, kinds: Sequence[Kind]) -> None:
        """Send all clients in."""
        for account in set(self.accounts.values()):
            self.begun[account.slug] = self.books(account.slug).read_wallet()
        for kind in kinds:
            for number in range(kind.count):
                self.buyers.append(
                    Buyer(kind, number, seats=self.seats, folder=self.folder, seed=self.seed)
                )
        for one in self.buyers:
            one.start()

    def books(self, account: str) -> Books:
        return Books(self.servers.postgres.superuser_url, account)

    def count_answered(self, kind: str = "") -> int:
        return sum(one.answered for one in self.buyers if one.kind.name.startswith(kind))

    def list_refusals(self) -> set[str]:
        """The codes of all errors so far."""
        return {code for one in self.buyers for code in one.refused}

    def forget_the_dead(self) -> None:
        """Put the clock forward for claims that nobody works on any more."""
        born_before = timezone.now() - timezone.timedelta(seconds=DEAD_AFTER_S)
        APIRequest.objects.filter(completed_at=None, created_at__lt=born_before).update(
            claimed_until=timezone.now()
        )

    def close(self) -> None:
        """Let every client come to its end, and what the dead had reserved run out."""
        for one in self.buyers:
            one.finish(within_s=FINISH_S)
        deadline = time.monotonic() + FINISH_S + 60
        while any(one.is_alive() for one in self.buyers):
            assert time.monotonic() < deadline
            self.forget_the_dead()
            time.sleep(0.5)
        assert [(one.name, one.error) for one in self.buyers if one.error] == []
        # The living give back what they do not need within two seconds.
        with suppress(AssertionError):
            eventually(self._check_nothing_held)
        Hold.objects.filter(state=Hold.State.PENDING).update(expires_at=timezone.now())
        ledger.expire_holds()

    def judge(self) -> dict[str, Verdict]:
        """By account: what the comparison of journals and books came to."""
        verdicts = {}
        for slug, begun in self.begun.items():
            books = self.books(slug)
            names = [name for name, key in self.keys.items() if key.account.slug == slug]
            verdicts[slug] = check(
                self.attempts(*names),
                books.list_usages([self.keys[name].pk for name in names]),
                books.list_entries(begun),
                price=PRICE,
                late_s=LATE_S,
            )
        return verdicts

    def list_faults(self) -> list[str]:
        """All that must not be."""
        faults = [fault for one in self.judge().values() for fault in one.faults]
        faults += limits.check_rate(
            self.attempts("rated"),
            per_minute=RATE_PER_MINUTE,
            burst=RATE_BURST,
            disturbances=self.disturbances,
        )
        faults += limits.check_cap(
            self.attempts("capped"),
            cap=CAP,
            gateways=len(self.seats),
            disturbances=self.disturbances,
        )
        return faults + self._check_wallets() + self._check_budgets()

    def attempts(self, *names: str) -> list[Attempt]:
        """Of the clients that use these keys."""
        paths = [one.journal_path for one in self.buyers if one.kind.name in names]
        return [attempt for path in paths for attempt in journal.read(path)]

    def check_books(self) -> None:
        """No money is reserved, and every invariant of the ledger holds."""
        self._check_nothing_held()
        check_ledger()

    def sell_out(self, name: str) -> int:
        """Predict alone until a key is refused; how many were answered."""
        client = self.shop.client(self.keys[name].text, url=self.seats[0].url)
        count = 0
        while (response := predict(client)).status_code == 201:
            count += 1
        assert response.status_code == 402, response.text
        return count

    def count_booked(self, name: str) -> int:
        return UsageEvent.objects.filter(api_key_id=self.keys[name].pk).count()

    def _check_wallets(self) -> list[str]:
        return [
            f"floor: {one.holder} has {one.posted_nanos} of which {one.held_nanos} are reserved"
            for one in LedgerAccount.objects.filter(kind=LedgerAccount.Kind.WALLET)
            if one.posted_nanos - one.held_nanos < 0
        ]

    def _check_budgets(self) -> list[str]:
        spent = {name: self.count_booked(name) * PRICE_NANOS for name in self.keys}
        return [
            f"budget: {name} has spent {spent[name]} of {key.budget_total_nanos}"
            for name, key in self.keys.items()
            if key.budget_total_nanos is not None and spent[name] > key.budget_total_nanos
        ]

    def _check_nothing_held(self) -> None:
        assert Hold.objects.filter(state=Hold.State.PENDING).count() == 0
        assert LedgerAccount.objects.exclude(held_nanos=0).count() == 0


class Deaths:
    """Kills and restarts parts of a market, in an order that a seed decides."""

    # These touch no limit, which has to hold exactly as long as nothing else has died.
    FIRST = (("postgres",), ("triton",), ("postgres", "triton"))
    # Each is drawn once before any is drawn again.
    DECK = (
        ("gateway",),
        ("gateway",),
        ("postgres",),
        ("gateway", "postgres"),
        ("redis",),
        ("flush",),
        ("flush", "gateway"),
        ("triton",),
        ("gateway", "gateway"),
        ("redis", "postgres"),
    )

    def __init__(self, market: Market) -> None:
        self.market = market
        self._random = random.Random(market.seed)
        self._deck = self._shuffle(self.DECK) + self._shuffle(self.FIRST)
        self.lines: list[str] = []

    def is_any_spared(self) -> bool:
        """Whether some kind of death has not come yet."""
        return len(self.lines) < len(self.FIRST) + len(self.DECK)

    def strike(self) -> None:
        """Kill what the next card says, wait a moment, and start it again."""
        if not self._deck:
            self._deck = self._shuffle(self.DECK)
        card = self._deck.pop()
        began_at = time.time()
        victims = self._choose(card)
        for one in victims:
            one.kill()
        if "flush" in card:
            with self.market.servers.redis.client() as client:
                client.flushall()
        time.sleep(self._random.uniform(0.0, 0.6))
        # A gateway is ready only where there is a Postgres.
        for one in sorted(victims, key=lambda one: not isinstance(one, OwnPostgres)):
            one.start()
        ended_at = time.time()
        # Away and empty again, or empty at once; and who has just begun owes nothing yet.
        bursts = 2 * card.count("redis") + card.count("flush") + card.count("gateway")
        if bursts:
            self.market.disturbances.append(Disturbance(began_at, ended_at, bursts))
        self.lines.append(f"{' + '.join(card):20} back after {ended_at - began_at:4.1f} s")

    def _shuffle(self, cards: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        return self._random.sample(cards, len(cards))

    def _choose(self, card: tuple[str, ...]) -> list[Any]:
        servers = self.market.servers
        seats = self._random.sample(self.market.seats, card.count("gateway"))
        victims: list[Any] = list(seats)
        if "postgres" in card:
            victims.append(servers.postgres)
            # Whoever asks next gets a new connection.
            connection.close()
        if "redis" in card:
            victims.append(servers.redis)
        if "triton" in card:
            victims.append(self._random.choice(servers.tritons))
        self._random.shuffle(victims)
        return victims
