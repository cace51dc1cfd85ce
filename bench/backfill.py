"""A backfill of many people from a file by the daemon, killed twice, with live events meanwhile;
then the same command again, which must send nothing.

The sandboxes run in a thread of this process: JeriCommerce without a limit, so that
`rate_per_second` is the limit, Klaviyo with its published limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.processes import CpuMark, environment, free_port
from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox, Traffic, serve

ROOT = Path(__file__).resolve().parent.parent
_RATE = 2_000
_LIVE_PER_SECOND = 4
_IDLE_SECONDS = 20.0
_STARTUP_GRACE = 3.0
_SETTLE_SECONDS = 15.0
_CONFIG = """\
[server]
port = {port}

[log]
level = "warning"

[[connections]]
name = "bench"
source = "jericommerce"
mapping = "{mapping}"

[connections.settings]
base_url = "{jericommerce}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"
rate_per_second = {rate}
max_concurrency = 64

[connections.klaviyo]
base_url = "{klaviyo}"
private_key = "pk_sandbox"
"""


class _Platforms:
    """Both sandboxes on loopback, in a thread with its own event loop."""

    def __init__(self, people: int) -> None:
        self.klaviyo = KlaviyoSandbox()
        self.jericommerce = JeriCommerceSandbox(people=people, legacy_share=0.0)
        self.urls: dict[str, str] = {}
        self._started = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True).start()
        self._started.wait(60)

    async def _run(self) -> None:
        servers = await serve(
            {"klaviyo": (self.klaviyo.app, 0), "jericommerce": (self.jericommerce.app, 0)}
        )
        self.urls = {name: servers.url(name) for name in servers.ports}
        self._started.set()
        await asyncio.Event().wait()

    def requests(self) -> dict[str, int]:
        found: Any = self.klaviyo.state()["requests"]
        return {label: sum(by.values()) for label, by in found.items()}

    def wrong(self) -> int:
        """The number of people whose balance at Klaviyo differs from the platform's."""
        count = 0
        for person in self.jericommerce.people:
            profile = self.klaviyo.profile(person.email)
            count += profile is None or profile["properties"].get("balance") != person.balance
        return count


class _Daemon:
    """`connector run` in a folder. `peak`: peak memory of all its processes, in bytes."""

    def __init__(self, folder: Path, config: Path, port: int) -> None:
        self.folder, self.config, self.port = folder, config, port
        self.peak, self.cpu = 0, 0.0
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        with (self.folder / "stderr.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_cli(self.config), "run"], stderr=log, env=environment(self.folder)
            )
        self._mark = CpuMark(self.process.pid)
        self._mark.begin()
        deadline = time.monotonic() + 60
        while self._ready() != 200:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError((self.folder / "stderr.log").read_text()[-2000:])
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> None:
        self._mark.end()
        self.cpu += self._mark.seconds
        status = Path(f"/proc/{self.process.pid}/status")
        if status.exists():
            kilobytes = status.read_text().partition("VmHWM:")[2].split()[0]
            self.peak = max(self.peak, int(kilobytes) * 1024)
        self.process.send_signal(number)
        self.process.wait(60)

    def post(self, headers: dict[str, str], body: bytes) -> int:
        return self._call("POST", "/webhooks/bench", body, headers)

    def _ready(self) -> int:
        return self._call("GET", "/readyz", None, {})

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> int:
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, 5)
        ) as http_client:
            try:
                http_client.request(method, path, body, headers)
                return http_client.getresponse().status
            except (OSError, http.client.HTTPException):
                return 0


@dataclass
class _Live:
    """Posts live events. `seconds`: time from each 202 to the event at Klaviyo, without events that
    were posted while the daemon was down or had just started."""

    daemon: _Daemon
    platforms: _Platforms
    traffic: Traffic
    seconds: list[float] = field(default_factory=list)
    up_since: float = 0.0
    down: bool = False
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        waiting: dict[str, float] = {}
        following = time.monotonic()
        while not self.stop.wait(0.005):
            now = time.monotonic()
            if now >= following and not self.down:
                following = now + 1 / _LIVE_PER_SECOND
                headers, body = self.traffic.make_event()
                # As a platform does: retry until it is acknowledged.
                while self.daemon.post(headers, body) != 202:
                    time.sleep(0.1)
                if self.up_since < now and not self.down:
                    waiting[f"jericommerce:{json.loads(body)['id']}"] = time.monotonic()
            for id, since in list(waiting.items()):
                if self.platforms.klaviyo.recorded(id):
                    self.seconds.append(time.monotonic() - since)
                    del waiting[id]
                elif self.down:
                    del waiting[id]

    @contextlib.contextmanager
    def in_progress(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run, daemon=True)
        self.stop.clear()
        thread.start()
        try:
            yield
        finally:
            self.stop.set()
            thread.join()


@dataclass(frozen=True, slots=True)
class Result:
    """The results. Times in seconds, without the time in which the daemon was down."""

    people: int
    seconds: float
    cpu: float
    summary: dict[str, int]
    wrong: int
    requests: dict[str, int]
    throttled: int
    peak: int
    idle: Sequence[float]
    live: Sequence[float]
    again: dict[str, int]
    again_seconds: float
    again_writes: int


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """A backfill without a kill. `cpu`: seconds a person, of the whole daemon. `idle`, `live`: see
    `Result`."""

    people: int
    seconds: float
    cpu: float
    idle: Sequence[float]
    live: Sequence[float]


def measure_undisturbed(count: int, folder: Path) -> Undisturbed:
    daemon, live, emails = _prepare(count, folder)
    daemon.start()
    with live.in_progress():
        time.sleep(_IDLE_SECONDS)
    idle, live.seconds = live.seconds, []
    mark = CpuMark(daemon.process.pid)
    mark.begin()
    with live.in_progress():
        seconds, _ = _run(daemon, live.platforms, live, emails, kills=(), count=count)
    mark.end()
    daemon.end(signal.SIGTERM)
    return Undisturbed(count, seconds, mark.seconds / count, idle, live.seconds)


def measure(count: int, folder: Path) -> Result:
    """A backfill of `count` people with two kills, and a second run."""
    daemon, live, emails = _prepare(count, folder)
    platforms = live.platforms
    daemon.start()
    with live.in_progress():
        time.sleep(_IDLE_SECONDS)
    idle, live.seconds = live.seconds, []
    before = platforms.requests()
    with live.in_progress():
        seconds, first = _run(daemon, platforms, live, emails, kills=(0.3, 0.6), count=count)
    requests = _increase(before, platforms.requests())
    time.sleep(_SETTLE_SECONDS)
    wrong = platforms.wrong()
    before = platforms.requests()
    again_seconds, again = _run(daemon, platforms, live, emails, kills=(), count=count)
    increase = _increase(before, platforms.requests())
    daemon.end(signal.SIGTERM)
    return Result(
        count,
        seconds,
        daemon.cpu,
        first["people"],
        wrong,
        requests,
        int(str(platforms.klaviyo.state()["throttled"])),
        daemon.peak,
        idle,
        live.seconds,
        again["people"],
        again_seconds,
        sum(n for label, n in increase.items() if label.startswith(("POST", "PATCH"))),
    )


def _prepare(count: int, folder: Path) -> tuple[_Daemon, _Live, Path]:
    platforms = _Platforms(count)
    port, config = free_port(), folder / "connector.toml"
    mapping = folder / "mapping.toml"
    shipped = (ROOT / "mappings" / "jericommerce.toml").read_text()
    # Without attached fields an event waits for no read: only the lane is measured.
    mapping.write_text(shipped.replace("attach_profile = true", "attach_profile = false"))
    config.write_text(_CONFIG.format(port=port, mapping=mapping, rate=_RATE, **platforms.urls))
    emails = folder / "people.csv"
    members = platforms.jericommerce.people
    emails.write_text("email\n" + "".join(f"{person.email}\n" for person in members))
    daemon = _Daemon(folder, config, port)
    return daemon, _Live(daemon, platforms, Traffic(platforms.jericommerce, "")), emails


def _run(
    daemon: _Daemon,
    platforms: _Platforms,
    live: _Live,
    emails: Path,
    *,
    kills: Sequence[float],
    count: int,
) -> tuple[float, dict[str, Any]]:
    """(seconds in which the daemon was up, the run as the command prints it)."""
    command = [*_cli(daemon.config), "backfill", "bench", "--emails", str(emails)]
    started_at, down = time.monotonic(), 0.0
    read = platforms.jericommerce.state()
    subprocess.run([*command, "--detach"], check=True, env=environment(daemon.folder))
    for share in kills:
        enough = _reads(read) + share * count
        while _reads(platforms.jericommerce.state()) < enough:
            time.sleep(0.1)
        stopped = time.monotonic()
        live.down = True
        daemon.end(signal.SIGKILL)
        daemon.start()
        down += time.monotonic() - stopped
        live.up_since = time.monotonic() + _STARTUP_GRACE
        live.down = False
    result = subprocess.run(
        [*command, "--json"], check=True, env=environment(daemon.folder), stdout=subprocess.PIPE
    )
    return time.monotonic() - started_at - down, json.loads(result.stdout)


def _reads(state: dict[str, Any]) -> int:
    return sum(
        sum(by.values()) for label, by in state["requests"].items() if "customers/{" in label
    )


def _cli(config: Path) -> list[str]:
    return [sys.executable, "-m", "connector.cli", "--config", str(config)]


def _increase(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {
        label: n - before.get(label, 0) for label, n in after.items() if n > before.get(label, 0)
    }


def _spread(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:
        return "too few"
    p99 = statistics.quantiles(seconds, n=100, method="inclusive")[98]
    return f"p50 {statistics.median(seconds) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"


def _ceiling(result: Result) -> str:
    """What limited the rate: the platform's limit, Klaviyo's, or this machine."""
    reads = 2 * result.people / result.seconds  # the person and the pass token
    jobs = result.requests.get("POST /api/profile-bulk-import-jobs", 0) * 60 / result.seconds
    parts = {
        f"JeriCommerce's rate_per_second ({reads:.0f} of {_RATE * 0.7:.0f}/s)": reads / _RATE / 0.7,
        f"Klaviyo's import jobs ({jobs:.0f} of 63/min)": jobs / 63,
        f"one core ({result.cpu / result.seconds:.0%} of it)": result.cpu / result.seconds,
    }
    shown = ", ".join(sorted(parts, key=parts.__getitem__, reverse=True))
    return f"closest to its limit first: {shown}"


def text(result: Result) -> str:
    """The result as text."""
    outcomes = ", ".join(f"{name} {count:,}" for name, count in result.summary.items() if count)
    again = ", ".join(f"{name} {count:,}" for name, count in result.again.items() if count)
    lines = [
        f"backfill: {result.people:,} people, two kills, {result.seconds:.0f} s up: "
        f"{result.people / result.seconds:,.0f} people/s ({outcomes})",
        f"{result.wrong} people wrong at Klaviyo, {result.throttled} responses 429",
        _ceiling(result),
        f"peak memory {result.peak / 1e6:.0f} MB",
        f"live events, receipt → recorded: idle {_spread(result.idle)} ({len(result.idle)}); "
        f"during the backfill {_spread(result.live)} ({len(result.live)})",
        f"second run: {again}; {result.again_writes} write requests, {result.again_seconds:.0f} s",
    ]
    lines += [f"    {label}: {count:,}" for label, count in sorted(result.requests.items())]
    return "\n".join(lines)
