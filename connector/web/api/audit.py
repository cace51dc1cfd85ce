"""`/audit`: who changed what."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from connector.web.api.context import Cursor, Limit, Page, Services, Viewer, write_cursor
from connector.web.api.problems import RESPONSES

router = APIRouter(prefix="/audit", tags=["audit"], responses=RESPONSES)


class AuditView(BaseModel):
    """A command, or a setting that was changed, with the value before and after. `error`: why it
    failed; empty where it was done. It holds no secret and no personal data. `at` is in ms since
    1970."""

    id: int
    at: int
    by: str
    what: str
    connection: str
    subject: str
    before: Any
    after: Any
    error: str


@router.get("")
async def list_audit(
    services: Services,
    caller: Viewer,
    cursor: Cursor,
    limit: Limit = 50,
    connection: str | None = None,
) -> Page[AuditView]:
    """The newest first."""
    found = list(await services.commands.audit_log(connection, limit + 1, before=cursor))
    return Page(
        items=[AuditView(**dataclasses.asdict(entry)) for entry in found[:limit]],
        next=write_cursor(found[limit - 1].id) if found[limit:] else None,
    )
