"""How much a consumer's inputs look like those of somebody who copies a model.

Nobody who copies has the data that a model was made for: their inputs come from another
distribution, lie where nobody else asks, cover the space evenly, or walk along the border
between two classes in small steps. Each of these is measured on embeddings against traffic
that is taken for benign, and gives points; the sum says whom a person should look at.
It proves nothing: an honest consumer with data of a kind of its own looks the same.

Source: Gretton et al., "A kernel two-sample test", JMLR 2012; Juuti et al., "PRADA", EuroS&P 2019.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# With fewer, chance decides.
WINDOW_MIN = 30
REFERENCE_MIN = 30
# The kernel of both together has a square of this many entries.
SAMPLES_MAX = 500
PERMUTATIONS = 200
# Consecutive inputs that are closer than this are steps of a walk.
STEP_COSINE = 0.98
# Rows from which the share of different ones says something.
ROWS_MIN = 200
SCORE_MAX = 100

# What each sign can add. Two of the strong ones, or one with all the weak ones, are an alert.
_DRIFT, _OUTSIDE, _STEPS, _EVEN, _DISTINCT = 40, 40, 60, 10, 15
_SIGNIFICANT = 0.01
_SEED = 20_26


@dataclass(frozen=True, slots=True)
class Assessment:
    """A score from 0 to 100, why in sentences, and the numbers behind it."""

    score: int
    reasons: list[str] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


def assess(
    window: np.ndarray, reference: np.ndarray, *, rows: int = 0, distinct: float = 0
) -> Assessment:
    """Score a consumer's inputs.

    Args:
        window: Embeddings in the order in which they were asked, at least `WINDOW_MIN`.
        reference: Embeddings of traffic that is taken for benign, at least `REFERENCE_MIN`.
        rows: How many inputs were asked, with repetitions; 0 where that is not known.
        distinct: How many of them were different.
    """
    assert len(window) >= WINDOW_MIN
    assert len(reference) >= REFERENCE_MIN
    window, reference = window[-SAMPLES_MAX:], _thin(reference)
    kernel_distance, chance = compare(window, reference)
    outside = _measure_outside(window, reference)
    steps = _measure_steps(window, reference)
    evenness = _count_dimensions(window) / _count_dimensions(reference)
    share = min(distinct / rows, 1.0) if rows >= ROWS_MIN else 0.0
    signs = [
        (
            _DRIFT * _ramp(kernel_distance, 0.15, 0.45) * (chance <= _SIGNIFICANT),
            "The inputs come from another distribution than those of other consumers.",
        ),
        (
            _OUTSIDE * _ramp(outside, 0.15, 0.5),
            f"{outside:.0%} of the inputs lie where no other consumer asks.",
        ),
        (
            _STEPS * _ramp(steps, 0.1, 0.5),
            f"{steps:.0%} more of the inputs than usual differ very little from the one before.",
        ),
        (
            _EVEN * _ramp(evenness, 1.2, 2.0),
            "The inputs cover the space of inputs more evenly than those of other consumers.",
        ),
        # Also honest consumers may never repeat anything: this counts only beside another sign.
        (
            _DISTINCT * _ramp(share, 0.8, 0.98) * _ramp(outside + steps, 0.1, 0.3),
            f"{share:.0%} of {rows:,} inputs were asked only once.",
        ),
    ]
    return Assessment(
        score=min(round(sum(points for points, _ in signs)), SCORE_MAX),
        reasons=[words for points, words in signs if points >= 1],
        facts={
            "kernel_distance": round(kernel_distance, 4),
            "p_value": round(chance, 4),
            "outside_share": round(outside, 4),
            "step_excess": round(steps, 4),
            "evenness": round(evenness, 4),
            "distinct_share": round(share, 4),
            "samples": len(window),
            "reference_samples": len(reference),
        },
    )


def compare(window: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """The maximum mean discrepancy of two samples, and how often chance gives one as large.

    With a Gaussian kernel as wide as the median distance. 0 is the same distribution, 1 is two
    that have nothing in common.
    """
    together = np.concatenate([window, reference])
    squares = _square_distances(together, together)
    median = float(np.median(squares[np.triu_indices(len(together), 1)]))
    kernel = np.exp(-squares / (median or 1.0))
    # The diagonal is 1 whatever the distribution, and would count for distance.
    np.fill_diagonal(kernel, 0.0)
    first = len(window)
    measured = _discrepancy(kernel, np.arange(len(together))[None, :] < first)[0]
    random = np.random.default_rng(_SEED)
    order = random.random((PERMUTATIONS, len(together))).argsort(axis=1)
    others = _discrepancy(kernel, order < first)
    chance = (1 + int((others >= measured).sum())) / (1 + PERMUTATIONS)
    return float(max(measured, 0.0) ** 0.5), chance


def _discrepancy(kernel: np.ndarray, is_first: np.ndarray) -> np.ndarray:
    """The squared discrepancy for each line that says who belongs to the first sample."""
    first = is_first.astype(np.float64)
    second = 1.0 - first
    count = first.sum(axis=1)
    rest = second.sum(axis=1)
    to_first = first @ kernel
    within_first = (to_first * first).sum(axis=1) / (count * (count - 1))
    across = (to_first * second).sum(axis=1) / (count * rest)
    within_second = ((second @ kernel) * second).sum(axis=1) / (rest * (rest - 1))
    return within_first + within_second - 2 * across


def _measure_outside(window: np.ndarray, reference: np.ndarray) -> float:
    """The share that is farther from all of the reference than nearly all of it is from itself."""
    own = _square_distances(reference, reference)
    np.fill_diagonal(own, np.inf)
    usual = np.quantile(own.min(axis=1), 0.98)
    nearest = _square_distances(window, reference).min(axis=1)
    # Rounding to half precision moves an embedding a little.
    return float((nearest > 1.5 * usual + 1e-6).mean())


def _measure_steps(window: np.ndarray, reference: np.ndarray) -> float:
    """How much larger the share of small steps is than in the reference."""
    center = reference.mean(axis=0)
    return max(_share_steps(window - center) - _share_steps(reference - center), 0.0)


def _share_steps(lines: np.ndarray) -> float:
    lengths = np.linalg.norm(lines, axis=1)
    lengths[lengths == 0] = 1.0
    directions = lines / lengths[:, None]
    cosines = (directions[1:] * directions[:-1]).sum(axis=1)
    # The same input again is a repetition and no step.
    is_same = (np.abs(lines[1:] - lines[:-1]) < 1e-6).all(axis=1)
    return float(((cosines > STEP_COSINE) & ~is_same).mean())


def _count_dimensions(lines: np.ndarray) -> float:
    """In how many directions the sample spreads (participation ratio)."""
    values = np.clip(np.linalg.eigvalsh(np.cov(lines, rowvar=False)), 0.0, None)
    total = float(values.sum())
    return 1.0 if total == 0 else total * total / float((values**2).sum())


def _square_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :]
    return np.maximum(squares - 2 * first @ second.T, 0.0)


def _thin(lines: np.ndarray) -> np.ndarray:
    """At most so many, from the whole of it and in its order."""
    if len(lines) <= SAMPLES_MAX:
        return lines
    return lines[np.linspace(0, len(lines) - 1, SAMPLES_MAX).astype(int)]


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on."""
    return min(max((value - low) / (high - low), 0.0), 1.0)
