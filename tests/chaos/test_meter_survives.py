"""The worker that reports usage to Stripe is killed at each step: no report is lost or doubled.

What the stand-in for Stripe has written down is the oracle, and the usage events are what it is
compared with: each nano-dollar of usage is in it once, but for what is less than a millionth.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from billing.models import MeterReport, MeterSeal, PostpaidTerms, UsageEvent
from billing.selectors.meter import HOUR, read_clock
from billing.services.meter import find_miscounted
from marketplace.models import User
from tests.billing.conftest import PRICE_NANOS, Shop, asked, reserve, settle
from tests.billing.conftest import shop as base_shop
from tests.billing.postpaid import age, agree, broken, this_hour
from tests.billing.stand_in import asked_of, running
from tests.chaos import dying_worker
from tests.chaos.dying_worker import SEALED_HOURS
from tests.fakestripe.process import FakeStripeProcess

pytestmark = pytest.mark.django_db(transaction=True)

RUNS = int(os.environ.get("STRONGROOM_CHAOS_RUNS", "2"))
# At these a report is on its way: whether Stripe has it, nobody here knows.
IN_BETWEEN = ["after the report says so", "before the request", "after the request"]


@pytest.fixture(scope="module")
def _stripe(tmp_path_factory) -> Iterator[FakeStripeProcess]:
    with running(tmp_path_factory.mktemp("stripe")) as process:
        yield process


@pytest.fixture
def fake(_stripe: FakeStripeProcess, settings: Any) -> Iterator[FakeStripeProcess]:
    _stripe.reset()
    with asked_of(_stripe, settings):
        yield _stripe


shop = base_shop


@dataclass
class Office:
    """An account on credit, its usage of two hours, Stripe's record, and a worker."""

    shop: Shop
    fake: FakeStripeProcess
    database_url: str

    def use(self, units: int, hours_ago: int) -> None:
        nanos = units * PRICE_NANOS
        ((hold_id, _, outcome),) = reserve(asked(self.shop.consumer.pk, nanos))
        assert outcome == "held"
        item = self.shop.item(hold_id, units=units, gross_nanos=nanos)
        assert settle(item) == ["settled"]
        age(hours_ago, only=[hold_id])

    def work(self, step: str = "", damage: str = "") -> None:
        """A worker's run; it is killed at the step."""
        dying_worker.run(self.database_url, step=step, damage=damage)

    def let_a_day_pass(self) -> None:
        """Stripe forgets identifiers, and what was sent has been on its way for a day."""
        self.fake.order("clock", advance_s=25 * 3_600)
        MeterReport.objects.filter(state=MeterReport.State.SENT).update(
            first_sent_at=read_clock() - timedelta(hours=25)
        )

    def recorded(self) -> list[tuple[str, int]]:
        """What Stripe has: under which identifier, and how many millionths."""
        events = self.fake.state()["objects"].get("billing.meter_event", [])
        return [(one["identifier"], int(one["payload"]["value"])) for one in events]

    def judge(self) -> dict[str, int]:
        """What is wrong, counted; by Stripe's record, and nothing of the product's reports."""
        used_nanos = sum(UsageEvent.objects.values_list("gross_nanos", flat=True))
        found = self.recorded()
        counted, identifiers = sum(value for _, value in found), {name for name, _ in found}
        expected = used_nanos // 1_000
        faults = {
            "lost": max(0, expected - counted),
            "doubled": max(0, counted - expected) or len(found) - len(identifiers),
            "stuck": MeterReport.objects.exclude(state__in=("ok", "nothing")).count(),
        }
        return {name: count for name, count in faults.items() if count}


@pytest.fixture
def office(
    transactional_db: None,
    shop: Shop,
    fake: FakeStripeProcess,
    platform_admin: User,
    database_urls: dict[str, str],
) -> Office:
    """Credit for six hours, of which the last two were used."""
    fake.order("clock", offset_s=-(SEALED_HOURS + 1) * 3_600)
    terms = agree(shop, platform_admin)
    fake.order("clock", offset_s=0)
    begun = read_clock() - SEALED_HOURS * HOUR
    PostpaidTerms.objects.filter(pk=terms.pk).update(activated_at=begun)
    made = Office(shop, fake, database_urls["app"])
    made.use(333_333, hours_ago=2)
    made.use(444_445, hours_ago=1)
    return made


@pytest.mark.parametrize("step", dying_worker.STEPS)
def test_killed_at_any_step_usage_is_reported_once(office: Office, step: str, capsys: Any) -> None:
    found = []
    for _ in range(RUNS):
        office.work(step)
        office.work()
        found.append(office.judge())
        # What is used meanwhile goes the same way next time.
        office.use(1_000, hours_ago=2)
        office.use(3, hours_ago=1)
        reopen_hours()
    office.work()
    with capsys.disabled():
        faults = sum((Counter(one) for one in found), Counter())
        print(f"\n{step:26} {RUNS} runs: {dict(faults) or 'none lost, doubled or stuck'}")
    assert found == [{}] * RUNS
    assert office.judge() == {}
    assert broken() == set()


@pytest.mark.parametrize("step", IN_BETWEEN)
def test_what_was_on_its_way_for_a_day_is_asked_for_first(office: Office, step: str) -> None:
    """Stripe would count it again by then."""
    office.work(step)
    office.let_a_day_pass()

    office.work()

    assert office.judge() == {}
    # Half an hour later Stripe has added up.
    office.fake.order("clock", advance_s=1_800)
    MeterReport.objects.update(sent_at=read_clock() - timedelta(minutes=31))
    assert find_miscounted() == []
    assert broken() == set()


def test_it_is_killed_again_and_again_while_it_recovers(office: Office) -> None:
    for step in [*IN_BETWEEN, *reversed(IN_BETWEEN)]:
        office.work(step)

    office.work()

    assert office.judge() == {}
    assert broken() == set()


@pytest.mark.parametrize(
    ("damage", "step", "fault"),
    [
        ("identifier by random", "after the request", "doubled"),
        ("said before it is sent", "before the request", "lost"),
        ("blindly again", "after the request", "doubled"),
    ],
)
def test_the_judge_finds_a_worker_that_is_wrong(
    office: Office, damage: str, step: str, fault: str
) -> None:
    office.work(step, damage)
    if damage == "blindly again":
        office.let_a_day_pass()

    office.work(damage=damage)

    assert fault in office.judge()


def reopen_hours() -> None:
    """As if the last two hours had just ended."""
    MeterSeal.objects.filter(hour__gte=this_hour() - 2 * HOUR).delete()
