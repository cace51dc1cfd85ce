"""What waits for a person's decision (guarantees 6 and 9)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update

from connector.domain.lanes import Millis
from connector.ports import Approval
from connector.store.database import Database
from connector.store.prepared import Prepared, param
from connector.store.tables import approvals

_PENDING = "pending"


class _ApprovalRow(NamedTuple):
    """A stored approval. The names are those of the columns."""

    id: int
    connection: str
    what: str
    subject: str
    detail: str
    state: Literal["pending", "approved", "rejected"]
    requested_at: Millis
    decided_at: Millis | None
    decided_by: str | None

    def approval(self) -> Approval:
        return Approval(
            id=self.id,
            connection=self.connection,
            what=self.what,
            subject=self.subject,
            detail=orjson.loads(self.detail),
            state=self.state,
            requested_at=self.requested_at,
            decided_at=self.decided_at,
            decided_by=self.decided_by,
        )


_APPROVALS = select(*(approvals.c[name] for name in _ApprovalRow._fields))
_ALL = Prepared(_APPROVALS.order_by(approvals.c.id))
_UNDECIDED = Prepared(_APPROVALS.where(approvals.c.state == _PENDING).order_by(approvals.c.id))
_ABOUT = Prepared(
    _APPROVALS.where(
        approvals.c.connection == param("connection"), approvals.c.what == param("what")
    ).order_by(approvals.c.id)
)

_DECIDED = Prepared(
    select(approvals.c.connection).where(
        approvals.c.what == param("what"), approvals.c.state != _PENDING
    )
)


def _approvals(rows: Iterable[Any]) -> list[Approval]:
    return [_ApprovalRow._make(row).approval() for row in rows]


class SqlApprovals:
    """connector.ports.Approvals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def request(
        self, connection: str, what: str, subject: str, detail: Mapping[str, Any], *, now: Millis
    ) -> Approval:
        return await self._database.write(
            lambda c: request(c, connection, what, subject, detail, now=now)
        )

    async def find(self, *, pending: bool = True) -> Sequence[Approval]:
        query = _UNDECIDED if pending else _ALL
        return await self._database.read(lambda c: _approvals(query.rows(c)))

    async def about(self, connection: str, what: str) -> Sequence[Approval]:
        return await self._database.read(
            lambda c: _approvals(_ABOUT.rows(c, connection=connection, what=what)), brief=True
        )

    async def decide(self, id: int, *, approved: bool, by: str, now: Millis) -> Approval | None:
        def work(c: Connection) -> Approval | None:
            state = "approved" if approved else "rejected"
            changed = c.execute(
                update(approvals)
                .where(approvals.c.id == id, approvals.c.state == _PENDING)
                .values(state=state, decided_at=now, decided_by=by)
            ).rowcount
            return _find_one(c, approvals.c.id == id) if changed else None

        return await self._database.write(work)

    async def close(self, connection: str, what: str, subject: str) -> None:
        await self._database.write(lambda c: close(c, connection, what, subject))


def request(
    c: Connection,
    connection: str,
    what: str,
    subject: str,
    detail: Mapping[str, Any],
    *,
    now: Millis,
) -> Approval:
    """Approvals.request, within the transaction of what must wait."""
    about = {"connection": connection, "what": what, "subject": subject}
    detail_json = orjson.dumps(detail).decode()
    same = and_(*(approvals.c[key] == value for key, value in about.items()))
    row = c.execute(_APPROVALS.where(same)).one_or_none()
    if row is None:
        values = about | {"detail": detail_json, "state": _PENDING, "requested_at": now}
        c.execute(insert(approvals).values(values))
        row = c.execute(_APPROVALS.where(same)).one()
    found = _ApprovalRow._make(row)
    if found.state == _PENDING and found.detail != detail_json:
        c.execute(update(approvals).where(same).values(detail=detail_json))
        found = found._replace(detail=detail_json)
    return found.approval()


def decided(c: Connection, what: str) -> list[str]:
    """The connections with an approval of this kind that was decided and is not closed."""
    return [connection for (connection,) in _DECIDED.rows(c, what=what)]


def close(c: Connection, connection: str, what: str, subject: str) -> None:
    c.execute(
        delete(approvals).where(
            approvals.c.connection == connection,
            approvals.c.what == what,
            approvals.c.subject == subject,
        )
    )


def _find_one(c: Connection, condition: ColumnElement[bool]) -> Approval | None:
    row = c.execute(_APPROVALS.where(condition)).one_or_none()
    return _ApprovalRow._make(row).approval() if row else None
