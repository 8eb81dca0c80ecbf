"""Hostile input for tests with hypothesis, and what may come of it.

A parser gives a checked value, or refuses with an error of ours that can be sent; any other
exception would be an `internal` error that somebody else can cause at will.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from marketplace.core.errors import MarketplaceError
from marketplace.core.problem import problem

T = TypeVar("T")

# A busy machine says nothing of a parser; what must be bounded is tested by its size.
fuzz = settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# To find one example of something; the simplest one would take long.
search = settings(fuzz, max_examples=10_000, phases=[Phase.generate])

# At the edges of what machines count with, and beyond.
INTEGERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from(
        [edge + step for edge in (2**31, 2**32, 2**53, 2**63, 2**64) for step in (-1, 0)]
    ),
    st.sampled_from([-(2**63), -(2**63) - 1, 10**30, 10**400, -(10**30)]),
    st.integers(),
)
NUMBERS = st.one_of(INTEGERS, st.floats(), st.sampled_from([-0.0, 1e-45, 3.5e38, 1e308]))
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "\x00", "\u202e", "\U0001d518", "a" * 5000, "NaN", "../..", "%00", "owner/name"]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


def mostly(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any] = JSON) -> Any:
    """What is expected, seven times of eight."""
    return st.integers(0, 7).flatmap(lambda number: usual if number else other)


def objects(required: dict[str, Any], optional: dict[str, Any] | None = None) -> Any:
    """Objects that look right, of which members are missing, wrong, or too many."""
    known = {**required, **(optional or {})}
    fixed = st.fixed_dictionaries(required, optional=optional)
    return st.one_of(
        fixed,
        fixed,
        fixed,
        st.fixed_dictionaries({}, optional=known),
        st.builds(
            lambda right, more: {**right, **more}, fixed, st.dictionaries(TEXTS, JSON, max_size=2)
        ),
    )


class Refused:
    """Stands for a refusal."""

    def __init__(self, error: MarketplaceError) -> None:
        self.error = error
        self.code = error.code


def try_out(parse: Callable[[], T], *, statuses: range = range(400, 500)) -> T | Refused:
    """What a parser makes of something; a refusal must be one that can be sent."""
    try:
        return parse()
    except MarketplaceError as error:
        refusal = error
    assert refusal.http_status in statuses, refusal
    assert refusal.code != "internal"
    assert refusal.detail.strip()
    orjson.dumps(problem(refusal, request_id="x"))
    # Who sends much is not answered with much.
    assert len(refusal.detail) < 10_000
    return Refused(refusal)
