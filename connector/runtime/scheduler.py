"""The only module that uses APScheduler: events that are set on a schedule.

APScheduler's asyncio executor cancels running coroutines at shutdown. A job here therefore only
sets an event; the work is done by the worker that waits for it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger


class Scheduler:
    """Sets events on a schedule. Several missed times set the event once."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def every(self, seconds: float, event: asyncio.Event | None = None) -> asyncio.Event:
        """An event, or the given one, that is set every `seconds`."""
        return self._add(IntervalTrigger(seconds=seconds, timezone=UTC), event)

    def nightly(self, hour: int = 3) -> asyncio.Event:
        """An event that is set once a day, within half an hour after `hour` UTC."""
        return self._add(CronTrigger(hour=hour, jitter=1800, timezone=UTC))

    def _add(
        self, trigger: IntervalTrigger | CronTrigger, event: asyncio.Event | None = None
    ) -> asyncio.Event:
        event = event or asyncio.Event()

        async def wake() -> None:
            event.set()

        self._scheduler.add_job(wake, trigger)
        return event

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
