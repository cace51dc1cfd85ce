"""Signed webhooks that are created beforehand, and a generator that posts them.

Requests are complete HTTP messages in bytes, created before the measurement, so that a request
costs the generator one write, one read and a check of the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import orjson
import uvloop

from connector.sandbox import JeriCommerceSandbox, Traffic

SECRET = "jeri_webhook_secret"
SIGNATURE = "x-jericommerce-hmac-sha256"
BODY_BYTES = 800
PEOPLE = 5_000
_SKUS = ("MUG-12", "TEE-S", "TEE-M", "CAP-1", "BAG-7", "PEN-3")


def event_bodies(
    count: int, *, size: int = BODY_BYTES, people: int = PEOPLE
) -> Iterator[tuple[str, bytes]]:
    """(event name, body) of `count` events of the sandbox's traffic.

    The sandbox's bodies are short (about 240 bytes); order lines in `properties` extend each to
    about `size` bytes.
    """
    sandbox = JeriCommerceSandbox(webhook_secret=SECRET, people=people, legacy_share=0.0)
    traffic = Traffic(sandbox, "")
    rng = random.Random(7)
    for _ in range(count):
        headers, raw = traffic.make_event()
        body = orjson.loads(raw)
        lines: list[dict[str, object]] = []
        missing = size - len(raw)
        while missing > 0:
            line = {"sku": rng.choice(_SKUS), "qty": rng.randint(1, 9), "price": rng.random()}
            lines.append(line)
            missing -= len(orjson.dumps(line)) + 1
        body["properties"]["lines"] = lines
        yield headers["x-jericommerce-event-type"], orjson.dumps(body)


def signed_requests(count: int, path: str = "/webhooks/bench") -> list[bytes]:
    """`count` webhooks as HTTP messages, each with a unique id."""
    messages = []
    for name, body in event_bodies(count):
        signature = hmac.digest(SECRET.encode(), body, hashlib.sha256).hex()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"x-jericommerce-event-type: {name}\r\n{SIGNATURE}: {signature}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        messages.append(head.encode() + body)
    return messages


@dataclass(slots=True)
class Tally:
    """The result of a run: responses in the measured window, and all 202 responses."""

    accepted: int
    refused: int
    seconds: float
    accepted_in_all: int
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        return self.accepted / self.seconds


class _Score:
    """Shared by the connections of one run."""

    def __init__(self, requests: Sequence[bytes]) -> None:
        self.rest = iter(requests)
        self.accepted = 0
        self.refused = 0
        self.latencies: list[float] = []
        self.stopped = False
        self.ran_out = asyncio.Event()


class _Connection(asyncio.Protocol):
    """One keep-alive connection with one request in flight."""

    def __init__(self, score: _Score) -> None:
        self._score = score
        self._transport: asyncio.Transport
        self._buffer = b""
        self._sent = 0.0
        self._time = time.perf_counter  # uvloop's clock has whole milliseconds
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        score = self._score
        request = None if score.stopped else next(score.rest, None)
        if request is None:
            if not score.stopped:
                score.ran_out.set()
            self._transport.close()
            return
        self._sent = self._time()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or len(buffer) < end + 4 + _length(buffer, end):
            self._buffer = buffer
            return
        self._buffer = b""
        score = self._score
        if buffer.startswith(b"HTTP/1.1 202"):
            score.accepted += 1
        else:
            score.refused += 1
        score.latencies.append(self._time() - self._sent)
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _length(buffer: bytes, end: int) -> int:
    at = buffer.find(b"content-length: ", 0, end)
    return int(buffer[at + 16 : buffer.find(b"\r", at)]) if at >= 0 else 0


async def _run(
    port: int,
    requests: Sequence[bytes],
    connections: int,
    warm_up: float,
    seconds: float,
    mark: Mark,
) -> Tally:
    loop = asyncio.get_running_loop()
    score = _Score(requests)
    opened = [
        (await loop.create_connection(lambda: _Connection(score), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(warm_up)
    accepted, refused, score.latencies = score.accepted, score.refused, []
    mark.begin()
    started_at = loop.time()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(score.ran_out.wait(), seconds)
    duration = loop.time() - started_at
    accepted, refused = score.accepted - accepted, score.refused - refused
    latencies = sorted(score.latencies) or [0.0]
    mark.end()
    score.stopped = True
    await asyncio.wait([connection.done for connection in opened], timeout=10)
    return Tally(
        accepted,
        refused,
        duration,
        score.accepted,
        latencies[len(latencies) // 2],
        latencies[len(latencies) * 99 // 100],
    )


class Mark:
    """Called at the start and the end of the measured window."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


def drive(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    warm_up: float,
    seconds: float,
    mark: Mark | None = None,
) -> Tally:
    """Post `requests` over `connections` keep-alive connections, one in flight on each, for
    `seconds` or until none is left."""
    return uvloop.run(_run(port, requests, connections, warm_up, seconds, mark or Mark()))
