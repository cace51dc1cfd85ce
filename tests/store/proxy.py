"""A TCP proxy in front of PostgreSQL that loses the answer to a COMMIT, or goes silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.engine import make_url


class CommitProxy:
    """Passes everything on. While `lose` is above 0, the connection of the next COMMIT is closed
    after the server has committed and before it has an answer; then `lose` is one less."""

    def __init__(self, url: str) -> None:
        self.lose = 0
        self.refuse = False
        """Close every connection at once, as a database that restarts does."""
        self.refused = 0
        self.silent = False
        """Pass nothing on to the server, not even the end of a connection: a cut cable."""
        self._target = make_url(url)
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0

    @property
    def url(self) -> str:
        """The database by way of this proxy."""
        address = self._target.set(host="127.0.0.1", port=self._port, query={})
        return address.render_as_string(hide_password=False)

    async def serve(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        if self.refuse:
            self.refused += 1
            answers.close()
            return
        server, requests = await self._connect()
        lost = asyncio.Event()
        self._writers |= {answers, requests}
        back = asyncio.create_task(self._answers(server, answers, lost))
        try:
            while data := await client.read(65_536):
                if self.lose and b"COMMIT" in data:
                    self.lose -= 1
                    lost.set()
                if self.silent:
                    continue
                requests.write(data)
                await requests.drain()
        except ConnectionError:
            pass
        finally:
            if not self.silent:
                requests.close()
            await back
            requests.close()
            self._writers -= {answers, requests}

    def close_all(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        folder = self._target.query.get("host")
        if folder:
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        return await asyncio.open_connection(self._target.host, self._target.port or 5432)

    async def _answers(
        self, server: asyncio.StreamReader, answers: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        try:
            while data := await server.read(65_536):
                if lost.is_set():
                    break
                answers.write(data)
                await answers.drain()
        except ConnectionError:
            pass
        finally:
            answers.close()


@asynccontextmanager
async def commit_proxy(url: str) -> AsyncIterator[CommitProxy]:
    """A proxy on a free port of this machine."""
    proxy = CommitProxy(url)
    listener = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy._port = listener.sockets[0].getsockname()[1]
    yield proxy
    listener.close()
    proxy.close_all()
