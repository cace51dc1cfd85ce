"""Coroutines that run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def as_completed(coroutines: Iterable[Coroutine[Any, Any, T]]) -> AsyncGenerator[T, None]:
    """Start all of them and yield their results in the order in which they end. What still runs
    when the generator is closed, or when one raises, is cancelled."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()


async def as_completed_together(
    coroutines: Iterable[Coroutine[Any, Any, T]],
) -> AsyncGenerator[list[T], None]:
    """The same, but all that have ended since the last ones were taken at a time, in the order in
    which they were started."""
    pending = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            ended = [task for task in pending if task in done]
            pending = [task for task in pending if task not in done]
            yield [task.result() for task in ended]
    finally:
        for task in pending:
            task.cancel()
