"""Names of processes that hold leases, and what this machine can prove about them."""

from __future__ import annotations

import os
import secrets
import socket
from hashlib import sha256
from pathlib import Path


def holder_name() -> str:
    """This process, for the person who reads `held by` and for `is_dead`: host, process id, and
    what distinguishes it from any other process with the same id."""
    pid = os.getpid()
    proof = (
        f"{_machine_id()}.{_process_start(pid)}" if _machine_id() and _process_start(pid) else "-"
    )
    return f"{socket.gethostname()}/{pid}/{proof}/{secrets.token_hex(2)}"


def is_dead(holder: str) -> bool:
    """Whether that holder is proved to be a dead process of this machine.

    Proved means: named by the same running kernel, in our own process namespace, and the kernel
    has no process of that id, or one that began at another time. Whatever cannot be proved (another
    host or container, another system than Linux) counts as alive: its lease runs out.
    """
    return _lives(holder) is False


def is_alive(holder: str) -> bool:
    """Whether that holder is proved to be a living process of this machine, whatever its lease
    says."""
    return _lives(holder) is True


def _lives(holder: str) -> bool | None:
    """None where nothing can be proved."""
    parts = holder.rsplit("/", 3)
    if len(parts) != 4 or parts[0] != socket.gethostname() or not parts[1].isdecimal():
        return None
    machine, _, started = parts[2].partition(".")
    if not started or not machine or machine != _machine_id():
        return None
    pid = int(parts[1])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    now = _process_start(pid)
    return None if now is None else now == started


def _machine_id() -> str:
    """Identifies this boot of this kernel and our namespaces of process ids and time; empty where
    the system does not provide it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        pids = os.readlink("/proc/self/ns/pid")
        times = os.readlink("/proc/self/ns/time") if Path("/proc/self/ns/time").exists() else ""
    except OSError:
        return ""
    return sha256(f"{boot}{pids}{times}".encode()).hexdigest()[:12]


def _process_start(pid: int) -> str | None:
    """When a process started, in ticks since boot; None where the system does not provide it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets, which may hold anything.
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else None
