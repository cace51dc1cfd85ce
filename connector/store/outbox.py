"""The outbox in SQL: append, claim, settle. Promises 1, 2, 3 (its first half), 10 and 12."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, case, delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from connector.errors import Problem
from connector.model import (
    Accepted,
    Appended,
    Claim,
    Dead,
    Doubt,
    Entry,
    Held,
    Lane,
    LaneId,
    Millis,
    Outcome,
    Page,
    Record,
    Request,
    Retry,
    Skipped,
    Spend,
    State,
    Unsent,
)
from connector.ports import Fence, Ready
from connector.store import leases, memory, people
from connector.store.database import Database
from connector.store.tables import checkpoints, in_state, outbox, requests

ENTRY_COLUMNS = (
    outbox.c.seq,
    outbox.c.unique_id,
    outbox.c.name,
    outbox.c.occurred_at,
    outbox.c.received_at,
    outbox.c.email,
    outbox.c.person,
    outbox.c.data,
    outbox.c.attempts,
    outbox.c.solo,
    outbox.c.mapping,
    outbox.c.priority,
    outbox.c.failing_since,
)
_IN = 10_000


def digest_of(connection: str, kind: str, key: str) -> bytes:
    """16 bytes that stand for a record's identity within its connection."""
    return blake2b(f"{connection}\0{kind}\0{key}".encode(), digest_size=16).digest()


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _IN):
        yield values[start : start + _IN]


class SqlOutbox:
    """connector.ports.Outbox on SQLite and PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen = people.Seen()

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        appended, learnt = await self._database.write(lambda c: append(c, pages, self._seen))
        self._seen.learn(learnt)
        return appended

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> Ready:
        return await self._database.read(lambda c: ready(c, lane, now, limit))

    async def claim(
        self,
        lane: Lane,
        fence: Fence,
        *,
        now: Millis,
        limit: int,
        solo: bool,
        mapping: str,
        spend: Sequence[Spend] = (),
    ) -> Claim | None:
        token = secrets.randbits(62)

        def work(c: Connection) -> Claim | None:
            leases.require(c, fence, now)
            memory.add_spend(c, spend)
            entries = claim_ready(c, lane.id, token, now, limit, solo, mapping)
            return Claim(token, lane, entries) if entries else None

        return await self._database.write(work)

    async def settle(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        now: Millis,
        requests: Sequence[Request] = (),
        horizon: int,
    ) -> int:
        return await self._database.write(
            lambda c: settle(c, claim, outcomes, now, requests, horizon)
        )

    async def recover(self, fence: Fence, *, now: Millis) -> int:
        def work(c: Connection) -> int:
            leases.require(c, fence, now)
            return c.execute(
                update(outbox)
                .where(in_state(State.CLAIMED))
                .values(
                    state=State.READY,
                    solo=1,
                    claim=None,
                    due=now,
                    problem=Problem.INTERRUPTED.value,
                    failing_since=func.coalesce(outbox.c.failing_since, now),
                )
            ).rowcount

        return await self._database.write(work)

    async def extend(self, lane: LaneId, pause: int) -> int:
        return await self._database.write(
            lambda c: (
                c.execute(
                    update(outbox)
                    .where(
                        outbox.c.lane == lane,
                        in_state(State.READY),
                        outbox.c.failing_since.is_not(None),
                    )
                    .values(failing_since=outbox.c.failing_since + pause)
                ).rowcount
            )
        )

    async def prune(self, *, now: Millis, keep: Mapping[State, int], limit: int) -> int:
        return await self._database.write(lambda c: prune(c, now, keep, limit))


# ── append ───────────────────────────────────────────────────────────────────────────────────────


def append(
    c: Connection, pages: Sequence[Page], seen: people.Seen
) -> tuple[list[Appended], list[people.Known]]:
    appended: list[Appended] = []
    learnt: list[people.Known] = []
    rows: list[dict[str, Any]] = []
    wanted = [
        [digest_of(page.lane.connection, page.lane.kind, r.key) for r in page.records]
        for page in pages
    ]
    known = _known(c, {digest for page in wanted for digest in page})
    for page, digests in zip(pages, wanted, strict=True):
        fresh: list[tuple[Record, bytes]] = []
        for record, digest in zip(page.records, digests, strict=True):
            if _is_new(c, known, rows, record, digest, page.received_at):
                known[digest] = page.received_at
                fresh.append((record, digest))
        found = people.resolve(
            c, page.lane.connection, [r for r, _ in fresh], seen, learnt, page.received_at
        )
        page_rows = [
            _row(page, record, digest, person)
            for (record, digest), person in zip(fresh, found.people, strict=True)
        ]
        rows += page_rows
        released = _release(c, rows, found.addressed, page.received_at)
        held = sum(row["state"] == State.HELD for row in page_rows)
        appended.append(
            Appended(len(fresh), len(page.records) - len(fresh), held=held, released=released)
        )
        if page.checkpoint:
            _save_checkpoint(c, page)
    if rows:
        c.execute(insert(outbox), rows)
    return appended, learnt


def _known(c: Connection, digests: set[bytes]) -> dict[bytes, Millis]:
    found: dict[bytes, Millis] = {}
    for part in chunks(list(digests)):
        query = select(outbox.c.digest, outbox.c.received_at).where(outbox.c.digest.in_(part))
        found.update((bytes(digest), at) for digest, at in c.execute(query))
    return found


def _is_new(
    c: Connection,
    known: dict[bytes, Millis],
    rows: list[dict[str, Any]],
    record: Record,
    digest: bytes,
    now: Millis,
) -> bool:
    """Whether the key is unknown or its repeat window is over; then the old row gives it up."""
    at = known.get(digest)
    if at is None:
        return True
    if record.repeat_window is None or now - at <= record.repeat_window:
        return False
    retired = secrets.token_bytes(16)
    c.execute(update(outbox).where(outbox.c.digest == digest).values(digest=retired))
    for row in rows:
        if row["digest"] == digest:
            row["digest"] = retired
    return True


def _row(page: Page, record: Record, digest: bytes, person: people.Known | None) -> dict[str, Any]:
    email = record.email or (person.email if person else None)
    state, problem = (State.READY, None) if email else (State.HELD, Problem.NO_IDENTITY.value)
    return {
        "lane": page.lane.id,
        "digest": digest,
        "unique_id": record.unique_id,
        "name": record.name,
        "occurred_at": record.occurred_at,
        "received_at": page.received_at,
        "via": page.via,
        "priority": int(page.backfill),
        "person": person.id if person else None,
        "email": email,
        "data": record.data,
        "state": state,
        "due": page.received_at,
        "problem": problem,
    }


def _release(
    c: Connection, rows: list[dict[str, Any]], addressed: Mapping[int, str], now: Millis
) -> int:
    """Give the records that wait for these people their address."""
    if not addressed:
        return 0
    released = 0
    for row in rows:
        email = addressed.get(row["person"] or 0)
        if email and row["state"] == State.HELD and not row["email"]:
            row.update(state=State.READY, email=email, problem=None, due=now)
            released += 1
    for person, email in addressed.items():
        released += c.execute(
            update(outbox)
            .where(
                outbox.c.person == person,
                in_state(State.HELD),
                outbox.c.email.is_(None),
            )
            .values(state=State.READY, email=email, problem=None, detail="", due=now)
        ).rowcount
    return released


def _save_checkpoint(c: Connection, page: Page) -> None:
    assert page.checkpoint is not None
    dialect = postgresql if c.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(checkpoints).values(
        connection=page.lane.connection,
        stream=page.checkpoint.stream,
        cursor=page.checkpoint.cursor,
        saved_at=page.received_at,
    )
    c.execute(
        statement.on_conflict_do_update(
            index_elements=["connection", "stream"],
            set_={
                "cursor": statement.excluded.cursor,
                "saved_at": statement.excluded.saved_at,
            },
        )
    )


# ── claim ────────────────────────────────────────────────────────────────────────────────────────


def ready(c: Connection, lane: LaneId, now: Millis, limit: int) -> Ready:
    def count(solo: int) -> int:
        part = (
            select(outbox.c.seq)
            .where(
                outbox.c.lane == lane,
                in_state(State.READY),
                outbox.c.solo == solo,
                outbox.c.priority.in_((0, 1)),
                outbox.c.due <= now,
            )
            .limit(limit)
        )
        return c.execute(select(func.count()).select_from(part.subquery())).scalar_one()

    later = [
        c.execute(
            select(func.min(outbox.c.due)).where(
                outbox.c.lane == lane,
                in_state(State.READY),
                outbox.c.solo == solo,
                outbox.c.priority == priority,
                outbox.c.due > now,
            )
        ).scalar()
        for solo in (0, 1)
        for priority in (0, 1)
    ]
    due = [at for at in later if at is not None]
    return Ready(count(0), count(1), min(due) if due else None)


def claim_ready(
    c: Connection, lane: LaneId, token: int, now: Millis, limit: int, solo: bool, mapping: str
) -> list[Entry]:
    rows: list[Any] = []
    for priority in (0, 1):
        if len(rows) == limit:
            break
        oldest = (
            select(outbox.c.seq)
            .where(
                outbox.c.lane == lane,
                in_state(State.READY),
                outbox.c.solo == int(solo),
                outbox.c.priority == priority,
                outbox.c.due <= now,
            )
            .order_by(outbox.c.due, outbox.c.seq)
            .limit(limit - len(rows))
            .with_for_update(skip_locked=True)
        )
        rows += sorted(
            c.execute(
                update(outbox)
                .where(outbox.c.seq.in_(oldest))
                .values(
                    state=State.CLAIMED,
                    claim=token,
                    attempts=outbox.c.attempts + 1,
                    mapping=case(
                        (outbox.c.solo == 1, func.coalesce(outbox.c.mapping, mapping)),
                        else_=mapping,
                    ),
                )
                .returning(*ENTRY_COLUMNS)
            ),
            key=lambda row: row.seq,
        )
    return [entry_of(row) for row in rows]


def entry_of(row: Any) -> Entry:
    seq, unique_id, name, occurred, received, email, person, data, tries, solo, mapping, prio, f = (
        row
    )
    return Entry(
        seq=seq,
        unique_id=unique_id,
        name=name,
        occurred_at=occurred,
        received_at=received,
        email=email,
        person=person,
        data=data,
        attempts=tries,
        solo=bool(solo),
        mapping=mapping,
        backfill=bool(prio),
        failing_since=f,
    )


# ── settle ───────────────────────────────────────────────────────────────────────────────────────


def settle(
    c: Connection,
    claim: Claim,
    outcomes: Sequence[Outcome],
    now: Millis,
    sent: Sequence[Request],
    horizon: int,
) -> int:
    _save_requests(c, claim.lane.id, sent)
    entries = {entry.seq: entry for entry in claim.entries}
    accepted: dict[str, list[int]] = {}
    changed = 0
    for outcome in outcomes:
        if isinstance(outcome, Accepted):
            accepted.setdefault(outcome.request, []).append(outcome.seq)
        else:
            values = _values(outcome, entries[outcome.seq], now, horizon)
            changed += _change(c, claim, [outcome.seq], values)
    for request, seqs in accepted.items():
        values = _settled(State.ACCEPTED, now) | {"request": request}
        for part in chunks(seqs):
            changed += _change(c, claim, part, values)
    return changed


def _change(c: Connection, claim: Claim, seqs: Sequence[int], values: dict[str, Any]) -> int:
    return c.execute(
        update(outbox)
        .where(
            outbox.c.seq.in_(seqs),
            outbox.c.claim == claim.token,
            in_state(State.CLAIMED),
        )
        .values(values)
    ).rowcount


def _settled(state: State, now: Millis) -> dict[str, Any]:
    return {"state": state, "claim": None, "settled_at": now, "problem": None, "detail": ""}


def _values(outcome: Outcome, entry: Entry, now: Millis, horizon: int) -> dict[str, Any]:
    match outcome:
        case Skipped():
            return _settled(State.SKIPPED, now) | {"detail": outcome.reason}
        case Held():
            problem = outcome.problem.value
            return _settled(State.HELD, now) | {"problem": problem, "detail": outcome.detail}
        case Dead():
            return _settled(State.DEAD, now) | {
                "problem": outcome.problem.value,
                "detail": outcome.detail,
                "request": outcome.request,
            }
        case Unsent():
            return {
                "state": State.READY,
                "claim": None,
                "attempts": entry.attempts - 1,
                "mapping": entry.mapping if entry.solo else None,
            }
        case Retry() | Doubt():
            return _again(outcome, entry, now, horizon)
        case Accepted():
            raise AssertionError("settled in bulk above")


def _again(outcome: Retry | Doubt, entry: Entry, now: Millis, horizon: int) -> dict[str, Any]:
    since = entry.failing_since or now
    if now - since >= horizon:
        last = f"last: {outcome.problem} {outcome.detail}".strip()
        return _settled(State.DEAD, now) | {
            "problem": Problem.RETRIES_EXHAUSTED.value,
            "detail": last,
            "solo": int(entry.solo or isinstance(outcome, Doubt)),
        }
    in_doubt = entry.solo or isinstance(outcome, Doubt)
    return {
        "state": State.READY,
        "claim": None,
        "due": now + round(outcome.after * 1000),
        "failing_since": since,
        "problem": outcome.problem.value,
        "detail": outcome.detail,
        "solo": int(in_doubt),
        "mapping": entry.mapping if in_doubt else None,
    }


def _save_requests(c: Connection, lane: LaneId, sent: Sequence[Request]) -> None:
    if sent:
        c.execute(
            insert(requests),
            [
                {
                    "id": request.id,
                    "lane": lane,
                    "endpoint": request.endpoint,
                    "sent_at": request.sent_at,
                    "status": request.status,
                    "millis": request.millis,
                    "problem": request.problem.value if request.problem else None,
                }
                for request in sent
            ],
        )


# ── retention ────────────────────────────────────────────────────────────────────────────────────


def prune(c: Connection, now: Millis, keep: Mapping[State, int], limit: int) -> int:
    if not keep:
        return 0
    old = (
        select(outbox.c.seq)
        .where(
            or_(
                *(
                    (outbox.c.state == state) & (outbox.c.received_at < now - age)
                    for state, age in keep.items()
                )
            )
        )
        .order_by(outbox.c.seq)
        .limit(limit)
    )
    return c.execute(delete(outbox).where(outbox.c.seq.in_(old))).rowcount
