"""Runs the command line, in this process where possible and else as a subprocess, and the
sandbox platforms in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.types import Message, Receive, Scope, Send

from connector import cli
from connector.domain.records import Appended, Page, Record
from connector.runtime.clock import SystemClock
from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox, Traffic, serve
from connector.store.sql import open_store
from tests.paths import ROOT
from tests.processes import Process
from tests.waiting import PATIENCE, free_port, until

CONFIG = """\
[store]
url = "sqlite:///state/cli.db"
min_free = "1MB"

[server]
port = {port}
shutdown_timeout = "5s"

[delivery]
retry_base = "50ms"
probe_every = "1s"

[[connections]]
name = "acme"
source = "jericommerce"
mapping = "mappings/jericommerce.toml"

[connections.settings]
base_url = "{jericommerce}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"

[connections.klaviyo]
base_url = "{klaviyo}"
private_key = "{key}"
"""


_MAIN = """
from connector.app import daemon
daemon._HEARTBEAT_EVERY = 0.2  # instead of 5 s: what it notices shows sooner
from connector import cli
cli.main()
"""


# ── the platforms ────────────────────────────────────────────────────────────────────────────────


class Platforms:
    """Both sandboxes on loopback. `bodies`: (path, headers, body) of every POST to Klaviyo."""

    def __init__(self) -> None:
        # No limits: commands with different stores call one account and do not share a quota.
        self.klaviyo = KlaviyoSandbox(limits=False)
        self.jericommerce = JeriCommerceSandbox()
        self.traffic = Traffic(self.jericommerce, "unused")
        self.bodies: list[tuple[str, dict[str, str], Any]] = []
        self.urls: dict[str, str] = {}
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()

        async def klaviyo(scope: Scope, receive: Receive, send: Send) -> None:
            await self._klaviyo(scope, receive, send)

        servers = await serve({"klaviyo": (klaviyo, 0), "jericommerce": (self.jericommerce.app, 0)})
        self.urls = {name: servers.url(name) for name in servers.ports}
        self._started.set()
        await self._stop.wait()
        await servers.aclose()

    async def _klaviyo(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts: list[bytes] = []

        async def recorded_receive() -> Message:
            message = await receive()
            parts.append(message.get("body", b""))
            if scope["method"] == "POST" and not message.get("more_body"):
                headers = {k.decode(): v.decode() for k, v in scope["headers"]}
                self.bodies.append((scope["path"], headers, orjson.loads(b"".join(parts) or b"{}")))
            return message

        await self.klaviyo.app(scope, recorded_receive, send)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@pytest.fixture(scope="session")
def platforms() -> Iterator[Platforms]:
    """One pair of sandboxes for all tests: a test checks only what it sent itself."""
    running = Platforms()
    yield running
    running.stop()


# ── a folder with a configuration ────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


class Folder:
    """A folder with a configuration, and the processes that run in it."""

    def __init__(self, path: Path, platforms: Platforms, *, key: str = "pk_sandbox") -> None:
        self.path, self.platforms = path, platforms
        self.port = free_port()
        self.env = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "PATH": os.environ["PATH"]}
        self.mapping = path / "mappings" / "jericommerce.toml"
        self.mapping.parent.mkdir(parents=True)
        self.mapping.write_text((ROOT / "mappings" / "jericommerce.toml").read_text())
        self.config = path / "connector.toml"
        self.write(key=key)
        self.processes: list[Process] = []

    def write(self, *, key: str = "pk_sandbox", port: int | None = None) -> None:
        text = CONFIG.format(port=port or self.port, key=key, **self.platforms.urls)
        self.config.write_text(text)

    @property
    def store(self) -> Path:
        return self.path / "state" / "cli.db"

    @property
    def log(self) -> str:
        """What all processes of this folder have written to stderr."""
        return (self.path / "stderr").read_text()

    def spawn(self, *args: str) -> Process:
        """`connector ARGS` as a process; its stderr goes to `log`."""
        with (self.path / "stderr").open("a") as err:
            process = Process(
                args,
                cwd=self.path,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=err,
                main=("-c", _MAIN),
            )
        self.processes.append(process)
        return process

    def finished(self, *args: str) -> tuple[int, str]:
        """Exit code and stdout of a process that ends by itself."""
        process = self.spawn(*args)
        out, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, out

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=PATIENCE)
            if process.poll() is None:
                process.kill()
                process.communicate()

    def ingest(self, *emails: str | None) -> Appended:
        """Put one record per address into the store, as intake does."""

        async def work() -> Appended:
            store = await open_store(f"sqlite:///{self.store}")
            lane = await store.lanes.ensure("acme", "klaviyo", "event")
            now = SystemClock().now()
            body = orjson.dumps({"properties": {"amount": 5}})
            records = [
                Record(f"r{n}", f"cli:{self.path.name}:{n}", "Balance changed", now, body, email=e)
                for n, e in enumerate(emails)
            ]
            [result] = await store.outbox.append([Page(lane, "webhook", records, now)])
            await store.aclose()
            return result

        return asyncio.run(work())

    def delivered(self) -> int:
        """How many of the records of `ingest` Klaviyo has."""
        ids = self.platforms.klaviyo.unique_ids()
        return sum(count for id, count in ids.items() if id.startswith(f"cli:{self.path.name}:"))

    # ── the daemon of this folder ──────────────────────────────────────────────────────────────

    def start(self) -> Process:
        process = self.spawn("run")

        def ready() -> bool:
            assert process.poll() is None, self.log
            return self.request("GET", "/readyz")[0] == 200

        until("the daemon is ready", ready)
        return process

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Any = None
    ) -> tuple[int, str]:
        """Send an HTTP request to the daemon: (status, text); status 0 without a response."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, 30)) as caller:
            try:
                caller.request(method, path, body, headers or {})
                answer = caller.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException):
                return 0, ""


@pytest.fixture
def folder(tmp_path: Path, platforms: Platforms) -> Iterator[Folder]:
    folder = Folder(tmp_path / tmp_path.name, platforms)
    yield folder
    folder.stop()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, platforms: Platforms) -> Iterator[Folder]:
    """A folder whose daemon runs for all tests of a module."""
    path = tmp_path_factory.mktemp("daemon")
    folder = Folder(path / path.name, platforms)
    folder.start()
    yield folder
    folder.stop()


# ── the command line in this process ─────────────────────────────────────────────────────────────

Call = Callable[..., CommandResult]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run `connector ARGS` in this process and the folder `at`; stdin is empty."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("CONNECTOR_CONFIG", raising=False)

    def run(*args: str, at: Path | Folder | None = None) -> CommandResult:
        if at is not None:
            monkeypatch.chdir(at.path if isinstance(at, Folder) else at)
        monkeypatch.setattr(sys, "argv", ["connector", *args])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        code = end.value.code
        return CommandResult(
            code if isinstance(code, int) else int(code is not None), *capfd.readouterr()
        )

    return run


@pytest.fixture(autouse=True)
def restore_logging(restore_logging_config: None) -> None:
    """A command configures logging; restore it."""
