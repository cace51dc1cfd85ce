"""A store on a file system that loses or breaks it is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from connector.store.admin import filesystem

TABLE = """\
22 1 254:0 / / rw,relatime - {root} /dev/vda rw,discard
23 22 0:21 / /proc rw - proc proc rw
24 22 0:24 / /var/lib/connector rw,relatime shared:7 master:1 - {state} source rw
25 22 0:25 / /mnt/with\\040space rw - nfs4 server:/x rw
26 22 0:26 / /var/lib/connector/state rw - ext4 /dev/vdb rw
27 22 0:27 / /over rw - ext4 /dev/vdc rw
28 27 0:28 / /over rw - tmpfs tmpfs rw
"""


def look(folder: str, *, root: str = "ext4", state: str = "ext4") -> str | None:
    return filesystem.unsuitable(Path(folder), TABLE.format(root=root, state=state))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "apfs", "fuseblk", "f2fs"])
def test_a_local_disk_raises_no_warning(kind: str) -> None:
    assert look("/var/lib/connector", state=kind) is None


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("tmpfs", "memory"),
        ("ramfs", "memory"),
        ("overlay", "mount a volume"),
        ("nfs", "network"),
        ("nfs4", "network"),
        ("cifs", "network"),
        ("smb3", "network"),
        ("9p", "network"),
        ("fuse.sshfs", "network"),
    ],
)
def test_a_volatile_or_non_locking_file_system_raises_a_warning(kind: str, word: str) -> None:
    fault = look("/var/lib/connector", state=kind)
    assert fault
    assert kind in fault
    assert word in fault


def test_the_deepest_mount_wins_and_of_two_at_one_path_the_last() -> None:
    assert look("/var/lib/connector/state/deep", root="overlay", state="tmpfs") is None
    assert "overlay" in (look("/var/lib/other", root="overlay") or "")
    assert "tmpfs" in (look("/over") or "")
    assert "nfs4" in (look("/mnt/with space/x") or "")


def test_a_folder_with_the_same_prefix_is_a_different_folder() -> None:
    assert look("/var/lib/connector-two", state="tmpfs") is None


@pytest.mark.parametrize("table", ["", "nonsense\n", "1 2 3\n"])
def test_without_a_mount_table_there_is_no_warning(table: str) -> None:
    assert filesystem.unsuitable(Path("/var/lib/connector"), table) is None


def test_without_system_support_the_mount_table_is_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(filesystem, "_MOUNTINFO", tmp_path / "none")
    assert filesystem.read_mountinfo() == ""
