"""What a caller can cost before authentication: headers, bodies, time and connections."""

from __future__ import annotations

import asyncio
import contextlib
import io
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from connector.web.asgi import MAX_BODY, Bodies
from connector.web.endpoints import EndpointApp
from connector.web.protocol import Limits
from connector.web.server import Server, allow_connections
from tests.waiting import async_until

from .conftest import WebHarness

HEADER_LIMIT = 2_000
SHORT = 0.05
"""Seconds until a time-out, in a test that waits for it."""


@dataclass
class Caller:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """(status, body) of the next answer; status 0: the connection ended without one."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return 0, b""
        length = next(
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        return int(head.split(b" ", 2)[1]), await self.reader.readexactly(length)

    async def closed(self) -> bool:
        """Waits for the end of the connection; whether nothing more was received."""
        return await self.reader.read() == b""


Connect = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def connect(harness: WebHarness) -> AsyncIterator[Connect]:
    """Connects to a server of its own for each set of limits."""
    servers: dict[Limits, Server] = {}
    callers: list[Caller] = []

    async def open(**limits: float) -> Caller:
        chosen = Limits(**({"max_header": HEADER_LIMIT} | limits))  # type: ignore[arg-type]
        if chosen not in servers:
            servers[chosen] = Server(
                harness.shared, "127.0.0.1", 0, grace=5, key="server.port", limits=chosen
            )
            await servers[chosen].start()
        caller = Caller(*await asyncio.open_connection("127.0.0.1", servers[chosen].port))
        callers.append(caller)
        return caller

    yield open
    for caller in callers:
        caller.writer.close()
    for server in servers.values():
        await server.stop()


def get(path: str = "/livez", *, header: int = 0) -> bytes:
    """A GET whose request line and headers are `header` bytes long, or as long as needed."""
    head = f"GET {path} HTTP/1.1\r\nhost: c.test\r\n"
    if header:
        head += f"x-pad: {'a' * (header - len(head) - 11)}\r\n"
    return (head + "\r\n").encode()


def post(body: bytes, *, length: int | None = None, path: str = "/webhooks/acme") -> bytes:
    length = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nhost: c.test\r\ncontent-length: {length}\r\n\r\n"
    return head.encode() + body


# ── headers ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_header_up_to_the_limit_is_accepted_and_a_larger_one_is_431(
    connect: Connect,
) -> None:
    caller = await connect()
    largest = get(header=HEADER_LIMIT - 1)
    assert len(largest) == HEADER_LIMIT - 1
    for _ in range(3):  # each request of a connection has the whole limit
        await caller.send(largest)
        assert await caller.answer() == (200, b"ok\n")
    await caller.send(get(header=HEADER_LIMIT + 1))
    status, body = await caller.answer()
    assert status == 431
    assert b"larger than 2000 bytes" in body
    assert await caller.closed()


async def test_the_answer_to_a_huge_header_is_read_by_a_caller_who_sends_all_of_it(
    connect: Connect,
) -> None:
    caller = await connect()
    await caller.send(b"GET / HTTP/1.1\r\nx-pad: " + b"a" * 10_000_000 + b"\r\n\r\n")
    assert (await caller.answer())[0] == 431


@pytest.mark.parametrize(
    "part", [b"GET /" + b"a" * 5_000, b"\r\n" * 5_000, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 5_000]
)
async def test_the_limit_counts_url_blank_lines_and_many_small_headers(
    connect: Connect, part: bytes
) -> None:
    caller = await connect()
    await caller.send(part)
    assert (await caller.answer())[0] == 431


async def test_trailers_count_like_a_header(connect: Connect) -> None:
    caller = await connect()
    head = b"POST /webhooks/acme HTTP/1.1\r\nhost: c.test\r\ntransfer-encoding: chunked\r\n\r\n"
    await caller.send(head + b"1\r\n{\r\n0\r\nx-trailer: " + b"a" * 5_000)
    assert (await caller.answer())[0] == 431


async def test_a_body_in_many_small_chunks_is_no_header(
    connect: Connect, harness: WebHarness
) -> None:
    caller = await connect()
    head = b"POST /webhooks/acme HTTP/1.1\r\nhost: c.test\r\ntransfer-encoding: chunked\r\n\r\n"
    await caller.send(head + b"1\r\n{\r\n" * 5_000 + b"0\r\n\r\n")
    assert (await caller.answer())[0] == 401


async def test_text_that_is_not_http_is_400_and_closed(connect: Connect) -> None:
    caller = await connect()
    await caller.send(b"\x16\x03\x01 this is TLS\r\n\r\n")
    assert (await caller.answer())[0] == 400
    assert await caller.closed()


async def test_an_upgrade_is_answered_as_the_plain_request_that_it_is(connect: Connect) -> None:
    caller = await connect()
    await caller.send(
        b"GET /livez HTTP/1.1\r\nhost: c.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        + b"\x81\x05hello"
    )
    assert (await caller.answer())[0] == 200
    assert await caller.closed()


# ── time ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTT", b"GET /livez HTTP/1.1\r\nhost: c.te"])
async def test_a_header_that_is_not_complete_in_time_is_408_and_closed(
    connect: Connect, sent: bytes
) -> None:
    caller = await connect(header_timeout=SHORT)
    await caller.send(sent)
    assert (await caller.answer())[0] == 408
    assert await caller.closed()


async def test_each_request_of_a_connection_has_the_header_timeout_again(connect: Connect) -> None:
    caller = await connect(header_timeout=SHORT)
    await caller.send(get())
    assert (await caller.answer())[0] == 200
    await caller.send(get()[:-1])
    assert (await caller.answer())[0] == 408
    assert await caller.closed()


async def test_a_half_request_behind_a_complete_one_is_408_too(connect: Connect) -> None:
    caller = await connect(header_timeout=SHORT)
    await caller.send(get() + get()[:-1])
    assert (await caller.answer())[0] == 200
    assert (await caller.answer())[0] == 408


async def test_a_body_that_is_not_complete_in_time_is_408_and_closed(
    connect: Connect, harness: WebHarness
) -> None:
    caller = await connect(body_timeout=SHORT)
    await caller.send(post(b'[{"email":', length=400))
    assert (await caller.answer())[0] == 408
    assert await caller.closed()
    assert harness.stored() == []


async def test_a_body_refused_before_it_arrives_is_closed_in_time_without_a_second_answer(
    connect: Connect,
) -> None:
    caller = await connect(body_timeout=SHORT)
    await caller.send(post(b"", length=400, path="/webhooks/unknown"))
    assert (await caller.answer())[0] == 404
    assert await caller.closed()


# ── bodies that are not wanted ────────────────────────────────────────────────────────────────────


async def test_a_body_that_arrives_after_its_answer_leaves_the_connection_usable(
    connect: Connect,
) -> None:
    caller = await connect()
    await caller.send(post(b"", length=400, path="/webhooks/unknown"))
    assert (await caller.answer())[0] == 404
    await caller.send(b"a" * 400 + get())
    assert (await caller.answer())[0] == 200


async def test_a_body_without_end_is_not_read_after_its_answer(connect: Connect) -> None:
    caller = await connect()
    await caller.send(post(b"", length=1 << 40))
    assert (await caller.answer())[0] == 413
    await caller.send(b"a" * (3 * MAX_BODY))
    assert await caller.closed()


async def test_a_body_that_waited_for_permission_ends_the_connection_when_refused(
    connect: Connect,
) -> None:
    """Whether the refused body still comes is up to the caller, so the next byte may be either."""
    caller = await connect()
    head = post(b"", length=1 << 40).replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n")
    await caller.send(head)
    assert (await caller.answer())[0] == 413
    assert await caller.closed()


async def test_the_bodies_of_all_callers_together_are_bounded(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EndpointApp, "bodies", Bodies(MAX_BODY))
    half = b"a" * (MAX_BODY // 2 + 1)
    first, second = await connect(), await connect()
    await first.send(post(half, length=len(half) + 1))
    await async_until(
        "half a body is received", lambda: EndpointApp.bodies.left <= MAX_BODY - len(half)
    )
    await second.send(post(half, length=len(half) + 1))
    assert (await second.answer())[0] == 503
    await first.send(b"a")
    assert (await first.answer())[0] == 401
    assert EndpointApp.bodies.left == MAX_BODY


# ── connections ───────────────────────────────────────────────────────────────────────────────────


async def test_connections_above_the_limit_are_503_until_one_ends(connect: Connect) -> None:
    first, second = await connect(max_connections=2), await connect(max_connections=2)
    for caller in (first, second):
        await caller.send(get())
        assert (await caller.answer())[0] == 200
    third = await connect(max_connections=2)
    status, body = await third.answer()
    assert status == 503
    assert b"too many connections" in body
    assert await third.closed()
    third.writer.close()
    first.writer.close()
    await first.writer.wait_closed()
    while True:
        fourth = await connect(max_connections=2)
        await fourth.send(get())
        if (await fourth.answer())[0] == 200:
            break
    await second.send(get())
    assert (await second.answer())[0] == 200


async def test_pipelined_requests_are_all_answered(connect: Connect) -> None:
    caller = await connect()
    await caller.send(get() * 20)
    assert [(await caller.answer())[0] for _ in range(20)] == [200] * 20


async def test_refusals_are_logged_at_a_bounded_rate(connect: Connect, logged: io.StringIO) -> None:
    for _ in range(30):
        caller = await connect()
        await caller.send(b"\x00\r\n\r\n")
        assert (await caller.answer())[0] == 400
    assert logged.getvalue().count("request_refused") == 10


@pytest.mark.parametrize(
    ("soft", "hard", "expected", "enough"),
    [
        (1024, 4096, 2512, True),
        (1024, 2000, 2000, False),
        (8192, 8192, None, True),
        (1024, resource.RLIM_INFINITY, 2512, True),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, True),
    ],
)
def test_the_limit_of_open_files_is_raised_for_the_connections_as_far_as_permitted(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, expected: int | None, enough: bool
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: made.append(limits))
    assert allow_connections(1_000) is enough
    assert made == ([] if expected is None else [(expected, hard)])
