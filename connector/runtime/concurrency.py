"""Coroutines that run side by side, and long work that lets others run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

TURN = 100
"""Records that are handled without a pause: a few milliseconds."""


async def in_turns(items: Sequence[T]) -> AsyncGenerator[Sequence[T], None]:
    """The items in parts of up to TURN, between which whatever else is ready runs."""
    for first in range(0, len(items), TURN):
        if first:
            await asyncio.sleep(0)
        yield items[first : first + TURN]


async def as_completed(
    coroutines: Iterable[Coroutine[Any, Any, T]],
) -> AsyncGenerator[list[T], None]:
    """Start all of them and yield the results of those that have ended since the last ones were
    taken, in the order in which they were started. What still runs when the generator is closed,
    or when one raises, is cancelled; what ended together with that one is yielded before."""
    pending = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            ended = [task for task in pending if task in done]
            pending = [task for task in pending if task not in done]
            failed = [task for task in ended if task.cancelled() or task.exception()]
            if results := [task.result() for task in ended if task not in failed]:
                yield results
            for task in failed:
                task.result()
    finally:
        for task in pending:
            task.cancel()
