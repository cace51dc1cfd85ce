"""`/connections/{name}`: one connection: its lanes, modules and links, and what can be changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.console.connection_form import MODULES, set_in_file
from connector.console.pages.overview import card, offered_modules
from connector.console.session import Visit, error_text
from connector.console.view import page


async def show(request: Request) -> Response:
    visit, name = Visit.of(request), request.path_params["name"]
    status = await visit.services.commands.latest_status()
    if name not in status.connections:
        raise HTTPException(404)
    connection = status.connections[name]
    return await page(
        visit,
        "connection.html",
        card=card(name, connection),
        connection=connection,
        modules=MODULES,
        offered=offered_modules(visit.services, name),
        in_file=set_in_file(visit, name),
        attention=[item for item in status.attention if item.connection == name],
    )


async def pause_or_resume(request: Request) -> Response:
    visit, name = Visit.of(request), request.path_params["name"]
    form = await visit.form()
    kind = request.path_params["kind"]
    if kind not in ("pause", "resume"):
        raise HTTPException(404)
    done, result = await visit.run(kind, {"connection": name})
    word = "paused: what arrives is kept" if kind == "pause" else "working again"
    message = f"{name} is {word}." if done else error_text(result)
    back = "/" if form.get("from") == "overview" else f"/connections/{name}"
    return visit.redirect(back, message, failed=not done)


async def switch_module(request: Request) -> Response:
    visit, name = Visit.of(request), request.path_params["name"]
    form = await visit.form()
    # A card of the overview has one form for all its switches.
    module, _, state = str(form.get("switch", "")).partition(" ")
    if "switch" not in form:
        module, state = str(form.get("module", "")), "on" if form.get("on") == "yes" else "off"
    if module not in MODULES or state not in ("on", "off"):
        raise HTTPException(404)
    on = state == "on"
    done, result = await visit.run("modules", {"connection": name, "names": [module], "on": on})
    message = f"{module.capitalize()} {'on' if on else 'off'}."
    if done and result.get("waiting"):
        message += f" {result['waiting']:,} records wait until it is on again."
    if form.get("from") == "overview":
        return visit.redirect("/", message if done else error_text(result), failed=not done)
    return _back(visit, name, done, result, message)


async def activate(request: Request) -> Response:
    """Deactivating asks once: nothing is received or sent any more."""
    visit, name = Visit.of(request), request.path_params["name"]
    form = await visit.form()
    on = form.get("on") == "yes"
    if not on and form.get("confirmed") != "yes":
        return await page(
            visit,
            "confirm.html",
            title=f"Deactivate {name}?",
            effect="Webhooks of the platform are refused, and nothing is sent. What was received "
            "before waits.",
            label="Deactivate",
            back=f"/connections/{name}",
        )
    done, result = await visit.run("settings", {"connection": name, "set": {"enabled": on}})
    message = f"{name} is {'active' if on else 'deactivated'}."
    return _back(visit, name, done, result, message)


def _back(visit: Visit, name: str, done: bool, result: Mapping[str, Any], message: str) -> Response:
    path = f"/connections/{name}"
    return visit.redirect(path, message if done else error_text(result), failed=not done)


routes = [
    Route("/connections/{name}", show, name="connection"),
    Route("/connections/{name}/modules", switch_module, methods=["POST"]),
    Route("/connections/{name}/enabled", activate, methods=["POST"]),
    Route("/connections/{name}/{kind:str}", pause_or_resume, methods=["POST"]),
]
