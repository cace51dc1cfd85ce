"""Webhooks at a steady rate through the whole pipeline, against a straight-line program that makes
the same HTTP calls.

Ours is `connector run` with every module on; only Klaviyo's limits are lifted, in that process. A
webhook becomes an event with the person's fields, after a read of the person at the platform, and
a profile write. The floor is `bench.live_floor`. Both remote APIs are `bench.remote`; 5,000 people,
16 keep-alive connections. Server on one core, everything else on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvloop

from bench.load import SECRET, SIGNATURE, event_bodies
from bench.processes import CpuMark, SecondsMark, free_port, pinned, running

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = 16
WARM_UP = 3.0
_SETTLE = 5.0
"""Seconds after the last webhook in which its event may still be accepted."""

_CONFIG = """\
[store]
url = "{store}"
min_free = "1MB"

[server]
port = {port}

[log]
level = "error"
"""
_CONNECTION = """
[[connections]]
name = "{name}"
source = "jericommerce"
mapping = "{mapping}"

[connections.settings]
base_url = "http://127.0.0.1:{remote}"
program = "demo"
api_key = "jeri_bench"
webhook_secret = "{secret}"
rate_per_second = 100000

[connections.klaviyo]
base_url = "http://127.0.0.1:{remote}"
private_key = "pk_{name}"
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one side at one rate. `cpu`: seconds an event. `p50`, `p95`, `p99`: seconds from
    the send of the webhook to the event's acceptance at Klaviyo. `lost`: acknowledged and not
    accepted in time. `requests`: outgoing, an event."""

    rate: float
    wanted: float
    cpu: float
    p50: float
    p95: float
    p99: float
    lost: int
    refused: int
    requests: float

    @property
    def keeps_up(self) -> bool:
        return self.p99 < 1.0 and not self.lost and not self.refused


Webhook = tuple[str, bytes]


def config_text(
    folder: Path,
    *,
    port: int,
    remote: int,
    connections: Sequence[str] = ("bench",),
    store: str = "",
) -> str:
    """The configuration of a daemon that runs these connections with every module on; on a file in
    the folder unless it gets a store's address."""
    mapping = ROOT / "mappings" / "jericommerce.toml"
    parts = [_CONFIG.format(store=store or f"sqlite:///{folder}/connector.db", port=port)]
    parts += [
        _CONNECTION.format(name=name, mapping=mapping, secret=SECRET, remote=remote)
        for name in connections
    ]
    return "".join(parts)


def webhooks(count: int) -> list[Webhook]:
    """(unique id, HTTP message) of signed webhooks, created beforehand."""
    return signed(event_bodies(count))


def signed(bodies: Iterable[tuple[str, bytes]]) -> list[Webhook]:
    """The webhooks of these events."""
    made = []
    for name, body in bodies:
        signature = hmac.digest(SECRET.encode(), body, hashlib.sha256).hex()
        head = (
            f"POST /webhooks/bench HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"content-type: application/json\r\nx-jericommerce-event-type: {name}\r\n"
            f"{SIGNATURE}: {signature}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        made.append((orjson.loads(body)["id"], head.encode() + body))
    return made


def ours(made: Sequence[Webhook], rate: float, seconds: float) -> Run:
    with tempfile.TemporaryDirectory(prefix="bench-live-") as name:
        folder, port, remote = Path(name), free_port(), free_port()
        config = folder / "connector.toml"
        config.write_text(config_text(folder, port=port, remote=remote))
        return _measure(
            ["-m", "bench.live", str(config)], folder, port, remote, made, rate, seconds
        )


def floor(made: Sequence[Webhook], rate: float, seconds: float) -> Run:
    with tempfile.TemporaryDirectory(prefix="bench-live-floor-") as name:
        folder, port, remote = Path(name), free_port(), free_port()
        command = ["-m", "bench.live_floor", str(port), str(folder / "floor.db"), str(remote)]
        return _measure(command, folder, port, remote, made, rate, seconds)


def _measure(
    command: Sequence[str],
    folder: Path,
    port: int,
    remote: int,
    made: Sequence[Webhook],
    rate: float,
    seconds: float,
) -> Run:
    with (
        running(["-m", "bench.remote", str(remote)], folder=folder, port=remote, core=1),
        running(command, folder=folder, port=port, core=0) as process,
        pinned(1),
    ):
        mark = CpuMark(process.pid)
        return uvloop.run(drive([port], remote, made, rate, seconds, mark))


async def drive(
    ports: Sequence[int],
    remote: int,
    made: Sequence[Webhook],
    rate: float,
    seconds: float,
    mark: SecondsMark,
    *,
    warm_up: float = WARM_UP,
) -> Run:
    """Post `made` at this rate to these servers in turn, and measure after a warm-up."""
    sent: dict[str, float] = {}
    status: dict[str, bytes] = {}
    rest: Iterator[Webhook] = iter(made)
    connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for number in range(CONNECTIONS):
        port = ports[number % len(ports)]
        connections.put_nowait(await asyncio.open_connection("127.0.0.1", port))

    async def post(id: str, message: bytes, due: float) -> None:
        reader, writer = await connections.get()
        sent[id] = due
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        await reader.readexactly(int(length or 0))
        status[id] = head[9:12]
        connections.put_nowait((reader, writer))

    async def steady(duration: float) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(round(rate * duration)):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                group.create_task(post(*next(rest), due))

    await steady(warm_up)
    await asyncio.sleep(1.0)
    before = _report(remote)["requests"]
    sent.clear()
    status.clear()
    mark.begin()
    began = time.monotonic()
    await steady(seconds)
    duration = time.monotonic() - began
    deadline = time.monotonic() + _SETTLE
    while True:
        await asyncio.sleep(0.25)
        report = _report(remote)
        accepted = {id: at for id, at in report["accepted"].items() if id in sent}
        if len(accepted) >= len(sent) or time.monotonic() > deadline:
            break
    await asyncio.sleep(0.5)
    mark.end()
    while not connections.empty():
        connections.get_nowait()[1].close()
    refused = sum(1 for found in status.values() if found != b"202")
    lateness = sorted(accepted[id] - at for id, at in sent.items() if id in accepted) or [0.0]
    requests = sum(_report(remote)["requests"].values()) - sum(before.values())
    return Run(
        len(sent) / duration,
        rate,
        mark.seconds / max(1, len(sent)),
        lateness[len(lateness) // 2],
        lateness[len(lateness) * 95 // 100],
        lateness[len(lateness) * 99 // 100],
        len(sent) - refused - len(accepted),
        refused,
        requests / max(1, len(sent)),
    )


def _report(remote: int) -> dict[str, dict[str, float]]:
    with contextlib.closing(urllib.request.urlopen(f"http://127.0.0.1:{remote}/report")) as answer:
        found: dict[str, dict[str, float]] = orjson.loads(answer.read())
        return found


@dataclass(frozen=True, slots=True)
class Result:
    """`ours` and `floor` at one rate, in turn; `growing`: ours at growing rates, until one is too
    high."""

    ours: Sequence[Run]
    floor: Sequence[Run]
    growing: Sequence[Run]


def measure(rate: float, seconds: float, repeats: int, *, highest: bool) -> Result:
    made = webhooks(round(rate * (seconds + WARM_UP)) + 1)
    turns = [(ours(made, rate, seconds), floor(made, rate, seconds)) for _ in range(repeats)]
    growing: list[Run] = []
    while highest and (not growing or growing[-1].keeps_up):
        rate *= 1.5
        growing.append(ours(webhooks(round(rate * (seconds + WARM_UP)) + 1), rate, seconds))
    return Result([a for a, _ in turns], [b for _, b in turns], growing)


def text(result: Result) -> str:
    """The result as text."""
    lines = [
        *(_line("ours", run) for run in result.ours),
        *(_line("floor", run) for run in result.floor),
    ]
    used, least = (statistics.median(r.cpu for r in runs) for runs in (result.ours, result.floor))
    lines.append(f"CPU an event: {used / least:.1f} times the floor's (medians)")
    lines += [_line("ours", run) for run in result.growing]
    return "\n".join(lines)


def _line(side: str, run: Run) -> str:
    return (
        f"{side}: {run.wanted:,.0f}/s wanted, {run.rate:,.0f}/s, CPU {run.cpu * 1e6:,.0f} µs an "
        f"event, p50 {run.p50 * 1000:,.0f} ms, p99 {run.p99 * 1000:,.0f} ms, {run.requests:.2f} "
        f"requests an event, {run.lost} late, {run.refused} refused"
    )


def _daemon(config: str) -> None:
    """`connector run` without Klaviyo's limits."""
    from connector.cli import main
    from connector.klaviyo import limits
    from connector.net.rate_limit import Limit

    for endpoint in limits.LIMITS:
        limits.LIMITS[endpoint] = Limit(1_000_000, 1_000_000)
    sys.argv = ["connector", "--config", config, "run"]
    main()


if __name__ == "__main__":
    _daemon(sys.argv[1])
