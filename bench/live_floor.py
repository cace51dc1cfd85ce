"""The minimum that does what `live` does: a webhook is stored and answered; then the customer is
read, the event and the profile are sent, and the row is marked as done.

`python -m bench.live_floor PORT FILE REMOTE`. aiohttp for the calls, sqlite3 for the rows. No
ledger, timeline, lease, retry, mapping, limits or metrics.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import uvicorn

from bench.floor import IntakeApp, open_file

_WORKERS = 16


class LiveApp(IntakeApp):
    """The intake of `bench.floor` and what follows it."""

    def __init__(self, path: Path, remote: str) -> None:
        super().__init__(path)
        self._remote = remote
        self._waiting_events: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
        self._done: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._workers: list[asyncio.Task[None]] = []
        self._file = path

    async def _store(self, key: bytes, body: bytes) -> None:
        if not self._workers:
            session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            self._workers = [asyncio.create_task(self._work(session)) for _ in range(_WORKERS)]
            threading.Thread(target=self._mark_done, daemon=True).start()
        await super()._store(key, body)
        self._waiting_events.put_nowait((key, body))

    async def _work(self, session: aiohttp.ClientSession) -> None:
        while True:
            key, raw = await self._waiting_events.get()
            body = orjson.loads(raw)
            email = body["email"]
            url = f"{self._remote}/v1/programs/demo/customers/{quote(email)}"
            async with session.get(url) as answer:
                customer = orjson.loads(await answer.read())
            fields = {
                "balance": customer["loyaltyData"]["balance"],
                "jericommerce_tier_name": customer["loyaltyData"]["tierStatus"]["name"],
            }
            await self._post(session, "/api/events", _event(body, fields))
            await self._post(session, "/api/profile-import", _profile(email, fields))
            self._done.put(key)

    async def _post(self, session: aiohttp.ClientSession, path: str, content: bytes) -> None:
        async with session.post(self._remote + path, data=content) as answer:
            await answer.read()

    def _mark_done(self) -> None:
        db = open_file(self._file)
        while True:
            keys = [self._done.get()]
            while not self._done.empty():
                keys.append(self._done.get())
            db.execute("BEGIN IMMEDIATE")
            db.executemany("DELETE FROM inbox WHERE key = ?", [(key,) for key in keys])
            db.execute("COMMIT")


def _event(body: dict[str, Any], fields: dict[str, Any]) -> bytes:
    attributes = {
        "properties": body["properties"] | fields,
        "time": body["createdAt"],
        "unique_id": body["id"],
        "metric": {"data": {"type": "metric", "attributes": {"name": "event"}}},
        "profile": {"data": {"type": "profile", "attributes": {"email": body["email"]}}},
    }
    return orjson.dumps({"data": {"type": "event", "attributes": attributes}})


def _profile(email: str, fields: dict[str, Any]) -> bytes:
    attributes = {"email": email, "properties": fields}
    return orjson.dumps({"data": {"type": "profile", "attributes": attributes}})


if __name__ == "__main__":
    port, path, remote = sys.argv[1:]
    uvicorn.run(
        LiveApp(Path(path), f"http://127.0.0.1:{remote}"),
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
