"""`/dead-letters`: what failed, by cause; retry or discard one, some, or all that match."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.console.session import Visit, error_text
from connector.console.view import page
from connector.domain.errors import Problem
from connector.service.dead_letters import filter_of
from connector.web.storable import read_id

_PAGE = 50
_FILTERS = ("connection", "cause", "state", "q")


def _given(values: Any) -> dict[str, str]:
    return {key: str(values[key]).strip() for key in _FILTERS if values.get(key)}


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    given, commands = _given(request.query_params), visit.services.commands
    try:
        which = filter_of(given)
        cursor = request.query_params.get("cursor")
        before = read_id(cursor) if cursor else None
    except ValueError:
        raise HTTPException(404) from None
    found = list(await commands.dead_letters(which, _PAGE + 1, before=before))
    status = await commands.latest_status()
    return await page(
        visit,
        "dead_letters.html",
        groups=status.dead_letters,
        given=given,
        query=urlencode(given),
        items=found[:_PAGE],
        count=await commands.count_dead_letters(which),
        next=found[_PAGE - 1].id if len(found) > _PAGE else None,
        connections=sorted(status.connections),
    )


async def show_one(request: Request) -> Response:
    visit = Visit.of(request)
    found = await visit.services.commands.dead_letter(request.path_params["id"])
    if found is None:
        raise HTTPException(404)
    # A record may hold personal data, so what it contains is for operators.
    record = json.loads(found.entry.data) if visit.principal.is_operator else None
    return await page(
        visit,
        "dead_letter.html",
        letter=found.dead_letter,
        problem=Problem.from_code(found.dead_letter.problem) if found.dead_letter.problem else None,
        record=None if record is None else json.dumps(record, indent=2, ensure_ascii=False),
        sent=found.request,
    )


async def change(request: Request) -> Response:
    """Retry, or ask before a change that cannot be undone."""
    visit = Visit.of(request)
    form = await visit.form()
    try:
        what, args = str(form.get("what", "")), _args(form)
    except ValueError:
        raise HTTPException(400) from None
    if what not in ("retry", "discard"):
        raise HTTPException(404)
    chosen = args["count"] if args.get("all") else len(args["ids"])
    if not chosen:
        return visit.redirect("/dead-letters", "Select at least one record.", failed=True)
    if form.get("confirmed") != "yes" and (what == "discard" or args.get("all")):
        return await page(
            visit, "confirm_dead_letters.html", what=what, count=chosen, args=args, form=form
        )
    done, result = await visit.run(what, args)
    query = urlencode(_given(form))
    return visit.redirect(
        f"/dead-letters?{query}" if query else "/dead-letters",
        _message(what, result) if done else error_text(result),
        failed=not done,
    )


def _args(form: FormData) -> dict[str, Any]:
    if form.get("all") == "yes":
        return {**_given(form), "all": True, "count": int(str(form.get("count", "0")))}
    return {"ids": [read_id(str(id)) for id in form.getlist("id")]}


def _message(what: str, result: Any) -> str:
    if "done" in result:
        return f"{result['done']:,} of {result['total']:,} done; the rest follows."
    if what == "discard":
        return f"{result['discarded']:,} discarded."
    waiting = result["waiting_for_an_address"]
    more = f" {waiting:,} still wait for an e-mail address." if waiting else ""
    return f"{result['retried']:,} will be sent again.{more}"


routes = [
    Route("/dead-letters", show, name="dead_letters"),
    Route("/dead-letters", change, methods=["POST"]),
    Route("/dead-letters/{id:id}", show_one, name="dead_letter"),
]
