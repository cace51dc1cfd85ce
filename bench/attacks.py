"""What callers without a secret cost the daemon: CPU, memory, and the slowest /livez meanwhile.

Each attack runs against a daemon of its own, started as `connector run`.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.intake import config_text
from bench.processes import CpuMark, free_port, running

_MB = 1_000_000
_HEAD = b"POST /webhooks/bench HTTP/1.1\r\nhost: c.test\r\n"
_CONNECTIONS = 300
_OPEN_FOR = 45.0
"""Seconds after which connections that are still open are counted."""


@dataclass(frozen=True, slots=True)
class Run:
    """One attack. `cpu` and `slowest` (answer of /livez) are in seconds, `grown` in MiB."""

    name: str
    seconds: float
    cpu: float
    grown: float
    slowest: float
    result: str


class _Livez:
    """Asks /livez over and over, as an orchestrator would, on a connection of its own each time."""

    def __init__(self, port: int) -> None:
        self.slowest = 0.0
        self._port = port
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(0.05):
            began = time.monotonic()
            caller = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            with contextlib.suppress(OSError, http.client.HTTPException):
                caller.request("GET", "/livez")
                caller.getresponse().read()
            caller.close()
            self.slowest = max(self.slowest, time.monotonic() - began)


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def _sent(port: int, *parts: bytes) -> str:
    """Send everything and read the status line of the answer."""
    with _connect(port) as caller:
        with contextlib.suppress(OSError):
            for part in parts:
                caller.sendall(part)
        return _status(caller)


def _status(caller: socket.socket) -> str:
    try:
        answer = caller.recv(4096)
    except TimeoutError:
        return "no answer"
    except OSError:
        return "reset"
    return answer.split(b" ", 2)[1].decode() if answer else "closed"


def _header(size: int) -> Callable[[int], str]:
    return lambda port: _sent(port, _HEAD + b"x: ", b"a" * size, b"\r\n\r\n")


def _trailers(port: int) -> str:
    chunked = _HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\nx: "
    return _sent(port, chunked, b"a" * (50 * _MB), b"\r\n\r\n")


def _body(port: int) -> str:
    return _sent(port, _HEAD + b"content-length: 1000000000000\r\n\r\n", b"a" * (500 * _MB))


def _held(part: bytes) -> Callable[[int], str]:
    """Connections that send `part` and then nothing more."""

    def attack(port: int) -> str:
        callers = [_connect(port) for _ in range(_CONNECTIONS)]
        for caller in callers:
            caller.sendall(part)
        time.sleep(_OPEN_FOR)
        still_open = sum(_is_open(caller) for caller in callers)
        for caller in callers:
            caller.close()
        return f"{still_open} of {_CONNECTIONS} open after {_OPEN_FOR:.0f} s"

    return attack


def _is_open(caller: socket.socket) -> bool:
    caller.setblocking(False)
    try:
        while caller.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _many(port: int) -> str:
    """More connections than are allowed, all of them idle."""
    callers = [_connect(port) for _ in range(1_900)]
    time.sleep(1.0)
    still_open = sum(_is_open(caller) for caller in callers)
    for caller in callers:
        caller.close()
    return f"{still_open} of 1,900 open"


def _refused(port: int) -> str:
    """Unsigned webhooks for 5 s, as fast as one connection can."""
    count, deadline = 0, time.monotonic() + 5
    caller = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while time.monotonic() < deadline:
        caller.request("POST", "/webhooks/bench", b"[]")
        caller.getresponse().read()
        count += 1
    caller.close()
    return f"{count:,} refused"


ATTACKS: Sequence[tuple[str, Callable[[int], str]]] = (
    ("a header of 50 MB", _header(50 * _MB)),
    ("a header of 120 MB", _header(120 * _MB)),
    ("trailers of 50 MB", _trailers),
    ("a body of 500 MB", _body),
    ("idle connections", _held(b"")),
    ("half headers", _held(_HEAD)),
    ("half bodies", _held(_HEAD + b"content-length: 400\r\n\r\n[{")),
    ("1,900 connections", _many),
    ("unsigned webhooks", _refused),
)


def measure(folder: Path) -> list[Run]:
    return [_run(name, attack, folder) for name, attack in ATTACKS]


def _run(name: str, attack: Callable[[int], str], folder: Path) -> Run:
    with tempfile.TemporaryDirectory(prefix="bench-attack-", dir=folder) as made:
        place, port = Path(made), free_port()
        config = place / "connector.toml"
        text = config_text(place, port, free_port())
        config.write_text(text.replace('level = "error"', 'level = "info"'))
        command = ["-m", "connector.cli", "--config", str(config), "run"]
        with running(command, folder=place, port=port) as process:
            livez, cpu = _Livez(port), CpuMark(process.pid)
            while _sent(port, b"GET /readyz HTTP/1.1\r\nhost: c.test\r\n\r\n") != "200":
                time.sleep(0.05)
            before, log = _memory(process.pid, "VmRSS"), (place / "stderr.log").stat().st_size
            began = time.monotonic()
            cpu.begin()
            with livez.asking():
                result = attack(port)
            cpu.end()
            seconds = time.monotonic() - began
            grown = _memory(process.pid, "VmHWM") - before
            logged = (place / "stderr.log").stat().st_size - log
    result += f", {logged:,} bytes logged"
    return Run(name, seconds, cpu.seconds, grown, livez.slowest, result)


def _memory(pid: int, field: str) -> float:
    """MiB of /proc/PID/status (Linux; else 0)."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    line = next(x for x in status.read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) / 1024


def text(runs: Sequence[Run]) -> str:
    lines = [f"{'attack':<20} {'seconds':>8} {'CPU s':>7} {'MiB':>7} {'/livez':>8}  result"]
    lines += [
        f"{run.name:<20} {run.seconds:>8.1f} {run.cpu:>7.2f} {run.grown:>7.1f} "
        f"{run.slowest:>7.2f}s  {run.result}"
        for run in runs
    ]
    return "\n".join(lines)
