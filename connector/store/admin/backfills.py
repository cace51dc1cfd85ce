"""Backfills in SQL: a page's people and the cursor after it in one transaction (guarantee 9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    func,
    insert,
    select,
    update,
)

from connector.domain.errors import Problem
from connector.domain.lanes import Lane, Millis
from connector.domain.records import State
from connector.ports import Backfill, BackfillPage, BackfillState
from connector.store.database import Database, on_request
from connector.store.people import bulk_observations
from connector.store.people.person_cache import PersonCache
from connector.store.people.resolution import PersonResolver
from connector.store.pieces import Pieces
from connector.store.queues import profile_observations, read_requests
from connector.store.queues.outbox_append import release_held
from connector.store.statements import chunks
from connector.store.tables import backfills as table
from connector.store.tables import in_state
from connector.store.tables import outbox as outbox_table
from connector.store.tables import reads as reads_table

_MAX_NOTES = 50
_MOST_KEYS = 200
"""People without what is known about them that one transaction stores."""
_MOST_CHANGED = 500
"""Reads that one transaction withdraws or resumes."""
_ENDED = ("done", "stopped", "failed")
_NOT_RUNNING = ("waiting", "stopped", "failed")
_NOT_NEEDED = and_(in_state(State.READY, reads_table), reads_table.c.priority == 1)
_WITHDRAWN = and_(in_state(State.HELD, reads_table), reads_table.c.problem == Problem.PAUSED.value)


class SqlBackfills:
    """connector.ports.Backfills."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listed = Pieces(database, bulk_observations.MOST_OBSERVED)
        self._keys = Pieces(database, _MOST_KEYS)
        self._changed = Pieces(database, _MOST_CHANGED)

    async def begin(
        self, connection: str, source: str, args: Mapping[str, Any], *, now: Millis
    ) -> Backfill:
        values = {
            "connection": connection,
            "source": source,
            "args": orjson.dumps(args).decode(),
            "state": "waiting",
            "started_at": now,
        }

        def work(c: Connection) -> Backfill:
            id = c.execute(insert(table).values(values).returning(table.c.id)).scalar_one()
            return _load(c, id)

        return await self._database.write(work)

    async def find(
        self, connection: str | None = None, *, before: int | None = None, limit: int = 20
    ) -> Sequence[Backfill]:
        query = select(table).order_by(table.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(table.c.id < before)
        if connection is not None:
            query = query.where(table.c.connection == connection)
        return await self._database.read(
            lambda c: [_backfill(row) for row in c.execute(query).mappings()]
        )

    async def get(self, id: int) -> Backfill | None:
        def work(c: Connection) -> Backfill | None:
            row = c.execute(select(table).where(table.c.id == id)).mappings().one_or_none()
            return _backfill(row) if row else None

        return await self._database.read(work)

    async def start(self, id: int, *, now: Millis, total: int | None, notes: Sequence[str]) -> None:
        def work(c: Connection) -> None:
            run = _load(c, id)
            if run.state == "waiting":
                values = {"state": "running", "total": total, "notes": _notes_json(run, notes)}
                c.execute(update(table).where(table.c.id == id).values(values))

        # The run last: one that is cut off still waits, and is started again.
        run = await self.get(id)
        if run is not None and run.state == "waiting":
            ready = {"state": State.READY, "problem": None, "due": now}
            await self._change_reads(id, _WITHDRAWN, ready)
            await self._database.write(work)

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
        def work(c: Connection) -> None:
            run = _load(c, id)
            ended = state in _ENDED
            c.execute(
                update(table)
                .where(table.c.id == id)
                .values(
                    state=state,
                    ended_at=now if ended else None,
                    problem=problem.value if problem else None,
                    detail=detail,
                    counts=orjson.dumps({**run.counts, **(counts or {})}).decode(),
                )
            )

        # The run first: nothing more is added to it. What is not in flight and no live event needs
        # is held; what a process leaves that dies meanwhile is read like what was in flight.
        await self._database.write(work)
        if state in _NOT_RUNNING:
            held = {"state": State.HELD, "problem": Problem.PAUSED.value}
            await self._change_reads(id, _NOT_NEEDED, held)

    async def _change_reads(
        self, id: int, which: ColumnElement[bool], values: Mapping[str, Any]
    ) -> None:
        these = and_(reads_table.c.backfill == id, which)

        @on_request
        def look(c: Connection, after: int, rows: int) -> list[int]:
            people = select(reads_table.c.person).where(these, reads_table.c.person > after)
            return list(c.execute(people.order_by(reads_table.c.person).limit(rows)).scalars())

        def part(c: Connection, people: Sequence[int]) -> int:
            found = and_(these, reads_table.c.person.in_(people))
            return c.execute(update(reads_table).where(found).values(values)).rowcount

        await self._changed.each_found(look, part)

    async def append_page(
        self, id: int, read_lane: Lane, page: BackfillPage, *, now: Millis
    ) -> int | None:
        added = 0
        pieces = self._listed if page.listed else self._keys
        people: Sequence[Any] = page.listed or page.keys
        for these, is_last in pieces.parts(people):
            part = replace(page, listed=these) if page.listed else replace(page, keys=these)

            def work(
                c: Connection, part: BackfillPage = part, is_last: bool = is_last
            ) -> int | None:
                run = _load(c, id)
                if run.state != "running":
                    return None
                new = self._store_people(c, run, read_lane, part, now)
                counts = Counter(run.counts)
                counts["people"] += new
                values = _progress(run, page, counts) if is_last else {}
                values["counts"] = orjson.dumps(counts).decode()
                c.execute(update(table).where(table.c.id == id).values(values))
                return new

            new = await pieces.write(work, rows=len(these))
            if new is None:
                return None
            added += new
        return added

    def _store_people(
        self, c: Connection, run: Backfill, lane: Lane, page: BackfillPage, now: Millis
    ) -> int:
        """Observe or request the people of a page; returns how many are new to the run."""
        force = bool(run.args.get("force"))
        if page.listed:
            found = bulk_observations.observe_listed(c, lane, page.listed, now=now)
            new = _new_to_run(c, run.id, found)
            if force:
                profile_observations.resend(c, new, now)
            for part in chunks(new):
                added = reads_table.c.person.in_(part)
                c.execute(update(reads_table).where(added).values(backfill=run.id))
            return len(new)
        new = _new_to_run(c, run.id, _resolve_keys(c, run.connection, page, now))
        if force:
            profile_observations.invalidate_confirmed(c, new, now)
        read_requests.add(c, lane.id, dict.fromkeys(new, now), priority=1, backfill=run.id)
        return len(new)

    async def first_live_event_at(self, events: Lane) -> Millis | None:
        query = select(func.min(outbox_table.c.occurred_at)).where(
            outbox_table.c.lane == events.id, outbox_table.c.via != "backfill"
        )

        # Once in a backfill.
        return await self._database.read(on_request(lambda c: c.execute(query).scalar_one()))


def _progress(run: Backfill, page: BackfillPage, counts: Counter[str]) -> dict[str, Any]:
    """The columns of a run whose page is stored whole; adds to `counts`."""
    counts.update(page.counts)
    return {
        "cursor": page.cursor,
        "exhausted": int(not page.more),
        "total": run.total if page.total is None else page.total,
        "notes": _notes_json(run, page.notes),
    }


def _resolve_keys(c: Connection, connection: str, page: BackfillPage, now: Millis) -> list[int]:
    """The numbers of the people that a page names; unknown ones are created."""
    if not page.keys:
        return []
    resolver = PersonResolver(c, connection, page.keys, PersonCache())
    found = resolver.resolve(page.keys, now)
    release_held(c, found.new_addresses, now)
    return [person.id for person in found.people if person is not None]


def _new_to_run(c: Connection, id: int, people: Sequence[int]) -> list[int]:
    """Those who do not belong to this run yet, without duplicates."""
    present: set[int] = set()
    for part in chunks(people):
        query = select(reads_table.c.person).where(
            reads_table.c.person.in_(part), reads_table.c.backfill == id
        )
        present.update(c.execute(query).scalars())
    return [person for person in dict.fromkeys(people) if person not in present]


def _notes_json(run: Backfill, more: Sequence[str]) -> str:
    return orjson.dumps([*run.notes, *more][:_MAX_NOTES]).decode()


def _load(c: Connection, id: int) -> Backfill:
    """The run, locked until the end of the transaction."""
    query = select(table).where(table.c.id == id).with_for_update()
    return _backfill(c.execute(query).mappings().one())


def _backfill(row: RowMapping) -> Backfill:
    return Backfill(
        id=row["id"],
        connection=row["connection"],
        source=row["source"],
        args=orjson.loads(row["args"]),
        state=cast(BackfillState, row["state"]),
        started_at=row["started_at"],
        cursor=row["cursor"],
        exhausted=bool(row["exhausted"]),
        total=row["total"],
        counts=orjson.loads(row["counts"]),
        notes=orjson.loads(row["notes"]),
        ended_at=row["ended_at"],
        problem=row["problem"],
        detail=row["detail"],
    )
