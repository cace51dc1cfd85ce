"""Backfills in SQL: a page's people and the cursor behind it in one transaction, and what became
of them, told from where their reads and profiles stand (promise 9)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson
from sqlalchemy import Connection, and_, case, func, insert, select, update

from connector.domain import profile_state
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis
from connector.domain.profile_state import Profile
from connector.domain.profiles import Observation, ProfileWrite
from connector.domain.records import Entry, State
from connector.ports import Backfill, BackfillPage, BackfillState, PersonKey
from connector.store.database import Database
from connector.store.people import bulk_observations, people
from connector.store.queues import outbox, profiles, queue, reads
from connector.store.tables import QueueTable, in_state, profiles_queue, reads_queue
from connector.store.tables import backfills as table
from connector.store.tables import outbox as outbox_table
from connector.store.tables import people as people_table
from connector.store.tables import profiles as profiles_table
from connector.store.tables import reads as reads_table

_MAX_NOTES = 50
_ENDED_EARLY = ("stopped", "failed")


class SqlBackfills:
    """connector.ports.Backfills."""

    def __init__(self, database: Database, states: profiles.SqlProfiles) -> None:
        self._database = database
        self._states = states

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
            return _backfill(c.execute(select(table).where(table.c.id == id)).one())

        return await self._database.write(work)

    async def find(self, connection: str | None = None, *, limit: int = 20) -> Sequence[Backfill]:
        query = select(table).order_by(table.c.id.desc()).limit(limit)
        if connection is not None:
            query = query.where(table.c.connection == connection)
        return await self._database.read(lambda c: [_backfill(row) for row in c.execute(query)])

    async def get(self, id: int) -> Backfill | None:
        def work(c: Connection) -> Backfill | None:
            row = c.execute(select(table).where(table.c.id == id)).one_or_none()
            return _backfill(row) if row else None

        return await self._database.read(work)

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
            row = c.execute(select(table).where(table.c.id == id).with_for_update()).one()
            ended = state in ("done", *_ENDED_EARLY)
            c.execute(
                update(table)
                .where(table.c.id == id)
                .values(
                    state=state,
                    ended_at=now if ended else None,
                    problem=problem.value if problem else None,
                    detail=detail,
                    counts=orjson.dumps({**orjson.loads(row.counts), **(counts or {})}).decode(),
                )
            )
            if state in _ENDED_EARLY:
                _withdraw_reads(c, id)

        await self._database.write(work)

    async def start(self, id: int, *, now: Millis, total: int | None, notes: Sequence[str]) -> None:
        def work(c: Connection) -> None:
            row = c.execute(select(table).where(table.c.id == id).with_for_update()).one()
            if row.state != "waiting":
                return
            merged_notes = orjson.dumps([*orjson.loads(row.notes), *notes][:_MAX_NOTES]).decode()
            values = {"state": "running", "total": total, "notes": merged_notes}
            c.execute(update(table).where(table.c.id == id).values(values))
            _resume_reads(c, id, now)

        await self._database.write(work)

    async def append_page(
        self, id: int, read_lane: Lane, page: BackfillPage, *, now: Millis
    ) -> int | None:
        def work(c: Connection) -> int | None:
            row = c.execute(select(table).where(table.c.id == id).with_for_update()).one()
            if row.state != "running":
                return None
            new = self._request_reads(c, _backfill(row), read_lane, page, now)
            counts = Counter(orjson.loads(row.counts))
            counts.update(page.counts)
            counts["people"] += new
            notes = [*orjson.loads(row.notes), *page.notes][:_MAX_NOTES]
            c.execute(
                update(table)
                .where(table.c.id == id)
                .values(
                    cursor=page.cursor,
                    exhausted=int(not page.more),
                    total=row.total if page.total is None else page.total,
                    counts=orjson.dumps(counts).decode(),
                    notes=orjson.dumps(notes).decode(),
                )
            )
            return new

        return await self._database.write(work)

    def _request_reads(
        self, c: Connection, run: Backfill, lane: Lane, page: BackfillPage, now: Millis
    ) -> int:
        """How many people were new to the run. One whom a source names twice is read once."""
        reconfirm, force = self._states.reconfirm_after, bool(run.args.get("force"))
        if page.listed:
            found = bulk_observations.take_in(
                c, lane, page.listed, now=now, reconfirm_after=reconfirm
            )
            new = _new_to_run(c, run.id, found)
            if force:
                profiles.resend(c, new, now, reconfirm_after=reconfirm)
            for part in queue.chunks(new):
                mine = reads_table.c.person.in_(part)
                c.execute(update(reads_table).where(mine).values(backfill=run.id))
            return len(new)
        new = _new_to_run(c, run.id, _person_ids(c, run.connection, page, now))
        if force:
            profiles.invalidate_confirmed(c, new, now)
        reads.ask(c, lane.id, dict.fromkeys(new, now), 0, 1, backfill=run.id)
        return len(new)

    async def people_after(
        self, connection: str, after: int, limit: int
    ) -> Sequence[tuple[int, PersonKey]]:
        query = (
            select(people_table.c.id, people_table.c.platform_id, people_table.c.email)
            .where(people_table.c.connection == connection, people_table.c.id > after)
            .order_by(people_table.c.id)
            .limit(limit)
        )
        return await self._database.read(
            lambda c: [(id, PersonKey(person, email)) for id, person, email in c.execute(query)]
        )

    async def count_people(self, connection: str) -> int:
        query = select(func.count()).where(people_table.c.connection == connection)
        return await self._database.read(lambda c: c.execute(query).scalar_one())

    async def outstanding(
        self, read_lane: LaneId, write_lane: LaneId, *, limit: int
    ) -> tuple[int, int]:
        def work(c: Connection) -> tuple[int, int]:
            return (
                _count_waiting(c, reads_queue, read_lane, limit),
                _count_waiting(c, profiles_queue, write_lane, limit),
            )

        return await self._database.read(work)

    async def outcome_counts(self, id: int) -> Mapping[str, int]:
        def work(c: Connection) -> dict[str, int]:
            began = select(table.c.started_at).where(table.c.id == id)
            end = _outcome_case(c.execute(began).scalar_one())
            query = (
                select(end, func.count().label("people"))
                .select_from(reads_table)
                .join(people_table, people_table.c.id == reads_table.c.person)
                .join(profiles_table, profiles_table.c.person == reads_table.c.person, isouter=True)
                .where(reads_table.c.backfill == id)
                .group_by(end)
            )
            return {row.outcome: row.people for row in c.execute(query)}

        return await self._database.read(work)

    async def read_entries(
        self, connection: str, keys: Sequence[PersonKey], *, now: Millis
    ) -> Sequence[Entry]:
        def work(c: Connection) -> list[Entry]:
            known = people.find(c, connection, keys)
            ids = [who.id for who in known if who]
            views: dict[int, bytes] = {}
            for part in queue.chunks(ids):
                query = select(reads_table.c.person, reads_table.c.view).where(
                    reads_table.c.person.in_(part), reads_table.c.view.is_not(None)
                )
                views.update((row.person, row.view) for row in c.execute(query))
            return [
                _dry_run_entry(number, name, who, views, now)
                for number, (name, who) in enumerate(zip(keys, known, strict=True), 1)
            ]

        return await self._database.read(work)

    async def first_live_event_at(self, events: Lane) -> Millis | None:
        query = select(func.min(outbox_table.c.occurred_at)).where(
            outbox_table.c.lane == events.id, outbox_table.c.via != "backfill"
        )
        return await self._database.read(lambda c: c.execute(query).scalar_one())

    async def preview_writes(
        self, observations: Sequence[Observation], *, now: Millis
    ) -> Sequence[ProfileWrite | None]:
        def work(c: Connection) -> list[ProfileWrite | None]:
            rows = profiles.load_profiles(c, [o.person for o in observations])
            found = []
            for o in observations:
                before = rows.get(o.person) or Profile(o.person)
                after = profile_state.observe(before, o, email_change=o.email_change)
                found.append(
                    profile_state.next_write(
                        after, now=now, reconfirm_after=self._states.reconfirm_after
                    )
                )
            return found

        return await self._database.read(work)


def _person_ids(c: Connection, connection: str, page: BackfillPage, now: Millis) -> list[int]:
    """The people that a page names, made where nobody has seen them."""
    if not page.keys:
        return []
    resolver = people.PersonResolver(c, connection, page.keys, people.PersonCache())
    found = resolver.resolve(page.keys, now)
    outbox.release(c, [], found.new_addresses, now)
    return [known.id for known in found.people if known is not None]


def _dry_run_entry(
    number: int,
    name: PersonKey,
    who: people.PersonRow | None,
    views: Mapping[int, bytes],
    now: Millis,
) -> Entry:
    return Entry(
        seq=who.id if who else -number,
        unique_id=(who.platform_id if who else None) or name.person or "",
        name="read",
        occurred_at=now,
        received_at=now,
        email=name.email or (who.email if who else None),
        person=who.id if who else None,
        data=views.get(who.id, b"") if who else b"",
        attempts=1,
        mode=DeliveryMode.BATCH,
        mapping=None,
        backfill=True,
    )


def _new_to_run(c: Connection, id: int, ids: Sequence[int]) -> list[int]:
    """Those whom this run has not asked for yet, each once."""
    mine: set[int] = set()
    for part in queue.chunks(ids):
        query = select(reads_table.c.person).where(
            reads_table.c.person.in_(part), reads_table.c.backfill == id
        )
        mine.update(c.execute(query).scalars())
    return [number for number in dict.fromkeys(ids) if number not in mine]


def _withdraw_reads(c: Connection, id: int) -> None:
    """Reads that nobody has begun, and that nothing live wants, wait until the run goes on."""
    c.execute(
        update(reads_table)
        .where(
            reads_table.c.backfill == id,
            in_state(State.READY, reads_table),
            reads_table.c.priority == 1,
        )
        .values(state=State.HELD, problem=Problem.PAUSED.value)
    )


def _resume_reads(c: Connection, id: int, now: Millis) -> None:
    c.execute(
        update(reads_table)
        .where(
            reads_table.c.backfill == id,
            in_state(State.HELD, reads_table),
            reads_table.c.problem == Problem.PAUSED.value,
        )
        .values(state=State.READY, problem=None, due=now)
    )


def _count_waiting(c: Connection, source: QueueTable, lane: LaneId, limit: int) -> int:
    """Ready or claimed at a backfill's priority, counted up to `limit`."""
    table = source.table
    parts = [(State.READY, queue.in_mode(source, mode)) for mode in queue.modes_of(source)]
    found = 0
    for state, mode in (*parts, (State.CLAIMED, [])):
        part = select(source.key).where(
            table.c.lane == lane, in_state(state, table), *mode, table.c.priority == 1
        )
        query = select(func.count()).select_from(part.limit(limit).subquery())
        found += c.execute(query).scalar_one()
    return min(found, limit)


def _outcome_case(began: Millis) -> Any:
    """One word for where a person stands. What Klaviyo took since the run began counts as sent,
    whoever had it told."""
    r, p = reads_table.c, profiles_table.c
    withdrawn = and_(r.state == State.HELD, r.problem == Problem.PAUSED.value)
    return case(
        (r.state.in_((State.READY, State.CLAIMED)) | withdrawn, "pending"),
        (r.state == State.DEAD, "dead"),
        (r.state == State.HELD, "held"),
        (r.gone_at.is_not(None) & people_table.c.email.is_(None), "held"),
        (r.gone_at.is_not(None), "unknown"),
        (p.state.in_((State.READY, State.CLAIMED)), "pending"),
        (p.state == State.DEAD, "dead"),
        (and_(p.state == State.HELD, p.problem == Problem.BAD_ADDRESS.value), "invalid"),
        (p.state == State.HELD, "held"),
        (and_(p.settled_at >= began, p.request.is_not(None)), "sent"),
        else_="unchanged",
    ).label("outcome")


def _backfill(row: Any) -> Backfill:
    return Backfill(
        id=row.id,
        connection=row.connection,
        source=row.source,
        args=orjson.loads(row.args),
        state=cast(BackfillState, row.state),
        started_at=row.started_at,
        cursor=row.cursor,
        exhausted=bool(row.exhausted),
        total=row.total,
        counts=orjson.loads(row.counts),
        notes=orjson.loads(row.notes),
        ended_at=row.ended_at,
        problem=row.problem,
        detail=row.detail,
    )
