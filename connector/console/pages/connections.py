"""`/connections/{name}`: one connection, its lanes and links; pause and resume."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.console.pages.overview import card
from connector.console.session import Visit
from connector.console.view import page

_MODULES = {
    "events": "Events become metrics of profiles at Klaviyo.",
    "profiles": "Balance, tier and the other fields are kept on profiles at Klaviyo.",
    "audiences": "Audiences of the platform are kept as lists at Klaviyo.",
    "segments": "Segments of Klaviyo are sent to the platform.",
    "actions": "Flows at Klaviyo give points and send pushes.",
}


async def show(request: Request) -> Response:
    visit, name = Visit.of(request), request.path_params["name"]
    status = await visit.services.commands.status()
    if name not in status.connections:
        raise HTTPException(404)
    connection = status.connections[name]
    return await page(
        visit,
        "connection.html",
        card=card(name, connection),
        connection=connection,
        modules=_MODULES,
        attention=[item for item in status.attention if item.text.startswith(f"{name}")],
    )


async def pause_or_resume(request: Request) -> Response:
    visit, name = Visit.of(request), request.path_params["name"]
    form = await visit.form()
    kind = request.path_params["kind"]
    done, result = await visit.run(kind, {"connection": name})
    word = "paused: what arrives is kept" if kind == "pause" else "working again"
    message = f"{name} is {word}." if done else str(result.get("error"))
    back = "/" if form.get("from") == "overview" else f"/connections/{name}"
    return visit.redirect(back, message, failed=not done)


routes = [
    Route("/connections/{name}", show, name="connection"),
    Route("/connections/{name}/{kind:str}", pause_or_resume, methods=["POST"]),
]
