"""Stores requested actions: each identity once, and within the caps of a day (guarantee 4)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, insert, select, update

from connector.domain.actions import Action, ActionBatch, ActionReceipt, ActionRequest, Conflict
from connector.domain.lanes import Lane, Millis
from connector.domain.records import State
from connector.store.database import Database
from connector.store.people import identifiers, tombstones
from connector.store.people.identifiers import PersonRow
from connector.store.people.person_locks import locked
from connector.store.queues.action_caps import CAPS, CapCounter, request_approvals
from connector.store.queues.action_keys import digest as make_digest
from connector.store.queues.action_keys import person_key, unknown_person_key
from connector.store.statements import chunks
from connector.store.tables import actions, lanes


class SqlActionIntake:
    """connector.ports.ActionIntake."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, batches: Sequence[ActionBatch]) -> Sequence[ActionReceipt | Conflict]:
        return await self._database.write(lambda c: _add(c, batches))


def _add(c: Connection, batches: Sequence[ActionBatch]) -> list[ActionReceipt | Conflict]:
    # Locked lanes make callers take turns, so that identities and caps hold across replicas.
    ids = sorted({batch.lane.id for batch in batches})
    c.execute(select(lanes.c.id).where(lanes.c.id.in_(ids)).order_by(lanes.c.id).with_for_update())
    staging = _Staging(c, batches)
    receipts = [staging.stage_batch(batch) for batch in batches]
    if staging.rows:
        c.execute(_INSERT, staging.rows)
    for lane, (caps, now) in staging.exceeded.items():
        request_approvals(c, lane, caps, now)
    return receipts


_INSERT = insert(actions)


class _Staging:
    """The rows to insert for some batches.

    What is stored about their identities, people and caps is read once and kept up to date while
    batches are staged.
    """

    def __init__(self, c: Connection, batches: Sequence[ActionBatch]) -> None:
        self._c = c
        self.rows: list[dict[str, Any]] = []
        self.exceeded: dict[Lane, tuple[set[str], Millis]] = {}
        """Lane → (the caps that held actions, when)."""
        by_lane: dict[Lane, list[ActionBatch]] = {}
        for batch in batches:
            by_lane.setdefault(batch.lane, []).append(batch)
        self._tombstones = {
            lane: _tombstones(c, lane.connection, part) for lane, part in by_lane.items()
        }
        self._people = {lane: self._resolve_people(lane, part) for lane, part in by_lane.items()}
        requests = [(batch.lane, request) for batch in batches for request in batch.requests]
        self._known = _known(c, [_identity(lane.connection, r) for lane, r in requests])
        person_keys = {self._person_key(lane, r.action)[0] for lane, r in requests}
        now = Millis(min(batch.received_at for batch in batches))
        self._counters = {
            batch.lane.id: CapCounter.load(c, batch.lane.id, batch.caps, person_keys, now)
            for batch in batches
        }

    def _resolve_people(self, lane: Lane, batches: Sequence[ActionBatch]) -> _KnownPeople:
        erased = self._tombstones[lane]
        remaining = [action for action in _actions_of(batches) if not erased.contains(action)]
        return locked(
            self._c,
            lambda: _known_people(self._c, lane.connection, remaining, batches[0].received_at),
            lambda known: [person for people in known for person in people.values()],
        )

    def stage_batch(self, batch: ActionBatch) -> ActionReceipt | Conflict:
        """Stage the whole batch, or nothing of it."""
        fresh: dict[bytes, ActionRequest] = {}
        expired: list[bytes] = []
        for number, request in enumerate(batch.requests, start=1):
            digest, content = _identity(batch.lane.connection, request), _content(request.action)
            known = self._known.get(digest)
            if digest in fresh:
                stored: bytes | None = _content(fresh[digest].action)
            elif known and _has_expired(known, request, batch.received_at):
                stored = None
                expired.append(digest)
            else:
                stored = known.content if known else None
            if stored is None:
                fresh[digest] = request
            elif stored != content:
                return Conflict(number)
        for digest in expired:
            self._retire(digest)
        held = [self._stage(batch, digest, r) for digest, r in fresh.items()].count(True)
        return ActionReceipt(len(fresh) - held, len(batch.requests) - len(fresh), held)

    def _retire(self, digest: bytes) -> None:
        """Take the identity from the old row, so that a new one can have it."""
        token = secrets.token_bytes(16)
        self._c.execute(update(actions).where(actions.c.digest == digest).values(digest=token))
        for row in self.rows:
            if row["digest"] == digest:
                row["digest"] = token

    def _stage(self, batch: ActionBatch, digest: bytes, request: ActionRequest) -> bool:
        """Stage one action; whether it is held. Of an erased person only the identity is kept."""
        action, now = request.action, batch.received_at
        content = _content(action)
        self._known[digest] = _Known(content, now)
        if erased := self._tombstones[batch.lane].contains(_with_person_id(action)):
            action = Action(action.name)
        person_key, person = self._person_key(batch.lane, action)
        counter = self._counters[batch.lane.id]
        cap = None if erased else counter.admit(action.name, action.amount, person_key)
        if cap:
            self.exceeded.setdefault(batch.lane, (set(), now))[0].add(cap)
        self.rows.append(
            {
                "lane": batch.lane.id,
                "digest": digest,
                "content": content,
                "origin": batch.origin,
                "route": request.route,
                "name": action.name,
                "ref": f"lc{secrets.token_hex(5)}",
                "received_at": now,
                "counted_at": now,
                "person_key": person_key,
                "person": person,
                "email": action.email,
                "customer": action.customer or action.person,
                "amount": action.amount,
                "data": _data(action),
                "state": State.SKIPPED if erased else State.HELD if cap else State.READY,
                "detail": "forgotten" if erased else "",
                "suppressed": batch.suppressed,
                "due": now,
                "problem": CAPS[cap].value if cap else None,
                "settled_at": now if cap or erased else None,
            }
        )
        return cap is not None

    def _person_key(self, lane: Lane, action: Action) -> tuple[bytes, int | None]:
        """The key that identifies the person for order and caps, and the id of their row where
        they have been seen."""
        if known := self._people[lane].find(action):
            return person_key(lane.connection, known.id), known.id
        return unknown_person_key(lane.connection, f"{action.person or action.customer}"), None


class _KnownPeople(NamedTuple):
    """The people of actions, by each kind of identifier that a call may have."""

    by_email: dict[str, PersonRow]
    by_id: dict[str, PersonRow]
    by_profile: dict[str, PersonRow]

    def find(self, action: Action) -> PersonRow | None:
        """The first who has an id at the platform, else the first."""
        id, customer = action.person or "", action.customer or ""
        found = (
            self.by_email.get(action.email or ""),
            self.by_id.get(id),
            self.by_id.get(customer),
            self.by_profile.get(customer),
        )
        known = [person for person in found if person]
        return next((person for person in known if person.platform_id), known[0] if known else None)


def _known_people(
    c: Connection, connection: str, actions: Sequence[Action], now: Millis
) -> _KnownPeople:
    """Stored people; for an address without a person one is created."""
    ids = {id for action in actions for id in (action.person, action.customer) if id}
    emails = {action.email for action in actions if action.email}
    by_id, by_email = identifiers.lookup(c, connection, ids, emails)
    by_profile = identifiers.by_id(c, connection, ids - by_id.keys(), "profile_id")
    new = [email for email in emails if email not in by_email]
    if new:
        identifiers.create_by_address(c, connection, new, now)
        by_email |= identifiers.lookup(c, connection, (), new)[1]
    return _KnownPeople(by_email, by_id, by_profile)


class _Known(NamedTuple):
    """A stored action with some identity."""

    content: bytes
    received_at: Millis


def _has_expired(known: _Known, request: ActionRequest, now: Millis) -> bool:
    """Whether the window of the stored action's key is over."""
    return request.window is not None and now - known.received_at > request.window


def _tombstones(
    c: Connection, connection: str, batches: Sequence[ActionBatch]
) -> tombstones.Tombstones:
    return tombstones.load(c, connection, _actions_of(batches))


def _actions_of(batches: Sequence[ActionBatch]) -> list[Action]:
    return [_with_person_id(request.action) for batch in batches for request in batch.requests]


def _with_person_id(action: Action) -> Action:
    """`customer` may be the platform's id, so it counts as one where no other is given."""
    return replace(action, person=action.person or action.customer)


def _identity(connection: str, request: ActionRequest) -> bytes:
    """By the person's identifiers in the call: they do not change when more is known later."""
    action = request.action
    person = action.email or action.customer or action.person or ""
    return make_digest(connection, request.route, person, request.key)


def _content(action: Action) -> bytes:
    values = (action.name, str(action.amount), _data(action).decode())
    return make_digest(*values)


def _data(action: Action) -> bytes:
    return orjson.dumps(
        {
            "reason": action.reason,
            "earned": action.earned,
            "visible": action.visible,
            "message": action.message,
            "url": action.url,
        }
    )


def _known(c: Connection, digests: Sequence[bytes]) -> dict[bytes, _Known]:
    found: dict[bytes, _Known] = {}
    query = select(actions.c.digest, actions.c.content, actions.c.received_at)
    for part in chunks(digests):
        for digest, content, received_at in c.execute(query.where(actions.c.digest.in_(part))):
            found[bytes(digest)] = _Known(bytes(content), received_at)
    return found
