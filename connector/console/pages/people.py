"""`/people`: one person's timeline and fields, and all with something that failed. No address or
platform id is in a URL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from connector.console.session import Visit, error_text
from connector.console.view import page
from connector.ports import StuckPerson
from connector.service.runtime import PersonNow
from connector.service.views import stuck_person_view
from connector.web.access import AccessDenied
from connector.web.person_keys import open_person, seal_person
from connector.web.stuck_position import read_position, write_position

_PAGE = 50
_FILTERS = ("connection", "cause")


async def show(request: Request) -> Response:
    return await _list(Visit.of(request), None)


async def _list(visit: Visit, found: list[tuple[str, str]] | None) -> Response:
    """The search, what it has `found`, and for operators the people with something that failed."""
    values, commands = visit.request.query_params, visit.services.commands
    given = {key: str(values[key]).strip() for key in _FILTERS if values.get(key)}
    try:
        after = read_position(values["cursor"]) if values.get("cursor") else None
    except ValueError:
        raise HTTPException(404) from None
    status = await commands.latest_status()
    groups = [group for group in status.dead_letters if group.kind != "event"]
    causes = {group.problem: group.meaning for group in groups if group.problem}
    if given.get("cause"):
        causes.setdefault(given["cause"], "")
    stuck: Sequence[StuckPerson] = ()
    if visit.principal.is_operator:
        stuck = await commands.stuck_people(
            given.get("connection"), given.get("cause"), _PAGE + 1, after=after
        )
    more = len(stuck) > _PAGE
    return await page(
        visit,
        "people.html",
        found=found,
        given=given,
        query=urlencode(given),
        causes=dict(sorted(causes.items())),
        connections=sorted(status.connections),
        stuck=[(stuck_person_view(x), _key(visit, x)) for x in stuck[:_PAGE]],
        next=write_position(stuck[_PAGE - 1].position) if more else None,
    )


def _key(visit: Visit, found: StuckPerson) -> str | None:
    if found.person is None:
        return None
    return seal_person(visit.services.seal, found.lane.connection, found.person)


async def find(request: Request) -> Response:
    """For operators, because whoever may search by address can learn who is a member."""
    visit = Visit.of(request)
    form = await visit.form()
    who = str(form.get("who", "")).strip()
    found = await visit.services.commands.find_people(who) if who else []
    keys = [(name, seal_person(visit.services.seal, name, id)) for name, id in found]
    if len(keys) == 1:
        return RedirectResponse(f"/people/{keys[0][1]}", 303)
    return await _list(visit, keys)


async def show_one(request: Request) -> Response:
    visit = Visit.of(request)
    name, _, person = await _person(visit)
    return await _page(visit, name, person, None)


async def compare(request: Request) -> Response:
    """Read the person at both sides, once, for this page alone: nothing of it is kept."""
    visit = Visit.of(request)
    await visit.form()
    name, id, person = await _person(visit)
    return await _page(visit, name, person, await visit.services.commands.person_now(name, id))


async def compared(request: Request) -> Response:
    """After a comparison the browser has this address."""
    return RedirectResponse(f"/people/{request.path_params['key']}", 303)


async def _page(visit: Visit, name: str, person: dict[str, Any], now: PersonNow | None) -> Response:
    return await page(
        visit,
        "person.html",
        name=name,
        person=person,
        key=visit.request.path_params["key"],
        rows=_rows(person["fields"], now),
        compared=now,
        asked=visit.request.method == "POST",
        as_json=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One field: what the platform and Klaviyo have now, as far as they were asked, and what was
    sent last. `confirmed_at` is when Klaviyo accepted it, None where it has not."""

    name: str
    platform: str
    sent: str
    confirmed: bool
    confirmed_at: int | None
    klaviyo: str
    differs: bool


def _rows(fields: Mapping[str, Any], now: PersonNow | None) -> list[Row]:
    """Our fields; Klaviyo's other properties are not shown."""
    platform = (now.platform.fields if now else None) or {}
    klaviyo = (now.klaviyo.fields if now else None) or {}
    known = now is not None and None not in (now.platform.fields, now.klaviyo.fields)
    found = []
    for name in dict.fromkeys([*fields, *platform]):
        field = fields.get(name, {})
        found.append(
            Row(
                name.removeprefix("@"),
                _written(platform.get(name)),
                _written(field.get("value")),
                bool(field.get("confirmed")),
                field.get("confirmed_at"),
                _written(klaviyo.get(name)),
                differs=known and _written(platform.get(name)) != _written(klaviyo.get(name)),
            )
        )
    return found


def _written(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


async def forget(request: Request) -> Response:
    """Erase the person for good, after a second page."""
    visit = Visit.of(request)
    form = await visit.form()
    name, _, person = await _person(visit)
    path = f"/people/{request.path_params['key']}"
    if form.get("confirmed") != "yes":
        return await page(visit, "confirm_forget.html", name=name, person=person, back=path)
    args = {"connection": name, "person": person["platform_id"] or person["email"]}
    done, result = await visit.run("forget", {**args, "klaviyo": form.get("klaviyo") == "yes"})
    if not done:
        return visit.redirect(path, error_text(result), failed=True)
    return visit.redirect("/people", "The person is forgotten, and does not come back by itself.")


async def refresh_stuck(request: Request) -> Response:
    """Read everyone with this cause again."""
    visit = Visit.of(request)
    form = await visit.form()
    args = {key: str(form.get(key, "")) for key in _FILTERS}
    if not all(args.values()):
        raise HTTPException(400)
    done, result = await visit.run("refresh", args)
    message = "They are being read at the platform." if done else error_text(result)
    return visit.redirect(f"/people?{urlencode(args)}", message, failed=not done)


async def refresh(request: Request) -> Response:
    visit = Visit.of(request)
    await visit.form()
    name, _, person = await _person(visit)
    args = {"connection": name, "person": person["platform_id"] or person["email"]}
    done, result = await visit.run("refresh", args)
    message = "The person is being read at the platform." if done else error_text(result)
    return visit.redirect(f"/people/{request.path_params['key']}", message, failed=not done)


async def _person(visit: Visit) -> tuple[str, int, dict[str, Any]]:
    """The connection, the person's number and what is stored of them. Raises AccessDenied for a
    viewer."""
    if not visit.principal.is_operator:
        raise AccessDenied(403, "a viewer cannot see data about people: sign in as operator")
    try:
        name, id = open_person(visit.services.seal, visit.request.path_params["key"])
        return name, id, await visit.services.commands.timeline(id)
    except KeyError:
        raise HTTPException(404) from None


routes = [
    Route("/people", show, name="people"),
    Route("/people", find, methods=["POST"]),
    Route("/people/refresh", refresh_stuck, methods=["POST"]),
    Route("/people/{key}", show_one, name="person"),
    Route("/people/{key}/refresh", refresh, methods=["POST"]),
    Route("/people/{key}/compare", compare, methods=["POST"]),
    Route("/people/{key}/compare", compared),
    Route("/people/{key}/forget", forget, methods=["POST"]),
]
