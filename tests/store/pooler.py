"""PgBouncer in front of a test's PostgreSQL: each transaction gets another server connection."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.waiting import free_port, until

SERVER_CONNECTIONS = 3


@dataclass(frozen=True, slots=True)
class Pooler:
    """`url`: what a store is opened with."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def pooler(folder: Path, postgres_url: str) -> Iterator[Pooler]:
    """Skips the test where PgBouncer is not installed."""
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    server = make_url(postgres_url)
    data = Path(str(server.query["host"]))
    port = free_port()
    folder.chmod(0o755)
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"""\
[databases]
{server.database} = host={data} dbname={server.database} user={server.username}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {SERVER_CONNECTIONS}
idle_transaction_timeout = 10
ignore_startup_parameters = extra_float_digits
"""
    )
    command = [program, str(settings)]
    if os.getuid() == 0:  # it refuses to run as root, and the socket is the server's user's
        command[1:1] = ["-u", pwd.getpwuid(data.stat().st_uid).pw_name]
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until("PgBouncer listens", lambda: b"process up" in (folder / "pgbouncer.log").read_bytes())
        url = f"postgresql://anyone@127.0.0.1:{port}/{server.database}?pooler=transaction"
        yield Pooler(url, process)
    finally:
        process.terminate()
        process.wait(10)
