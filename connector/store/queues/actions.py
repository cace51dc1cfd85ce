"""The queue of actions. connector.store.queues.action_state has the states of an action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    delete,
    exists,
    literal_column,
    select,
    update,
)

from connector.domain.actions import Step
from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, Lane, LaneId, Millis
from connector.domain.outcomes import Held, Outcome, Unsent
from connector.domain.records import Claim, Entry, State
from connector.ports import IdentifiedAction, PersonKey, ReadyCounts, RetryPolicy, Settled
from connector.store.admin.retention import last_before
from connector.store.database import Database
from connector.store.people import identifiers, tombstones
from connector.store.people.identifiers import PersonRow
from connector.store.people.person_locks import locked
from connector.store.pieces import Pieces
from connector.store.prepared import Prepared, param, prepared_update
from connector.store.queues import queue
from connector.store.queues.action_keys import person_key
from connector.store.queues.action_state import COLUMNS, ActionRow, after_outcome, late_answer
from connector.store.tables import actions, actions_queue, in_state

_MOST_PRUNED = 1_000
"""Actions that one transaction deletes."""


class SqlActionQueue(queue.SqlQueue):
    """connector.ports.ActionQueue."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, actions_queue)
        self._pruned = Pieces(database, _MOST_PRUNED)

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> ReadyCounts:
        return await self._database.read(
            lambda c: queue.ready(c, actions_queue, lane, now, limit, batch_only=(_NO_EARLIER,)),
        )

    def _claim_entries(
        self, c: Connection, spec: queue.ClaimSpec, before: Sequence[Entry]
    ) -> list[Entry]:
        looks_up = spec.mode is DeliveryMode.SINGLE
        found = (_CLAIM_TO_LOOK_UP if looks_up else _CLAIM_TO_SEND).run(c, spec)
        rows = [ActionRow._make(row) for row in found]
        known = _people_of(c, rows)
        return [_entry(row, known.get(row.person or 0)) for row in rows]

    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> Settled:
        rows = _locked(c, [outcome.seq for outcome in outcomes])
        outcomes = _without_outdated_holds(c, claim, outcomes, rows)
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
            prepared_update(actions, "seq", tuple(sorted(values))).run(c, row=row.seq, **values)
            changed += ours
        # The person's next action could not be counted as ready before.
        return Settled(changed, now if outcomes else None)

    def _recover(self, c: Connection, now: Millis, of: ColumnElement[bool]) -> int:
        return queue.recover(c, actions_queue, now, of, step=Step.LOOK_UP)

    def _give_back(self, c: Connection, claim: Claim, now: Millis) -> int:
        mine = in_state(State.CLAIMED, actions), actions.c.claim == claim.token
        query = select(actions.c.seq).where(*mine).order_by(actions.c.seq)
        held = list(c.execute(query.with_for_update()).scalars())
        return self._settle(c, claim, [Unsent(seq) for seq in held], now, RetryPolicy(0)).changed

    def _keeps_its_time(self, now: Millis) -> queue.Condition:
        # A look-up that comes too early finds nothing that is about to be applied.
        return actions.c.step == Step.LOOK_UP

    async def identify(self, lane: Lane, id: int, email: str) -> IdentifiedAction | None:
        return await self._database.write(lambda c: _identify(c, lane.connection, id, email))

    async def prune(self, *, before: Millis, limit: int) -> int:
        ended = actions.c.state.in_((State.ACCEPTED, State.SKIPPED, State.DEAD, State.DISCARDED))

        most = min(limit, self._pruned.rows)

        def work(c: Connection) -> int:
            newest = last_before(c, actions, before)
            old = select(actions.c.seq).where(actions.c.seq <= newest, ended)
            page = old.where(actions.c.received_at < before).order_by(actions.c.seq).limit(most)
            found = list(c.execute(page).scalars())
            if found:
                c.execute(delete(actions).where(actions.c.seq.in_(found)))
            return len(found)

        return await self._pruned.write(work, rows=int)


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


_CLAIM_TO_SEND = queue.ClaimStatement(
    actions_queue,
    values={"sent_at": param("now"), "sent_with": param("version"), "lookups": 0},
    returning=COLUMNS,
    conditions=(_NO_EARLIER,),
)
_CLAIM_TO_LOOK_UP = queue.ClaimStatement(actions_queue, returning=COLUMNS)


def _identify(c: Connection, connection: str, id: int, email: str) -> IdentifiedAction | None:
    [row] = _locked(c, [id]).values()
    if tombstones.load(c, connection, [PersonKey(None, email)]).digests:
        return None
    owners = locked(
        c,
        lambda: identifiers.lookup(c, connection, (), [email])[1],
        lambda owners: owners.values(),
    )
    if email not in owners:
        identifiers.create_by_address(c, connection, [email], row.received_at)
        owners = identifiers.lookup(c, connection, (), [email])[1]
    person = owners[email]
    if row.customer:
        identifiers.point(c, connection, "profile_id", row.customer, person.id)
    key = person_key(connection, person.id)
    theirs = {"person": person.id, "person_key": key, "email": email}
    c.execute(update(actions).where(actions.c.seq == id).values(theirs))
    earlier = select(actions.c.seq).where(actions.c.person_key == key, _UNSENT, actions.c.seq < id)
    is_first = c.execute(earlier.limit(1)).scalar() is None
    return IdentifiedAction(person.platform_id, is_first)


_UNSENT: ColumnElement[Any] = literal_column("actions.state IN (0, 1) AND actions.step = 0")
"""The condition of the index actions_unsent."""


def _without_outdated_holds(
    c: Connection, claim: Claim, outcomes: Sequence[Outcome], rows: Mapping[int, ActionRow]
) -> list[Outcome]:
    """An action that is held for its person is sent again, where more became known about the person
    while it was sent."""
    waits = [o for o in outcomes if isinstance(o, Held) and o.problem is Problem.ACTION_PERSON]
    if not waits:
        return list(outcomes)
    known = _people_of(c, list(rows.values()))
    sent = {entry.seq: entry.data for entry in claim.entries}
    outdated = {
        o.seq
        for o in waits
        if (row := rows.get(o.seq)) and _data(row, known.get(row.person or 0)) != sent.get(o.seq)
    }
    return [Unsent(o.seq) if o.seq in outdated else o for o in outcomes]


def _people_of(c: Connection, rows: Sequence[ActionRow]) -> dict[int, PersonRow]:
    return identifiers.rows_by_id(c, {row.person for row in rows if row.person is not None})


def _data(row: ActionRow, person: PersonRow | None) -> bytes:
    """The fields of the connector.domain.actions.Action to send."""
    action = {
        "name": row.name,
        "ref": row.ref,
        "email": row.email or (person.email if person else None),
        "person": person.platform_id if person else None,
        "customer": row.customer,
        "amount": row.amount,
    }
    return orjson.dumps(action | orjson.loads(row.data))


def _entry(row: ActionRow, person: PersonRow | None) -> Entry:
    return Entry(
        seq=row.seq,
        unique_id=row.ref,
        name=row.name,
        occurred_at=row.received_at,
        received_at=row.received_at,
        email=row.email or (person.email if person else None),
        person=row.person,
        data=_data(row, person),
        attempts=row.attempts,
        mode=DeliveryMode(row.step),
        mapping=row.sent_with,
        backfill=bool(row.priority),
        failing_since=row.failing_since,
        suppressed=row.suppressed,
    )


_LOCK = Prepared(
    select(*COLUMNS)
    .where(actions.c.seq.in_(param("seqs", expanding=True)))
    .order_by(actions.c.seq)
    .with_for_update(),
    many="seqs",
)


def _locked(c: Connection, seqs: Sequence[int]) -> dict[int, ActionRow]:
    found = map(ActionRow._make, _LOCK.rows(c, seqs=sorted(seqs)))
    return {row.seq: row for row in found}
