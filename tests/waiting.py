"""Waits for a condition, and for a free port."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

_INTERVAL = 0.02
PATIENCE = 90.0
"""Seconds until what does not happen is a failure: many times what a quiet machine needs."""


def until(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until `condition` is true; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(_INTERVAL)


async def async_until(
    what: str, condition: Callable[[], object], seconds: float = PATIENCE
) -> None:
    """`until` for a test that shares the event loop with what it waits for."""
    for _ in range(round(seconds / _INTERVAL)):
        if condition():
            return
        await asyncio.sleep(_INTERVAL)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
