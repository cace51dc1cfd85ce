"""How long commands take, against a Python that only imports what any such program imports.

The floor is `python -c "import sqlalchemy, httpx"`. `run` counts until `/readyz` answers 200, on a
store that exists; `status` asks a daemon that has been up for some seconds. With 100 connections
also the longest wait for `/livez` in the first seconds after that, and the share of a core while
nothing happens.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.console import CONFIG, CONNECTION
from bench.intake import ROOT
from bench.load import SECRET
from bench.processes import CpuMark, environment, free_port, running

_FLOOR = ["-c", "import sqlalchemy, httpx"]
_IDLE_SECONDS = 20.0
_SETTLE_SECONDS = 10.0
_WARM_UP_SECONDS = 3.0
_PATIENCE = 180.0


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds; medians of several turns. `idle`: share of a core. `freeze`: the longest wait."""

    floor: float
    ready: float
    status: float
    ready_100: float
    freeze_100: float
    idle_100: float


def measure(folder: Path, repeats: int) -> Run:
    remote = free_port()
    with running(["-m", "bench.remote", str(remote)], folder=folder, port=remote):
        return _measure(folder, repeats, remote)


def _measure(folder: Path, repeats: int, remote: int) -> Run:
    small, large = folder / "one", folder / "hundred"
    configs = [_configure(small, 1, remote), _configure(large, 100, remote)]
    _Daemon(*configs[0]).stop()  # creates the store
    times: list[tuple[float, float, float]] = []
    for _ in range(repeats):
        floor = _took(_FLOOR, folder)
        daemon = _Daemon(*configs[0])
        time.sleep(_WARM_UP_SECONDS)  # its first seconds are busy with imports
        status = _took(["-m", "connector.cli", "--config", str(configs[0][0]), "status"], small)
        daemon.stop()
        times.append((floor, daemon.ready, status))
    _Daemon(*configs[1]).stop()
    daemon = _Daemon(*configs[1])
    mark = CpuMark(daemon.process.pid)
    freeze = daemon.longest_wait(_SETTLE_SECONDS)
    mark.begin()
    time.sleep(_IDLE_SECONDS)
    mark.end()
    daemon.stop()
    medians = [statistics.median(found) for found in zip(*times, strict=True)]
    floor, ready, status = medians
    return Run(floor, ready, status, daemon.ready, freeze, mark.seconds / _IDLE_SECONDS)


def _configure(folder: Path, connections: int, remote: int) -> tuple[Path, int]:
    folder.mkdir()
    port = free_port()
    text = CONFIG.format(folder=folder, port=port)
    for number in range(connections):
        text += CONNECTION.format(
            name=f"c{number:02}",
            mapping=ROOT / "mappings" / "jericommerce.toml",
            remote=remote,
            secret=SECRET,
        )
    (folder / "connector.toml").write_text(text)
    return folder / "connector.toml", port


def _took(command: Sequence[str], folder: Path) -> float:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(folder),
        check=False,
    )
    return time.monotonic() - began


class _Daemon:
    """`connector run`. `ready`: seconds until it was."""

    def __init__(self, config: Path, port: int) -> None:
        command = [sys.executable, "-m", "connector.cli", "--config", str(config), "run"]
        began = time.monotonic()
        with (config.parent / "stderr.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment(config.parent)
            )
        while _status(port, "/readyz") != 200:
            if self.process.poll() is not None or time.monotonic() - began > _PATIENCE:
                raise RuntimeError((config.parent / "stderr.log").read_text()[-2000:])
            time.sleep(0.005)
        self.ready = time.monotonic() - began
        self._port = port

    def longest_wait(self, seconds: float) -> float:
        """The longest of the answers to `/livez` in this time."""
        longest, end = 0.0, time.monotonic() + seconds
        while (asked := time.monotonic()) < end:
            _status(self._port, "/livez")
            longest = max(longest, time.monotonic() - asked)
            time.sleep(0.005)
        return longest

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def _status(port: int, path: str) -> int:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, 60)) as caller:
        try:
            caller.request("GET", path)
            return caller.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0


def text(run: Run) -> str:
    """The result as text."""
    return (
        f"import floor {run.floor:.2f} s; run → ready {run.ready:.2f} s "
        f"({run.ready / run.floor:.1f} times); status {run.status:.2f} s "
        f"({run.status / run.floor:.1f} times)\n"
        f"100 connections: ready in {run.ready_100:.1f} s, longest wait for /livez "
        f"{run.freeze_100 * 1000:.0f} ms, idle {run.idle_100:.1%} of a core"
    )
