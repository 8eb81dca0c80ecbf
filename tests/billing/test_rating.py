"""What a prediction costs, in SQL and in Python, against sums of fractions."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from math import ceil

import pytest
from django.db import DatabaseError, connection, transaction

from strongroom.rating import KINDS, Terms, list_lines, rate
from tests.billing.conftest import query

pytestmark = pytest.mark.django_db

CASES = 100_000
BATCH = 20_000
MILLION = 10**6


def oracle(terms: Terms, units: int, metered: dict[str, int], position: int | None) -> int:
    """Row by row where they are few, and by tier: it shares no code with what it checks."""
    gross = Fraction(units * terms.nanos_per_prediction)
    for kind, count in metered.items():
        gross += ceil(Fraction(count * terms.rates[kind], MILLION))
    steps = [(0, Fraction(0 if terms.free_units else 1))]
    if terms.free_units:
        steps.append((terms.free_units, Fraction(1)))
    steps += [(start, Fraction(bps, 10_000)) for start, bps in terms.tiers]
    if position is None:
        part = Fraction(1)
    else:
        part = Fraction(0)
        for row in range(position, position + units):
            [*_, factor] = [factor for start, factor in steps if start <= row]
            part += factor / units
    return 0 if part == 0 else max(ceil(gross * part), terms.minimum_nanos)


def make_case(chance: random.Random) -> tuple[Terms, int, dict[str, int], int | None]:
    def pick(*tops: int) -> int:
        return chance.randint(0, chance.choice(tops))

    kinds = chance.sample(KINDS, chance.randint(0, 3))
    units = chance.randint(1, chance.choice([1, 3, 40]))
    rates = {kind: pick(1, 1_000, 10**9, 10**15) for kind in kinds}
    metered = {kind: units if kind == "row" else pick(1, 5_000, 10**7) for kind in kinds}
    free = chance.choice([0, 0, 1, 7, 1_000])
    starts = sorted(chance.sample(range(free, free + 60), chance.randint(0, 3)))
    tiers = [[start, chance.choice([0, 1, 3_333, 9_999, 10_000])] for start in starts]
    terms = Terms(pick(0, 3, 10**6, 10**12), rates, pick(0, 0, 10**6), free, tiers)
    position = None if not terms.is_counted else chance.choice([0, pick(50), free, free + 30])
    return terms, units, metered, position


def rate_in_sql(cases: list[tuple[Terms, int, dict[str, int], int | None]]) -> list[int]:
    document = [
        {
            "flat": terms.nanos_per_prediction,
            "rates": terms.rates,
            "minimum": terms.minimum_nanos,
            "free": terms.free_units,
            "tiers": terms.tiers,
            "units": units,
            "metered": metered or None,
            "position": position,
        }
        for terms, units, metered, position in cases
    ]
    rows = query(
        """SELECT billing_rate((c->>'flat')::bigint, c->'rates', (c->>'minimum')::bigint,
               (c->>'free')::bigint, c->'tiers', (c->>'units')::bigint,
               nullif(c->'metered', 'null'), (c->>'position')::bigint)
           FROM jsonb_array_elements(%s::jsonb) WITH ORDINALITY AS j(c, place) ORDER BY place""",
        json.dumps(document),
    )
    return [nanos for (nanos,) in rows]


def test_sql_python_and_fractions_agree_on_a_hundred_thousand_prices() -> None:
    chance = random.Random(20_261_122)
    differing = set()
    for _ in range(0, CASES, BATCH):
        cases = [make_case(chance) for _ in range(BATCH)]
        found = rate_in_sql(cases)
        for case, nanos in zip(cases, found, strict=True):
            expected = oracle(*case)
            assert nanos == expected == rate(*case), case
            # The most that it can cost is known without its place in the month.
            assert nanos <= rate(*case[:3])
            differing.add(nanos)
    assert len(differing) > CASES // 10


def test_a_rating_that_rounds_down_is_noticed() -> None:
    """The control: the same comparison with a wrong function."""
    ((source,),) = query("SELECT pg_get_functiondef('billing_rate'::regproc)")
    assert "+ 999999, 1000000" in source
    with connection.cursor() as cursor:
        cursor.execute(source.replace("+ 999999, 1000000", ", 1000000"))
    chance = random.Random(1)
    cases = [make_case(chance) for _ in range(500)]
    assert rate_in_sql(cases) != [oracle(*case) for case in cases]


TERMS = Terms(5, {"input_token": 3_000_000}, 0, 0, ())
BAD = {
    "no rows": (TERMS, 0, {"input_token": 1}, None),
    "rows below zero": (TERMS, -1, {"input_token": 1}, None),
    "huge rows": (TERMS, 10**12 + 1, {"input_token": 1}, None),
    "nothing metered": (TERMS, 1, {}, None),
    "another kind": (TERMS, 1, {"output_token": 1}, None),
    "one kind too many": (TERMS, 1, {"input_token": 1, "row": 1}, None),
    "below zero": (TERMS, 1, {"input_token": -1}, None),
    "huge": (TERMS, 1, {"input_token": 10**12 + 1}, None),
    "a fraction": (TERMS, 1, {"input_token": 1.5}, None),
    "no number": (TERMS, 1, {"input_token": float("nan")}, None),
    "a text": (TERMS, 1, {"input_token": "1"}, None),
    "truth": (TERMS, 1, {"input_token": True}, None),
    "other rows": (Terms(0, {"row": 10**6}), 2, {"row": 1}, None),
    "metered without a rate": (Terms(5), 1, {"row": 1}, None),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_is_no_count_of_what_has_a_rate_is_refused(case: tuple) -> None:
    with pytest.raises(ValueError, match=r"row|metered|unit"):
        rate(*case)
    with pytest.raises((DatabaseError, ValueError)), transaction.atomic():
        rate_in_sql([case])


@pytest.mark.parametrize(
    ("position", "units", "expected"),
    [
        (0, 3, 0),  # All free.
        (0, 4, 25),  # Three of four.
        (2, 1, 0),
        (3, 1, 100),
        (9, 2, 150),  # The last at the full price, the first at half of it.
        (10, 1, 50),
        (100, 2, 20),
    ],
)
def test_each_row_is_charged_at_the_tier_that_it_falls_into(
    position: int, units: int, expected: int
) -> None:
    terms = Terms(100, {}, 0, 3, [[10, 5_000], [100, 1_000]])
    if units == 4:
        terms = Terms(25, {}, 0, 3, [[10, 5_000], [100, 1_000]])

    assert rate(terms, units, {}, position) == expected
    assert rate_in_sql([(terms, units, {}, position)]) == [expected]


def test_the_minimum_is_for_whatever_is_not_free() -> None:
    terms = Terms(1, {}, 1_000, 2, ())

    assert [rate(terms, 1, {}, position) for position in (0, 1, 2)] == [0, 0, 1_000]
    assert rate(terms, 3, {}, 1) == 1_000
    assert rate(terms, 5_000, {}, 2) == 5_000


def test_the_largest_numbers_fit() -> None:
    terms = Terms(10**12, dict.fromkeys(KINDS, 10**15))
    metered = dict.fromkeys(KINDS, 10**6) | {"row": 1}

    (nanos,) = rate_in_sql([(terms, 1, metered, None)])
    assert nanos == rate(terms, 1, metered) == 10**12 + 4 * 10**15 + 10**9
    # More than 64 bits hold is refused, not cut.
    with pytest.raises(DatabaseError), transaction.atomic():
        rate_in_sql([(terms, 1, dict.fromkeys(KINDS, 10**12) | {"row": 1}, None)])


def test_lines_name_each_part() -> None:
    lines = list_lines(Terms(7, {"row": 1, "pixel": 2_000_000}), 2, {"row": 2, "pixel": 3})
    assert [(one.kind, one.units, one.nanos) for one in lines] == [
        ("prediction", 2, 14),
        ("row", 2, 1),
        ("pixel", 3, 6),
    ]
