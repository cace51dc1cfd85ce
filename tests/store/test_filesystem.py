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
    return filesystem.unsuited(Path(folder), TABLE.format(root=root, state=state))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "apfs", "fuseblk", "f2fs"])
def test_a_disk_is_a_good_place(kind: str) -> None:
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
def test_what_forgets_or_does_not_lock_is_warned_of(kind: str, word: str) -> None:
    fault = look("/var/lib/connector", state=kind)
    assert fault
    assert kind in fault
    assert word in fault


def test_the_deepest_mount_counts_and_of_two_at_one_place_the_last() -> None:
    assert look("/var/lib/connector/state/deep", root="overlay", state="tmpfs") is None
    assert "overlay" in (look("/var/lib/other", root="overlay") or "")
    assert "tmpfs" in (look("/over") or "")
    assert "nfs4" in (look("/mnt/with space/x") or "")


def test_a_name_that_only_begins_alike_is_another_folder() -> None:
    assert look("/var/lib/connector-two", state="tmpfs") is None


@pytest.mark.parametrize("table", ["", "nonsense\n", "1 2 3\n"])
def test_without_a_table_nothing_is_said(table: str) -> None:
    assert filesystem.unsuited(Path("/var/lib/connector"), table) is None


def test_where_the_system_does_not_tell_the_table_is_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(filesystem, "_TABLE", tmp_path / "none")
    assert filesystem.read_table() == ""
