"""Coroutines side by side: results as they end, and none left running."""

from __future__ import annotations

import asyncio

import pytest

from connector.runtime.concurrency import as_completed, as_completed_together


async def after(turns: int) -> int:
    for _ in range(turns):
        await asyncio.sleep(0)
    return turns


async def test_results_come_in_the_order_in_which_they_end() -> None:
    assert [n async for n in as_completed(map(after, [30, 10, 20]))] == [10, 20, 30]


async def test_none_runs_on_when_the_generator_is_closed() -> None:
    before = asyncio.all_tasks()
    found = as_completed(map(after, [1, 10_000]))
    assert await anext(found) == 1
    await found.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_an_error_ends_all_of_them() -> None:
    async def fail() -> int:
        raise KeyError("x")

    before = asyncio.all_tasks()
    with pytest.raises(KeyError):
        async for _ in as_completed([after(10_000), fail()]):
            pass
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_what_ended_while_the_reader_was_away_comes_together() -> None:
    before = asyncio.all_tasks()
    found = as_completed_together(map(after, [2, 10, 11, 10_000]))
    assert await anext(found) == [2]
    await after(30)
    assert sorted(await anext(found)) == [10, 11]
    await found.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_what_ended_together_comes_in_the_order_of_the_start() -> None:
    async def numbered(number: int) -> int:
        return number

    found = as_completed_together(map(numbered, range(50)))
    assert await anext(found) == list(range(50))
