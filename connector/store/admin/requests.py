"""Sent requests as rows: read with timelines and dead letters, written with outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from connector.domain.errors import Problem
from connector.domain.lanes import LaneId, Millis
from connector.domain.outcomes import Request
from connector.store.prepared import Prepared, param
from connector.store.statements import upsert
from connector.store.tables import requests


class RequestRow(NamedTuple):
    """A stored request. The names are those of the columns; all None in an outer join."""

    id: str | None
    endpoint: str
    sent_at: Millis
    status: int | None
    millis: int
    problem: str | None

    def request(self) -> Request | None:
        if self.id is None:
            return None
        problem = Problem.from_code(self.problem) if self.problem else None
        return Request(self.id, self.endpoint, self.sent_at, self.status, self.millis, problem)


COLUMNS = tuple(requests.c[name] for name in RequestRow._fields)


def save(c: Connection, lane: LaneId, sent: Sequence[Request]) -> None:
    """Requests stored already are left as they are: the answer to a first commit may have been
    lost."""
    _SAVE.run_all(
        c,
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


_SAVE = Prepared(
    lambda dialect: (
        upsert(dialect, requests)
        .values({column.name: param(column.name) for column in requests.c})
        .on_conflict_do_nothing()
    )
)
