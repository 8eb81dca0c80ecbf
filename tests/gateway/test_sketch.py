"""Counting different things: how exact, never twice, and together with others."""

from __future__ import annotations

import random

import numpy as np
import pytest

from inference.gateway import sketch as sketch_module
from inference.gateway.sketch import REGISTERS, Sketch, find_place, is_registers

ERROR_MAX = 0.03


def places(seed: int, count: int) -> list[tuple[int, int]]:
    rng = random.Random(seed)
    return [find_place(rng.getrandbits(64)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_estimates_are_within_three_percent(seed):
    sketch = Sketch()
    marks = {1, 10, 100, 1_000, 5_000, 16_384, 40_000, 60_000, 100_000}

    for count, place in enumerate(places(seed, max(marks)), 1):
        sketch.add([place])
        if count in marks:
            assert sketch.estimate == pytest.approx(count, rel=ERROR_MAX)
            # As it is seen where the registers alone are known.
            registers = np.frombuffer(sketch.registers, np.uint8)
            assert sketch_module._estimate(registers) == pytest.approx(
                count, rel=ERROR_MAX, abs=0.1
            )


@pytest.mark.parametrize("seed", range(20))
def test_small_numbers_are_exact(seed):
    sketch = Sketch()
    for count, place in enumerate(places(seed, 20), 1):
        sketch.add([place])
        assert round(sketch.estimate) == count


def test_the_same_again_changes_nothing():
    sketch, several = Sketch(), places(1, 1_000)
    sketch.add(several)
    before, registers = sketch.estimate, bytes(sketch.registers)

    assert sketch.measure(several) == sketch.measure(several[:1]) == before
    assert sketch.add(several) is False
    assert (sketch.estimate, bytes(sketch.registers)) == (before, registers)


def test_measuring_tells_what_adding_does():
    sketch, several = Sketch(), places(2, 300)
    for at in range(0, 300, 30):
        batch = several[at : at + 30] + several[:at]
        wanted = sketch.measure(batch)
        assert wanted > sketch.estimate
        sketch.add(batch)
        assert sketch.estimate == pytest.approx(wanted)


@pytest.mark.parametrize("count", [10, 3_000, 50_000])
def test_merging_counts_the_union(count):
    several = places(3, 3 * count)
    first, second = Sketch(), Sketch()
    first.add(several[: 2 * count])
    second.add(several[count:])

    first.merge(bytes(second.registers), second.estimate)

    assert first.estimate == pytest.approx(3 * count, rel=ERROR_MAX)
    again = first.estimate
    first.merge(bytes(second.registers), second.estimate)
    first.merge(b"", 0)
    assert first.estimate == again
    # What is added later goes on from there.
    first.add(places(4, count))
    assert first.estimate == pytest.approx(4 * count, rel=ERROR_MAX)


def test_an_empty_sketch_takes_the_others_word():
    first, second = Sketch(), Sketch()
    second.add(places(5, 20_000))

    first.merge(bytes(second.registers), second.estimate)

    assert first.estimate == second.estimate
    assert first.measure(places(5, 1)) == first.estimate


def test_other_octets_are_no_registers():
    assert is_registers(b"")
    assert is_registers(bytes([51]) * REGISTERS)
    assert not is_registers(bytes([52]) * REGISTERS)
    assert not is_registers(bytes(REGISTERS - 1))
    assert find_place(0) == (0, 51)
    assert find_place(2**64 - 1) == (REGISTERS - 1, 1)
