"""The file of an SQLite store: who may read it, and whether it is still the one that was opened."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote

from connector.domain.errors import Problem, StoreError, StoreLocked, StoreOutage
from connector.store import file_users

LOG = "-wal"
SIDE_FILES = (LOG, "-shm", "-journal")
_FILE_BACK = (
    "move the same file back and work continues; if it was deleted, rescue it from the daemon "
    "before you stop it"
)
_LOG_BACK = (
    "move the same file back and work continues, or stop the daemon with SIGTERM, which moves what "
    "it still holds of the log into the store, and start it"
)
_Identity = tuple[int, int]


class SqliteFile:
    """One store's file and the files beside it.

    Everything that the program creates is readable by its owner only (guarantee 8): the file 0600,
    and a folder that holds nothing but the store 0700. SQLite gives the files beside it the mode of
    the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = path.with_name(path.name + LOG)
        self._opened: dict[Path, _Identity] = {}

    def create(self) -> None:
        """Create an empty file and its folder where there is none.

        Raises OSError, and StoreOutage where the log of a store is left without its file.
        """
        self._check_log()
        with contextlib.suppress(FileExistsError):
            self.path.parent.mkdir(mode=0o700, parents=True)
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))

    def restrict(self) -> None:
        """Take away other users' access, as far as the files are this user's."""
        with contextlib.suppress(OSError):
            entries = list(self.path.parent.iterdir())
            ours = [entry for entry in entries if entry.name.startswith(self.path.name)]
            for path in ours:
                _chmod(path, 0o600)
            if ours == entries:
                _chmod(self.path.parent, 0o700)

    def connect(self) -> sqlite3.Connection:
        """Open the file. Never creates one: raises StoreError where there is none, and where it is
        not the one that `remember` found."""
        self.check()
        self._check_log()
        if not self.path.exists():
            raise missing(self.path)
        uri = f"file:{quote(str(self.path.absolute()))}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=10, check_same_thread=False)
        try:
            self.check()  # it may have been replaced since, and its settings are written next
        except StoreError:
            connection.close()
            raise
        return connection

    def remember(self) -> None:
        """From now on `check` compares with the file that is there now, and with its log."""
        for path in (self.path, self._log):
            if path not in self._opened and (identity := _identity(path)):
                self._opened[path] = identity

    def forget_log(self) -> None:
        """The log may be another after all connections were closed."""
        self._opened.pop(self._log, None)

    def check(self) -> None:
        """Raise StoreError if the file or its log is not the one that was opened. What is written
        to a deleted file is lost when the process ends, however well the commit went."""
        for path, opened in list(self._opened.items()):  # another thread may add the log
            found = _identity(path)
            if found != opened:
                what = "was replaced by another file" if found else "was deleted or moved away"
                way_back = _LOG_BACK if path == self._log else _FILE_BACK
                raise StoreOutage(
                    Problem.STORE_REPLACED,
                    f"{path} {what} while process {os.getpid()} had it open, so nothing is stored; "
                    f"{way_back}",
                )

    def _check_log(self) -> None:
        """Raise StoreOutage where the log of a store is left without its file: SQLite would discard
        it, with everything in it that was acknowledged."""
        if _size(self._log) and not _size(self.path):
            raise StoreOutage(
                Problem.STORE_REPLACED,
                f"{self._log} belongs to a store whose file {self.path} is missing; move that file "
                "back, or move the log away to begin with an empty store",
            )


def locked(path: Path) -> StoreError:
    return StoreLocked(
        Problem.STORE_UNAVAILABLE, f"{file_users.locking(path)} has locked its file {path}"
    )


def missing(path: Path) -> StoreError:
    """Where a process still has it, that one holds the only copy."""
    if keeping := file_users.keeping(path):
        return StoreOutage(
            Problem.STORE_REPLACED,
            f"{path} was deleted while {keeping} had it open; rescue it before that process ends "
            "(`connector problem S70`), and start no other one meanwhile",
        )
    return StoreOutage(
        Problem.STORE_UNAVAILABLE,
        f"there is no store at {path}: `connector run` creates it, or correct [store] url",
    )


def damaged(path: Path, detail: str) -> StoreError:
    return StoreError(
        Problem.STORE_DAMAGED,
        f"{path} is damaged ({detail}); stop the daemon, see what is damaged with `connector store "
        "check`, and put a backup in its place with `connector store restore`",
    )


def _identity(path: Path) -> _Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _chmod(path: Path, mode: int) -> None:
    """`check` reports what cannot be changed: a file of another user, a volume without modes."""
    with contextlib.suppress(OSError):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(mode)
