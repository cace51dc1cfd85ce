"""Actions in SQL: what flows and segments asked of a platform, applied at most once (promise 4).

    waits ──claim──► sent ──► accepted · refused · certainly not applied: waits again
                      │
              nobody knows (a doubt, a dead holder)
                      ▼
                  looked up ──► applied: accepted
                   ▲    │ └──► cannot be told: a person decides
                   └────┤ absent, and not for the last time
                        └ absent at the last look: sent once more, then as before, but for a person

`step` LOOK_UP marks the lower half. docs/decisions/0013-actions.md says why it is so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    update,
)

from connector.domain.actions import ActionBatch, ActionReceipt, Conflict, Step
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis
from connector.domain.outcomes import Outcome
from connector.domain.records import Claim, Entry, State
from connector.ports import ActionView, Approval, Decision, ReadyCounts, RetryPolicy, Throughput
from connector.store.admin import approvals
from connector.store.database import Database
from connector.store.people import people
from connector.store.queues import queue
from connector.store.queues.action_intake import CAP, CAPS, add, ask, held
from connector.store.queues.action_state import after_outcome, late_answer
from connector.store.queues.action_views import (
    ACTION_VIEWS,
    action_view_of,
    apply_decision,
    discarded,
)
from connector.store.tables import actions, actions_queue, in_state, lanes, requests
from connector.store.tables import people as people_table


class SqlActions(queue.SqlQueue):
    """connector.ports.ActionQueue."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, actions_queue)

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        return await self._database.read(
            lambda c: queue.ready(c, actions_queue, lane, now, limit, batch_only=(_NO_EARLIER,))
        )

    def _claim_entries(self, c: Connection, spec: queue.ClaimSpec) -> list[Entry]:
        sent = {} if spec.mode is DeliveryMode.SINGLE else {"sent_at": spec.now, "lookups": 0}
        conditions = () if spec.mode is DeliveryMode.SINGLE else (_NO_EARLIER,)
        rows = queue.claim(
            c, actions_queue, spec, values=sent, returning=_ROW, conditions=conditions
        )
        return [_entry(row, known) for row, known in zip(rows, _people(c, rows), strict=True)]

    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> int:
        rows = _locked(c, [outcome.seq for outcome in outcomes])
        changed = 0
        for outcome in outcomes:
            row = rows.get(outcome.seq)
            if row is None:
                continue
            ours = row.state == State.CLAIMED and row.claim == claim.token
            values = (
                after_outcome(row, outcome, now, policy.horizon, policy.look_ups)
                if ours
                else late_answer(outcome, now)
            )
            c.execute(update(actions).where(actions.c.seq == row.seq).values(values))
            changed += ours
        return changed

    def _recover(self, c: Connection, now: Millis) -> int:
        return queue.recover(c, actions_queue, now, step=Step.LOOK_UP)

    async def add(self, batches: Sequence[ActionBatch]) -> Sequence[ActionReceipt | Conflict]:
        return await self._database.write(lambda c: add(c, batches))

    async def find(
        self, *, connection: str | None = None, stuck: bool = False, limit: int = 100
    ) -> Sequence[ActionView]:
        def work(c: Connection) -> list[ActionView]:
            of = [lanes.c.connection == connection] if connection else []
            waits = or_(in_state(State.HELD, actions), _is_ambiguous())
            first = case((in_state(State.HELD, actions), 0), else_=1)
            query = ACTION_VIEWS.where(waits, *of).order_by(first, (actions.c.seq + 0).desc())
            found = list(c.execute(query.limit(limit)))
            if not stuck and len(found) < limit:
                rest = ACTION_VIEWS.where(~waits, *of).order_by(actions.c.seq.desc())
                found += c.execute(rest.limit(limit - len(found)))
            return [action_view_of(row) for row in found]

        return await self._database.read(work)

    async def decide(
        self, id: int, decision: Decision, *, by: str, now: Millis
    ) -> ActionView | str:
        def work(c: Connection) -> ActionView | str:
            locked = select(actions).where(actions.c.seq == id).with_for_update()
            row = c.execute(locked).one_or_none()
            if row is None:
                return f"there is no action {id}"
            values = apply_decision(row, decision, now)
            if isinstance(values, str):
                return f"action {id} {values}"
            values |= {"decided_by": by, "decided_at": now}
            c.execute(update(actions).where(actions.c.seq == id).values(values))
            return action_view_of(c.execute(ACTION_VIEWS.where(actions.c.seq == id)).one())

        return await self._database.write(work)

    async def resolve_cap(self, lane: Lane, approval: Approval, *, now: Millis) -> int:
        approved = approval.state == "approved"
        until = approval.decided_at if approval.decided_at is not None else now
        values = queue.RESET | {"state": State.READY, "due": now} if approved else discarded(now)

        def work(c: Connection) -> int:
            changed = c.execute(
                update(actions)
                .where(
                    held(lane.id, CAPS[approval.subject]),
                    actions.c.received_at <= until,
                )
                .values(values | {"decided_by": approval.decided_by, "decided_at": until})
            ).rowcount
            approvals.close(c, lane.connection, CAP, approval.subject)
            ask(c, lane, {approval.subject}, now)
            return changed

        return await self._database.write(work)

    async def release_identified(self, lane: LaneId, *, now: Millis) -> int:
        seen = people_table
        known = and_(
            seen.c.connection == lanes.c.connection,
            seen.c.seen_at >= actions.c.settled_at,
            seen.c.platform_id.is_not(None),
            or_(seen.c.email == actions.c.email, seen.c.platform_id == actions.c.customer),
        )
        statement = (
            update(actions)
            .where(
                held(lane, Problem.ACTION_PERSON),
                exists(select(1).where(known, lanes.c.id == actions.c.lane)),
            )
            .values(queue.RESET | {"state": State.READY, "due": now})
        )
        return await self._database.write(lambda c: c.execute(statement).rowcount)

    async def platform_id(self, connection: str, email: str) -> str | None:
        def work(c: Connection) -> str | None:
            found = people.lookup(c, connection, set(), {email})[1].get(email)
            return found.platform_id if found else None

        return await self._database.read(work)

    async def uncertain(self) -> Mapping[str, int]:
        parked = and_(
            in_state(State.HELD, actions), actions.c.problem == Problem.ACTION_UNCERTAIN.value
        )

        def work(c: Connection) -> dict[str, int]:
            found: dict[str, int] = {}
            for which in (parked, _is_ambiguous()):
                query = (
                    select(lanes.c.connection, func.count())
                    .join(actions, actions.c.lane == lanes.c.id)
                    .where(which)
                    .group_by(lanes.c.connection)
                )
                for connection, count in c.execute(query):
                    found[connection] = found.get(connection, 0) + count
            return found

        return await self._database.read(work)

    async def throughput(self, lane: LaneId, *, now: Millis) -> Throughput:
        waits = select(func.count()).where(
            actions.c.lane == lane, in_state(State.READY, actions), actions.c.step == Step.SEND
        )
        recent = select(func.count(), func.min(requests.c.sent_at)).where(
            requests.c.lane == lane, requests.c.sent_at > now - 60_000
        )

        def work(c: Connection) -> Throughput:
            sent, first = c.execute(recent).one()
            seconds = max(1.0, (now - first) / 1000) if sent else 1.0
            return Throughput(c.execute(waits).scalar_one(), sent / seconds)

        return await self._database.read(work)

    async def prune(self, *, before: Millis, limit: int) -> int:
        old = (
            select(actions.c.seq)
            .where(
                actions.c.received_at < before,
                actions.c.state.in_((State.ACCEPTED, State.SKIPPED, State.DEAD, State.DISCARDED)),
            )
            .limit(limit)
        )
        statement = delete(actions).where(actions.c.seq.in_(old))
        return await self._database.write(lambda c: c.execute(statement).rowcount)


# ── words of the indexes ─────────────────────────────────────────────────────────────────────────

_earlier = actions.alias("earlier")
_NO_EARLIER = ~exists(
    select(1).where(
        _earlier.c.person_key == actions.c.person_key,
        literal_column("earlier.state IN (0, 1) AND earlier.step = 0"),
        _earlier.c.seq < actions.c.seq,
    )
)
"""No earlier action of the same person waits unsent or is being sent."""


def _is_ambiguous() -> ColumnElement[bool]:
    """Sent, and being looked up or about to be."""
    either = or_(in_state(State.READY, actions), in_state(State.CLAIMED, actions))
    return and_(either, actions.c.step == Step.LOOK_UP)


# ── claim ────────────────────────────────────────────────────────────────────────────────────────

_ROW = (
    actions.c.seq,
    actions.c.lane,
    actions.c.name,
    actions.c.ref,
    actions.c.received_at,
    actions.c.person,
    actions.c.email,
    actions.c.customer,
    actions.c.amount,
    actions.c.data,
    actions.c.attempts,
    actions.c.step,
    actions.c.priority,
    actions.c.failing_since,
)


def _people(c: Connection, rows: Sequence[Any]) -> list[people.PersonRow | None]:
    """Whom each action is for, as he is known now."""
    found = people.rows_by_id(c, {row.person for row in rows if row.person is not None})
    return [found.get(row.person) for row in rows]


def _entry(row: Any, known: people.PersonRow | None) -> Entry:
    email = row.email or (known.email if known else None)
    action = {
        "name": row.name,
        "ref": row.ref,
        "email": email,
        "person": known.platform_id if known else None,
        "customer": row.customer,
        "amount": row.amount,
    }
    return Entry(
        seq=row.seq,
        unique_id=row.ref,
        name=row.name,
        occurred_at=row.received_at,
        received_at=row.received_at,
        email=email,
        person=row.person,
        data=orjson.dumps(action | orjson.loads(row.data)),
        attempts=row.attempts,
        mode=DeliveryMode(row.step),
        mapping=None,
        backfill=bool(row.priority),
        failing_since=row.failing_since,
    )


# ── settle ───────────────────────────────────────────────────────────────────────────────────────


def _locked(c: Connection, seqs: Sequence[int]) -> dict[int, Any]:
    query = select(
        *_ROW,
        actions.c.state,
        actions.c.claim,
        actions.c.sent_at,
        actions.c.lookups,
        actions.c.resent,
    ).where(actions.c.seq.in_(seqs))
    return {row.seq: row for row in c.execute(query.order_by(actions.c.seq).with_for_update())}
