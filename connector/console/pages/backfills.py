"""`/backfills`: send many people to Klaviyo; progress and history."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.console.session import Visit, error_text
from connector.console.view import page
from connector.service.status import BackfillStatus

_HISTORY = 20


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    commands = visit.services.commands
    found = await commands.backfills(request.query_params.get("connection") or None)
    status = await commands.latest_status()
    running = {run.id for run in status.backfills}
    connections = sorted(status.connections)
    chosen = request.query_params.get("connection", "")
    return await page(
        visit,
        "backfills.html",
        running=status.backfills,
        ended=[run for run in found if run["id"] not in running][:_HISTORY],
        connections=connections,
        chosen=chosen,
        names=await _names(visit, chosen or (connections[0] if len(connections) == 1 else "")),
        progress=_progress,
    )


async def _names(visit: Visit, connection: str) -> list[str]:
    """The lists and segments of the connection's account, where one is chosen."""
    if not connection or not visit.principal.is_operator:
        return []
    remote = visit.services.setup.names
    lists, segments = await asyncio.gather(remote.lists(connection), remote.segments(connection))
    return sorted({*lists.names.values(), *segments.names.values()}, key=str.casefold)


def _progress(run: BackfillStatus) -> float | None:
    """0 to 100; None while the number of people is not known."""
    return min(100.0, 100 * run.done / run.total) if run.total else None


async def start(request: Request) -> Response:
    visit = Visit.of(request)
    form = await visit.form()
    name = str(form.get("connection", ""))
    kind = str(form.get("source", ""))
    args = {
        "connection": name,
        **({"source": kind, "what": str(form.get("what", "")).strip()} if kind else {}),
        "dry_run": form.get("what_to_do") == "dry-run",
        "existing_only": form.get("existing_only") == "yes",
        "events": form.get("events") == "yes",
    }
    done, result = await visit.run("backfill", args)
    label = "Dry run" if args["dry_run"] else "Backfill"
    message = f"{label} of {name} started." if done else error_text(result)
    there = f"/backfills?{urlencode({'connection': name})}"
    return visit.redirect(there, message, failed=not done)


async def stop(request: Request) -> Response:
    visit = Visit.of(request)
    await visit.form()
    name = request.path_params["connection"]
    done, result = await visit.run("backfill-stop", {"connection": name})
    message = f"The backfill of {name} is stopped. Start it again to resume it."
    return visit.redirect("/backfills", message if done else error_text(result), failed=not done)


routes = [
    Route("/backfills", show, name="backfills"),
    Route("/backfills", start, methods=["POST"]),
    Route("/backfills/{connection}/stop", stop, methods=["POST"]),
]
