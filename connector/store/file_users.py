"""Which programs of this machine use the file of an SQLite store, where the system says so (Linux).

A person has to end the one that holds a lock, and must not end the one that holds a deleted file.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_PROC = Path("/proc")


def locking(path: Path) -> str:
    """The program that holds the write lock of the store: `process 25572 (python3)`, or `another
    program` where the system does not say which."""
    files = {_inode(path), _inode(path.with_name(f"{path.name}-shm"))} - {""}
    with contextlib.suppress(OSError):
        for line in (_PROC / "locks").read_text().splitlines():
            fields = line.split()
            # A line of who waits for the lock has an arrow in place of the kind.
            if fields[1] != "POSIX" or fields[3] != "WRITE" or fields[4] == str(os.getpid()):
                continue
            if fields[5].rpartition(":")[2] in files and int(fields[4]) > 0:
                return _named(fields[4])
    return "another program"


def keeping(path: Path) -> str | None:
    """The program that still has this deleted file open: `process 25572 (python3)`."""
    deleted = f"{path.parent.resolve() / path.name} (deleted)"
    with contextlib.suppress(OSError):
        for process in _PROC.iterdir():
            if process.name.isdigit() and deleted in _open_files(process):
                return _named(process.name)
    return None


def _inode(path: Path) -> str:
    try:
        return str(path.stat().st_ino)
    except OSError:
        return ""


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
        name = (_PROC / pid / "comm").read_text().strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({name})"
