"""Settings made at run time, and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from connector.domain.lanes import Millis


@dataclass(frozen=True, slots=True)
class StoredSetting:
    """A setting of a connection. `key` is dotted; of a secret `value` is None and `sealed` the
    ciphertext."""

    connection: str
    key: str
    value: Any
    sealed: str | None = field(default=None, repr=False)
    changed_by: str = ""
    changed_at: Millis = Millis(0)


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A new value, or with `remove` none. `before` and `after` are for the audit log, without
    secrets."""

    setting: StoredSetting
    remove: bool = False
    before: Any = None
    after: Any = None


class Settings(Protocol):
    """Settings made at run time, below the files (connector.config.overrides)."""

    async def all(self) -> Sequence[StoredSetting]: ...

    async def change(self, changes: Sequence[SettingChange], *, by: str, now: Millis) -> None:
        """Store all changes and their audit entries in one transaction."""
        ...

    async def reseal(self, setting: StoredSetting, sealed: str) -> None:
        """Replace the ciphertext of a secret whose value stays the same."""
        ...


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to which connection, and when. `error`: why it failed and changed nothing; empty
    where it was done. Nothing in it is a secret or personal data; a secret is `***`."""

    at: Millis
    by: str
    what: str
    connection: str = ""
    subject: str = ""
    before: Any = None
    after: Any = None
    id: int = 0
    error: str = ""


class Audit(Protocol):
    """The log of what people changed."""

    async def record(self, entry: AuditEntry) -> None: ...

    async def find(
        self, *, connection: str | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[AuditEntry]:
        """The newest first; `before` is the id where the previous page ended."""
        ...

    async def prune(self, *, before: Millis, limit: int) -> int:
        """Delete entries older than that, at most `limit`; returns how many."""
        ...
