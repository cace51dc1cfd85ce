"""Attention items, operator commands and the notifications that were sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from connector.domain.lanes import Kind, Millis
from connector.domain.outcomes import Request
from connector.domain.records import Entry, State


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A held or dead record as a person sees it: no address in it."""

    id: int
    connection: str
    destination: str
    kind: Kind
    state: State
    name: str
    unique_id: str
    problem: str
    detail: str
    attempts: int
    received_at: Millis
    settled_at: Millis | None


@dataclass(frozen=True, slots=True)
class DeadLetterDetail:
    """A record whole, for a person who asked for this one."""

    dead_letter: DeadLetter
    entry: Entry
    request: Request | None


class DeadLetters(Protocol):
    """Records that ended badly or wait for a person. Nothing leaves except by an order."""

    async def groups(self) -> Sequence[tuple[str, State, str, int]]:
        """(connection, state, problem code, how many), most first."""
        ...

    async def find(
        self, *, problem: str | None = None, connection: str | None = None, limit: int = 100
    ) -> Sequence[DeadLetter]: ...

    async def show(self, id: int) -> DeadLetterDetail | None: ...

    async def retry(
        self,
        *,
        ids: Sequence[int] = (),
        problem: str | None = None,
        every: bool = False,
        now: Millis,
    ) -> int:
        """Put dead letters back in line with the same unique id; returns how many."""
        ...

    async def discard(self, ids: Sequence[int], *, reason: str, now: Millis) -> int: ...


@dataclass(frozen=True, slots=True)
class Command:
    """What a person asked for, as a row: whoever holds the store carries it out."""

    id: int
    kind: str
    args: Mapping[str, Any]
    submitted_at: Millis
    done_at: Millis | None = None
    ok: bool | None = None
    result: Mapping[str, Any] | None = None


class CommandQueue(Protocol):
    async def submit(self, kind: str, args: Mapping[str, Any], *, by: str, now: Millis) -> int: ...

    async def fetch(self, *, now: Millis) -> Sequence[Command]:
        """Commands that no process has claimed, oldest first, now claimed by the caller."""
        ...

    async def requeue(self) -> int:
        """Release the unfinished commands of processes that have ended."""
        ...

    async def finish(
        self, id: int, *, ok: bool, result: Mapping[str, Any], now: Millis
    ) -> None: ...

    async def get(self, id: int) -> Command | None: ...


@dataclass(frozen=True, slots=True)
class Approval:
    """Something that waits for a person's yes. `what` is a closed word (a metric's label),
    `subject` what it is about within the connection, `detail` what the person should know: numbers
    and names, no addresses."""

    id: int
    connection: str
    what: str
    subject: str
    detail: Mapping[str, Any]
    state: Literal["pending", "approved", "rejected"]
    requested_at: Millis
    decided_at: Millis | None = None
    decided_by: str | None = None


class Approvals(Protocol):
    """Approvals of backfills and first syncs (guarantees 6 and 9)."""

    async def request(
        self, connection: str, what: str, subject: str, detail: Mapping[str, Any], *, now: Millis
    ) -> Approval:
        """The open question about this subject, made if there is none; one that still waits gets
        the newest detail. An answer stays until it is closed."""
        ...

    async def find(self, *, pending: bool = True) -> Sequence[Approval]:
        """Open questions, oldest first; also those that were answered and not yet closed."""
        ...

    async def decide(self, id: int, *, approved: bool, by: str, now: Millis) -> Approval | None:
        """Answer it. None where there is no such open question, or it was answered already."""
        ...

    async def close(self, connection: str, what: str, subject: str) -> None:
        """The answer was applied, or the question is obsolete: the next one is asked again."""
        ...


class Notifications(Protocol):
    """The open notifications of each `[[notify]]` target. `target` is a digest."""

    async def sent(self, target: str) -> Mapping[str, str]:
        """key → text."""
        ...

    async def record(
        self, target: str, new: Mapping[str, str], *, resolved: Sequence[str], now: Millis
    ) -> None:
        """The target knows these now, and that those keys are over."""
        ...
