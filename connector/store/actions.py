"""Actions in SQL: what flows and segments asked of a platform, applied at most once (promise 4).

    waits ──claim──► sent ──► accepted · refused · certainly not applied: waits again
                      │
              nobody knows (a doubt, a dead holder)
                      ▼
                  looked up ──► applied: accepted
                   ▲    │ └──► cannot be told: a person decides
                   └────┤ absent, and not for the last time
                        └ absent at the last look: sent once more, then as before, but for a person

`solo` marks the lower half. docs/decisions/0013-actions.md says why it is so.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from hashlib import blake2b
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
    insert,
    literal_column,
    or_,
    select,
    update,
)

from connector.errors import Problem
from connector.model import (
    Absent,
    Accepted,
    Action,
    Added,
    Asked,
    Call,
    Claim,
    Conflict,
    Dead,
    Doubt,
    Entry,
    Held,
    Lane,
    LaneId,
    Millis,
    Outcome,
    Retry,
    Skipped,
    State,
    Unsent,
)
from connector.ports import Approval, Decision, Deed, DeedState, Pace, Ready
from connector.store import approvals, people, queue
from connector.store.database import Database
from connector.store.tables import actions, in_state, lanes, requests
from connector.store.tables import people as people_table

CAP = "cap"
CAPS = {
    "daily_per_person": Problem.ACTION_PERSON_CAP,
    "daily_total": Problem.ACTION_TOTAL_CAP,
}
_DAY = 86_400_000
_LOOK_UPS = (0,)
_CLEAN = {"claim": None, "problem": None, "detail": "", "settled_at": None}


class SqlActions(queue.SqlQueue):
    """connector.ports.ActionQueue."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, actions, actions.c.seq)
        self._look_ups: dict[LaneId, tuple[int, ...]] = {}

    def look_up_at(self, lane: LaneId, after: Sequence[int]) -> None:
        self._look_ups[lane] = tuple(after)

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> Ready:
        return await self._database.read(
            lambda c: queue.ready(c, actions, actions.c.seq, lane, now, limit, fresh=(_FIRST,))
        )

    def _take(self, c: Connection, taking: queue.Taking) -> list[Entry]:
        sent = {} if taking.solo else {"sent_at": taking.now, "looks": 0}
        only = () if taking.solo else (_FIRST,)
        rows = queue.claim(
            c, actions, actions.c.seq, taking, values=sent, returning=_ROW, only=only
        )
        return [_entry(row, known) for row, known in zip(rows, _people(c, rows), strict=True)]

    def _settle(
        self, c: Connection, claim: Claim, outcomes: Sequence[Outcome], now: Millis, horizon: int
    ) -> int:
        look_ups = self._look_ups.get(claim.lane.id, _LOOK_UPS)
        rows = _locked(c, [outcome.seq for outcome in outcomes])
        changed = 0
        for outcome in outcomes:
            row = rows.get(outcome.seq)
            if row is None:
                continue
            ours = row.state == State.CLAIMED and row.claim == claim.token
            values = after(row, outcome, now, horizon, look_ups) if ours else _late(outcome, now)
            c.execute(update(actions).where(actions.c.seq == row.seq).values(values))
            changed += ours
        return changed

    def _recover(self, c: Connection, now: Millis) -> int:
        return queue.recover(c, actions, now, solo=1)

    async def add(self, calls: Sequence[Call]) -> Sequence[Added | Conflict]:
        return await self._database.write(lambda c: add(c, calls))

    async def find(
        self, *, connection: str | None = None, stuck: bool = False, limit: int = 100
    ) -> Sequence[Deed]:
        def work(c: Connection) -> list[Deed]:
            of = [lanes.c.connection == connection] if connection else []
            waits = or_(in_state(State.HELD, actions), _in_doubt())
            first = case((in_state(State.HELD, actions), 0), else_=1)
            query = _DEEDS.where(waits, *of).order_by(first, (actions.c.seq + 0).desc())
            found = list(c.execute(query.limit(limit)))
            if not stuck and len(found) < limit:
                rest = _DEEDS.where(~waits, *of).order_by(actions.c.seq.desc())
                found += c.execute(rest.limit(limit - len(found)))
            return [_deed(row) for row in found]

        return await self._database.read(work)

    async def decide(self, id: int, word: Decision, *, by: str, now: Millis) -> Deed | str:
        def work(c: Connection) -> Deed | str:
            locked = select(actions).where(actions.c.seq == id).with_for_update()
            row = c.execute(locked).one_or_none()
            if row is None:
                return f"there is no action {id}"
            values = _decided(row, word, now)
            if isinstance(values, str):
                return f"action {id} {values}"
            values |= {"decided_by": by, "decided_at": now}
            c.execute(update(actions).where(actions.c.seq == id).values(values))
            return _deed(c.execute(_DEEDS.where(actions.c.seq == id)).one())

        return await self._database.write(work)

    async def answer_cap(self, lane: Lane, asked: Approval, *, now: Millis) -> int:
        approved = asked.state == "approved"
        until = asked.decided_at if asked.decided_at is not None else now
        values = _CLEAN | {"state": State.READY, "due": now} if approved else _discarded(now)

        def work(c: Connection) -> int:
            changed = c.execute(
                update(actions)
                .where(
                    _held(lane.id, CAPS[asked.subject]),
                    actions.c.received_at <= until,
                )
                .values(values | {"decided_by": asked.decided_by, "decided_at": until})
            ).rowcount
            approvals.close(c, lane.connection, CAP, asked.subject)
            _ask(c, lane, {asked.subject}, now)
            return changed

        return await self._database.write(work)

    async def resume_found(self, lane: LaneId, *, now: Millis) -> int:
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
                _held(lane, Problem.ACTION_PERSON),
                exists(select(1).where(known, lanes.c.id == actions.c.lane)),
            )
            .values(_CLEAN | {"state": State.READY, "due": now})
        )
        return await self._database.write(lambda c: c.execute(statement).rowcount)

    async def platform_id(self, connection: str, email: str) -> str | None:
        def work(c: Connection) -> str | None:
            known = people.known(c, connection, set(), {email})[1].get(email)
            return known.platform_id if known else None

        return await self._database.read(work)

    async def uncertain(self) -> Mapping[str, int]:
        parked = and_(
            in_state(State.HELD, actions), actions.c.problem == Problem.ACTION_UNCERTAIN.value
        )

        def work(c: Connection) -> dict[str, int]:
            found: dict[str, int] = {}
            for which in (parked, _in_doubt()):
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

    async def pace(self, lane: LaneId, *, now: Millis) -> Pace:
        waits = select(func.count()).where(
            actions.c.lane == lane, in_state(State.READY, actions), actions.c.solo == 0
        )
        lately = select(func.count(), func.min(requests.c.sent_at)).where(
            requests.c.lane == lane, requests.c.sent_at > now - 60_000
        )

        def work(c: Connection) -> Pace:
            sent, first = c.execute(lately).one()
            seconds = max(1.0, (now - first) / 1000) if sent else 1.0
            return Pace(c.execute(waits).scalar_one(), sent / seconds)

        return await self._database.read(work)

    async def forget(self, *, before: Millis, limit: int) -> int:
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
_FIRST = ~exists(
    select(1).where(
        _earlier.c.who == actions.c.who,
        literal_column("earlier.state IN (0, 1) AND earlier.solo = 0"),
        _earlier.c.seq < actions.c.seq,
    )
)
"""No earlier action of the same person waits unsent or is being sent."""


def _in_doubt() -> ColumnElement[bool]:
    """Sent, and being looked up or about to be."""
    either = or_(in_state(State.READY, actions), in_state(State.CLAIMED, actions))
    return and_(either, actions.c.solo == 1)


def _held(lane: LaneId, problem: Problem) -> ColumnElement[bool]:
    return and_(
        actions.c.lane == lane,
        in_state(State.HELD, actions),
        actions.c.problem == problem.value,
    )


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
    actions.c.solo,
    actions.c.priority,
    actions.c.failing_since,
)


def _people(c: Connection, rows: Sequence[Any]) -> list[people.Known | None]:
    """Whom each action is for, as he is known now."""
    found = people.numbered(c, {row.person for row in rows if row.person is not None})
    return [found.get(row.person) for row in rows]


def _entry(row: Any, known: people.Known | None) -> Entry:
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
        solo=bool(row.solo),
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
        actions.c.looks,
        actions.c.resent,
    ).where(actions.c.seq.in_(seqs))
    return {row.seq: row for row in c.execute(query.order_by(actions.c.seq).with_for_update())}


def after(
    row: Any, outcome: Outcome, now: Millis, horizon: int, look_ups: Sequence[int]
) -> dict[str, Any]:
    """What an outcome makes of an action. `row` has the columns of _locked."""
    match outcome:
        case Accepted():
            said = {"request": outcome.request, "theirs": outcome.ref}
            known = {key: value for key, value in said.items() if value}
            return queue.settled(State.ACCEPTED, now) | known
        case Skipped():
            return queue.settled(State.SKIPPED, now) | {"detail": outcome.reason} | _unsent(row)
        case Unsent():
            ready = {"state": State.READY, "claim": None, "attempts": row.attempts - 1}
            return ready | _unsent(row)
        case Dead():
            problem, detail = outcome.problem.value, outcome.detail
            dead = {"problem": problem, "detail": detail, "request": outcome.request}
            return queue.settled(State.DEAD, now) | dead
        case Held(problem=Problem.ACTION_UNCERTAIN):
            return _parked(now, outcome.detail)
        case Held():
            why = {"problem": outcome.problem.value, "detail": outcome.detail}
            return queue.settled(State.HELD, now) | why | _unsent(row)
        case Retry():
            return _again(row, outcome, now, horizon)
        case Doubt():
            return _in_doubt_from_now(row, outcome, now, look_ups)
        case Absent():
            return _absent(row, now, look_ups)
        case _:
            raise AssertionError(f"no outcome of an action: {outcome}")


def _unsent(row: Any) -> dict[str, Any]:
    """The mark "sent" is taken back, unless an earlier attempt has left it."""
    return {} if row.solo or row.resent else {"sent_at": None}


def _again(row: Any, outcome: Retry, now: Millis, horizon: int) -> dict[str, Any]:
    """Certainly not applied, or a look-up that got no answer: one more try, until the horizon."""
    since = row.failing_since or now
    if now - since < horizon:
        return {
            "state": State.READY,
            "claim": None,
            "due": now + round(outcome.after * 1000),
            "failing_since": since,
            "problem": outcome.problem.value,
            "detail": outcome.detail,
        } | _unsent(row)
    last = f"last: {outcome.problem} {outcome.detail}".strip()
    if row.solo:
        return _parked(now, f"no look-up was answered; {last}")
    exhausted = {"problem": Problem.RETRIES_EXHAUSTED.value, "detail": last}
    return queue.settled(State.DEAD, now) | exhausted | _unsent(row)


def _in_doubt_from_now(
    row: Any, outcome: Doubt, now: Millis, look_ups: Sequence[int]
) -> dict[str, Any]:
    why = {"problem": outcome.problem.value, "detail": outcome.detail, "request": outcome.request}
    if not look_ups:
        return _parked(now, f"{outcome.problem.meaning}; look_ups names no time to look it up")
    if row.solo:  # a look-up was cut off
        return {"state": State.READY, "claim": None, "due": now + round(outcome.after * 1000)}
    return _to_look_up(row, 0, now, look_ups) | why


def _absent(row: Any, now: Millis, look_ups: Sequence[int]) -> dict[str, Any]:
    looks = row.looks + 1
    if looks < len(look_ups):
        return _to_look_up(row, looks, now, look_ups)
    if row.resent:
        return _parked(now, "sent twice, and not found at the platform after either time")
    return _CLEAN | {
        "state": State.READY,
        "solo": 0,
        "looks": looks,
        "resent": 1,
        "due": now,
        "attempts": 0,
        "failing_since": None,
    }


def _to_look_up(row: Any, looks: int, now: Millis, look_ups: Sequence[int]) -> dict[str, Any]:
    sent = row.sent_at if row.sent_at is not None else now
    return {
        "state": State.READY,
        "claim": None,
        "solo": 1,
        "looks": looks,
        "due": max(now, sent + look_ups[looks]),
        "attempts": 0,
        "failing_since": None,
    }


def _parked(now: Millis, detail: str) -> dict[str, Any]:
    problem = {"problem": Problem.ACTION_UNCERTAIN.value, "detail": detail}
    return queue.settled(State.HELD, now) | problem


def _late(outcome: Outcome, now: Millis) -> dict[str, Any]:
    """An answer to somebody who has lost the action meanwhile: it settles nothing, and a person
    who has to decide may see it."""
    problem = getattr(outcome, "problem", None)
    said = {
        "at": now,
        "answer": type(outcome).__name__.lower(),
        "problem": problem.value if problem else None,
        "request": getattr(outcome, "request", None),
    }
    return {"evidence": orjson.dumps(said).decode()}


# ── what a person decides ────────────────────────────────────────────────────────────────────────


def _decided(row: Any, word: Decision, now: Millis) -> dict[str, Any] | str:
    state = state_of(row)
    if row.state == State.CLAIMED:
        return "is on its way right now: ask again in a moment"
    match word:
        case "applied" if state == "uncertain":
            return queue.settled(State.ACCEPTED, now)
        case "again" if row.state in (State.HELD, State.DEAD):
            fresh = {"state": State.READY, "solo": 0, "looks": 0, "resent": 0, "attempts": 0}
            return _CLEAN | fresh | {"failing_since": None, "due": now}
        case "refuse" if row.state in (State.HELD, State.READY):
            return _discarded(now)
        case _:
            return f"is {state}: `{word}` cannot be said of it"


def _discarded(now: Millis) -> dict[str, Any]:
    return queue.settled(State.DISCARDED, now)


_DEEDS = select(actions, lanes.c.connection).join(lanes, lanes.c.id == actions.c.lane)
_STATES: dict[int, DeedState] = {
    State.READY: "waiting",
    State.CLAIMED: "sending",
    State.ACCEPTED: "applied",
    State.SKIPPED: "skipped",
    State.HELD: "held",
    State.DEAD: "refused",
    State.DISCARDED: "discarded",
}


def state_of(row: Any) -> DeedState:
    """Where an action stands, in a person's words."""
    in_doubt = row.state in (State.READY, State.CLAIMED) and row.solo
    if in_doubt or (row.state == State.HELD and row.problem == Problem.ACTION_UNCERTAIN.value):
        return "uncertain"
    return _STATES[row.state]


def _deed(row: Any) -> Deed:
    data = orjson.loads(row.data)
    return Deed(
        id=row.seq,
        connection=row.connection,
        name=row.name,
        origin=row.origin,
        who=row.email or row.customer or "",
        amount=row.amount,
        reason=data["reason"] or data["message"],
        state=state_of(row),
        problem=row.problem,
        detail=row.detail,
        ours=row.ref,
        theirs=row.theirs,
        received_at=row.received_at,
        sent_at=row.sent_at,
        settled_at=row.settled_at,
        looks=row.looks,
        resent=bool(row.resent),
        evidence=row.evidence,
        decided_by=row.decided_by,
    )


# ── add ──────────────────────────────────────────────────────────────────────────────────────────


def add(c: Connection, calls: Sequence[Call]) -> list[Added | Conflict]:
    """ActionQueue.add. Callers on one lane take turns, so that identity and caps hold for all."""
    ids = sorted({call.lane.id for call in calls})
    c.execute(select(lanes.c.id).where(lanes.c.id.in_(ids)).order_by(lanes.c.id).with_for_update())
    ledger = _Ledger(c, calls)
    answers = [ledger.take(call) for call in calls]
    if ledger.rows:
        c.execute(_INSERT, ledger.rows)
    for lane, (subjects, now) in ledger.capped.items():
        _ask(c, lane, subjects, now)
    return answers


_INSERT = insert(actions)


class _Ledger:
    """What is known of the actions in some calls: read at once, kept in step as they are taken."""

    def __init__(self, c: Connection, calls: Sequence[Call]) -> None:
        self._c = c
        self.rows: list[dict[str, Any]] = []
        self.capped: dict[Lane, tuple[set[str], Millis]] = {}
        self._people = {
            lane: _named(c, lane.connection, [call for call in calls if call.lane == lane])
            for lane in {call.lane for call in calls}
        }
        digests = [_identity(call.lane.connection, a) for call in calls for a in call.asked]
        self._known = _known(c, digests)
        who = {self._who(call.lane, a.action)[0] for call in calls for a in call.asked}
        since = Millis(min(call.received_at for call in calls) - _DAY)
        self._counts = _counts(c, who, since)
        self._totals = {
            call.lane.id: _total(c, call.lane.id, since) for call in calls if call.caps.total
        }

    def take(self, call: Call) -> Added | Conflict:
        """Stage a call, or nothing of it."""
        fresh: dict[bytes, Asked] = {}
        retired: list[bytes] = []
        for number, asked in enumerate(call.asked, start=1):
            digest, content = _identity(call.lane.connection, asked), _content(asked.action)
            if digest in fresh:
                before: tuple[bytes, int] | None = (_content(fresh[digest].action), 0)
                over = False
            else:
                before = self._known.get(digest)
                age = call.received_at - before[1] if before else 0
                over = asked.window is not None and age > asked.window
            if before is None or over:
                fresh[digest] = asked
                retired += [digest] if over else []
            elif before[0] != content:
                return Conflict(number)
        for digest in retired:
            self._retire(digest)
        held = [self._stage(call, digest, asked) for digest, asked in fresh.items()].count(True)
        return Added(len(fresh) - held, len(call.asked) - len(fresh), held)

    def _retire(self, digest: bytes) -> None:
        """Its window is over: the old row gives its identity up."""
        token = secrets.token_bytes(16)
        self._c.execute(update(actions).where(actions.c.digest == digest).values(digest=token))
        for row in self.rows:
            if row["digest"] == digest:
                row["digest"] = token

    def _stage(self, call: Call, digest: bytes, asked: Asked) -> bool:
        """Whether it is held."""
        action, now = asked.action, call.received_at
        who, person = self._who(call.lane, action)
        cap = self._over(call, who, action)
        content = _content(action)
        self._known[digest] = (content, now)
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
                "who": who,
                "person": person,
                "email": action.email,
                "customer": action.customer or action.person,
                "amount": action.amount,
                "data": _data(action),
                "state": State.HELD if cap else State.READY,
                "due": now,
                "problem": CAPS[cap].value if cap else None,
                "settled_at": now if cap else None,
            }
        )
        return cap is not None

    def _over(self, call: Call, who: bytes, action: Action) -> str | None:
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

    def _who(self, lane: Lane, action: Action) -> tuple[bytes, int | None]:
        """What stands for the person in order and caps, and his number where he has been seen."""
        by_id, by_email = self._people[lane]
        known = by_email.get(action.email or "")
        for id in (action.person, action.customer):
            known = known or by_id.get(id or "")
        if known:
            return who_of(lane.connection, known.id), known.id
        return _digest(lane.connection, f"{action.person or action.customer}"), None


def _named(
    c: Connection, connection: str, calls: Sequence[Call]
) -> tuple[dict[str, people.Known], dict[str, people.Known]]:
    said = [asked.action for call in calls for asked in call.asked]
    ids = {id for action in said for id in (action.person, action.customer) if id}
    emails = {action.email for action in said if action.email}
    return people.named(c, connection, ids, emails, calls[0].received_at)


def _identity(connection: str, asked: Asked) -> bytes:
    """By the words of the caller: they stay the same, whatever is learnt of the person."""
    action = asked.action
    person = action.email or action.customer or action.person or ""
    return _digest(connection, asked.route, person, asked.key)


def _content(action: Action) -> bytes:
    said = (action.name, str(action.amount), _data(action).decode())
    return _digest(*said)


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


def who_of(connection: str, person: int) -> bytes:
    """What stands for a person who has been seen, in the column `who`."""
    return _digest(connection, f"#{person}")


def _digest(*words: str) -> bytes:
    return blake2b("\0".join(words).encode(), digest_size=16).digest()


def _known(c: Connection, digests: Sequence[bytes]) -> dict[bytes, tuple[bytes, int]]:
    found: dict[bytes, tuple[bytes, int]] = {}
    query = select(actions.c.digest, actions.c.content, actions.c.received_at)
    for part in queue.chunks(digests):
        for digest, content, at in c.execute(query.where(actions.c.digest.in_(part))):
            found[bytes(digest)] = (bytes(content), at)
    return found


_COUNTS = and_(
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
            select(actions.c.who, func.count())
            .where(actions.c.who.in_(part), actions.c.received_at > since, _COUNTS)
            .group_by(actions.c.who)
        )
        found.update((bytes(key), count) for key, count in c.execute(query))
    return found


def _total(c: Connection, lane: LaneId, since: Millis) -> int:
    query = select(func.coalesce(func.sum(func.abs(actions.c.amount)), 0)).where(
        actions.c.lane == lane, actions.c.received_at > since, _COUNTS
    )
    return int(c.execute(query).scalar_one())


def _ask(c: Connection, lane: Lane, subjects: set[str], now: Millis) -> None:
    """Whether what these caps hold may go; nothing where they hold nothing."""
    for subject in sorted(subjects):
        query = select(
            func.count(),
            func.count(func.distinct(actions.c.who)),
            func.coalesce(func.sum(func.abs(actions.c.amount)), 0),
        ).where(_held(lane.id, CAPS[subject]))
        adjustments, persons, points = c.execute(query).one()
        if adjustments:
            detail = {"adjustments": adjustments, "people": persons, "points": int(points)}
            approvals.ask(c, lane.connection, CAP, subject, detail, now=now)
