"""Fields that are removed from many people, in SQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, delete, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis
from connector.domain.profiles import ProfileWrite, WriteMode
from connector.domain.records import State
from connector.domain.unsets import UnsetCount
from connector.store import counters
from connector.store.database import Database
from connector.store.pieces import Pieces
from connector.store.prepared import Prepared, param
from connector.store.statements import upsert
from connector.store.tables import in_state, profiles, unset_fields

_U = unset_fields.c
_ALL = ""
"""The row whose `writes` counts all writes of the lane. Those of a field are counted from there."""
_MOST_RELEASED = 1_000
"""People that one transaction of `release` makes ready."""
_SEPARATOR = ", "


class SqlUnsetFields:
    """connector.ports.UnsetFields."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._released = Pieces(database, _MOST_RELEASED)

    async def note(
        self,
        lane: LaneId,
        unsets: Mapping[str, int],
        *,
        writes: int,
        earlier_writes: int,
        now: Millis,
    ) -> Sequence[str]:
        def work(c: Connection) -> list[str]:
            rows = _lock(c, lane, [_ALL, *unsets])
            before = rows.get(_ALL, UnsetCount(_ALL, now)).writes + earlier_writes
            total = before + writes
            _save(c, lane, UnsetCount(_ALL, now, writes=total))
            held = []
            for field, people in unsets.items():
                # `writes` of a stored row is the total at the beginning of its period.
                stored = rows.get(field, UnsetCount(field, now, writes=before))
                count = replace(stored, writes=before - stored.writes)
                after = count.add(people, writes, now)
                _save(c, lane, replace(after, writes=total - after.writes))
                if after.held and not stored.held:
                    held.append(field)
            return held

        return await self._database.write(work)

    async def held(self, lane: LaneId) -> Mapping[str, int]:
        def work(c: Connection) -> dict[str, int]:
            waiting: Counter[str] = Counter()
            for (_, detail), people in counters.load(c, "unsets", lane).items():
                waiting.update(dict.fromkeys(detail.split(_SEPARATOR), people))
            return {field: waiting[field] for field in held_fields(c, lane)}

        return await self._database.read(work)

    async def release(self, lane: LaneId, field: str, *, allowed: int, now: Millis) -> int:
        def lift(c: Connection) -> None:
            total = _lock(c, lane, [_ALL]).get(_ALL, UnsetCount(_ALL, now)).writes
            _save(c, lane, UnsetCount(field, now, writes=total, allowed=allowed))

        def part(c: Connection, after: int, rows: int) -> tuple[int, int | None]:
            page = select(profiles.c.person).where(_waiting(lane)).order_by(profiles.c.person)
            found = list(c.execute(page.limit(rows)).scalars())
            ready: dict[str, Any] = {
                "state": State.READY,
                "write_mode": WriteMode.SINGLE,
                "due": now,
                "problem": None,
                "detail": "",
                "settled_at": None,
            }
            c.execute(
                update(profiles).where(profiles.c.person.in_(found), _waiting(lane)).values(ready)
            )
            return len(found), after if len(found) == rows else None

        await self._database.write(lift)
        return await self._released.each(part, 0)


def held_fields(c: Connection, lane: LaneId) -> frozenset[str]:
    """The fields whose removal waits for approval."""
    return frozenset(field for (field,) in _HELD_FIELDS.rows(c, lane=lane))


_HELD_FIELDS = Prepared(select(_U.field).where(_U.lane == param("lane"), _U.held == 1))


def forget(c: Connection, lane: LaneId) -> None:
    """The lane has another account from now on: nothing has been removed there."""
    c.execute(delete(unset_fields).where(_U.lane == lane))


def without(write: ProfileWrite, fields: frozenset[str]) -> ProfileWrite:
    """The write without removing these fields. What concerns a former address stays whole."""
    if not fields.intersection(write.unsets) or write.is_cleanup or write.pending_move:
        return write
    return replace(write, unsets=tuple(name for name in write.unsets if name not in fields))


def hold(person: int, write: ProfileWrite, fields: frozenset[str], now: Millis) -> dict[str, Any]:
    """The columns of a person with nothing to write but the removal of such fields."""
    return {
        "person": person,
        "state": State.HELD,
        "problem": Problem.MASS_UNSET.value,
        "detail": _SEPARATOR.join(sorted(fields.intersection(write.unsets))),
        "settled_at": now,
    }


def _waiting(lane: LaneId) -> Any:
    return and_(
        profiles.c.lane == lane,
        in_state(State.HELD, profiles),
        profiles.c.problem == Problem.MASS_UNSET.value,
    )


def _lock(c: Connection, lane: LaneId, fields: Sequence[str]) -> dict[str, UnsetCount]:
    columns = (_U.field, _U.since, _U.people, _U.writes, _U.allowed, _U.held)
    query = select(*columns).where(_U.lane == lane, _U.field.in_(fields)).order_by(_U.field)
    rows = c.execute(query.with_for_update())
    return {row[0]: UnsetCount(*row[:5], held=bool(row[5])) for row in rows}


def _save(c: Connection, lane: LaneId, count: UnsetCount) -> None:
    values = {
        "since": count.since,
        "people": count.people,
        "writes": count.writes,
        "allowed": count.allowed,
        "held": int(count.held),
    }
    c.execute(
        upsert(c.dialect.name, unset_fields)
        .values(lane=lane, field=count.field, **values)
        .on_conflict_do_update(index_elements=["lane", "field"], set_=values)
    )
