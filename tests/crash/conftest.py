"""The daemon as a subprocess, and the sandbox platforms in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox, Traffic, serve
from tests.paths import ROOT
from tests.processes import MODULE, Process
from tests.waiting import PATIENCE, free_port, until

ENVIRONMENT = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
CONFIG = """\
[store]
url = "sqlite:///state/crash.db"
min_free = "1MB"

[server]
port = {port}
shutdown_timeout = "10s"

[delivery]
bulk_threshold = 5
retry_base = "50ms"
retry_max = "400ms"
probe_every = "1s"

[[connections]]
name = "demo"
source = "jericommerce"
mapping = "mappings/jericommerce.toml"

[connections.settings]
base_url = "{jericommerce}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"

[connections.klaviyo]
base_url = "{klaviyo}"
private_key = "pk_sandbox"
rate_share = 1.0
"""


class Platforms:
    """Both sandboxes on loopback, in a thread with its own event loop."""

    def __init__(self, people: int = 200) -> None:
        self.klaviyo = KlaviyoSandbox()
        self.jericommerce = JeriCommerceSandbox(people=people)
        self.urls: dict[str, str] = {}
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        servers = await serve(
            {"klaviyo": (self.klaviyo.app, 0), "jericommerce": (self.jericommerce.app, 0)}
        )
        self.urls = {name: servers.url(name) for name in servers.ports}
        self._started.set()
        await self._stop.wait()
        await servers.aclose()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


class Daemon:
    """`connector run` in a folder. `main`: a program that runs the command line instead."""

    def __init__(
        self,
        folder: Path,
        platforms: Platforms,
        mappings: Path,
        *,
        main: str = "",
        config: str = CONFIG,
    ) -> None:
        self._main = ["-c", main] if main else MODULE
        self.folder = folder
        self.port = free_port()
        shutil.copytree(mappings, folder / "mappings")
        self.config = folder / "connector.toml"
        self.config.write_text(config.format(port=self.port, **platforms.urls))
        self.process: Process | subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self) -> None:
        self._log = (self.folder / "log").open("ab")
        self.process = Process(
            ["--config", str(self.config), "run"],
            cwd=self.folder,
            stdout=self._log,
            stderr=self._log,
            env=ENVIRONMENT,
            main=self._main,
        )

    def send(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for the process to exit; returns its exit code."""
        assert self.process
        assert self._log
        code = self.process.wait(seconds)
        self._log.close()
        self.process = None
        return code

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.end()

    def clean(self) -> None:
        if self.process:
            self.kill()

    @property
    def stderr_text(self) -> str:
        return (self.folder / "log").read_text()

    def get(self, path: str) -> tuple[int, str]:
        """(status, text) of a GET; status 0 without a response."""
        return self.request("GET", path, None, {})

    def post(self, headers: dict[str, str], body: bytes, connection: str = "demo") -> int:
        """Post a webhook; returns the status, 0 without a response."""
        return self.request("POST", f"/webhooks/{connection}", body, headers)[0]

    def request(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, str]:
        """(status, text) of a request; status 0 without a response."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, 30)) as caller:
            try:
                caller.request(method, path, body, headers)
                answer = caller.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException):
                return 0, ""

    def ready(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise AssertionError(f"the daemon has ended:\n{self.stderr_text}")
        return self.get("/readyz")[0] == 200

    def wait_until_ready(self) -> None:
        until("the daemon is ready", self.ready)


@pytest.fixture
def platforms() -> Iterator[Platforms]:
    running = Platforms()
    yield running
    running.stop()


@pytest.fixture
def daemon(platforms: Platforms, tmp_path: Path, root: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, platforms, root / "mappings")
    yield daemon
    daemon.clean()


@pytest.fixture
def traffic(platforms: Platforms) -> Traffic:
    """Creates signed webhooks, which the test posts."""
    return Traffic(platforms.jericommerce, "unused")
