"""The queue of actions. connector.store.queues.action_state has the states of an action."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from sqlalchemy import Connection, delete, exists, literal_column, select, update

from connector.domain.actions import Step
from connector.domain.lanes import DeliveryMode, LaneId, Millis
from connector.domain.outcomes import Outcome, Unsent
from connector.domain.records import Claim, Entry, State
from connector.ports import ReadyCounts, RetryPolicy
from connector.store.database import Database
from connector.store.people import people
from connector.store.queues import queue
from connector.store.queues.action_state import COLUMNS, ActionRow, after_outcome, late_answer
from connector.store.tables import actions, actions_queue, in_state


class SqlActionQueue(queue.SqlQueue):
    """connector.ports.ActionQueue."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, actions_queue)

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        return await self._database.read(
            lambda c: queue.ready(c, actions_queue, lane, now, limit, batch_only=(_NO_EARLIER,))
        )

    def _claim_entries(self, c: Connection, spec: queue.ClaimSpec) -> list[Entry]:
        looks_up = spec.mode is DeliveryMode.SINGLE
        found = queue.claim(
            c,
            actions_queue,
            spec,
            values={} if looks_up else {"sent_at": spec.now, "lookups": 0},
            returning=COLUMNS,
            conditions=() if looks_up else (_NO_EARLIER,),
        )
        rows = [ActionRow._make(row) for row in found]
        known = people.rows_by_id(c, {row.person for row in rows if row.person is not None})
        return [_entry(row, known.get(row.person) if row.person else None) for row in rows]

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

    def _give_back(self, c: Connection, claim: Claim, now: Millis) -> int:
        mine = in_state(State.CLAIMED, actions), actions.c.claim == claim.token
        query = select(actions.c.seq).where(*mine).order_by(actions.c.seq)
        held = list(c.execute(query.with_for_update()).scalars())
        return self._settle(c, claim, [Unsent(seq) for seq in held], now, RetryPolicy(0))

    async def platform_id(self, connection: str, email: str) -> str | None:
        def work(c: Connection) -> str | None:
            found = people.lookup(c, connection, set(), {email})[1].get(email)
            return found.platform_id if found else None

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


_earlier = actions.alias("earlier")
_NO_EARLIER = ~exists(
    select(1).where(
        _earlier.c.person_key == actions.c.person_key,
        literal_column("earlier.state IN (0, 1) AND earlier.step = 0"),
        _earlier.c.seq < actions.c.seq,
    )
)
"""No earlier action of the same person waits to be sent or is being sent. The literal is the
condition of the index actions_unsent."""


def _entry(row: ActionRow, person: people.PersonRow | None) -> Entry:
    email = row.email or (person.email if person else None)
    action = {
        "name": row.name,
        "ref": row.ref,
        "email": email,
        "person": person.platform_id if person else None,
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


def _locked(c: Connection, seqs: Sequence[int]) -> dict[int, ActionRow]:
    query = select(*COLUMNS).where(actions.c.seq.in_(seqs))
    found = c.execute(query.order_by(actions.c.seq).with_for_update())
    return {row.seq: ActionRow._make(row) for row in found}
