"""`/connections/{name}/fields`: fields and metrics on or off, with a real person before and
after."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.config import Connection, dotted_key
from connector.console.connection_form import find_connection
from connector.console.session import Visit, error_text
from connector.console.view import page
from connector.domain.errors import ConfigError
from connector.mapping import load

_TABLES = {
    "fields": ("profile", "fields"),
    "attributes": ("profile", "attributes"),
    "metrics": ("events", "metrics"),
}
_TYPES = {
    "string": "text",
    "integer": "whole number",
    "boolean": "yes or no",
    "datetime": "date and time",
    "url": "link",
}
"""Types of the mapping language that have another name for people."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the mapping. `label` is its name at Klaviyo."""

    name: str
    label: str
    source: str
    type: str
    on: bool
    in_file: bool
    by: str = ""

    @property
    def about(self) -> str:
        """What it is made of at the platform, as far as its name does not say it."""
        kind = _TYPES.get(self.type, self.type)
        source = "" if self.source in ("", self.name) else f"from {self.source}"
        switched = f"switched by {self.by}" if self.by else ""
        return " · ".join(part for part in (kind, source, switched) if part)


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    connection = find_connection(visit, request.path_params["name"])
    return await _page(visit, connection, _entries(visit, connection))


async def change(request: Request) -> Response:
    """Preview what is ticked for a person, or save it."""
    visit = Visit.of(request)
    connection = find_connection(visit, request.path_params["name"])
    form = await visit.form()
    entries = _entries(visit, connection)
    ticked = _ticked(form, entries)
    if form.get("what") == "save":
        return await _save(visit, connection, entries, ticked)
    who = str(form.get("who", "")).strip()
    people, fault = [], ""
    if not who:
        fault = "Give the e-mail address or id of a customer."
    else:
        try:
            people = await visit.services.setup.preview_person(
                connection, who, _as_changes(ticked, connection)
            )
        except ConfigError as error:
            fault = "; ".join(error.faults)
        else:
            fault = "" if people else f"{connection.name} has no customer with this address or id."
    return await _page(visit, connection, entries, ticked, who=who, people=people, fault=fault)


async def _save(
    visit: Visit,
    connection: Connection,
    entries: Mapping[str, list[Entry]],
    ticked: Mapping[str, set[str]],
) -> Response:
    made: dict[str, bool] = {}
    removed: list[str] = []
    for kind, found in entries.items():
        for entry in found:
            on = entry.name in ticked[kind]
            key = dotted_key(("mapping", *_TABLES[kind], entry.name, "enabled"))
            if on == entry.on:
                continue
            if on == entry.in_file and entry.by:
                removed.append(key)
            else:
                made[key] = on
    name, there = connection.name, f"/connections/{connection.name}/fields"
    if not made and not removed:
        return visit.redirect(there, "Nothing was changed.")
    args = {"connection": name, "set": made, "unset": removed}
    done, result = await visit.run("settings", args)
    count = len(made) + len(removed)
    message = (
        f"{count} changed. It applies to everybody who is read from now on; a backfill sends it to "
        "the others."
    )
    return visit.redirect(there, message if done else error_text(result), failed=not done)


async def _page(
    visit: Visit,
    connection: Connection,
    entries: Mapping[str, list[Entry]],
    ticked: Mapping[str, set[str]] | None = None,
    *,
    who: str = "",
    people: Any = (),
    fault: str = "",
) -> Response:
    now = {kind: {entry.name for entry in found if entry.on} for kind, found in entries.items()}
    return await page(
        visit,
        "fields.html",
        name=connection.name,
        entries=entries,
        ticked=ticked or now,
        who=who,
        people=people,
        fault=fault,
        shown=_shown,
    )


def _entries(visit: Visit, connection: Connection) -> dict[str, list[Entry]]:
    """Raises ConfigError where the mapping is faulty."""
    tables: Any = tomllib.loads(load(connection.mapping).mapping.text)
    made = {
        (*o.key[1:3], o.key[3]): o
        for o in visit.services.config().overrides
        if o.connection == connection.name and o.key[0] == "mapping" and len(o.key) == 5
    }
    prefix = str(tables.get("events", {}).get("prefix", ""))
    found: dict[str, list[Entry]] = {}
    for kind, (first, second) in _TABLES.items():
        found[kind] = []
        for name, table in tables.get(first, {}).get(second, {}).items():
            override = made.get((first, second, name))
            in_file = bool(table.get("enabled", True))
            found[kind].append(
                Entry(
                    name=name,
                    label=_label(kind, name, prefix + str(table.get("name", name))),
                    source=_source(table),
                    type=str(table.get("type", "")),
                    on=in_file if override is None else bool(override.value),
                    in_file=in_file,
                    by=override.by if override else "",
                )
            )
    return found


def _label(kind: str, name: str, metric: str) -> str:
    if kind == "attributes":
        return name.replace("_", " ").capitalize()
    return metric if kind == "metrics" else name


def _source(table: Mapping[str, Any]) -> str:
    """Where a field's value comes from, by its names at the platform."""
    if paths := table.get("from"):
        names = (path.removeprefix("raw.") if isinstance(path, str) else "" for path in paths)
        return ", ".join(name or "a function" for name in names)
    return "an event" if table.get("from_event") or table.get("trusted") else ""


def _ticked(form: FormData, entries: Mapping[str, list[Entry]]) -> dict[str, set[str]]:
    return {
        kind: {str(value) for value in form.getlist(kind)} & {entry.name for entry in found}
        for kind, found in entries.items()
    }


def _as_changes(ticked: Mapping[str, set[str]], connection: Connection) -> dict[str, Any]:
    """Tables above the mapping file that switch every entry as it is ticked."""
    tables: Any = tomllib.loads(load(connection.mapping).mapping.text)
    changes: dict[str, Any] = {}
    for kind, (first, second) in _TABLES.items():
        known = tables.get(first, {}).get(second, {})
        changes.setdefault(first, {})[second] = {
            name: {"enabled": name in ticked[kind]} for name in known
        }
    return changes


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)


routes = [
    Route("/connections/{name}/fields", show, name="fields"),
    Route("/connections/{name}/fields", change, methods=["POST"]),
]
