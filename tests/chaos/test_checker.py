"""The checker sees what it is there for: each kind of fault is put in, and complained about."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from uuid import UUID, uuid4

import pytest

from tests.chaos.checker import Entry, Usage, Verdict, check
from tests.chaos.journal import Attempt, Journal, parse_id, read
from tests.chaos.limits import SETTLED_S, Disturbance, check_cap, check_rate

PRICE = Fraction(2, 100_000)
NANOS = 20_000
NOW = 1_795_230_000.0


def make_id(at: float) -> UUID:
    """As the product makes them: the millisecond first."""
    return UUID(int=int(at * 1000) << 80 | uuid4().int >> 48)


class World:
    """Ten requests of each kind, answered, booked and paid as they should be."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.usages: list[Usage] = []
        self.entries: list[Entry] = []
        for number in range(20):
            self.add(NOW + number, key=f"key-{number}" if number < 10 else None)

    def add(self, at: float, *, key: str | None, is_answered: bool = True) -> UUID:
        prediction_id = make_id(at + 0.01)
        attempt = Attempt(f"request-{at}-{key}", key, at, at + 0.02)
        if is_answered:
            attempt = replace(
                attempt, status=201, id=prediction_id, cost_nanos=NANOS, is_right=True
            )
        self.attempts.append(attempt)
        self.book(prediction_id, key)
        return prediction_id

    def book(self, prediction_id: UUID, key: str | None = None) -> None:
        transfer_id = uuid4()
        self.usages.append(Usage(prediction_id, NANOS, transfer_id, key))
        self.entries.append(Entry(transfer_id, -NANOS))

    def join(self, first: int, second: int) -> None:
        """Have one transfer move what two usages cost."""
        usage = replace(self.usages[second], transfer_id=self.usages[first].transfer_id)
        self.usages[second] = usage
        self.entries[first] = replace(self.entries[first], amount_nanos=-2 * NANOS)
        del self.entries[second]

    def refuse(self, at: float, status: int, code: str, key: str | None = None) -> UUID:
        prediction_id = make_id(at)
        self.attempts.append(
            Attempt(f"request-{at}", key, at, at + 1, status=status, id=prediction_id, code=code)
        )
        return prediction_id

    def check(self) -> Verdict:
        return check(self.attempts, self.usages, self.entries, price=PRICE)

    @property
    def kinds(self) -> set[str]:
        """The first words of the complaints."""
        return {fault.partition(":")[0] for fault in self.check().faults}


@pytest.fixture
def world() -> World:
    return World()


def test_nothing_is_complained_about_where_nothing_is_wrong(world):
    verdict = world.check()

    assert verdict.faults == []
    assert (verdict.answered, verdict.booked, verdict.undelivered) == (20, 20, 0)


@pytest.mark.parametrize("number", [0, 15])
def test_lost_booking_is_seen(world, number):
    del world.usages[number], world.entries[number]

    assert world.kinds == {"lost"}


@pytest.mark.parametrize("number", [0, 15])
def test_booking_without_its_transfer_is_seen(world, number):
    del world.entries[number]

    assert world.kinds == {"lost"}


@pytest.mark.parametrize("number", [0, 15])
def test_duplicate_booking_is_seen(world, number):
    world.book(world.usages[number].prediction_id)

    assert world.kinds == {"double"}


@pytest.mark.parametrize("number", [0, 15])
def test_duplicate_transfer_is_seen(world, number):
    world.entries.append(world.entries[number])

    assert world.kinds == {"double"}


def test_one_transfer_of_two_usages_is_fine(world):
    world.join(3, 17)

    assert world.check().faults == []


@pytest.mark.parametrize("nanos", [-NANOS, -3 * NANOS])
def test_one_transfer_of_two_usages_that_takes_another_sum_is_seen(world, nanos):
    world.join(3, 17)
    world.entries[3] = replace(world.entries[3], amount_nanos=nanos)

    assert world.kinds == {"amount"}


def test_usage_that_is_lost_from_a_shared_transfer_is_seen(world):
    world.join(3, 17)
    del world.usages[17]

    assert world.kinds == {"lost", "amount"}


def test_second_run_of_a_keyed_request_is_seen(world):
    world.book(make_id(NOW + 0.01), "key-0")

    assert world.kinds == {"double", "unanswered"}


def test_keyed_request_that_was_answered_with_two_predictions_is_seen(world):
    second = world.add(NOW + 0.5, key="key-0")
    world.attempts[-1] = replace(world.attempts[-1], request=world.attempts[0].request)

    assert second in {one.id for one in world.attempts}
    assert world.kinds == {"double"}


def test_unanswered_booking_of_a_keyed_request_is_seen(world):
    world.add(NOW + 50, key="key-50", is_answered=False)

    assert world.kinds == {"unanswered", "open"}


def test_unanswered_booking_out_of_nowhere_is_seen(world):
    world.book(make_id(NOW + 50))

    assert world.kinds == {"unanswered"}


def test_undelivered_booking_without_a_key_is_counted(world):
    world.add(NOW + 50, key=None, is_answered=False)

    verdict = world.check()

    assert verdict.faults == []
    assert (verdict.undelivered, verdict.died) == (1, 1)


def test_second_booking_of_one_dead_connection_is_seen(world):
    world.add(NOW + 50, key=None, is_answered=False)
    world.book(make_id(NOW + 50.012))

    assert world.kinds == {"unanswered"}


def test_transfer_without_usage_is_seen(world):
    world.entries.append(Entry(make_id(NOW), -NANOS))

    assert world.kinds == {"unanswered"}


def test_charged_failure_is_seen(world):
    world.book(world.refuse(NOW + 50, 503, "triton_unavailable"))

    assert world.kinds == {"charged failure"}


def test_refusal_while_a_part_is_away_is_none_of_its_business(world):
    world.refuse(NOW + 50, 503, "triton_unavailable")

    verdict = world.check()

    assert verdict.faults == []
    assert verdict.refused == {"triton_unavailable": 1}


def test_booking_whose_fate_was_told_to_be_unknown_is_counted(world):
    world.book(world.refuse(NOW + 50, 503, "booking_unknown"))

    verdict = world.check()

    assert verdict.faults == []
    assert verdict.undelivered == 1


@pytest.mark.parametrize(("status", "code"), [(500, "internal"), (402, "insufficient_credit")])
def test_refusal_that_no_dead_part_explains_is_seen(world, status, code):
    world.refuse(NOW + 50, status, code)

    assert world.kinds == {"refused"}


def test_refusal_that_was_asked_for_is_none_of_its_business(world):
    world.refuse(NOW + 50, 402, "budget_exceeded")
    world.attempts[-1] = replace(world.attempts[-1], expects=("budget_exceeded",))

    assert world.check().faults == []


def test_second_booking_of_a_counted_request_is_seen(world):
    for number in (15, 16):
        world.usages[number] = replace(world.usages[number], fingerprint=b"the same")

    assert world.kinds == {"double"}


@pytest.mark.parametrize(("late_s", "kinds"), [(1.0, set()), (0.5, {"unanswered"})])
def test_request_that_lay_unread_is_known_for_so_long(world, late_s, kinds):
    attempt = Attempt("request-50", None, NOW + 50, NOW + 50.02)
    world.attempts.append(attempt)
    world.book(make_id(NOW + 50.8))

    found = check(world.attempts, world.usages, world.entries, price=PRICE, late_s=late_s)

    assert {fault.partition(":")[0] for fault in found.faults} == kinds


def test_keyed_request_that_is_never_answered_is_seen(world):
    world.refuse(NOW + 50, 503, "database_unavailable", key="key-50")

    assert world.kinds == {"open"}


def test_output_of_another_input_is_seen(world):
    world.attempts[3] = replace(world.attempts[3], is_right=False)

    assert world.kinds == {"wrong"}


@pytest.mark.parametrize("what", ["told", "booked", "taken"])
def test_wrong_amount_is_seen(world, what):
    if what == "told":
        world.attempts[0] = replace(world.attempts[0], cost_nanos=NANOS + 1)
    elif what == "booked":
        world.usages[0] = replace(world.usages[0], gross_nanos=NANOS + 1)
    else:
        world.entries[0] = replace(world.entries[0], amount_nanos=-NANOS + 1)

    assert world.kinds == {"amount"}


# --- Limits ---


def answer_at(*moments: float) -> list[Attempt]:
    """Requests that were answered within a hundredth of a second."""
    return [Attempt(f"request-{at}", None, NOW + at, NOW + at + 0.01, status=201) for at in moments]


@pytest.mark.parametrize(("_count", "_excess"), [(10, False), (11, True)])
def test_burst_that_is_too_large_is_seen(_count, _excess):
    attempts = answer_at(*(number / 1000 for number in range(_count)))

    assert bool(check_rate(attempts, per_minute=60, burst=10)) is _excess


@pytest.mark.parametrize(("_pause_s", "_excess"), [(1.0, False), (0.8, True)])
def test_rate_that_is_too_high_is_seen(_pause_s, _excess):
    attempts = answer_at(*(number * _pause_s for number in range(100)))

    assert bool(check_rate(attempts, per_minute=60, burst=10)) is _excess


@pytest.mark.parametrize(
    ("_at", "_bursts", "_excess"),
    [(0, 1, False), (0, 0, True), (-SETTLED_S - 1, 1, True), (1, 1, True)],
)
def test_burst_more_is_allowed_to_a_disturbance_within_it(_at, _bursts, _excess):
    attempts = answer_at(*(number / 1000 for number in range(20)))
    disturbance = Disturbance(NOW + _at, NOW + _at + 0.01, _bursts)

    found = check_rate(attempts, per_minute=60, burst=10, disturbances=[disturbance])

    assert bool(found) is _excess


def run_at(*moments: float) -> list[Attempt]:
    """Requests whose model took a second."""
    return [
        replace(one, began_at=one.sent_at, completed_at=one.sent_at + 1)
        for one in answer_at(*moments)
    ]


@pytest.mark.parametrize(("_moments", "_excess"), [((0, 0.5, 1), False), ((0, 0.5, 0.9), True)])
def test_cap_that_is_exceeded_is_seen(_moments, _excess):
    assert bool(check_cap(run_at(*_moments), cap=2, gateways=2)) is _excess


@pytest.mark.parametrize(("_count", "_excess"), [(4, False), (5, True)])
def test_cap_of_each_gateway_is_allowed_after_a_disturbance(_count, _excess):
    attempts = run_at(*(number / 10 for number in range(_count)))
    disturbance = Disturbance(NOW - SETTLED_S, NOW - SETTLED_S + 1, 1)

    assert bool(check_cap(attempts, cap=2, gateways=2, disturbances=[disturbance])) is _excess


def test_journal_gives_back_what_was_written(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.write(attempt="a", request="r", key="k", sent_at=1.0)
    journal.write(attempt="b", request="r", key="k", sent_at=2.0)
    journal.write(attempt="b", ended_at=2.5)
    journal.write(
        attempt="a", ended_at=3.0, status=201, id="a" * 25 + "b", cost_nanos=5, is_right=True
    )
    journal.close()

    assert list(read(tmp_path / "journal")) == [
        Attempt("r", "k", 1.0, 3.0, 201, UUID(int=1), "", 5, is_right=True),
        Attempt("r", "k", 2.0, 2.5),
    ]


def test_letters_of_an_id_are_read_as_the_product_writes_them():
    from marketplace.core.ids import new_id, to_public

    identifier = new_id()

    assert parse_id(to_public(identifier)) == identifier
