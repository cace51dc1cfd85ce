"""What people who look at the console cost the daemon: pages of a large store, and open tabs.

The daemon is `connector run` with 50 connections and 1,000,000 waiting events, whose lanes are
paused, and 100,000 dead letters. A page is timed at the client, which shares no core with the
server. An open tab is what console.js does: a stream of what changed on the page.
"""

from __future__ import annotations

import asyncio
import http.client
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.intake import ROOT
from bench.load import SECRET, signed_requests
from bench.processes import CpuMark, free_port, pinned, running

CONNECTIONS, WAITING, DEAD = 50, 1_000_000, 100_000
TABS, TAB_SECONDS = 200, 20.0
EVENTS_PER_SECOND = 5.0
_REPEATS = 9
_BATCH = 1_000
CONFIG = """\
[store]
url = "sqlite:///{folder}/connector.db"

[server]
port = {port}

[log]
level = "error"
"""
CONNECTION = """
[[connections]]
name = "{name}"
source = "jericommerce"
mapping = "{mapping}"
modules = ["events"]

[connections.settings]
base_url = "http://127.0.0.1:{remote}"
program = "demo"
api_key = "jeri"
webhook_secret = "{secret}"

[connections.klaviyo]
base_url = "http://127.0.0.1:{remote}"
private_key = "pk_{name}"
"""


@dataclass(frozen=True, slots=True)
class Timing:
    """One page. `fresh` and `shared`: ms without and with a status of the same second."""

    name: str
    fresh: float
    shared: float
    kilobytes: float


@dataclass(slots=True)
class Run:
    """`cpu`: share of a core by situation, in percent. `stop`: seconds from SIGTERM to the end."""

    timings: list[Timing] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    pages: int = 0
    stop: float = 0.0


def measure(folder: Path, *, waiting: int = WAITING, dead: int = DEAD) -> Run:
    run = Run()
    _configure(folder, port := free_port())
    asyncio.run(_fill(folder, waiting, dead))
    with _daemon(folder, port):
        overview = f"Overview, {CONNECTIONS} connections, {waiting:,} waiting"
        run.timings = [
            _time(port, overview, "/"),
            _time(port, f"Failed, {dead:,} records", "/dead-letters"),
            _time(port, "Failed, filtered", "/dead-letters?cause=K400&connection=c00"),
            _time(port, "One connection", "/connections/c00"),
        ]
    small = folder / "small"
    small.mkdir()
    _configure(small, port, connections=3)
    asyncio.run(_fill(small, 3_000, 100, connections=3))
    with _daemon(small, port) as process:
        mark = CpuMark(process.pid)
        with pinned(1):
            for name, tabs, traffic in (
                ("nothing", 0, False),
                (f"{TABS} tabs", TABS, False),
                ("events", 0, True),
                (f"{TABS} tabs and events", TABS, True),
            ):
                loads = asyncio.run(_look(port, tabs, mark, traffic=traffic))
                run.cpu[name] = mark.seconds / TAB_SECONDS * 100
                run.pages = max(run.pages, loads)
        streams = _open_streams(port, TABS)
        began = time.monotonic()
        process.terminate()
        process.wait(30)
        run.stop = time.monotonic() - began
        for stream in streams:
            stream.close()
    return run


def _daemon(folder: Path, port: int) -> Any:
    command = ["-m", "connector.cli", "--config", str(folder / "connector.toml"), "run"]
    return running(command, folder=folder, port=port, core=0, patience=180.0)


def _configure(folder: Path, port: int, connections: int = CONNECTIONS) -> None:
    mapping, remote = ROOT / "mappings" / "jericommerce.toml", free_port()
    text = CONFIG.format(folder=folder, port=port)
    for number in range(connections):
        text += CONNECTION.format(
            name=f"c{number:02}", mapping=mapping, remote=remote, secret=SECRET
        )
    (folder / "connector.toml").write_text(text)


async def _fill(folder: Path, waiting: int, dead: int, connections: int = CONNECTIONS) -> None:
    """Append some records as webhooks do, then copy their rows. The first connection has the dead
    letters."""
    from sqlalchemy import Connection, func, insert, literal, select, true

    from connector.domain.errors import Problem
    from connector.domain.lanes import LaneState
    from connector.domain.records import Page, Record, State
    from connector.runtime.clock import SystemClock
    from connector.store.sql import open_store
    from connector.store.tables import outbox

    now = SystemClock().now()
    store = await open_store(f"sqlite:///{folder}/connector.db")
    lanes = [
        await store.lanes.ensure(f"c{number:02}", "klaviyo", "event")
        for number in range(connections)
    ]
    for lane in lanes:
        await store.lanes.set_state(lane.id, LaneState("paused", Problem.PAUSED, "", now))
    records = [
        Record(f"r{n}", f"r{n}", "Balance changed", now, b"{}", email=f"p{n}@example.com")
        for n in range(_BATCH)
    ]
    await store.outbox.append([Page(lanes[0], "webhook", records, now)])

    names = [column.name for column in outbox.c if column.name != "seq"]

    def copies(count: int, lane: int, **values: Any) -> Any:
        """Rows like those of the first records, with keys of their own."""
        random = func.randomblob(16)
        new = {"digest": random, "unique_id": func.hex(random), "lane": literal(lane)}
        new |= {name: literal(value) for name, value in values.items()}
        numbers = select(literal(1).label("n")).cte(recursive=True)
        more = select(numbers.c.n + 1).where(numbers.c.n * _BATCH < count)
        numbers = numbers.union_all(more)
        rows = select(*(new.get(name, outbox.c[name]).label(name) for name in names))
        rows = rows.select_from(outbox.join(numbers, true())).where(outbox.c.seq <= _BATCH)
        return insert(outbox).from_select(names, rows.limit(count))

    def copy(c: Connection) -> None:
        refused = {"state": State.DEAD, "problem": "K400", "settled_at": now, "attempts": 1}
        c.execute(copies(dead, lanes[0].id, **refused))
        for lane in lanes:
            c.execute(copies(waiting // connections, lane.id))
        c.exec_driver_sql("ANALYZE")

    await store.database.write(copy)
    await store.aclose()


def _time(port: int, name: str, path: str) -> Timing:
    fresh, shared, size = [], [], 0
    for _ in range(_REPEATS):
        time.sleep(1.05)  # longer than a status is given out
        took, size = _load(port, path)
        fresh.append(took)
        shared.append(_load(port, path)[0])
    return Timing(name, statistics.median(fresh), statistics.median(shared), size / 1000)


def _load(port: int, path: str) -> tuple[float, int]:
    """(ms, bytes transferred) of one page, on a connection of its own."""
    caller = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = time.perf_counter()
    caller.request("GET", path, headers={"accept-encoding": "gzip"})
    answer = caller.getresponse()
    body = answer.read()
    took = (time.perf_counter() - began) * 1000
    caller.close()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status}")
    return took, len(body)


async def _look(port: int, tabs: int, mark: CpuMark, *, traffic: bool) -> int:
    """Open tabs for a while; returns how often they were given what had changed. The first time,
    when a tab is opened, is not counted."""
    loads = 0

    def loaded() -> None:
        nonlocal loads
        loads += 1

    tasks = [asyncio.create_task(_tab(port, loaded)) for _ in range(tabs)]
    if traffic:
        tasks.append(asyncio.create_task(_webhooks(port)))
    await asyncio.sleep(5.0)
    mark.begin()
    before = loads
    await asyncio.sleep(TAB_SECONDS)
    mark.end()
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(ended, asyncio.CancelledError):
            raise RuntimeError(f"a tab ended: {ended!r}")
    return loads - before


async def _tab(port: int, loaded: Callable[[], None]) -> None:
    stream, ask = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    ask.write(b"GET /overview/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    try:
        while True:
            line = await stream.readline()
            if not line:
                raise RuntimeError("the stream has ended")
            if line.startswith(b"event: regions"):
                loaded()
    finally:
        ask.close()


async def _answer(page: asyncio.StreamReader) -> None:
    length = 0
    while (line := (await page.readline()).strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    await page.readexactly(length)


async def _webhooks(port: int) -> None:
    """Signed webhooks for the first connection, one after another."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in signed_requests(round(60 * EVENTS_PER_SECOND)):
        writer.write(request.replace(b"/webhooks/bench", b"/webhooks/c00", 1))
        await _answer(reader)
        await asyncio.sleep(1 / EVENTS_PER_SECOND)


def _open_streams(port: int, count: int) -> list[http.client.HTTPConnection]:
    callers = []
    for _ in range(count):
        caller = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        caller.request("GET", "/api/v1/events")
        caller.getresponse().read1(16)
        callers.append(caller)
    return callers


def text(runs: Sequence[Run]) -> str:
    lines = []
    for run in runs:
        for timing in run.timings:
            lines.append(
                f"{timing.name}: {timing.fresh:.0f} ms, {timing.shared:.0f} ms within the same "
                f"second, {timing.kilobytes:.1f} kB (goal: < 150 ms, at most 60 kB)"
            )
        lines.append("share of a core: " + ", ".join(f"{k} {v:.1f} %" for k, v in run.cpu.items()))
        lines.append(f"updates sent to the tabs: {run.pages / TAB_SECONDS:.0f}/s")
        lines.append(f"SIGTERM with {TABS} open streams: {run.stop:.2f} s (goal: < 1 s)")
    return "\n".join(lines)
