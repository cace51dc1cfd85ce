"""`/audit`: who changed what, and when."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.console.session import Visit
from connector.console.view import page

_LIMIT = 100


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    connection = request.query_params.get("connection") or None
    status = await visit.services.commands.latest_status()
    return await page(
        visit,
        "audit.html",
        entries=await visit.services.commands.audit_log(connection, _LIMIT),
        connections=sorted(status.connections),
        chosen=connection or "",
        written=_written,
    )


def _written(value: Any) -> str:
    """A value as a file has it; empty where there was none."""
    return "" if value is None else json.dumps(value, ensure_ascii=False)


routes = [Route("/audit", show, name="audit")]
