"""Real processes of the command line without the second of CPU that its imports take: a server
that has imported them forks each one. It has a pid, gets signals and dies like any other."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from tests.paths import ROOT
from tests.waiting import PATIENCE

MODULE = ("-m", "connector.cli")
_IMPORTED = (
    "alembic.command",
    "connector.app.daemon",
    "connector.app.setup",
    "connector.cli",
    "connector.console",
    "connector.platforms.jericommerce",
    "connector.service",
    "connector.store.sql",
    "connector.tools.checks",
    "connector.web.api.app",
    "uvicorn",
    "uvloop",
)
_NUMBER = struct.Struct("i")
_POLL = 0.005


class Process:
    """A process of the command line: what the tests use of subprocess.Popen. `main` is what
    `python` would be given before the words. Streams are files, or PIPE for stdout."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdout: IO[Any] | int = subprocess.DEVNULL,
        stderr: IO[Any] | int = subprocess.DEVNULL,
        main: Sequence[str] = MODULE,
    ) -> None:
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        status, theirs = os.pipe()
        self._status = os.fdopen(status, "rb", buffering=0)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, theirs)
            nothing = stack.enter_context(open(os.devnull, "r+b"))
            streams = [nothing.fileno()]
            for stream in (stdout, stderr):
                if stream == subprocess.PIPE:
                    read, write = os.pipe()
                    stack.callback(os.close, write)
                    self.stdout = os.fdopen(read, encoding="utf-8")
                    streams.append(write)
                elif isinstance(stream, int):
                    streams.append(nothing.fileno())
                else:
                    streams.append(stream.fileno())
            request = json.dumps([list(main), list(words), str(cwd), dict(env)]).encode()
            socket.send_fds(_server(), [request], [*streams, theirs])
        [self.pid] = _NUMBER.unpack(self._status.read(_NUMBER.size))
        os.set_blocking(self._status.fileno(), False)

    def poll(self) -> int | None:
        if self.returncode is None and (answer := self._status.read(_NUMBER.size)):
            [status] = _NUMBER.unpack(answer)
            self.returncode = os.waitstatus_to_exitcode(status)
            self._status.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(_POLL)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """What it writes to stdout until it ends, which it does within `timeout`."""
        out = bytearray()
        if self.stdout and not self.stdout.closed:
            end = None if timeout is None else time.monotonic() + timeout
            while True:
                left = None if end is None else max(0.0, end - time.monotonic())
                if not select.select([self.stdout], [], [], left)[0]:
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
                if not (part := os.read(self.stdout.fileno(), 65536)):
                    break
                out += part
            self.stdout.close()
        self.wait(timeout)
        return out.decode(), None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    words: Sequence[str], *, cwd: Path, env: Mapping[str, str], main: Sequence[str] = MODULE
) -> Finished:
    """Run a command to its end, which comes within 90 s."""
    with tempfile.TemporaryFile("w+") as stderr:
        process = Process(words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=stderr, main=main)
        out, _ = process.communicate(PATIENCE)
        stderr.seek(0)
        return Finished(process.wait(), out, stderr.read())


@dataclass(frozen=True, slots=True)
class Finished:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


@cache
def _server() -> socket.socket:
    """The server of this test process, by the socket that takes requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        number = theirs.fileno()
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.processes", str(number)],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
            pass_fds=[number],
        )

    def end() -> None:
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


# ── the server ───────────────────────────────────────────────────────────────────────────────────


def _serve(control: socket.socket) -> list[str]:
    """Fork a process for each request. Returns only in such a process: what `python` would be given
    before the words."""
    while True:
        request, streams, _, _ = socket.recv_fds(control, 1 << 20, 4)
        if not request:
            os._exit(0)
        *standard, status = streams
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
            control.close()
            child = os.fork()
            if child == 0:
                os.close(status)
                return _become(json.loads(request), standard)
            for each in standard:
                os.close(each)
            os.write(status, _NUMBER.pack(child))
            os.write(status, _NUMBER.pack(os.waitpid(child, 0)[1]))
            os._exit(0)
        for each in streams:
            os.close(each)


def _become(request: Any, streams: Sequence[int]) -> list[str]:
    main, words, cwd, env = request
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["connector", *words]
    return list(main)


if __name__ == "__main__":
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who watches a process is waited for by no one
    kind, code = _serve(socket.socket(fileno=int(sys.argv[1])))
    if kind == "-m":
        runpy.run_module(code, run_name="__main__", alter_sys=True)
    else:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
