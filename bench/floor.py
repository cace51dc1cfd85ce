"""The minimum that does the same work, to compare the connector with.

`intake`: a raw ASGI app on uvicorn, uvloop and httptools that checks the HMAC-SHA256 of a body,
stores it in one table with a unique key, and answers 202 after the commit. One writer thread; one
commit in flight, what waits is part of the next one. It parses nothing.

`drain`: claims 1,000 rows with `UPDATE … RETURNING`, reads each body, writes it as one event of a
bulk request with orjson, posts with httpx, marks the rows done. Two requests in flight. No ledger,
timeline, lease, retry, mapping or metrics.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import queue
import resource
import sqlite3
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import orjson

from bench.load import SECRET, SIGNATURE

_CLAIM = """
UPDATE queue SET state = 1 WHERE id IN (
    SELECT id FROM queue WHERE state = 0 ORDER BY id LIMIT 1000
) RETURNING id, name, body
"""
_HEAD = b'{"data":{"type":"event-bulk-create-job","attributes":{"events-bulk-create":{"data":['
_TAIL = b"]}}}}"


def open_file(path: Path) -> sqlite3.Connection:
    """With the durability of the connector's store: WAL, and an fsync per commit."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "cache_size=-65536"):
        db.execute(f"PRAGMA {pragma}")
    return db


# ── intake ───────────────────────────────────────────────────────────────────────────────────────

Waiting = list[tuple[bytes, bytes, asyncio.Future[None]]]


class IntakeApp:
    """The ASGI app."""

    def __init__(self, path: Path) -> None:
        self._db = open_file(path)
        self._db.execute("CREATE TABLE inbox (key BLOB NOT NULL UNIQUE, body BLOB NOT NULL)")
        self._key = SECRET.encode()
        self._header = SIGNATURE.encode()
        self._waiting: Waiting = []
        self._busy = False
        self._groups: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        given = dict(scope["headers"]).get(self._header, b"")
        digest = hmac.digest(self._key, body, hashlib.sha256).hex().encode()
        status = 401
        if hmac.compare_digest(digest, given):
            await self._store(digest, body)
            status = 202
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    async def _store(self, key: bytes, body: bytes) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            threading.Thread(target=self._write, daemon=True).start()
        done = self._loop.create_future()
        self._waiting.append((key, body, done))
        if not self._busy:
            self._flush()
        await done

    def _flush(self) -> None:
        self._busy = bool(self._waiting)
        if self._waiting:
            group, self._waiting = self._waiting, []
            self._groups.put(group)

    def _write(self) -> None:
        assert self._loop is not None
        while True:
            group = self._groups.get()
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT INTO inbox VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(key, body) for key, body, _ in group],
            )
            self._db.execute("COMMIT")
            self._loop.call_soon_threadsafe(self._stored, group)

    def _stored(self, group: Waiting) -> None:
        for _, _, done in group:
            if not done.done():
                done.set_result(None)
        self._flush()


def serve_intake(port: int, path: Path) -> None:
    import uvicorn

    uvicorn.run(
        IntakeApp(path),
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )


# ── drain ────────────────────────────────────────────────────────────────────────────────────────


def fill(path: Path, bodies: Iterable[tuple[str, bytes]]) -> None:
    """Fill a queue with waiting events."""
    db = open_file(path)
    db.execute(
        "CREATE TABLE queue (id INTEGER PRIMARY KEY, state INTEGER NOT NULL, name TEXT, body BLOB)"
    )
    db.execute("CREATE INDEX waiting ON queue (id) WHERE state = 0")
    db.execute("BEGIN")
    db.executemany("INSERT INTO queue (state, name, body) VALUES (0, ?, ?)", bodies)
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def encode(rows: list[tuple[int, str, bytes]]) -> bytes:
    return _HEAD + b",".join(_item(name, orjson.loads(body)) for _, name, body in rows) + _TAIL


def _item(name: str, body: dict[str, Any]) -> bytes:
    event = {
        "type": "event",
        "attributes": {
            "properties": body["properties"],
            "time": body["createdAt"],
            "unique_id": body["id"],
            "metric": {"data": {"type": "metric", "attributes": {"name": name}}},
        },
    }
    profile = {"data": {"type": "profile", "attributes": {"email": body["email"]}}}
    return orjson.dumps(
        {
            "type": "event-bulk-create",
            "attributes": {"profile": profile, "events": {"data": [event]}},
        }
    )


async def _drain(path: Path, url: str) -> dict[str, float]:
    import httpx

    db = open_file(path)
    sent = 0
    writer = asyncio.Lock()

    def claim() -> list[tuple[int, str, bytes]]:
        return db.execute(_CLAIM).fetchall()

    def finish(ids: list[tuple[int]]) -> None:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("UPDATE queue SET state = 2 WHERE id = ?", ids)
        db.execute("COMMIT")

    async with httpx.AsyncClient(trust_env=False) as http:

        async def work() -> None:
            nonlocal sent
            while True:
                async with writer:
                    rows = await asyncio.to_thread(claim)
                if not rows:
                    return
                response = await http.post(
                    f"{url}/api/event-bulk-create-jobs", content=encode(rows)
                )
                response.raise_for_status()
                async with writer:
                    await asyncio.to_thread(finish, [(row[0],) for row in rows])
                sent += len(rows)

        started_at, used = time.monotonic(), _cpu()
        await asyncio.gather(work(), work())
        return {"events": sent, "seconds": time.monotonic() - started_at, "cpu": _cpu() - used}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    what, first, second = sys.argv[1:]
    if what == "intake":
        serve_intake(int(first), Path(second))
    else:
        import uvloop

        print(json.dumps(uvloop.run(_drain(Path(first), second))))
