"""People to read again, in SQL: asked for with the event, observed with the answer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    Connection,
    Insert,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis
from connector.domain.outcomes import (
    Ambiguous,
    Dead,
    Gone,
    Held,
    Observed,
    Outcome,
    Retry,
    Skipped,
)
from connector.domain.records import Checkpoint, Claim, Entry, State
from connector.ports import FreshView, ListedPerson, RetryPolicy
from connector.store.admin import facts
from connector.store.database import Database
from connector.store.people import bulk_observations
from connector.store.queues import profile_observations, queue
from connector.store.tables import in_state, outbox, people, reads, reads_queue
from connector.store.tables import profiles as profiles_table

MIN_READ_INTERVAL = 2_000
"""ms between two reads of one person where no event waits for the second."""


class SqlReads(queue.SqlQueue):
    """connector.ports.Reads."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, reads_queue)

    def _claim_entries(self, c: Connection, spec: queue.ClaimSpec) -> list[Entry]:
        sent = {"sent_at": spec.now}
        rows = queue.claim(c, reads_queue, spec, values=sent, returning=_ROW)
        who = _identifiers(c, [row.person for row in rows])
        return [_entry(row, who[row.person], spec.now) for row in rows]

    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> int:
        rows = _claimed_rows(c, [outcome.seq for outcome in outcomes], claim.token)
        known = [outcome for outcome in outcomes if outcome.seq in rows]
        for outcome in known:
            values = _after_outcome(rows[outcome.seq], outcome, now, policy.horizon)
            c.execute(update(reads).where(reads.c.person == outcome.seq).values(values))
        seen = [o.observation for o in known if isinstance(o, Observed)]
        gone = {o.seq: o.on_leave for o in known if isinstance(o, Gone)}
        if seen:
            profile_observations.observe(c, seen, now=now)
        if gone:
            old = frozenset(person for person in gone if rows[person].priority)
            profile_observations.mark_gone(c, gone, at=now, now=now, backfill=old)
        _release_events(c, [o.person for o in seen] + list(gone), now)
        return len(known)

    def _recover(self, c: Connection, now: Millis) -> int:
        return queue.recover(c, reads_queue, now)

    async def request(
        self,
        lane: LaneId,
        people: Mapping[int, Millis],
        *,
        min_interval: int = 0,
        backfill: bool = False,
        urgent: bool = False,
    ) -> None:
        def work(c: Connection) -> None:
            ask(c, lane, people, min_interval, int(backfill))
            if urgent:
                mine = reads.c.person.in_(list(people)), in_state(State.READY, reads)
                c.execute(update(reads).where(*mine).values(due=0))

        await self._database.write(work)

    async def bulk_observe(
        self,
        lane: Lane,
        listed: Sequence[ListedPerson],
        *,
        now: Millis,
        checkpoint: Checkpoint | None = None,
    ) -> Sequence[int]:
        def work(c: Connection) -> list[int]:
            if checkpoint:
                facts.save_checkpoint(c, lane.connection, checkpoint, now)
            return bulk_observations.observe_listed(c, lane, listed, now=now)

        return await self._database.write(work)

    async def fresh_views(self, people: Sequence[int]) -> Mapping[int, FreshView]:
        """The newest views, and whether a write of the person's profile is in flight, be it
        another's who had the address before, or the person's join of a list."""

        other = profiles_table.alias("other")
        writing = or_(
            profiles_table.c.state == State.CLAIMED,
            exists(
                select(literal(1)).where(
                    other.c.address == profiles_table.c.address, other.c.state == State.CLAIMED
                )
            ),
            queue.is_joining_list(profiles_table.c.address),
        )

        def work(c: Connection) -> dict[int, FreshView]:
            found: dict[int, FreshView] = {}
            for part in queue.chunks(people):
                query = (
                    select(reads.c.person, reads.c.view, reads.c.view_at, writing)
                    .join(profiles_table, profiles_table.c.person == reads.c.person, isouter=True)
                    .where(reads.c.person.in_(part), reads.c.view.is_not(None))
                )
                for person, view, at, busy in c.execute(query):
                    found[person] = FreshView(orjson.loads(view), at, bool(busy))
            return found

        return await self._database.read(work)


_ROW = (
    reads.c.person,
    reads.c.requested_at,
    reads.c.sent_at,
    reads.c.attempts,
    reads.c.failing_since,
    reads.c.view,
    reads.c.view_at,
    reads.c.refetch,
    reads.c.priority,
)


def ask(
    c: Connection,
    lane: LaneId,
    who: Mapping[int, Millis],
    gap: int,
    priority: int,
    renew: frozenset[int] = frozenset(),
    backfill: int | None = None,
) -> None:
    """Ask for these people to be read: person → when what asks for it was received. `backfill` is
    the number of the one that asks."""
    if who:
        c.execute(
            _upsert_statement(c.dialect.name, gap),
            [
                {
                    "person": person,
                    "lane": lane,
                    "state": State.READY,
                    "due": at,
                    "requested_at": at,
                    "priority": priority,
                    "refetch": int(person in renew),
                    "backfill": backfill,
                }
                for person, at in who.items()
            ],
        )


@functools.cache
def _upsert_statement(dialect: str, gap: int) -> Insert:
    """One that waits already keeps its turn; one that is being read is read once more after.

    Made once: it is longer to make than to run, and every webhook's commit runs it.
    """
    sql_dialect = postgresql if dialect == "postgresql" else sqlite
    statement: Any = sql_dialect.insert(reads)
    new = statement.excluded
    being_read = reads.c.state == State.CLAIMED
    waits = (reads.c.state == State.READY) | being_read
    earliest = reads.c.sent_at + gap
    # Received before the read was sent, and stored after: it may have brought another address.
    missed = (
        being_read
        & (new.requested_at <= reads.c.sent_at)
        & (reads.c.requested_at <= reads.c.sent_at)
    )
    upsert: Insert = statement.on_conflict_do_update(
        index_elements=["person"],
        set_={
            "lane": new.lane,
            "refetch": case((new.refetch > reads.c.refetch, new.refetch), else_=reads.c.refetch),
            "backfill": func.coalesce(new.backfill, reads.c.backfill),
            "requested_at": case(
                (missed, reads.c.sent_at + 1),
                (reads.c.requested_at > new.requested_at, reads.c.requested_at),
                else_=new.requested_at,
            ),
            "state": case((being_read, int(State.CLAIMED)), else_=int(State.READY)),
            "due": case(
                (reads.c.state == State.READY, reads.c.due),
                (earliest > new.due, earliest),
                else_=new.due,
            ),
            "priority": case(
                (waits & (reads.c.priority < new.priority), reads.c.priority),
                else_=new.priority,
            ),
            "attempts": case((waits, reads.c.attempts), else_=0),
            "failing_since": case((waits, reads.c.failing_since), else_=None),
        },
    )
    return upsert


def _after_outcome(row: Any, outcome: Outcome, now: Millis, horizon: int) -> dict[str, Any]:
    match outcome:
        case Observed() | Gone():
            again = row.requested_at > row.sent_at
            values: dict[str, Any] = {
                "state": State.READY if again else State.ACCEPTED,
                "due": row.sent_at + MIN_READ_INTERVAL if again else row.sent_at,
                "attempts": 0,
                "failing_since": None,
                "problem": None,
                "detail": "",
                "gone_at": now if isinstance(outcome, Gone) else None,
            }
            if isinstance(outcome, Observed):
                values |= {
                    "view": orjson.dumps(outcome.observation.view),
                    "view_at": outcome.observation.at,
                    "refetch": row.refetch if again else 0,
                }
        case Retry() | Ambiguous():
            since = row.failing_since or now
            exhausted = now - since >= horizon
            values = {
                "state": State.DEAD if exhausted else State.READY,
                "due": now + round(outcome.after * 1000),
                "failing_since": since,
                "problem": Problem.RETRIES_EXHAUSTED.value if exhausted else outcome.problem.value,
                "detail": outcome.detail,
            }
        case Dead() | Held():
            values = {
                "state": State.DEAD if isinstance(outcome, Dead) else State.HELD,
                "problem": outcome.problem.value,
                "detail": outcome.detail,
            }
        case Skipped():
            values = {"state": State.ACCEPTED}
        case _:
            values = {"state": State.READY, "attempts": row.attempts - 1}
    return values | {"claim": None}


def _release_events(c: Connection, who: Sequence[int], now: Millis) -> None:
    """The events that waited for these people go now."""
    if who:
        c.execute(
            update(outbox)
            .where(
                outbox.c.person == bindparam("who"),
                in_state(State.READY),
                outbox.c.due > now,
                outbox.c.attempts == 0,
            )
            .values(due=now),
            [{"who": person} for person in who],
        )


def _claimed_rows(c: Connection, who: Sequence[int], token: int) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for part in queue.chunks(who):
        query = select(*_ROW).where(
            reads.c.person.in_(part), in_state(State.CLAIMED, reads), reads.c.claim == token
        )
        # What is read here is written back: no event may ask for another read in between.
        locked = query.order_by(reads.c.person).with_for_update()
        found.update((row.person, row) for row in c.execute(locked))
    return found


def _identifiers(c: Connection, who: Sequence[int]) -> dict[int, tuple[str | None, str | None]]:
    found: dict[int, tuple[str | None, str | None]] = {}
    for part in queue.chunks(who):
        query = select(people.c.id, people.c.platform_id, people.c.email)
        found.update(
            (id, (platform_id, email))
            for id, platform_id, email in c.execute(query.where(people.c.id.in_(part)))
        )
    return found


def _entry(row: Any, who: tuple[str | None, str | None], now: Millis) -> Entry:
    platform_id, email = who
    return Entry(
        seq=row.person,
        unique_id=platform_id or "",
        name="refetch" if row.refetch else "read",
        occurred_at=now,
        received_at=row.requested_at,
        email=email,
        person=row.person,
        data=row.view or b"",
        attempts=row.attempts,
        mode=DeliveryMode.BATCH,
        mapping=None,
        backfill=bool(row.priority),
        failing_since=row.failing_since,
    )
