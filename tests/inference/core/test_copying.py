"""Scores: thieves stand out, honest consumers do not, and neither does chance."""

from __future__ import annotations

import numpy as np
import pytest

from inference.core.copying import REFERENCE_MIN, WINDOW_MIN, assess, compare
from inference.core.query_embedding import (
    CHARACTERS_MAX,
    EMBEDDING_BYTES,
    VALUES_MAX,
    embed,
    read_embeddings,
    read_features,
)
from inference.services.abuse import ALERT_SCORE
from tests.inference.core import traffic

SEEDS = range(25)


def score(seed: int, make, *, count: int = 60, rows: int = 2_000, share: float = 1.0) -> int:
    """Of a consumer, against a hundred inputs of others."""
    random = np.random.default_rng(seed)
    reference = read_embeddings(traffic.real(random, 100))
    window = read_embeddings(make(random, count))
    return assess(window, reference, rows=rows, distinct=share * rows).score


def test_honest_traffic_is_never_alerted_over_many_seeds():
    scores = [score(seed, traffic.real) for seed in SEEDS]
    scores += [score(seed, traffic.real, count=WINDOW_MIN, share=0.3) for seed in SEEDS]

    assert max(scores) < ALERT_SCORE / 2
    assert np.mean(scores) < 5


def test_who_asks_by_chance_is_always_alerted():
    assert min(score(seed, traffic.uniform) for seed in SEEDS) >= ALERT_SCORE
    # Also where nothing is known of how often inputs were repeated.
    assert min(score(seed, traffic.uniform, rows=0) for seed in SEEDS) >= ALERT_SCORE


def test_who_hides_among_honest_inputs_is_still_seen():
    def half(random: np.random.Generator, count: int) -> list[bytes]:
        return traffic.mixed(random, count, 0.6)

    def fifth(random: np.random.Generator, count: int) -> list[bytes]:
        return traffic.mixed(random, count, 0.1)

    assert np.mean([score(seed, half) >= ALERT_SCORE for seed in SEEDS]) >= 0.9
    # A few odd inputs alert nobody.
    assert max(score(seed, fifth) for seed in SEEDS) < ALERT_SCORE


def test_who_walks_along_a_border_stands_out():
    scores = [score(seed, traffic.walk) for seed in SEEDS]

    assert min(scores) >= 60
    # The same inputs in another order are no walk.
    random = np.random.default_rng(1)

    def shuffled(_: np.random.Generator, count: int) -> list[bytes]:
        rows = traffic.walk(random, count)
        return [rows[at] for at in random.permutation(count)]

    assert max(score(seed, shuffled) for seed in SEEDS) < min(scores)


def test_a_repeated_input_is_no_step_of_a_walk():
    random = np.random.default_rng(1)
    [one] = traffic.real(random, 1)
    reference = read_embeddings(traffic.real(random, 100))

    found = assess(read_embeddings([one] * 60), reference, rows=2_000, distinct=1)

    assert found.facts["step_excess"] == 0
    assert found.score < ALERT_SCORE


def test_a_score_says_why_and_is_the_same_again():
    random = np.random.default_rng(3)
    reference = read_embeddings(traffic.real(random, 700))
    window = read_embeddings(traffic.uniform(random, 600))

    first = assess(window, reference, rows=1_000, distinct=1_000)

    assert first == assess(window, reference, rows=1_000, distinct=1_000)
    assert "100% of the inputs lie where no other consumer asks." in first.reasons
    assert "100% of 1,000 inputs were asked only once." in first.reasons
    assert (first.facts["samples"], first.facts["reference_samples"]) == (500, 500)
    assert assess(reference[:60], reference).reasons == []


def test_the_discrepancy_of_one_distribution_is_chance():
    random = np.random.default_rng(4)
    same = [compare(random.normal(size=(40, 8)), random.normal(size=(60, 8))) for _ in range(60)]
    chances = [chance for _, chance in same]

    # As often below each mark as the mark says.
    assert np.mean([chance <= 0.5 for chance in chances]) == pytest.approx(0.5, abs=0.25)
    assert np.mean([chance <= 0.05 for chance in chances]) < 0.2
    distance, chance = compare(random.normal(size=(40, 8)), random.normal(3, 1, size=(60, 8)))
    assert (distance > 0.5, chance) == (True, pytest.approx(1 / 201))


def test_samples_without_any_difference_break_nothing():
    for window, reference in (
        (np.zeros((WINDOW_MIN, 64)), np.zeros((REFERENCE_MIN, 64))),
        (np.ones((WINDOW_MIN, 64)), np.zeros((REFERENCE_MIN, 64))),
        (np.zeros((WINDOW_MIN, 64)), np.ones((REFERENCE_MIN, 64))),
    ):
        assert 0 <= assess(window, reference).score <= 100


# --- Embeddings -------------------------------------------------------------------


def texts(*rows: str) -> np.ndarray:
    column = np.empty((len(rows), 1), dtype=object)
    column[:, 0] = [one.encode() for one in rows]
    return column


def embedded(*columns: np.ndarray, row: int = 0) -> np.ndarray:
    octets = embed(read_features(columns, row))
    assert len(octets) == EMBEDDING_BYTES
    return read_embeddings([octets])[0]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_embeddings_stay_the_same_for_ever():
    # Of a row of numbers and a text; another release must not make strangers of old samples.
    numbers = np.array([[1.0, -2.0, 300.0]], np.float32)

    found = embedded(numbers, texts("to be or not to be"))

    assert found[:4].tolist() == [-1.17578125, 1.1689453125, -0.443359375, 1.728515625]


def test_similar_inputs_get_similar_embeddings():
    random = np.random.default_rng(5)
    one = random.normal(size=(1, 200)).astype(np.float32)
    near, far = one + 0.01, random.normal(size=(1, 200)).astype(np.float32)
    assert cosine(embedded(one), embedded(near)) > 0.98 > cosine(embedded(one), embedded(far))

    question = embedded(texts("What is the capital of France, please?"))
    assert cosine(question, embedded(texts("What is the capital of Spain, please?"))) > 0.6
    assert cosine(question, embedded(texts("SELECT count(*) FROM orders"))) < 0.4


def test_any_input_has_an_embedding_of_finite_numbers():
    huge = np.full((1, 10), np.finfo(np.float64).max)
    odd = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    for columns in (
        [huge],
        [odd],
        [np.zeros((1, 0), np.float32)],
        [np.array([[True, False]])],
        [np.array([[2**63 - 1]])],
        [np.zeros((1, 3, 500, 500), np.uint8)],
        [texts("")],
        [texts("\U0001f600" * 5_000)],
        [],
    ):
        assert np.isfinite(embedded(*columns)).all()


def test_features_are_few_and_hold_nothing_else_alive():
    large = np.zeros((2, 10 * VALUES_MAX + 1), np.float32)
    [numbers] = read_features([large], 1)
    assert len(numbers) <= VALUES_MAX
    assert not np.shares_memory(numbers, large)
    [text] = read_features([texts("x" * 2 * CHARACTERS_MAX)], 0)
    assert len(text) == CHARACTERS_MAX
