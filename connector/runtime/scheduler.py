"""The only module that uses APScheduler: events that are set on a schedule.

APScheduler's asyncio executor cancels running coroutines at shutdown. A job here therefore only
sets an event; the work is done by the worker that waits for it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler
    from apscheduler.triggers.base import BaseTrigger

LIBRARY = (
    "apscheduler.schedulers.asyncio",
    "apscheduler.triggers.cron",
    "apscheduler.triggers.interval",
)
"""What is imported with the first job."""


class Scheduler:
    """Sets events on a schedule. Several missed times set the event once."""

    def __init__(self) -> None:
        self._scheduler: AsyncIOScheduler | None = None

    def every(self, seconds: float, event: asyncio.Event | None = None) -> asyncio.Event:
        """An event, or the given one, that is set every `seconds`."""
        from apscheduler.triggers.interval import IntervalTrigger

        return self._add(IntervalTrigger(seconds=seconds, timezone=UTC), event)

    def nightly(self, hour: int = 3) -> asyncio.Event:
        """An event that is set once a day, within half an hour after `hour` UTC."""
        from apscheduler.triggers.cron import CronTrigger

        return self._add(CronTrigger(hour=hour, jitter=1800, timezone=UTC))

    def _add(self, trigger: BaseTrigger, event: asyncio.Event | None = None) -> asyncio.Event:
        event = event or asyncio.Event()

        async def wake() -> None:
            event.set()

        self._jobs().add_job(wake, trigger)
        return event

    def _jobs(self) -> AsyncIOScheduler:
        if self._scheduler is None:
            from apscheduler.schedulers.asyncio import AsyncIOScheduler

            self._scheduler = AsyncIOScheduler(
                timezone=UTC,
                job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            )
        return self._scheduler

    def start(self) -> None:
        self._jobs().start()

    def stop(self) -> None:
        if self._scheduler and self._scheduler.running:
            self._scheduler.shutdown(wait=False)
