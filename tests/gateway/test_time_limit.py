"""A time limit ends what is awaited, and is not mistaken for a cancellation from outside."""

from __future__ import annotations

import asyncio

import pytest

from inference.gateway.time_limit import TimeLimit


def test_what_is_in_time_is_let_be():
    async def run() -> str:
        with TimeLimit(5):
            await asyncio.sleep(0)
            return "done"

    assert asyncio.run(run()) == "done"


@pytest.mark.parametrize("limit_s", [0.01, 0, -1])
def test_what_is_late_is_ended(limit_s):
    async def run() -> bool:
        try:
            with TimeLimit(limit_s):
                await asyncio.sleep(30)
        except TimeoutError:
            pass
        # Nothing of the limit is left in the task.
        await asyncio.sleep(0)
        return asyncio.current_task().cancelling() == 0

    assert asyncio.run(run()) is True


def test_an_error_inside_stays_what_it_is():
    async def run() -> None:
        with TimeLimit(5):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        asyncio.run(run())


def test_a_cancellation_from_outside_stays_one():
    async def limited() -> None:
        with TimeLimit(30):
            await asyncio.sleep(60)

    async def run() -> bool:
        task = asyncio.create_task(limited())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(run()) is True


def test_both_at_once_is_a_cancellation():
    async def limited() -> None:
        with TimeLimit(0.01):
            try:
                await asyncio.sleep(60)
            finally:
                # The limit has struck; now somebody else cancels, too.
                asyncio.current_task().cancel()

    async def run() -> bool:
        task = asyncio.create_task(limited())
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(run()) is True


def test_a_limit_inside_another_ends_alone():
    async def run() -> str:
        with TimeLimit(30):
            try:
                with TimeLimit(0.01):
                    await asyncio.sleep(60)
            except TimeoutError:
                await asyncio.sleep(0)
                return "inner"
        return "outer"

    assert asyncio.run(run()) == "inner"


def test_it_needs_a_task():
    with pytest.raises(RuntimeError):
        TimeLimit(1).__enter__()
