"""Which programs of this machine use the file of an SQLite store, where the system says so (Linux).

A person has to end the one that holds a lock, and must not end the one that holds a deleted file.
What the system says is text of other programs: nothing here raises.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from connector.runtime.printable import one_line

_PROC = Path("/proc")
_WRITE_LOCK = 120
"""The byte of the -shm file that a program locks which writes (SQLite: WAL_WRITE_LOCK)."""
_SHARED_LOCK = 0x40000002
"""A byte of the file that all who use it share (SQLite: SHARED_FIRST)."""


def locking(path: Path) -> str:
    """The program that holds the write lock of the store, or keeps the file for itself: `process
    25572 (python3)`, or `another program` where the system does not say which."""
    for file, byte in ((path.with_name(f"{path.name}-shm"), _WRITE_LOCK), (path, _SHARED_LOCK)):
        with contextlib.suppress(OSError, ValueError):
            for pid in _writers(file.stat(), byte):
                if pid != os.getpid():
                    return _named(str(pid))
    return "another program"


def keeping(path: Path) -> str | None:
    """The program that still has this deleted file open: `process 25572 (python3)`."""
    deleted = f"{os.path.realpath(path)} (deleted)"
    with contextlib.suppress(OSError):
        for process in _PROC.iterdir():
            if process.name.isdigit() and deleted in _open_files(process):
                return _named(process.name)
    return None


def _writers(found: os.stat_result, byte: int) -> Iterator[int]:
    """The processes of this machine, as far as they can be seen from here, that have locked this
    byte of the file for writing. The line of who waits for it has an arrow in place of the kind."""
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in (_PROC / "locks").read_text().splitlines():
        _, kind, _, access, pid, where, first, last = line.split()[:8]
        if (kind, access, where) != ("POSIX", "WRITE", file) or int(pid) <= 0:
            continue
        if int(first) <= byte and (last == "EOF" or int(last) >= byte):
            yield int(pid)


def _open_files(process: Path) -> set[str]:
    """Nothing where the process is another user's."""
    found = set()
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(link))
    return found


def _named(pid: str) -> str:
    try:
        name = (_PROC / pid / "comm").read_bytes().decode(errors="replace")
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({one_line(name.strip())})"
