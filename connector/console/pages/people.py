"""`/people`: one person's timeline and fields. No address or platform id is in a URL."""

from __future__ import annotations

import json

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from connector.console.session import Visit, error_text
from connector.console.view import page
from connector.web.access import AccessDenied
from connector.web.person_keys import open_person, seal_person


async def show(request: Request) -> Response:
    return await page(Visit.of(request), "people.html", found=None)


async def find(request: Request) -> Response:
    """For operators, because whoever may search by address can learn who is a member."""
    visit = Visit.of(request)
    form = await visit.form()
    who = str(form.get("who", "")).strip()
    found = await visit.services.commands.find_people(who) if who else []
    keys = [(name, seal_person(visit.services.seal, name, id)) for name, id in found]
    if len(keys) == 1:
        return RedirectResponse(f"/people/{keys[0][1]}", 303)
    return await page(visit, "people.html", found=keys)


async def show_one(request: Request) -> Response:
    visit = Visit.of(request)
    if not visit.principal.is_operator:
        raise AccessDenied(403, "a viewer cannot see data about people: sign in as operator")
    name, person = await _person(visit)
    return await page(
        visit,
        "person.html",
        name=name,
        person=person,
        key=request.path_params["key"],
        as_json=lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    )


async def refresh(request: Request) -> Response:
    visit = Visit.of(request)
    await visit.form()
    name, person = await _person(visit)
    args = {"connection": name, "person": person["platform_id"] or person["email"]}
    done, result = await visit.run("refresh", args)
    message = "The person is being read at the platform." if done else error_text(result)
    return visit.redirect(f"/people/{request.path_params['key']}", message, failed=not done)


async def _person(visit: Visit) -> tuple[str, dict[str, object]]:
    try:
        name, id = open_person(visit.services.seal, visit.request.path_params["key"])
        return name, await visit.services.commands.timeline(id)
    except KeyError:
        raise HTTPException(404) from None


routes = [
    Route("/people", show, name="people"),
    Route("/people", find, methods=["POST"]),
    Route("/people/{key}", show_one, name="person"),
    Route("/people/{key}/refresh", refresh, methods=["POST"]),
]
