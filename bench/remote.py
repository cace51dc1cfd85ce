"""Klaviyo and JeriCommerce as one server that costs very little, without limits.

`python -m bench.remote PORT`, in a process of its own. `GET /report` answers, by unique_id of an
event, the CLOCK_MONOTONIC at which it was accepted first, and how many requests came by path.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from typing import cast

import orjson
import uvloop

_UNIQUE_ID = re.compile(rb'"unique_id":"([^"]+)"')
_EMAIL = re.compile(rb'"email":"([^"]+)"')
_JOB = {"data": {"type": "profile-bulk-import-job", "id": "J1", "attributes": {"status": "queued"}}}
_DONE = {
    "data": {
        "type": "profile-bulk-import-job",
        "id": "J1",
        "attributes": {"status": "complete", "total_count": 0, "completed_count": 0},
    }
}
_KEY = re.compile(rb"Klaviyo-API-Key pk_(\w+)", re.IGNORECASE)


def _account(head: bytes) -> dict[str, object]:
    """Each private key has an account of its own."""
    key = _KEY.search(head)
    contact = {"organization_name": "bench"}
    return {
        "data": [
            {
                "type": "account",
                "id": key[1].decode().upper() if key else "BENCH",
                "attributes": {"timezone": "UTC", "contact_information": contact},
            }
        ]
    }


class Remote:
    """The state of both."""

    def __init__(self) -> None:
        self.accepted: dict[str, float] = {}
        self.requests: Counter[str] = Counter()
        self._balance = 0

    def answer(self, method: str, target: str, head: bytes, body: bytes) -> tuple[int, bytes]:
        path = target.partition("?")[0]
        if path == "/report":
            return 200, orjson.dumps({"accepted": self.accepted, "requests": self.requests})
        if path.startswith("/v1/") and path.endswith("/token"):
            self.requests["token"] += 1
            return 200, b'{"accessToken":"bench"}'
        if path.startswith("/v1/"):
            self.requests["customer"] += 1
            return 200, orjson.dumps(self._customer(path.rpartition("/")[2].replace("%40", "@")))
        self.requests[f"{method} {path}"] += 1
        match path:
            case "/api/events" | "/api/event-bulk-create-jobs":
                now = time.monotonic()
                for id in _UNIQUE_ID.findall(body):
                    self.accepted.setdefault(id.decode().rpartition(":")[2], now)
                return 202, b""
            case "/api/profile-import":
                email = _EMAIL.search(body)
                attributes = {"email": email[1].decode() if email else None}
                id = f"01{abs(hash(attributes['email'])):024d}"[:26]
                data = {"type": "profile", "id": id, "attributes": attributes}
                return 200, orjson.dumps({"data": data})
            case "/api/profile-bulk-import-jobs" if method == "POST":
                return 202, orjson.dumps(_JOB)
            case "/api/profile-bulk-import-jobs/J1":
                return 200, orjson.dumps(_DONE)
            case "/api/accounts":
                return 200, orjson.dumps(_account(head))
        return 200, b'{"data":[],"links":{"next":null}}'

    def _customer(self, email: str) -> dict[str, object]:
        """With another balance at each read, so that each read is followed by a profile write."""
        self._balance += 1
        return {
            "email": email,
            "userData": {"firstName": "Ana", "birthdate": "1990-05-01"},
            "loyaltyData": {
                "balance": self._balance,
                "memberSince": "2024-01-01T00:00:00Z",
                "tierStatus": {"name": "Gold", "balance": 5, "enteredAt": "2026-01-01T00:00:00Z"},
            },
        }


class _Connection(asyncio.Protocol):
    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._transport: asyncio.Transport
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end])
        at = head.lower().find(b"content-length: ")
        length = int(head[at + 16 :].split(b"\r", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        self._buffer.clear()
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        status, answer = self._remote.answer(method, target, head, body)
        self._transport.write(
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % (status, len(answer))
            + answer
        )


async def _serve(port: int) -> None:
    remote = Remote()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(remote), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
