"""Whether the file system of a folder suits an SQLite file."""

from __future__ import annotations

import re
from pathlib import Path

_MOUNTINFO = Path("/proc/self/mountinfo")
_EPHEMERAL = {
    "tmpfs": "memory: it is gone with the next restart of the machine",
    "ramfs": "memory: it is gone with the next restart of the machine",
    "overlay": "a container's own layer: it is gone with the container, so mount a volume here",
    "aufs": "a container's own layer: it is gone with the container, so mount a volume here",
}
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|ceph|ncpfs|lustre|glusterfs|beegfs|gpfs"
    r"|fuse\.(?:sshfs|glusterfs|ceph|ceph-fuse|s3fs|rclone|davfs|gcsfuse|juicefs)"
)


def read_mountinfo() -> str:
    """This process's mounts, as Linux reports them; empty on a system that does not."""
    try:
        return _MOUNTINFO.read_text()
    except OSError:
        return ""


def unsuitable(folder: Path, table: str) -> str | None:
    """Why an SQLite file should not be in this folder; None if it may.

    `table` has the form of /proc/self/mountinfo (proc_pid_mountinfo(5)).
    """
    kind = _filesystem_type(folder.resolve(), table)
    if kind is None:
        return None
    if kind in _EPHEMERAL:
        return f"{folder} is on {kind}, {_EPHEMERAL[kind]}"
    if _NETWORK.fullmatch(kind):
        return (
            f"{folder} is on {kind}, a network file system: SQLite's locks and log are not safe "
            "there, so use a local disk, or PostgreSQL"
        )
    return None


def _filesystem_type(folder: Path, table: str) -> str | None:
    """The type of the deepest mount above the folder; of several at one point the last one."""
    deepest, kind = -1, None
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4]))
        depth = len(point.parts)
        if depth >= deepest and folder.is_relative_to(point):
            deepest, kind = depth, right.split(" ", 1)[0]
    return kind
