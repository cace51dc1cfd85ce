"""Hints between processes that share a PostgreSQL database, by LISTEN and NOTIFY.

A notification is sent when its transaction commits, may be lost with the connection that listens,
and does not pass a pooler that gives each transaction another connection. So it only says that it
is worth a look, and who listens needs a connection of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from sqlalchemy import func, select
from sqlalchemy.engine import make_url

from connector.domain.errors import Problem, StoreError
from connector.store.database import Database

_READY, _RELEASED = "connector_ready", "connector_released"
_MOST_BYTES = 7_000
"""PostgreSQL takes payloads of up to 8,000."""


class SqlHints:
    """connector.ports.Hints. `listen_url`: a PostgreSQL address that leads past any pooler; None:
    nothing is received."""

    def __init__(self, database: Database, listen_url: str | None) -> None:
        self._database = database
        self._listen_url = listen_url

    async def send(self, connections: Collection[str]) -> None:
        await self._notify(_READY, "\n".join(sorted(connections))[:_MOST_BYTES])

    async def send_released(self) -> None:
        await self._notify(_RELEASED, "")

    async def _notify(self, channel: str, payload: str) -> None:
        if self._listen_url is not None:
            statement = select(func.pg_notify(channel, payload))
            await self._database.write(lambda c: c.execute(statement))

    async def receive(
        self, on_hint: Callable[[str], None], on_released: Callable[[], None]
    ) -> None:
        if self._listen_url is None:
            await asyncio.Event().wait()
            return
        import asyncpg  # by those who listen only: it takes as long as the rest of a start

        # As SQLAlchemy reads it: asyncpg itself knows `sslmode`, and not `ssl`.
        url = make_url(self._listen_url)
        options = url.translate_connect_args(username="user") | dict(url.query)
        ended = asyncio.Event()
        try:
            connection = await asyncpg.connect(**options)
            try:
                connection.add_termination_listener(lambda _: ended.set())
                await connection.add_listener(
                    _READY, lambda _, pid, channel, names: [*map(on_hint, names.split("\n"))]
                )
                await connection.add_listener(_RELEASED, lambda *_: on_released())
                await ended.wait()
            finally:
                connection.terminate()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise StoreError(Problem.STORE_UNAVAILABLE, type(error).__name__) from error
        raise StoreError(Problem.STORE_UNAVAILABLE, "the connection that listens has ended")
