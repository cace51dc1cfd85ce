"""What is known of actions when more are asked for: which they are, and what a day has held. The
first half of promise 4: the same call is taken once."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, update

from connector.domain.actions import Action, ActionBatch, ActionReceipt, ActionRequest, Conflict
from connector.domain.errors import Problem
from connector.domain.lanes import Lane, LaneId, Millis
from connector.domain.records import State
from connector.store.admin import approvals
from connector.store.people import people, tombstones
from connector.store.queues import queue
from connector.store.tables import actions, in_state, lanes

CAP = "cap"
CAPS = {
    "daily_per_person": Problem.ACTION_PERSON_CAP,
    "daily_total": Problem.ACTION_TOTAL_CAP,
}
_DAY = 86_400_000


def add(c: Connection, calls: Sequence[ActionBatch]) -> list[ActionReceipt | Conflict]:
    """ActionQueue.add. Callers on one lane take turns, so that identity and caps hold for all."""
    ids = sorted({call.lane.id for call in calls})
    c.execute(select(lanes.c.id).where(lanes.c.id.in_(ids)).order_by(lanes.c.id).with_for_update())
    intake = _Intake(c, calls)
    answers = [intake.stage_batch(call) for call in calls]
    if intake.rows:
        c.execute(_INSERT, intake.rows)
    for lane, (subjects, now) in intake.capped.items():
        ask(c, lane, subjects, now)
    return answers


_INSERT = insert(actions)


class _Intake:
    """What is known of the actions in some calls: read at once, kept in step as they are taken."""

    def __init__(self, c: Connection, calls: Sequence[ActionBatch]) -> None:
        self._c = c
        self.rows: list[dict[str, Any]] = []
        self.capped: dict[Lane, tuple[set[str], Millis]] = {}
        self._tombstones = {
            lane: _tombstones(c, lane.connection, [call for call in calls if call.lane == lane])
            for lane in {call.lane for call in calls}
        }
        self._people = {
            lane: self._resolve_people(lane, [call for call in calls if call.lane == lane])
            for lane in {call.lane for call in calls}
        }
        digests = [_identity(call.lane.connection, a) for call in calls for a in call.requests]
        self._known_digests = _known_digests(c, digests)
        who = {self._person_key(call.lane, a.action)[0] for call in calls for a in call.requests}
        since = Millis(min(call.received_at for call in calls) - _DAY)
        self._counts = _counts(c, who, since)
        self._totals = {
            call.lane.id: _total(c, call.lane.id, since) for call in calls if call.caps.total
        }

    def _resolve_people(
        self, lane: Lane, calls: Sequence[ActionBatch]
    ) -> tuple[dict[str, people.PersonRow], dict[str, people.PersonRow]]:
        erased = self._tombstones[lane]
        values = [_with_person_id(asked.action) for call in calls for asked in call.requests]
        remaining = [action for action in values if not erased.contains(action)]
        ids = {id for action in remaining for id in (action.person, action.customer) if id}
        emails = {action.email for action in remaining if action.email}
        return people.get_or_create(self._c, lane.connection, ids, emails, calls[0].received_at)

    def stage_batch(self, call: ActionBatch) -> ActionReceipt | Conflict:
        """Stage a call, or nothing of it."""
        fresh: dict[bytes, ActionRequest] = {}
        retired: list[bytes] = []
        for number, asked in enumerate(call.requests, start=1):
            digest, content = _identity(call.lane.connection, asked), _content(asked.action)
            if digest in fresh:
                before: tuple[bytes, int] | None = (_content(fresh[digest].action), 0)
                expired = False
            else:
                before = self._known_digests.get(digest)
                age = call.received_at - before[1] if before else 0
                expired = asked.window is not None and age > asked.window
            if before is None or expired:
                fresh[digest] = asked
                retired += [digest] if expired else []
            elif before[0] != content:
                return Conflict(number)
        for digest in retired:
            self._retire(digest)
        held = [self._stage(call, digest, asked) for digest, asked in fresh.items()].count(True)
        return ActionReceipt(len(fresh) - held, len(call.requests) - len(fresh), held)

    def _retire(self, digest: bytes) -> None:
        """Its window is over: the old row gives its identity up."""
        token = secrets.token_bytes(16)
        self._c.execute(update(actions).where(actions.c.digest == digest).values(digest=token))
        for row in self.rows:
            if row["digest"] == digest:
                row["digest"] = token

    def _stage(self, call: ActionBatch, digest: bytes, asked: ActionRequest) -> bool:
        """Whether it is held. Of one who was forgotten only the identity is kept."""
        action, now = asked.action, call.received_at
        content = _content(action)
        self._known_digests[digest] = (content, now)
        if forgotten := self._tombstones[call.lane].contains(_with_person_id(action)):
            action = Action(action.name)
        who, person = self._person_key(call.lane, action)
        cap = None if forgotten else self._exceeded_cap(call, who, action)
        if cap:
            self.capped.setdefault(call.lane, (set(), now))[0].add(cap)
        self.rows.append(
            {
                "lane": call.lane.id,
                "digest": digest,
                "content": content,
                "origin": call.origin,
                "route": asked.route,
                "name": action.name,
                "ref": f"lc{secrets.token_hex(5)}",
                "received_at": now,
                "person_key": who,
                "person": person,
                "email": action.email,
                "customer": action.customer or action.person,
                "amount": action.amount,
                "data": _data(action),
                "state": State.SKIPPED if forgotten else State.HELD if cap else State.READY,
                "detail": "forgotten" if forgotten else "",
                "due": now,
                "problem": CAPS[cap].value if cap else None,
                "settled_at": now if cap or forgotten else None,
            }
        )
        return cap is not None

    def _exceeded_cap(self, call: ActionBatch, who: bytes, action: Action) -> str | None:
        """The cap that an adjustment would go beyond; else it counts against both."""
        if action.name == "push":
            return None
        points, total = abs(action.amount), self._totals.get(call.lane.id, 0)
        if self._counts.get(who, 0) >= call.caps.per_person:
            return "daily_per_person"
        if call.caps.total and total + points > call.caps.total:
            return "daily_total"
        self._counts[who] = self._counts.get(who, 0) + 1
        self._totals[call.lane.id] = total + points
        return None

    def _person_key(self, lane: Lane, action: Action) -> tuple[bytes, int | None]:
        """What stands for the person in order and caps, and his number where he has been seen."""
        by_id, by_email = self._people[lane]
        known = by_email.get(action.email or "")
        for id in (action.person, action.customer):
            known = known or by_id.get(id or "")
        if known:
            return person_key(lane.connection, known.id), known.id
        return _digest(lane.connection, f"{action.person or action.customer}"), None


def _tombstones(
    c: Connection, connection: str, calls: Sequence[ActionBatch]
) -> tombstones.Tombstones:
    values = [_with_person_id(asked.action) for call in calls for asked in call.requests]
    return tombstones.load(c, connection, values)


def _with_person_id(action: Action) -> Action:
    """With what may be the platform's id in its place."""
    return replace(action, person=action.person or action.customer)


def _identity(connection: str, asked: ActionRequest) -> bytes:
    """By the words of the caller: they stay the same, whatever is learnt of the person."""
    action = asked.action
    person = action.email or action.customer or action.person or ""
    return _digest(connection, asked.route, person, asked.key)


def _content(action: Action) -> bytes:
    values = (action.name, str(action.amount), _data(action).decode())
    return _digest(*values)


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


def person_key(connection: str, person: int) -> bytes:
    """What stands for a person who has been seen, in the column `person_key`."""
    return _digest(connection, f"#{person}")


def _digest(*words: str) -> bytes:
    return blake2b("\0".join(words).encode(), digest_size=16).digest()


def _known_digests(c: Connection, digests: Sequence[bytes]) -> dict[bytes, tuple[bytes, int]]:
    found: dict[bytes, tuple[bytes, int]] = {}
    query = select(actions.c.digest, actions.c.content, actions.c.received_at)
    for part in queue.chunks(digests):
        for digest, content, at in c.execute(query.where(actions.c.digest.in_(part))):
            found[bytes(digest)] = (bytes(content), at)
    return found


_COUNTS_AGAINST_CAPS = and_(
    actions.c.name != "push",
    or_(
        actions.c.state.in_((State.READY, State.CLAIMED, State.ACCEPTED)),
        and_(actions.c.state == State.HELD, actions.c.sent_at.is_not(None)),
    ),
)
"""What was applied, may have been or will be."""


def _counts(c: Connection, who: set[bytes], since: Millis) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for part in queue.chunks(list(who)):
        query = (
            select(actions.c.person_key, func.count())
            .where(
                actions.c.person_key.in_(part), actions.c.received_at > since, _COUNTS_AGAINST_CAPS
            )
            .group_by(actions.c.person_key)
        )
        found.update((bytes(key), count) for key, count in c.execute(query))
    return found


def _total(c: Connection, lane: LaneId, since: Millis) -> int:
    query = select(func.coalesce(func.sum(func.abs(actions.c.amount)), 0)).where(
        actions.c.lane == lane, actions.c.received_at > since, _COUNTS_AGAINST_CAPS
    )
    return int(c.execute(query).scalar_one())


def held(lane: LaneId, problem: Problem) -> ColumnElement[bool]:
    """What waits because of this problem."""
    return and_(
        actions.c.lane == lane,
        in_state(State.HELD, actions),
        actions.c.problem == problem.value,
    )


def ask(c: Connection, lane: Lane, subjects: set[str], now: Millis) -> None:
    """Whether what these caps hold may go; nothing where they hold nothing."""
    for subject in sorted(subjects):
        query = select(
            func.count(),
            func.count(func.distinct(actions.c.person_key)),
            func.coalesce(func.sum(func.abs(actions.c.amount)), 0),
        ).where(held(lane.id, CAPS[subject]))
        adjustments, persons, points = c.execute(query).one()
        if adjustments:
            detail = {"adjustments": adjustments, "people": persons, "points": int(points)}
            approvals.ask(c, lane.connection, CAP, subject, detail, now=now)
