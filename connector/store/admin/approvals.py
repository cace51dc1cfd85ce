"""Questions that wait for a person, and what was answered: promises 6 and 9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from connector.domain.lanes import Millis
from connector.ports import Approval
from connector.store.database import Database
from connector.store.tables import approvals

_PENDING = "pending"


class SqlApprovals:
    """connector.ports.Approvals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def request(
        self, connection: str, what: str, subject: str, detail: Mapping[str, Any], *, now: Millis
    ) -> Approval:
        return await self._database.write(
            lambda c: ask(c, connection, what, subject, detail, now=now)
        )

    async def find(self, *, pending: bool = True) -> Sequence[Approval]:
        query = select(approvals).order_by(approvals.c.id)
        if pending:
            query = query.where(approvals.c.state == _PENDING)
        return await self._database.read(lambda c: [_approval(row) for row in c.execute(query)])

    async def decide(self, id: int, *, approved: bool, by: str, now: Millis) -> Approval | None:
        def work(c: Connection) -> Approval | None:
            state = "approved" if approved else "rejected"
            changed = c.execute(
                update(approvals)
                .where(approvals.c.id == id, approvals.c.state == _PENDING)
                .values(state=state, decided_at=now, decided_by=by)
            ).rowcount
            if not changed:
                return None
            return _approval(c.execute(select(approvals).where(approvals.c.id == id)).one())

        return await self._database.write(work)

    async def close(self, connection: str, what: str, subject: str) -> None:
        await self._database.write(lambda c: close(c, connection, what, subject))


def ask(
    c: Connection,
    connection: str,
    what: str,
    subject: str,
    detail: Mapping[str, Any],
    *,
    now: Millis,
) -> Approval:
    """Approvals.ask, within the transaction of what must wait."""
    about = {"connection": connection, "what": what, "subject": subject}
    detail_json = orjson.dumps(detail).decode()
    of = [approvals.c[key] == value for key, value in about.items()]
    query = select(approvals).where(*of)
    row = c.execute(query).one_or_none()
    if row is None:
        values = about | {"detail": detail_json, "state": _PENDING, "requested_at": now}
        c.execute(insert(approvals).values(values))
    elif row.state == _PENDING and row.detail != detail_json:
        c.execute(update(approvals).where(*of).values(detail=detail_json))
    return _approval(c.execute(query).one())


def close(c: Connection, connection: str, what: str, subject: str) -> None:
    c.execute(
        delete(approvals).where(
            approvals.c.connection == connection,
            approvals.c.what == what,
            approvals.c.subject == subject,
        )
    )


def _approval(row: Any) -> Approval:
    return Approval(
        id=row.id,
        connection=row.connection,
        what=row.what,
        subject=row.subject,
        detail=orjson.loads(row.detail),
        state=cast(Literal["pending", "approved", "rejected"], row.state),
        requested_at=row.requested_at,
        decided_at=row.decided_at,
        decided_by=row.decided_by,
    )
