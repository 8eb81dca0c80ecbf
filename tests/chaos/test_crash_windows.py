"""A gateway is killed at each point around which money changes hands; clients ask elsewhere.

The clients' own notes are the oracle: what was answered is booked once, what carries a key is
answered once and booked once however often it was sent, and nothing else is booked but what
may have been: predictions without a key whose gateway died after the commit.

`STRONGROOM_CHAOS_RUNS` says how often each point is tried, `STRONGROOM_CHAOS_SEED` with which
number of passers-by; without it the order is another one each time, and is printed.
"""

from __future__ import annotations

import concurrent.futures
import os
import random
import threading
import time
from dataclasses import dataclass, field
from uuid import UUID

import httpx
import psycopg
import pytest
from django.utils import timezone

from billing.models import Hold
from billing.services import ledger
from inference.models import APIRequest
from marketplace.core.ids import from_public
from tests.chaos.dying import POINTS, VARIABLE
from tests.gateway.conftest import PRICE_NANOS, Shop, check_ledger, predict
from tests.gateway.conftest import teller as teller  # noqa: PLC0414 - a fixture
from tests.gateway.processes import GatewayProcess, eventually
from tests.gateway.test_native_stream import stream

pytestmark = pytest.mark.django_db(transaction=True)

RUNS = int(os.environ.get("STRONGROOM_CHAOS_RUNS", "2"))
SEED = int(os.environ.get("STRONGROOM_CHAOS_SEED") or random.randrange(10**6))
KEYED, UNKEYED = 6, 3
# Whether a wrong gateway harms anybody in a round is chance: one that dies before it has answered
# anybody has forgotten nobody's key.
CONTROL_RUNS = 8
# At these nothing of the request that dies has been committed; at the others it may have been. So
# may those that came by before it, and wait for their answers from the process that it kills.
UNCOMMITTED = {
    "before the hold",
    "after the hold",
    "while the model runs",
    "before the booking",
    "before the batch",
}
# Predictions are called and booked together: of their calls and batches only few come by.
PASSERS_BY = {
    "while the model runs": 2,
    "before the batch": 1,
    "during the commit": 1,
    "after the commit": 1,
}
RETRY_WITHIN_S = 60


@dataclass
class Notes:
    """What clients sent and got; they alone write here."""

    answered: dict[str, list[UUID]] = field(default_factory=dict)
    unkeyed: list[UUID] = field(default_factory=list)
    died: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Round:
    """Clients at a gateway that dies, and at one that does not."""

    shop: Shop
    doomed: GatewayProcess
    name: str
    notes: Notes = field(default_factory=Notes)
    is_dead: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with concurrent.futures.ThreadPoolExecutor(KEYED + UNKEYED) as pool:
            jobs = [pool.submit(self._buy_keyed, f"{self.name}-{n}") for n in range(KEYED)]
            jobs += [pool.submit(self._buy) for _ in range(UNKEYED)]
            self.doomed.process.wait(60)
            self.is_dead.set()
            deadline = time.monotonic() + RETRY_WITHIN_S
            while not all(one.done() for one in jobs):
                assert time.monotonic() < deadline, "stuck"
                self._forget_the_dead()
                time.sleep(0.1)
        for one in jobs:
            one.result()
        Hold.objects.filter(state=Hold.State.PENDING).update(expires_at=timezone.now())
        ledger.expire_holds()

    def _forget_the_dead(self) -> None:
        """Put the clock forward for claims of the gateway that is no more."""
        APIRequest.objects.filter(completed_at=None, created_at__lt=self._died_at()).update(
            claimed_until=timezone.now()
        )

    def _died_at(self):
        if not hasattr(self, "_end"):
            self._end = timezone.now()
        return self._end

    def _buy_keyed(self, key: str) -> None:
        headers = {"Idempotency-Key": key}
        url = self.doomed.url
        deadline = time.monotonic() + RETRY_WITHIN_S
        while time.monotonic() < deadline:
            response = self._try(url, headers, note=key)
            if response is not None and response.status_code in (200, 201):
                with self.notes.lock:
                    found = self.notes.answered.setdefault(key, [])
                    found.append(from_public(response.json()["id"]))
                # Once more: whoever asks again gets the same.
                if len(found) == 2:
                    return
            if response is None or response.status_code >= 500:
                self.is_dead.wait(10)
                url = self.shop.url
            time.sleep(0.05)
        raise AssertionError(f"{key} was never answered")

    def _buy(self) -> None:
        response = self._try(self.doomed.url, {})
        with self.notes.lock:
            if response is None:
                self.notes.died += 1
            elif response.status_code == 201:
                self.notes.unkeyed.append(from_public(response.json()["id"]))

    def _try(self, url: str, headers: dict[str, str], note: str = "") -> httpx.Response | None:
        sent = {"Authorization": f"Bearer {self.shop.key.text}"}
        try:
            with httpx.Client(base_url=url, headers=sent, timeout=20) as client:
                return predict(client, headers=headers, wait_s=0.05, note=note)
        except httpx.HTTPError:
            return None


@dataclass
class Verdict:
    """How a round ended: what must be none, and how many were booked for nobody."""

    lost: int = 0
    doubled: int = 0
    stray: int = 0
    unpaid: int = 0

    @property
    def faults(self) -> tuple[int, int, int, int]:
        return self.lost, self.doubled, self.stray, self.unpaid


def judge(notes: Notes, booked: set[UUID], *, may_be_booked: int, moved_nanos: int) -> Verdict:
    """Compare what clients noted with what the database has; shares no code with the product."""
    keyed = {one for ids in notes.answered.values() for one in ids}
    answered = keyed | set(notes.unkeyed)
    stray = len(booked - answered)
    return Verdict(
        lost=len(answered - booked),
        doubled=sum(len(set(ids)) - 1 for ids in notes.answered.values()),
        stray=max(0, stray - may_be_booked),
        unpaid=abs(moved_nanos - PRICE_NANOS * len(booked)),
    )


def read_books(url: str, shop: Shop) -> tuple[set[UUID], int]:
    """The predictions that are booked, and what the wallet has paid in nanos."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT prediction_id FROM billing_usageevent WHERE account_id = %s",
            [shop.consumer.pk],
        ).fetchall()
        [(posted,)] = connection.execute(
            "SELECT posted_nanos FROM billing_ledgeraccount WHERE id = %s", [shop.wallet_id]
        ).fetchall()
    return {row[0] for row in rows}, shop.funded_nanos - posted


def play(shop, start_gateway, database_urls, point: str, run: int, target: str) -> Verdict:
    """One round at a point; the seed says who of the passers-by springs the trap."""
    passers_by = PASSERS_BY.get(point, KEYED)
    nth = random.Random(f"{SEED} {point} {run}").randint(1, passers_by)
    settings = {VARIABLE: f"{point}:{nth}"}
    doomed = start_gateway(target=f"tests.chaos.dying:{target}", **settings)
    before, paid_before = read_books(database_urls["owner"], shop)
    played = Round(shop, doomed, f"{run}-{list(POINTS).index(point)}")
    played.run()
    # granian notices that its worker was killed, and ends.
    assert doomed.process.returncode
    booked, paid = read_books(database_urls["owner"], shop)
    return judge(
        played.notes,
        booked - before,
        may_be_booked=0 if point in UNCOMMITTED and nth == 1 else played.notes.died,
        moved_nanos=paid - paid_before,
    )


@pytest.mark.parametrize("point", [one for one in POINTS if one != "in mid-stream"])
def test_whoever_dies_at_this_point_loses_and_doubles_nothing(
    shop, start_gateway, database_urls, point, capsys
):
    shop.fund(10_000 * PRICE_NANOS)
    found = [play(shop, start_gateway, database_urls, point, run, "app") for run in range(RUNS)]
    with capsys.disabled():
        lost, doubled, stray, unpaid = (
            sum(one) for one in zip(*(v.faults for v in found), strict=True)
        )
        print(
            f"\n{point:22} {RUNS} runs (seed {SEED}): {lost} lost, {doubled} doubled, "
            f"{stray} booked for nobody, {unpaid} nanos unaccounted for"
        )
    assert [one.faults for one in found] == [(0, 0, 0, 0)] * RUNS
    # Nothing is stuck either: no money is reserved, no claim is open, all sums are right.
    assert Hold.objects.filter(state=Hold.State.PENDING).count() == 0
    assert APIRequest.objects.filter(completed_at=None).count() == 0
    check_ledger()


@pytest.mark.parametrize(
    ("target", "point", "fault"),
    [
        ("answers_before_commit", "before the batch", "lost"),
        ("forgets_keys", "before the answer", "doubled"),
    ],
)
def test_the_judge_finds_a_gateway_that_is_wrong(
    shop, start_gateway, database_urls, target, point, fault
):
    shop.fund(10_000 * PRICE_NANOS)

    rounds = (
        play(shop, start_gateway, database_urls, point, run, target) for run in range(CONTROL_RUNS)
    )

    assert any(getattr(one, fault) > 0 for one in rounds)


def test_a_stream_that_its_gateway_breaks_off_is_free(teller, start_gateway, database_urls):
    """Nobody was told the end of it; what was handed over until then the platform pays."""
    teller.fund(1_000 * PRICE_NANOS)
    for run in range(RUNS):
        nth = random.Random(f"{SEED} {run}").randint(1, 4)
        doomed = start_gateway(target="tests.chaos.dying:app", **{VARIABLE: f"in mid-stream:{nth}"})
        client = teller.client(url=doomed.url)
        with pytest.raises(httpx.HTTPError):
            stream(client, "one two three four five six")
        doomed.process.wait(10)
    Hold.objects.filter(state=Hold.State.PENDING).update(expires_at=timezone.now())
    ledger.expire_holds()

    assert read_books(database_urls["owner"], teller) == (set(), 0)
    eventually(check_ledger)
