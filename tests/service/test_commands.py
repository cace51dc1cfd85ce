"""Commands are executed once and get their result, however the store fails meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from connector.domain.errors import Problem, StoreError
from connector.service import Commands
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.store import InlineDatabase, memory_store


class Daemon:
    """Executes `reload` commands, and counts them; `failing_after` is set in the store when the
    first one has been executed."""

    def __init__(self) -> None:
        self.database = InlineDatabase()
        self.executed = 0
        self.failing_after: StoreError | None = None
        store = memory_store(self.database)
        self.commands = Commands(store, FakeClock(), reload=self._reload)

    async def _reload(self, *, requested: bool) -> Mapping[str, Any]:
        self.executed += 1
        self.database.error = self.failing_after
        return {"reloaded": True}

    async def submit(self) -> int:
        return await self.commands.submit("reload", {}, by="test")

    async def is_done(self, id: int) -> bool:
        command = await self.commands.command(id)
        assert command
        return command.done_at is not None


async def test_commands_whose_fetch_was_committed_without_an_answer_are_executed() -> None:
    daemon = Daemon()
    first, second = await daemon.submit(), await daemon.submit()
    daemon.database.unanswered = 1
    with pytest.raises(StoreError):
        await daemon.commands.execute_pending()
    assert daemon.executed == 0
    await daemon.commands.execute_pending()
    assert await daemon.is_done(first)
    assert await daemon.is_done(second)
    assert daemon.executed == 2


async def test_a_store_that_fails_at_a_result_loses_no_command_and_executes_none_twice() -> None:
    daemon = Daemon()
    first, second = await daemon.submit(), await daemon.submit()
    daemon.failing_after = StoreError(Problem.STORE_UNAVAILABLE)
    for _ in range(2):
        with pytest.raises(StoreError):
            await daemon.commands.execute_pending()
    assert daemon.executed == 1
    daemon.failing_after = daemon.database.error = None
    await daemon.commands.execute_pending()
    assert await daemon.is_done(first)
    assert await daemon.is_done(second)
    assert daemon.executed == 2
