"""HTTP/1.1 with limits that apply before any application code (guarantee 14).

Neither uvicorn nor httptools limits headers or time. httptools joins a header value read by read,
so a value of 50 MB blocks the event loop for seconds: here no more than `max_header` bytes of a
header reach the parser.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, ClassVar

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from connector.ports import Clock
from connector.runtime import log
from connector.runtime.clock import SystemClock
from connector.runtime.log_limit import LogLimit

_LINGER = 2.0
"""Seconds in which the rest of a refused request is read and discarded. A socket that is closed
with unread data resets the connection, and the caller would never see the answer."""
_MAX_DISCARDED = 1_048_576
"""Bytes of a body that are read after its answer, so that the connection can be used again."""
_CHUNK_FRAME = 16
"""Bytes that the framing of one chunk may take; what is above it are extensions and trailers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. `max_header`: request line and headers of one request."""

    max_header: int = 32_000
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    max_connections: int = 1_000


class _Stage(Enum):
    """What the next byte belongs to."""

    HEADER = auto()
    BODY = auto()
    IDLE = auto()
    """Nothing: a request is complete, and the next one has not begun."""
    DISCARDED = auto()


class LimitedProtocol(HttpToolsProtocol):
    """One connection. Answers 431, 408 and 503 itself and then closes."""

    limits: ClassVar[Limits] = Limits()
    refusals: ClassVar[LogLimit]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stage = _Stage.HEADER
        self._header_bytes = 0
        self._framing = 0
        """Bytes of the body that are neither content nor the frame of a chunk."""
        self._discarded = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_of: _Stage | None = None

    # ── connection ───────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        others = len(self.connections)
        super().connection_made(transport)
        if others >= 2 * self.limits.max_connections:
            self._stage = _Stage.DISCARDED
            transport.abort()  # even refusing politely has its limit
        elif others >= self.limits.max_connections:
            self._refuse(503, "too many connections, try again later")
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stage = _Stage.DISCARDED
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data and self._stage is not _Stage.DISCARDED:
            if self._stage is _Stage.BODY:
                piece, data = data, b""
            else:
                room = self.limits.max_header - self._header_bytes
                piece, data = data[:room], data[room:]
            self._feed(piece)
        self._watch()

    def _feed(self, piece: bytes) -> None:
        if self._stage is _Stage.IDLE:
            self._stage = _Stage.HEADER
        if self._stage is _Stage.HEADER:
            self._header_bytes += len(piece)
        else:
            self._framing += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            # The request was accepted as plain HTTP/1.1. What follows it may be another protocol.
            self._stage = _Stage.DISCARDED
            self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(400, "not a valid HTTP/1.1 request")
        if self._stage is _Stage.HEADER and self._header_bytes >= self.limits.max_header:
            self._refuse(431, f"header: larger than {self.limits.max_header} bytes")
        elif self._stage is _Stage.BODY:
            if self._framing > self.limits.max_header:
                self._refuse(431, f"trailers: larger than {self.limits.max_header} bytes")
            elif self._discarded > _MAX_DISCARDED:
                self._linger()

    # ── parser ───────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._stage = _Stage.HEADER

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._stage = _Stage.BODY
        self._header_bytes = self._framing = self._discarded = 0
        self._unwatch()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage is not _Stage.BODY:  # a trailer is no header
            super().on_header(name, value)

    def on_chunk_header(self) -> None:
        self._framing -= _CHUNK_FRAME

    def on_body(self, body: bytes) -> None:
        self._framing -= len(body)
        if self.cycle.response_complete:
            self._discarded += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stage = _Stage.IDLE

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._stage is _Stage.BODY and self.expect_100_continue:
            self._linger()  # whether the body still comes is up to the caller

    # ── time ─────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        """Keep one deadline, that of the stage."""
        if self._stage is self._deadline_of or self._stage is _Stage.DISCARDED:
            return
        self._unwatch()
        if self._stage is _Stage.HEADER:
            self._deadline = self.loop.call_later(self.limits.header_timeout, self._late, "header")
        elif self._stage is _Stage.BODY:
            self._deadline = self.loop.call_later(self.limits.body_timeout, self._late, "body")
        self._deadline_of = self._stage

    def _unwatch(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._deadline_of = None

    def _late(self, what: str) -> None:
        self._refuse(408, f"{what}: not complete in time")

    # ── refusal ──────────────────────────────────────────────────────────────────────────────────

    def _refuse(self, status: int, detail: str) -> None:
        """Answer, unless an answer has begun or another request's is due, and close."""
        self.refusals.warning(status, "request_refused", status=status, detail=detail)
        cycle = self.cycle
        answered = self._stage is _Stage.BODY and cycle.response_started
        if cycle is not None and not cycle.response_complete:
            if self._stage is not _Stage.BODY:
                # Pipelined: the requests before this one are answered, then the connection ends.
                self._stage = _Stage.DISCARDED
                self._unwatch()
                cycle.keep_alive = False
                return
            cycle.disconnected = True
            cycle.message_event.set()
        if self.pipeline:
            self.transport.close()
            return
        if not answered and not self.transport.is_closing():
            self.transport.write(_answer(status, detail))
        self._linger()

    def _linger(self) -> None:
        """End the connection after what was written; discard what still arrives, for a while."""
        self._stage = _Stage.DISCARDED
        self._unwatch()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER, self.transport.abort)


def _answer(status: int, detail: str) -> bytes:
    body = orjson.dumps({"detail": detail})
    retry = "retry-after: 5\r\n" if status == 503 else ""
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{retry}connection: close\r\n\r\n"
    )
    return head.encode() + body


def limited_protocol(limits: Limits, clock: Clock | None = None) -> type[LimitedProtocol]:
    """The protocol of one port."""
    refusals = LogLimit(log.get("web"), clock or SystemClock())
    return type("Protocol", (LimitedProtocol,), {"limits": limits, "refusals": refusals})
