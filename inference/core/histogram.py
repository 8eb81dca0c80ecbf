"""Histograms with fixed logarithmic buckets, which can be added up over any window.

Bucket 0 holds all times up to `FLOOR_US`; bucket i the times above FLOOR_US * GROWTH**(i-1), up to
FLOOR_US * GROWTH**i; the last one all above. A quantile is taken to be where its relative error
is smallest, whatever lies in the bucket: for times from 0.1 ms to ten minutes it is at most
`ERROR_MAX` (4.8 %) off the exact one, however many histograms were added up before. Kept is
only what is not empty: two arrays of equal length, buckets and counts.

Source: Masson, Rim and Lee, "DDSketch", VLDB 2019, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

FLOOR_US = 100
GROWTH = 1.1
# 100 us * 1.1**164 is 613 s: longer than any deadline.
LAST = 165
ERROR_MAX = (GROWTH - 1) / (GROWTH + 1)

# The edges with which gateways count waiting times and first tokens, see their `metrics`.
QUEUE_EDGES_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01),
    *(0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0),
)
FIRST_TOKEN_EDGES_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)

Counts = Mapping[int, int]


def find_bucket(time_us: float) -> int:
    """The bucket of a time."""
    if time_us <= FLOOR_US:
        return 0
    return min(LAST, math.ceil(math.log(time_us / FLOOR_US) / math.log(GROWTH)))


def read_value_ms(bucket: int) -> float:
    """What a time in this bucket is taken for, in milliseconds."""
    if bucket <= 0:
        return FLOOR_US / 1000
    if bucket >= LAST:
        return FLOOR_US * GROWTH ** (LAST - 1) / 1000
    return FLOOR_US * GROWTH**bucket * 2 / (GROWTH + 1) / 1000


def add(histograms: Iterable[Counts]) -> dict[int, int]:
    """One histogram of several."""
    total: dict[int, int] = {}
    for counts in histograms:
        for bucket, count in counts.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def find_quantile(counts: Counts, share: float) -> int | None:
    """The bucket that the nearest-rank quantile lies in; None if nothing was counted."""
    size = sum(counts.values())
    if not size:
        return None
    rank = max(1, math.ceil(share * size - 1e-9))
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            break
    return bucket


def quantile_ms(counts: Counts, share: float) -> float | None:
    """The quantile of times in milliseconds."""
    bucket = find_quantile(counts, share)
    return None if bucket is None else read_value_ms(bucket)


def edge_quantile_ms(counts: Counts, share: float, edges_s: Sequence[float]) -> float | None:
    """The same of a histogram with edges of its own: the upper edge, which is never exceeded.

    Where the quantile lies beyond the last edge, only that edge is known to be exceeded.
    """
    bucket = find_quantile(counts, share)
    return None if bucket is None else edges_s[min(bucket, len(edges_s) - 1)] * 1000


def count_within(counts: Counts, limit_ms: float) -> int:
    """How many were surely not slower: a bucket that the limit cuts counts as slower."""
    last = math.floor(math.log(limit_ms * 1000 / FLOOR_US) / math.log(GROWTH) + 1e-9)
    return sum(count for bucket, count in counts.items() if bucket <= last)
