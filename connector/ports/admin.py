"""Dead letters, commands, approvals and notifications."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from connector.domain.lanes import Kind, Lane, Millis
from connector.domain.outcomes import Request
from connector.domain.records import Entry, State


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A held or dead record for a person to read. It holds no address."""

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
    """One record in full."""

    dead_letter: DeadLetter
    entry: Entry
    request: Request | None


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which held and dead records: those that have all of what is given. `cause` is a problem code,
    `text` occurs in the name, the unique id or the detail."""

    ids: Sequence[int] = ()
    connection: str | None = None
    cause: str | None = None
    state: State | None = None
    text: str = ""


ANY_DEAD_LETTER = DeadLetterFilter()


class StuckGroup(NamedTuple):
    """The held or dead entries of a lane with one cause."""

    lane: Lane
    state: State
    problem: str
    entries: int


class DeadLetters(Protocol):
    """Dead records, and those held for a person. They stay until a person retries or discards
    them, or retention ends.

    `retry` and `discard` change at most `limit` records after the id `after`, in the order of their
    ids, and return how many and the last id; None: there are no more.
    """

    async def groups(self) -> Sequence[StuckGroup]:
        """Of the lanes of all queues, the largest first."""
        ...

    async def find(
        self,
        which: DeadLetterFilter = ANY_DEAD_LETTER,
        *,
        before: int | None = None,
        limit: int = 100,
    ) -> Sequence[DeadLetter]:
        """The newest first; with `before` those with a smaller id."""
        ...

    async def count(self, which: DeadLetterFilter) -> int: ...

    async def show(self, id: int) -> DeadLetterDetail | None: ...

    async def entries(self, which: DeadLetterFilter, *, limit: int) -> Sequence[Entry]:
        """The newest as their lane claimed them, with the mapping version of that time."""
        ...

    async def retry(
        self, which: DeadLetterFilter, *, after: int = 0, limit: int = 1_000, now: Millis
    ) -> tuple[int, int | None]:
        """Make dead letters ready again with the same unique id. One without an address is not
        retried: it would only be held again."""
        ...

    async def discard(
        self,
        which: DeadLetterFilter,
        *,
        reason: str,
        after: int = 0,
        limit: int = 1_000,
        now: Millis,
    ) -> tuple[int, int | None]: ...


StuckQueue = Literal["profiles", "reads", "memberships"]
"""The queues whose entries are of people, in the order in which they are listed."""


class StuckPosition(NamedTuple):
    """The place in their list that a person's entry had."""

    queue: StuckQueue
    id: int


@dataclass(frozen=True, slots=True)
class StuckPerson:
    """A person's profile, read or membership that is held or died.

    `since`: when what waits in it came to be. `person` is None where only an address is known, as
    of a membership, whose list or tag is `target`.
    """

    position: StuckPosition
    lane: Lane
    state: State
    problem: str
    detail: str
    since: Millis
    person: int | None
    platform_id: str | None
    email: str | None
    target: str = ""


class StuckPeople(Protocol):
    """What is held or dead besides records: they are retried by a new read of their person, or the
    next full sync of their list."""

    async def find(
        self,
        *,
        connection: str | None = None,
        cause: str | None = None,
        after: StuckPosition | None = None,
        limit: int = 100,
    ) -> Sequence[StuckPerson]:
        """Profiles, then reads, then memberships, each with the newest first; with `after` those
        that follow. `cause` is a problem code."""
        ...


@dataclass(frozen=True, slots=True)
class Command:
    """A command that a person submitted. The process that holds the lease of its connection's
    account runs it, or of the store where it names none."""

    id: int
    kind: str
    args: Mapping[str, Any]
    submitted_at: Millis
    done_at: Millis | None = None
    ok: bool | None = None
    result: Mapping[str, Any] | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class CommandScope:
    """Commands of these connections; with `but` also those of all others but these, and those that
    name none."""

    connections: frozenset[str] = frozenset()
    but: frozenset[str] | None = None


ALL_COMMANDS = CommandScope(but=frozenset())


class KeyReused(Exception):
    """An idempotency key was used for another command."""


class CommandQueue(Protocol):
    """Commands, each run once."""

    async def submit(
        self, kind: str, args: Mapping[str, Any], *, by: str, key: str = "", now: Millis
    ) -> int:
        """Store a command, returns its id. With a `key`, a command that the same person submitted
        with it before is not stored again: its id is returned. Raises KeyReused where that was
        another command."""
        ...

    async def fetch(
        self, *, now: Millis, by: str = "", scope: CommandScope = ALL_COMMANDS
    ) -> Sequence[Command]:
        """Commands that no process has claimed, oldest first, now claimed by the process `by`."""
        ...

    async def requeue(
        self, *, keep: Collection[int] = (), scope: CommandScope = ALL_COMMANDS
    ) -> int:
        """Release the unfinished commands of processes that have ended, and those of which the
        caller never learned that it had claimed them: all but `keep`."""
        ...

    async def last_reload(self, *, not_by: str) -> int:
        """The id of the last reload that another process did with success; 0 without one."""
        ...

    async def report(self, id: int, progress: Mapping[str, Any]) -> None:
        """Store how far a running command has come, as its result so far."""
        ...

    async def finish(
        self, id: int, *, ok: bool, result: Mapping[str, Any], now: Millis
    ) -> None: ...

    async def get(self, id: int) -> Command | None: ...


@dataclass(frozen=True, slots=True)
class Approval:
    """An operation that needs a person's approval. `what` is one of a closed set (a label of
    metrics), `subject` what it is about within the connection, `detail` what the person should
    know: numbers and names, no addresses."""

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
    """Decisions of people on backfills, first syncs, removals and caps (guarantees 6 and 9)."""

    async def request(
        self, connection: str, what: str, subject: str, detail: Mapping[str, Any], *, now: Millis
    ) -> Approval:
        """The approval of this subject, created if there is none. While it is pending it gets the
        newest detail. A decision stays until it is closed."""
        ...

    async def find(self, *, pending: bool = True) -> Sequence[Approval]:
        """Approvals that are not closed, oldest first; with `pending` only the undecided."""
        ...

    async def about(self, connection: str, what: str) -> Sequence[Approval]:
        """Those of one kind of a connection, decided or not."""
        ...

    async def decide(self, id: int, *, approved: bool, by: str, now: Millis) -> Approval | None:
        """Record a decision. None where there is no such approval, or it was decided before."""
        ...

    async def close(self, connection: str, what: str, subject: str) -> None:
        """The decision was applied, or is obsolete: the next request needs a new one."""
        ...


class Notifications(Protocol):
    """Notifications sent to each `[[notify]]` target whose cause is not resolved. `target` is a
    digest."""

    async def sent(self, target: str) -> Mapping[str, str]:
        """key → text."""
        ...

    async def record(
        self, target: str, new: Mapping[str, str], *, resolved: Sequence[str], now: Millis
    ) -> None:
        """The target was sent these texts by key, and that the `resolved` keys have ended."""
        ...
