"""Workers: loops that run for as long as the daemon does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, Protocol

from connector.domain.attention import AttentionItem

WorkerName = Literal[
    "accounts",
    "backfill",
    "changes",
    "commands",
    "heartbeat",
    "held_actions",
    "hints",
    "import_jobs",
    "join_actions",
    "lane",
    "lease",
    "mass_unset",
    "notifications",
    "oauth",
    "poll",
    "replicas",
    "resume",
    "retention",
    "scan",
]
"""What a worker does: the value of the metrics' label `worker`."""


class Worker(Protocol):
    """A loop that can be started, stopped and asked how it is."""

    @property
    def name(self) -> WorkerName: ...

    def start(self) -> None:
        """Run in a task of its own until `stop`."""
        ...

    async def stop(self, timeout: float) -> None:
        """End the loop. What is in flight gets at most `timeout` seconds."""
        ...

    def wake(self) -> None:
        """Start the next pass at once: something outside may have changed."""
        ...

    async def until_quiet(self, timeout: float) -> bool:
        """Wait until nothing of it is under way; whether that was within `timeout` seconds."""
        ...

    async def idle(self, ahead: float) -> bool:
        """Whether nothing is to be done now, nor becomes due within `ahead` seconds."""
        ...

    async def attention(self) -> Sequence[AttentionItem]:
        """What a person must look at."""
        ...


class Loop(Protocol):
    """Work that is done in passes. A supervisor calls `run_once` again and again."""

    @property
    def wakeup(self) -> asyncio.Event:
        """Set when a pass should not wait any longer. Cleared before each pass."""
        ...

    async def run_once(self) -> float | None:
        """One pass. Seconds until the next one; None: not before `wakeup` is set."""
        ...

    async def idle(self) -> bool:
        """Whether everything that was due has been done."""
        ...

    async def attention(self) -> Sequence[AttentionItem]:
        """What a person must look at."""
        ...
