"""Waits for a condition, and for a free port."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

_INTERVAL = 0.02


def until(what: str, condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until `condition` is true; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(_INTERVAL)


async def async_until(what: str, condition: Callable[[], object], seconds: float = 20.0) -> None:
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
