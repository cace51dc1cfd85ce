"""Signed webhooks answered 202 after their commit, per second: the daemon against a bare server.

Ours is `connector run` on an SQLite file, in one process. Its lane is paused with `connector
pause`, so that no delivery competes with intake for the core: only intake is measured. The floor is
`bench.floor` intake. Both get the same requests from the same generator over the same number of
connections, and a new file for every run. Server and generator each have a core of their own if
there are two.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load import drive
from bench.processes import CpuMark, environment, free_port, pinned, running

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = 64
WARM_UP = 1.0
_STORED = "SELECT count(*) FROM outbox"
MAX_REQUESTS = 32_000
"""Requests per second that are created beforehand; a faster server ends its run early."""

CONFIG = """\
[store]
url = "{store}"
min_free = "1MB"

[server]
port = {port}

[log]
level = "error"

[[connections]]
name = "bench"
source = "jericommerce"
mapping = "{mapping}"
modules = ["events"]

[connections.settings]
program = "demo"
api_key = "jeri_bench"
webhook_secret = "{secret}"

[connections.klaviyo]
base_url = "http://127.0.0.1:{klaviyo}"
private_key = "pk_bench"
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one side. `cpu`: seconds per webhook. `stored`: rows found afterwards."""

    rate: float
    cpu: float
    p50: float
    p99: float
    refused: int
    stored: int
    acknowledged: int


def requests_needed(seconds: float) -> int:
    return round(MAX_REQUESTS * (seconds + WARM_UP))


def ours(requests: Sequence[bytes], seconds: float) -> Run:
    with tempfile.TemporaryDirectory(prefix="bench-intake-") as name:
        folder, port = Path(name), free_port()
        with daemon(folder, port) as process:
            return _measure(
                process,
                port,
                requests,
                seconds,
                folder / "connector.db",
                _STORED,
            )


def floor(requests: Sequence[bytes], seconds: float) -> Run:
    with tempfile.TemporaryDirectory(prefix="bench-floor-") as name:
        folder, port = Path(name), free_port()
        file = folder / "floor.db"
        command = ["-m", "bench.floor", "intake", str(port), str(file)]
        with running(command, folder=folder, port=port, core=0) as process:
            return _measure(process, port, requests, seconds, file, "SELECT count(*) FROM inbox")


@contextlib.contextmanager
def daemon(folder: Path, port: int, *before: str) -> Iterator[subprocess.Popen[bytes]]:
    """`connector run` with its lane paused. `before`: arguments between python and the module."""
    config = folder / "connector.toml"
    config.write_text(config_text(folder, port, free_port()))
    command = [*before, "-m", "connector.cli", "--config", str(config), "run"]
    with running(command, folder=folder, port=port, core=0) as process:
        subprocess.run(
            [sys.executable, "-m", "connector.cli", "--config", str(config), "pause", "bench"],
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment(folder),
        )
        yield process


def config_text(folder: Path, port: int, klaviyo: int, *, store: str = "") -> str:
    """On a file in the folder unless it gets a store's address."""
    from bench.load import SECRET

    return CONFIG.format(
        store=store or f"sqlite:///{folder}/connector.db",
        port=port,
        mapping=ROOT / "mappings" / "jericommerce.toml",
        secret=SECRET,
        klaviyo=klaviyo,
    )


def _measure(
    process: subprocess.Popen[bytes],
    port: int,
    requests: Sequence[bytes],
    seconds: float,
    file: Path,
    count: str,
) -> Run:
    mark = CpuMark(process.pid)
    with pinned(1):
        tally = drive(
            port,
            requests,
            connections=CONNECTIONS,
            warm_up=WARM_UP,
            seconds=seconds,
            mark=mark,
        )
    with contextlib.closing(sqlite3.connect(file)) as db:
        stored = int(db.execute(count).fetchone()[0] or 0)
    return Run(
        tally.rate,
        mark.seconds / max(1, tally.accepted),
        tally.p50,
        tally.p99,
        tally.refused,
        stored,
        tally.accepted_in_all,
    )
