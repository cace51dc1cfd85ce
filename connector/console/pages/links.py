"""`/connections/{name}/links`: audiences kept as lists, segments sent to the platform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.config import Connection
from connector.console.connection_form import find_connection
from connector.console.session import Visit, error_text
from connector.console.view import page
from connector.domain.errors import ConfigError
from connector.service.connection_setup.remote import LinkPreview, Names

_KINDS = {"audiences": ("audience", "list"), "segments": ("segment", "target")}
"""Key of the configuration → its two names."""


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    connection = find_connection(visit, request.path_params["name"])
    name, setup, commands = connection.name, visit.services.setup, visit.services.commands
    modules = _modules(visit, connection)
    can_add = visit.principal.is_operator
    names = {kind: Names(complete=True) for kind in ("audiences", "lists", "segments")}
    if can_add and "audiences" in modules:
        names["audiences"] = await setup.names.audiences(name)
        names["lists"] = await setup.names.lists(name)
    if can_add and "segments" in modules:
        names["segments"] = await setup.names.segments(name)
    status = (await commands.status()).connections.get(name)
    return await page(
        visit,
        "links.html",
        connection=connection,
        links=[*status.audiences, *status.segments] if status else [],
        modules=modules,
        names=names,
        approvals=[a for a in await commands.approvals() if a.connection == name],
        in_file={kind: _in_file(visit, name, kind) for kind in _KINDS},
        targets=sorted({segment.target for segment in connection.segments}),
    )


async def add(request: Request) -> Response:
    """Show what a link would mean, then store it."""
    visit = Visit.of(request)
    connection = find_connection(visit, request.path_params["name"])
    kind = _kind(request)
    form = await visit.form()
    first, second = _KINDS[kind]
    link: dict[str, Any] = {key: str(form.get(key, "")).strip() for key in (first, second)}
    if kind == "audiences":
        link["create_list"] = form.get("create_list") == "yes"
    there = f"/connections/{connection.name}/links"
    if not link[first] or not link[second]:
        return visit.redirect(there, f"Give both: {first} and {second}.", failed=True)
    if form.get("confirmed") != "yes":
        preview = await _preview(visit, connection, kind, link)
        return await page(
            visit,
            "confirm_link.html",
            name=connection.name,
            title=_title(visit, connection),
            kind=kind,
            link=link,
            preview=preview,
            back=there,
        )
    links = _links(connection, kind)
    done, result = await _store(visit, connection, kind, [*links, link])
    message = f"{link[first]} → {link[second]} is saved. Both sides are read now."
    return visit.redirect(there, message if done else error_text(result), failed=not done)


async def remove(request: Request) -> Response:
    """End a link; asks once. People stay where they are."""
    visit = Visit.of(request)
    connection = find_connection(visit, request.path_params["name"])
    kind, number = _kind(request), request.path_params["number"]
    form = await visit.form()
    links = _links(connection, kind)
    if number >= len(links):
        raise HTTPException(404)
    first, second = _KINDS[kind]
    there = f"/connections/{connection.name}/links"
    text = f"{links[number][first]} → {links[number][second]}"
    if form.get("confirmed") != "yes":
        return await page(
            visit,
            "confirm.html",
            title=f"Remove {text}?",
            effect="No one is added or removed any more. Whoever is there now stays.",
            label="Remove",
            back=there,
        )
    kept = [link for index, link in enumerate(links) if index != number]
    done, result = await _store(visit, connection, kind, kept)
    message = f"{text} is removed."
    return visit.redirect(there, message if done else error_text(result), failed=not done)


def _kind(request: Request) -> str:
    kind: str = request.path_params["kind"]
    if kind not in _KINDS:
        raise HTTPException(404)
    return kind


def _links(connection: Connection, kind: str) -> list[Mapping[str, Any]]:
    found = getattr(connection, kind)
    return [link.model_dump(mode="json", exclude_unset=True) for link in found]


async def _store(
    visit: Visit, connection: Connection, kind: str, links: list[Any]
) -> tuple[bool, Mapping[str, Any]]:
    return await visit.run("settings", {"connection": connection.name, "set": {kind: links}})


async def _preview(
    visit: Visit, connection: Connection, kind: str, link: Mapping[str, Any]
) -> LinkPreview:
    setup, (first, second) = visit.services.setup, _KINDS[kind]
    look = setup.preview_audience if kind == "audiences" else setup.preview_segment
    return await look(connection.name, link[first], link[second])


def _modules(visit: Visit, connection: Connection) -> frozenset[str]:
    try:
        return visit.services.offered_modules(connection.name)
    except ConfigError:
        return frozenset()


def _title(visit: Visit, connection: Connection) -> str:
    try:
        return visit.services.setup.platform_of(connection).title
    except ConfigError:
        return connection.source


def _in_file(visit: Visit, name: str, kind: str) -> bool:
    return visit.services.config().is_set(f"connections.{name}.{kind}")


routes = [
    Route("/connections/{name}/links", show, name="links"),
    Route("/connections/{name}/{kind:str}/add", add, methods=["POST"]),
    Route("/connections/{name}/{kind:str}/{number:int}/remove", remove, methods=["POST"]),
]
