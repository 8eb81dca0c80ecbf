"""Traffic to score: what people ask a model of handwritten digits, and what thieves ask it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from inference.core.query_embedding import embed

PIXELS = 64


@lru_cache
def _digits() -> np.ndarray:
    from sklearn.datasets import load_digits

    return load_digits().data.astype(np.float32)


def embed_rows(rows: np.ndarray) -> list[bytes]:
    return [embed([row.astype(np.float32)]) for row in rows]


def real(random: np.random.Generator, count: int) -> list[bytes]:
    """Digits that somebody wrote."""
    digits = _digits()
    return embed_rows(digits[random.integers(0, len(digits), count)])


def uniform(random: np.random.Generator, count: int) -> list[bytes]:
    """Pixels by chance, which is what one asks without data."""
    return embed_rows(random.uniform(0, 16, (count, PIXELS)))


def walk(random: np.random.Generator, count: int) -> list[bytes]:
    """From one digit to another in small steps, over the border between two classes."""
    digits = _digits()
    rows: list[np.ndarray] = []
    while len(rows) < count:
        begin, end = digits[random.integers(0, len(digits), 2)]
        rows += [begin + (end - begin) * share for share in np.linspace(0, 1, 20)]
    return embed_rows(np.array(rows[:count]))


def mixed(random: np.random.Generator, count: int, share: float) -> list[bytes]:
    """Real digits with a share of uniform ones between them."""
    rows = real(random, count - int(count * share)) + uniform(random, int(count * share))
    return [rows[at] for at in random.permutation(count)]
