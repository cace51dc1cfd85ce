"""The queue of records (guarantees 1, 2, 3, 10 and 12)."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, select, update

from connector.domain.errors import Problem
from connector.domain.lanes import DeliveryMode, LaneId, Millis
from connector.domain.outcomes import Accepted, Outcome, is_unanswered
from connector.domain.records import Appended, Claim, Entry, Page, State
from connector.ports import Fence, RetryPolicy, Settled
from connector.store.database import Database
from connector.store.people.person_cache import PersonCache
from connector.store.pieces import Pieces
from connector.store.prepared import Prepared, param
from connector.store.queues import queue
from connector.store.queues.outbox_append import append
from connector.store.queues.outbox_rows import COLUMNS, OutboxRow, after_outcome
from connector.store.queues.profile_changes import AMBIGUOUS_WAIT_MS
from connector.store.statements import chunks
from connector.store.tables import in_state, outbox, outbox_queue, profiles

_NOT_LIVE = Problem.NOT_LIVE.value
_MOST_APPENDED = 100
"""Records that one transaction stores."""
_MOST_RELEASED = 1_000
"""Records that one transaction releases."""


class SqlOutbox(queue.SqlQueue):
    """connector.ports.Outbox."""

    most_rows = 1_000
    settles_patiently = True
    repeats_what_was_sent = True

    def __init__(self, database: Database) -> None:
        super().__init__(database, outbox_queue)
        self._appended = Pieces(database, _MOST_APPENDED)
        self._released = Pieces(database, _MOST_RELEASED)
        self._person_cache = PersonCache()

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        results = [Appended(0, 0) for _ in pages]
        parts = _Parts(pages)
        while taken := parts.take(self._appended.rows):
            numbers, part = taken

            def work(c: Connection, part: list[Page] = part) -> Any:
                return append(c, part, self._person_cache)

            stored = sum(len(page.records) for page in part)
            appended, resolved = await self._appended.write(work, rows=stored)
            self._person_cache.remember(resolved)
            for number, result in zip(numbers, appended, strict=True):
                results[number] += result
        return results

    async def recover(
        self,
        fence: Fence,
        *,
        now: Millis,
        claim: Claim | None = None,
        lanes: Collection[LaneId] | None = None,
    ) -> int:
        if claim is None:
            # The dead holder may have changed people since they were remembered.
            self._person_cache = PersonCache()
        return await super().recover(fence, now=now, claim=claim, lanes=lanes)

    async def release_waiting(self, lane: LaneId, *, now: Millis) -> int:
        waiting = outbox.c.lane == lane, in_state(State.HELD), outbox.c.problem == _NOT_LIVE
        fresh = {"state": State.READY, "due": now, "attempts": 0, "failing_since": None}

        def part(c: Connection, after: int, rows: int) -> tuple[int, int | None]:
            these = outbox.c.seq.in_(select(outbox.c.seq).where(*waiting).limit(rows))
            statement = update(outbox).where(these).values(queue.RESET | fresh)
            changed = c.execute(statement).rowcount
            return changed, after if changed == rows else None

        return await self._released.each(part, 0)

    def _claim_entries(
        self, c: Connection, spec: queue.ClaimSpec, before: Sequence[Entry]
    ) -> list[Entry]:
        return [OutboxRow._make(row).entry() for row in _CLAIM.run(c, spec)]

    def _settle(
        self,
        c: Connection,
        claim: Claim,
        outcomes: Sequence[Outcome],
        now: Millis,
        policy: RetryPolicy,
    ) -> Settled:
        entries = {entry.seq: entry for entry in claim.entries}
        _mark_ambiguous(c, [entries[o.seq].person for o in outcomes if is_unanswered(o)], now)
        accepted: dict[str, list[int]] = {}
        # Those of one failed request are mostly alike.
        others: dict[tuple[tuple[str, Any], ...], list[int]] = {}
        changed = 0
        due: list[Millis] = []
        for outcome in outcomes:
            if isinstance(outcome, Accepted):
                accepted.setdefault(outcome.request, []).append(outcome.seq)
            else:
                changes = after_outcome(entries[outcome.seq], outcome, now, policy.horizon)
                others.setdefault(tuple(sorted(changes.items())), []).append(outcome.seq)
        for items, seqs in others.items():
            values = dict(items)
            claimed = _update_claimed(tuple(values))
            ours = claimed.run(c, seqs=seqs, token=claim.token, **values)
            changed += ours
            if ours and values["state"] == State.READY:
                due.append(values.get("due", now))
        for request, seqs in accepted.items():
            values = {"token": claim.token, "now": now, "sent_by": request}
            changed += _ACCEPT.run(c, seqs=seqs, **values)
        return Settled(changed, queue.earliest(due))

    def _recover(self, c: Connection, now: Millis, of: ColumnElement[bool]) -> int:
        """What a dead holder had sent may still be applied."""
        _mark_ambiguous(c, select(outbox.c.person).where(in_state(State.CLAIMED), of), now)
        return queue.recover(c, outbox_queue, now, of, delivery_mode=DeliveryMode.SINGLE)

    def _give_back(self, c: Connection, claim: Claim, now: Millis) -> int:
        may_be_applied = outbox.c.delivery_mode == DeliveryMode.SINGLE
        mapping = case((may_be_applied, outbox.c.mapping), else_=None)
        return queue.give_back(c, outbox_queue, claim, mapping=mapping)


_FIRST_MAPPING = func.coalesce(outbox.c.mapping, param("version"))
_CLAIM = queue.ClaimStatement(
    outbox_queue,
    values={
        "mapping": case(
            (outbox.c.delivery_mode == DeliveryMode.SINGLE, _FIRST_MAPPING),
            else_=param("version"),
        )
    },
    returning=COLUMNS,
)
_ACCEPT = Prepared(
    update(outbox)
    .where(
        outbox.c.seq.in_(param("seqs", expanding=True)),
        outbox.c.claim == param("token"),
        in_state(State.CLAIMED),
    )
    .values(queue.settled(State.ACCEPTED, param("now")) | {"request": param("sent_by")}),
    many="seqs",
)


class _Parts:
    """Pages as parts of one transaction each. A long page is divided, and its cursor saved with its
    last part: what a first part stored is known when the page is stored again."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._left = list(enumerate(pages))

    def take(self, most: int) -> tuple[list[int], list[Page]] | None:
        """(numbers, pages) of the next part, with at most so many records; None at the end."""
        numbers: list[int] = []
        part: list[Page] = []
        while self._left:
            number, page = self._left[0]
            if len(page.records) <= most:
                self._left.pop(0)
            elif part:
                break
            else:
                self._left[0] = number, replace(page, records=page.records[most:])
                page = replace(page, records=page.records[:most], checkpoint=None)
            most -= len(page.records)
            numbers.append(number)
            part.append(page)
        return (numbers, part) if part else None


@functools.cache
def _update_claimed(columns: tuple[str, ...]) -> Prepared:
    """Sets these columns of the records `seqs` that the claim `token` still holds."""
    these = outbox.c.seq.in_(param("seqs", expanding=True)), outbox.c.claim == param("token")
    values = {name: param(name) for name in columns}
    statement = update(outbox).where(*these, in_state(State.CLAIMED)).values(values)
    return Prepared(statement, many="seqs")


def _mark_ambiguous(c: Connection, people: Sequence[int | None] | Select[Any], now: Millis) -> None:
    """No write of these people's profiles before an event that may still be applied has been:
    it may carry older fields (guarantee 5)."""
    until = {"ambiguous_until": now + AMBIGUOUS_WAIT_MS}
    statement = update(profiles).values(until)
    if isinstance(people, Select):
        c.execute(statement.where(profiles.c.person.in_(people)))
        return
    for part in chunks(sorted({person for person in people if person is not None})):
        c.execute(statement.where(profiles.c.person.in_(part)))
