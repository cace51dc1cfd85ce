"""What one webhook costs the store on its way, with every module on: transactions, reads and
statements. They are counts, not timings."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import event

from connector.store.sqlite import SqliteDatabase
from tests.waiting import async_until

from .start import World, opened

_WEBHOOKS = 12
_PATIENCE = 1_000
_CALLS = {
    "append": 1,
    "claim": 3,  # of the read, the event and the profile
    "settle": 3,
    "ready": 3,  # by each of the three lanes, once
    "fresh_views": 1,
}
_STATEMENTS = 46
"""Of a person who is new: eight more than of one who is known."""


class Costs:
    """Counts calls of the queues by their method, and the statements that they run. Nothing else is
    counted: lease, commands and reports have a rhythm of their own."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.calls: Counter[str] = Counter()
        self.statements = 0
        self._of_thread = threading.local()
        for name in ("write", "read"):
            setattr(database, name, self._counting(getattr(database, name)))
        event.listen(database.engine, "before_cursor_execute", self._note)

    def _counting(self, run: Any) -> Any:
        async def counting(work: Any, **options: Any) -> Any:
            method = work.__qualname__.split(".")[1]
            if not work.__module__.startswith("connector.store.queues.") or method not in _CALLS:
                return await run(work, **options)
            self.calls[method] += 1
            return await run(lambda c: self._run(work, c), **options)

        return counting

    def _run(self, work: Any, c: Any) -> Any:
        self._of_thread.counts = True
        try:
            return work(c)
        finally:
            self._of_thread.counts = False

    def _note(self, *_: Any) -> None:
        self.statements += getattr(self._of_thread, "counts", False)


async def _post(world: World, costs: Costs) -> tuple[dict[str, int], int]:
    """The calls and statements of a webhook until nothing is left of it."""
    costs.calls.clear()
    costs.statements = 0
    id = await world.post()
    await async_until("the event arrives", lambda: world.klaviyo.recorded(id) == 1)
    for _ in range(_PATIENCE):
        backlog = await world.app.store.reports.backlog()
        if not any(lane.ready or lane.claimed for lane in backlog):
            break
        await asyncio.sleep(0.02)
    return dict(costs.calls), costs.statements


async def test_what_a_webhook_costs(tmp_path: Path) -> None:
    """The cheapest of a few: a busy machine makes lanes look more often."""
    async with opened(tmp_path) as world:
        world.answer()
        async with world.running() as app:
            database: Any = app.store.database
            costs = Costs(database)
            found = [await _post(world, costs) for _ in range(_WEBHOOKS)]
    whole = [statements for calls, statements in found if calls == _CALLS]
    assert whole, found
    assert min(whole) <= _STATEMENTS
