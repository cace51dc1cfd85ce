"""`/dead-letters`: what failed, by cause; retry or discard one, some, or all that match."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from connector.domain.messages import Fault, Skip
from connector.domain.wording import counted
from connector.ports import Command, DeadLetterDetail
from connector.service.dead_letters import filter_of
from connector.service.mapping_trials import CAUSES
from connector.service.status import DeadLetters
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
        cursor, order = (request.query_params.get(key) for key in ("cursor", "command"))
        before = read_id(cursor) if cursor else None
        command = await commands.command(read_id(order)) if order else None
    except ValueError:
        raise HTTPException(404) from None
    found = list(await commands.dead_letters(which, _PAGE + 1, before=before))
    status = await commands.latest_status()
    of_records = [group for group in status.dead_letters if group.kind == "event"]
    causes = {group.problem: group.meaning for group in of_records if group.problem}
    if given.get("cause"):
        causes.setdefault(given["cause"], "")
    return await page(
        visit,
        "dead_letters.html",
        groups=status.dead_letters,
        causes=dict(sorted(causes.items())),
        trials=await _trials(visit, of_records),
        progress=_progress(command),
        given=given,
        query=urlencode(given),
        items=found[:_PAGE],
        # Both are read while lanes settle.
        count=max(len(found), await commands.count_dead_letters(which)),
        next=found[_PAGE - 1].id if len(found) > _PAGE else None,
        connections=sorted(status.connections),
    )


async def _trials(visit: Visit, groups: Sequence[DeadLetters]) -> dict[tuple[str, str], Any]:
    """(connection, cause) → what a changed mapping would make of its records."""
    trials = visit.services.commands.mapping_trials
    found = {
        (group.connection, group.problem): await trials.of_cause(group.connection, group.problem)
        for group in groups
    }
    return {key: trial for key, trial in found.items() if trial is not None}


def _progress(command: Command | None) -> dict[str, Any] | None:
    """How far a retry or discard of many has come."""
    if command is None or command.kind not in ("retry", "discard"):
        return None
    result = command.result or {}
    if command.ok is None:
        return {"running": True, "done": result.get("done", 0), "total": result.get("total")}
    text = _message(command.kind, result) if command.ok else error_text(result)
    return {"running": False, "text": text, "failed": not command.ok}


async def show_one(request: Request) -> Response:
    visit = Visit.of(request)
    found = await _record(visit)
    problem = found.dead_letter.problem
    record = trial = None
    # A record may hold personal data, so what it contains is for operators.
    if visit.principal.is_operator:
        record = _as_json(json.loads(found.entry.data))
        trial = await _trial(visit, found)
    return await page(
        visit,
        "dead_letter.html",
        letter=found.dead_letter,
        entry=found.entry,
        problem=Problem.from_code(problem) if problem else None,
        rendering=CAUSES,
        unnamed=problem == Problem.UNKNOWN_EVENT,
        record=record,
        trial=trial,
        sent=found.request,
    )


async def _record(visit: Visit) -> DeadLetterDetail:
    found = await visit.services.commands.dead_letter(visit.request.path_params["id"])
    if found is None:
        raise HTTPException(404)
    return found


async def _trial(visit: Visit, found: DeadLetterDetail) -> dict[str, str] | None:
    """What the mapping in use makes of the record."""
    trials = visit.services.commands.mapping_trials
    made = await trials.of_record(found.dead_letter.connection, found.entry)
    if made is None:
        return None
    if isinstance(made, Skip):
        return {"text": f"a rule leaves it out ({made.reason})", "sends": ""}
    if isinstance(made, Fault):
        return {"text": f"{made.problem.meaning}: {made.detail}", "sends": ""}
    sent = {
        "metric": made.metric,
        "profile": {**made.identity, **made.attributes},
        "properties": made.properties,
        **({"value": made.value} if made.value is not None else {}),
        "unique_id": made.unique_id,
    }
    return {"text": "", "sends": _as_json(sent)}


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


async def name_event(request: Request) -> Response:
    """Send events of this name from now on: an entry of the mapping, set at run time."""
    visit = Visit.of(request)
    await visit.form()
    found = await _record(visit)
    letter = found.dead_letter
    if letter.problem != Problem.UNKNOWN_EVENT:
        raise HTTPException(404)
    key = f"mapping.events.metrics.{json.dumps(letter.name, ensure_ascii=False)}.enabled"
    args = {"connection": letter.connection, "set": {key: True}}
    done, result = await visit.run("settings", args)
    message = f"Events named {letter.name} are sent from now on. Retry those that failed."
    path = f"/dead-letters/{letter.id}"
    return visit.redirect(path, message if done else error_text(result), failed=not done)


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
    command = await visit.services.commands.submit_and_wait(what, args, by=visit.principal.name)
    query, result = _given(form), command.result or {}
    if command.ok is None:
        query["command"] = str(command.id)
    path = f"/dead-letters?{urlencode(query)}" if query else "/dead-letters"
    if command.ok is None:
        return visit.redirect(path, "It continues; this page shows how far it has come.")
    message = _message(what, result) if command.ok else error_text(result)
    return visit.redirect(path, message, failed=not command.ok)


def _args(form: FormData) -> dict[str, Any]:
    if form.get("all") == "yes":
        return {**_given(form), "all": True, "count": int(str(form.get("count", "0")))}
    return {"ids": [read_id(str(id)) for id in form.getlist("id")]}


def _message(what: str, result: Any) -> str:
    if what == "discard":
        return f"{counted(result['discarded'], 'record')} discarded."
    waiting = result["waiting_for_an_address"]
    more = f" {waiting:,} still wait for an e-mail address." if waiting else ""
    return f"{counted(result['retried'], 'record')} will be sent again.{more}"


routes = [
    Route("/dead-letters", show, name="dead_letters"),
    Route("/dead-letters", change, methods=["POST"]),
    Route("/dead-letters/{id:id}", show_one, name="dead_letter"),
    Route("/dead-letters/{id:id}/name-event", name_event, methods=["POST"]),
]
