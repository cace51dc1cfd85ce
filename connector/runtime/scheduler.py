"""The only apscheduler: bells that wake loops. It does no work itself.

APScheduler's asyncio executor cancels running coroutines at shutdown, so a job here only sets an
event; the loop that waits for it belongs to `app` and ends in its own time.
"""

from __future__ import annotations

import asyncio
from datetime import UTC

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger


class Scheduler:
    """Named bells. Missed strokes are rung once."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(
            timezone=UTC,
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def every(self, seconds: float) -> asyncio.Event:
        """A bell that rings every so often."""
        return self._add(IntervalTrigger(seconds=seconds, timezone=UTC))

    def nightly(self, hour: int = 3) -> asyncio.Event:
        """A bell that rings once a day, at some minute after `hour` UTC."""
        return self._add(CronTrigger(hour=hour, jitter=1800, timezone=UTC))

    def _add(self, trigger: IntervalTrigger | CronTrigger) -> asyncio.Event:
        event = asyncio.Event()

        async def wake() -> None:
            event.set()

        self._scheduler.add_job(wake, trigger)
        return event

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
