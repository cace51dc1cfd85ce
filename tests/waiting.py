"""Waits for a condition, and for a free port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator

_FIRST_INTERVAL, _INTERVAL = 0.001, 0.02
"""Seconds between two looks: most of what is waited for happens at once."""
PATIENCE = 90.0
"""Seconds until what does not happen is a failure: many times what a quiet machine needs."""


def _intervals(seconds: float) -> Iterator[float]:
    """Waits that are `seconds` long together."""
    waited, interval = 0.0, _FIRST_INTERVAL
    while waited < seconds:
        yield interval
        waited += interval
        interval = min(2 * interval, _INTERVAL)


def until(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until `condition` is true; fails with `what` after `seconds`, not counting the time that
    `condition` takes."""
    for interval in _intervals(seconds):
        if condition():
            return
        time.sleep(interval)
    raise AssertionError(f"not within {seconds} s: {what}")


async def async_until(
    what: str, condition: Callable[[], object], seconds: float = PATIENCE
) -> None:
    """`until` for a test that shares the event loop with what it waits for."""
    for interval in _intervals(seconds):
        if condition():
            return
        await asyncio.sleep(interval)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_port(following: int = 0) -> int:
    """A TCP port of 127.0.0.1 that is free now, as are so many that follow it."""
    while True:
        with contextlib.ExitStack() as stack:
            port = _listen(stack, 0)
            try:
                for number in range(1, following + 1):
                    _listen(stack, port + number)
            except (OSError, OverflowError):
                continue
            return port


def _listen(stack: contextlib.ExitStack, port: int) -> int:
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", port))
    return int(listener.getsockname()[1])
