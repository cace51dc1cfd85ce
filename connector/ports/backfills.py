"""Many people at once."""

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
    """One run. `waiting`: for a person's yes. `cursor` is the source's own and stands behind the
    last page that was fed; `exhausted`: there is no page after it. `counts` are what feeding found,
    by closed words, `notes` a few lines about it for the person, `total` how many there are at the
    source, where that is known."""

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
    """A person as a source names him: by the platform's id, by address, or both."""

    person: str | None
    email: str | None


@dataclass(frozen=True, slots=True)
class BackfillPage:
    """A page of a source. People come `named`, to be read, or `seen` already. `cursor` is where
    the next page begins, `more` whether there is one; `counts` and `notes` are added to the run's,
    `total` replaces it."""

    cursor: str | None
    more: bool
    keys: Sequence[PersonKey] = ()
    listed: Sequence[ListedPerson] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    total: int | None = None


class Backfills(Protocol):
    """Runs, and what becomes of their people (promise 9)."""

    async def begin(
        self, connection: str, source: str, args: Mapping[str, Any], *, now: Millis
    ) -> Backfill: ...

    async def find(self, connection: str | None = None, *, limit: int = 20) -> Sequence[Backfill]:
        """The newest first."""
        ...

    async def get(self, id: int) -> Backfill | None: ...

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
        """Another state. One that ends before its time withdraws its reads that nobody has begun;
        they wait until it goes on. `counts` replaces some."""
        ...

    async def start(self, id: int, *, now: Millis, total: int | None, notes: Sequence[str]) -> None:
        """It may begin, or go on with the reads that it had withdrawn: from waiting to running,
        and from no other state."""
        ...

    async def append_page(
        self, id: int, read_lane: Lane, page: BackfillPage, *, now: Millis
    ) -> int | None:
        """Have a page's people read, after all live traffic, and keep the cursor, in one
        transaction; how many were new to this run. None, and nothing stored, where the run is not
        running. Where the run's args say `force`, what was confirmed of them is told again."""
        ...

    async def people_after(
        self, connection: str, after: int, limit: int
    ) -> Sequence[tuple[int, PersonKey]]:
        """People ever seen, by number."""
        ...

    async def count_people(self, connection: str) -> int:
        """How many."""
        ...

    async def outstanding(
        self, read_lane: LaneId, write_lane: LaneId, *, limit: int
    ) -> tuple[int, int]:
        """(people to be read, people to be told) of backfills, each counted up to `limit`."""
        ...

    async def outcome_counts(self, id: int) -> Mapping[str, int]:
        """What became of the run's people, live changes meanwhile included: sent, unchanged, held,
        invalid, unknown, dead, pending. Looks at each of them."""
        ...

    async def read_entries(
        self, connection: str, keys: Sequence[PersonKey], *, now: Millis
    ) -> Sequence[Entry]:
        """These people as a claim of reads would hold them; a number below 0 stands for one whom
        nobody has seen. Stores nothing."""
        ...

    async def first_live_event_at(self, events: Lane) -> Millis | None:
        """When the first event that was told live happened, None: there is none."""
        ...

    async def preview_writes(
        self, observations: Sequence[Observation], *, now: Millis
    ) -> Sequence[ProfileWrite | None]:
        """What each observation would have us tell, None: nothing. Stores nothing."""
        ...
