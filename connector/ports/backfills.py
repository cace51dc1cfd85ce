"""Ports of backfills: runs, their progress, and what a dry run asks the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.profiles import Observation, ProfileWrite
from connector.domain.records import Entry
from connector.ports.people import ListedPerson

BackfillState = Literal["waiting", "running", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Backfill:
    """One run.

    `waiting` is the state before the flow guard has allowed it. `cursor` belongs to the source and
    points after the last stored page; with `exhausted` there is no further page. `counts` are the
    findings of the pages by a closed set of names, `notes` the first lines about rows and flows
    for the person who started it, `total` the number of people at the source, None if unknown.
    """

    id: int
    connection: str
    source: str
    args: Mapping[str, Any]
    state: BackfillState
    started_at: Millis
    cursor: str | None = None
    exhausted: bool = False
    total: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    ended_at: Millis | None = None
    problem: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PersonKey:
    """A person as a source names them: by the platform's id, by e-mail address, or by both.
    `aliases` are further ids of the platform for the same person."""

    person: str | None
    email: str | None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BackfillPage:
    """One page of a source.

    `keys` are people who must be read; `listed` are people whose data came with the page. `cursor`
    is where the next page begins, `more` whether there is one. `counts` and `notes` are added to
    those of the run, `total` replaces the run's.
    """

    cursor: str | None
    more: bool
    keys: Sequence[PersonKey] = ()
    listed: Sequence[ListedPerson] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    total: int | None = None


class Backfills(Protocol):
    """Runs and their pages (guarantee 9)."""

    async def begin(
        self, connection: str, source: str, args: Mapping[str, Any], *, now: Millis
    ) -> Backfill:
        """Create a waiting run."""
        ...

    async def find(
        self, connection: str | None = None, *, before: int | None = None, limit: int = 20
    ) -> Sequence[Backfill]:
        """The newest runs first; with `before` those with a smaller id."""
        ...

    async def get(self, id: int) -> Backfill | None: ...

    async def start(self, id: int, *, now: Millis, total: int | None, notes: Sequence[str]) -> None:
        """Change a waiting run to running, and make the reads ready again that an earlier stop
        withdrew. Does nothing in any other state."""
        ...

    async def set_state(
        self,
        id: int,
        state: BackfillState,
        *,
        now: Millis,
        problem: Problem | None = None,
        detail: str = "",
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Change the state; `counts` replace those of the same name. All but `running` and
        `done` withdraw the run's reads that have not begun; `start` makes them ready again."""
        ...

    async def append_page(
        self, id: int, read_lane: Lane, page: BackfillPage, *, now: Millis
    ) -> int | None:
        """Request reads of a page's people behind all live traffic, observe the listed ones, and
        save the cursor, in one transaction. Returns the number of people who are new to the run.

        None, with nothing stored, where the run is not running. With `force` in the run's args
        the people's confirmed fields are sent again.
        """
        ...

    async def first_live_event_at(self, events: Lane) -> Millis | None:
        """When the first event that was not imported happened; None: there is none."""
        ...


class BackfillProgress(Protocol):
    """How far the people of backfills are."""

    async def outstanding(
        self, read_lane: LaneId, write_lane: LaneId, *, limit: int
    ) -> tuple[int, int]:
        """(people to read, profiles to write) at backfill priority, each counted up to `limit`."""
        ...

    async def pending(self, id: int, read_lane: LaneId, write_lane: LaneId) -> bool:
        """Whether any of the run's people waits in these lanes, at whatever priority. Reads no more
        than what waits there."""
        ...

    async def outcome_counts(self, id: int) -> Mapping[str, int]:
        """Number of the run's people by outcome: sent, unchanged, held, invalid, unknown, dead,
        pending. Live changes count as well. Reads one row per person of the run."""
        ...


class PeopleIndex(Protocol):
    """The people of a connection, in the order of their numbers."""

    async def page(
        self, connection: str, *, after: int, limit: int
    ) -> Sequence[tuple[int, PersonKey]]: ...

    async def count(self, connection: str) -> int: ...


class DryRuns(Protocol):
    """What a backfill would do. Stores nothing."""

    async def read_entries(
        self, connection: str, keys: Sequence[PersonKey], *, now: Millis
    ) -> Sequence[Entry]:
        """These people as a claim of the lane of reads would return them, in the same order.
        A person who is not in the store has a negative number."""
        ...

    async def preview_writes(
        self, observations: Sequence[Observation], *, now: Millis
    ) -> Sequence[ProfileWrite | None]:
        """The write that each observation would cause, in the same order; None: no write."""
        ...
