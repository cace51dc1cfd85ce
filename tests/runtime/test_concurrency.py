"""Coroutines side by side: results as they end, and none left running."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from connector.domain.errors import Problem
from connector.domain.outcomes import Accepted, Delivery, Request, Retry, Stop, Unsent
from connector.runtime.concurrency import as_completed
from connector.runtime.single_requests import in_single_requests


async def after(turns: int, result: Any = None) -> Any:
    for _ in range(turns):
        await asyncio.sleep(0)
    return turns if result is None else result


async def test_results_come_in_the_order_in_which_they_end() -> None:
    assert [n async for n in as_completed(map(after, [30, 10, 20]))] == [[10], [20], [30]]


async def test_none_runs_on_when_the_generator_is_closed() -> None:
    before = asyncio.all_tasks()
    found = as_completed(map(after, [1, 10_000]))
    assert await anext(found) == [1]
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


async def test_what_ended_together_with_an_error_comes_before_it() -> None:
    async def fail(text: str) -> int:
        raise KeyError(text)

    found = as_completed([after(0), fail("one"), after(0, 7), fail("two")])
    assert await anext(found) == [0, 7]
    with pytest.raises(KeyError, match="one"):
        await anext(found)


async def test_what_ended_while_the_reader_was_away_comes_together() -> None:
    before = asyncio.all_tasks()
    found = as_completed(map(after, [2, 10, 11, 10_000]))
    assert await anext(found) == [2]
    await after(30)
    assert await anext(found) == [10, 11]
    await found.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_what_ended_together_comes_in_the_order_of_the_start() -> None:
    async def numbered(number: int) -> int:
        return number

    found = as_completed(map(numbered, range(50)))
    assert await anext(found) == list(range(50))


async def test_successes_that_ended_together_are_one_delivery_and_failures_come_singly() -> None:
    requests = [Request(f"r{n}", "POST /x", 0, 202, 1) for n in range(4)]
    answers = [
        Delivery([Accepted(1, "r0")], requests[:1]),
        Delivery([Retry(2, Problem.SERVER_FAULT)], requests[1:2]),
        Delivery([Accepted(3, "r2")], requests[2:3]),
        Delivery([Unsent(4)], stop=Stop("lane", Problem.KLAVIYO_KEY)),
        Delivery([Retry(5, Problem.SERVER_FAULT)], requests[3:]),
    ]
    found = in_single_requests(after(2, answer) for answer in answers)
    assert [delivery async for delivery in found] == [
        Delivery([Accepted(1, "r0"), Accepted(3, "r2")], [requests[0], requests[2]]),
        answers[1],
        answers[3],
        answers[4],
    ]
