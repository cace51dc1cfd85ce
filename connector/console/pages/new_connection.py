"""`/connections/new`: add a connection, step by step. What was entered is kept as a connection that
is not active yet, so that a person can continue later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from connector.config import Connection
from connector.console.connection_form import (
    MODULES,
    Answer,
    allow_oauth,
    find_connection,
    texts,
)
from connector.console.session import Visit, error_text
from connector.console.view import page
from connector.domain.errors import ConfigError, Problem
from connector.domain.oauth import KLAVIYO_SCOPES
from connector.ports import Platform

_PATH = "/connections/new"


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    name, source = (request.query_params.get(key, "") for key in ("name", "source"))
    if name:
        connection = find_connection(visit, name)
        if not visit.services.setup.is_ours(name):
            return RedirectResponse(f"/connections/{name}", 303)
        if connection.enabled:
            return await _next_steps(visit, connection)
        return await _form(visit, connection.source, connection)
    if source:
        return await _form(visit, source)
    setup = visit.services.setup
    return await page(
        visit,
        "new_connection.html",
        platforms=setup.platforms(),
        unfinished=[(c, setup.platform_of(c).title) for c in setup.unfinished()],
        modules=MODULES,
        can_store=setup.can_store_secrets,
    )


async def change(request: Request) -> Response:
    """Keep what was entered, and test or activate it."""
    visit = Visit.of(request)
    form = await visit.form()
    name, source = (str(form.get(key, "")).strip() for key in ("name", "source"))
    known = next((c for c in visit.services.config().connections if c.name == name), None)
    if known is not None and not visit.services.setup.is_ours(name):
        known = None
    if known is not None and (known.source != source or known.enabled):
        known = None
    stored = await _store(visit, form, name, source, known)
    if not stored.done:
        return await _form(visit, source, known, form=form, answer=stored)
    if form.get("what") == "connect":
        return RedirectResponse(f"/oauth/klaviyo/start?{urlencode({'connection': name})}", 303)
    there = f"{_PATH}?name={name}"
    if not await visit.services.setup.until_known(name):
        text = "Everything entered is kept, and not in use yet. Continue here in a moment."
        return visit.redirect(_PATH, text, failed=True)
    result = await visit.services.setup.check(name)
    if form.get("what") != "save":
        word = "Both sides accept the credentials." if result.accepted else "Not accepted yet."
        return visit.redirect(there, word, failed=not result.accepted)
    if not result.accepted:
        text = "Not saved: the credentials must be accepted first. Everything entered is kept."
        return visit.redirect(there, text, failed=True)
    done, answer = await visit.run("settings", {"connection": name, "set": {"enabled": True}})
    message = f"{name} is saved and active." if done else error_text(answer)
    return visit.redirect(there, message, failed=not done)


async def _store(
    visit: Visit, form: FormData, name: str, source: str, known: Connection | None
) -> Answer:
    """Store what the form changes of a connection that is not active."""
    setup = visit.services.setup
    try:
        platform = setup.platform(source)
    except ConfigError:
        raise HTTPException(404) from None
    given = texts(form)
    if given.get("klaviyo.private_key"):
        given["klaviyo.auth"] = "private-key"  # whoever pastes a key means it
    entered = setup.entered(setup.groups(name, platform), given)
    offered = platform.modules
    modules = [module for module in offered if module in form.getlist("module")]
    if form.getlist("modules-shown") and len(modules) < len(offered):
        entered.set["modules"] = modules
    if entered.faults:
        return Answer(False, entered.faults)
    changes: dict[str, Any] = entered.set
    if known is None:
        changes = setup.with_generated(platform, {"enabled": False, **changes})
        made = {"connection": name, "source": source, "set": changes}
        return await Answer.of(visit, "add-connection", made)
    kept = {"connection": name, "set": changes, "unset": entered.unset}
    return await Answer.of(visit, "settings", kept)


async def _form(
    visit: Visit,
    source: str,
    connection: Connection | None = None,
    *,
    form: Mapping[str, Any] | None = None,
    answer: Answer | None = None,
) -> Response:
    setup = visit.services.setup
    try:
        settings = connection.settings if connection else None
        platform: Platform = setup.platform(source, settings)
    except ConfigError:
        raise HTTPException(404) from None
    name = connection.name if connection else ""
    groups = setup.groups(name, platform)
    response = await page(
        visit,
        "new_connection_form.html",
        status=422 if answer else 200,
        platform=platform,
        connection=connection,
        free_name=setup.free_name(source),
        groups=groups[:1],
        klaviyo=groups[1].settings,
        access=await setup.klaviyo(connection) if connection else None,
        oauth=bool(visit.services.config().klaviyo_app.client_id),
        scopes=KLAVIYO_SCOPES,
        modules={module: MODULES[module] for module in platform.modules},
        chosen=connection.modules if connection else tuple(MODULES),
        given=texts(form) if form else {},
        answer=answer or Answer(True),
        check=setup.last_check(name) if connection else None,
        can_store=setup.can_store_secrets,
    )
    return allow_oauth(visit, response, connection)


async def _next_steps(visit: Visit, connection: Connection) -> Response:
    """After it is active: the webhook, the first delivery, and lists."""
    setup, name = visit.services.setup, connection.name
    status = (await visit.services.commands.status()).connections.get(name)
    refusal = status.last_refusal if status else None
    platform = setup.platform_of(connection)
    return await page(
        visit,
        "new_connection_next.html",
        name=name,
        platform=platform,
        connection=connection,
        seen=status,
        refusal=refusal,
        problem=Problem.from_code(refusal.problem) if refusal and refusal.problem else None,
        address=setup.webhook(connection),
        offered=platform.modules,
    )


async def show_address(request: Request) -> Response:
    """Show the whole address and the secret once; written to the audit log."""
    visit, name = Visit.of(request), request.path_params["name"]
    await visit.form()
    connection = find_connection(visit, name)
    setup = visit.services.setup
    address = setup.webhook(connection)
    if address is None:
        raise HTTPException(404)
    await setup.note_shown(name, "webhook address and secret", by=visit.principal.name)
    return await page(
        visit,
        "webhook_address.html",
        name=name,
        title=setup.platform_of(connection).title,
        address=address,
        back=f"{_PATH}?name={name}" if setup.is_ours(name) else f"/connections/{name}/settings",
    )


async def remove(request: Request) -> Response:
    """Remove a connection that was made here and is not active; asks once."""
    visit, name = Visit.of(request), request.path_params["name"]
    form = await visit.form()
    find_connection(visit, name)
    if form.get("confirmed") != "yes":
        return await page(
            visit,
            "confirm.html",
            title=f"Remove {name}?",
            effect="Its settings and credentials are deleted. What it received and sent before "
            "stays in the log.",
            label="Remove",
            back=f"{_PATH}?name={name}",
        )
    done, result = await visit.run("remove-connection", {"connection": name})
    message = f"{name} is removed." if done else error_text(result)
    back = _PATH if done else f"{_PATH}?name={name}"
    return visit.redirect(back, message, failed=not done)


routes = [
    Route(_PATH, show, name="new_connection"),
    Route(_PATH, change, methods=["POST"]),
    Route("/connections/{name}/webhook", show_address, methods=["POST"]),
    Route("/connections/{name}/remove", remove, methods=["POST"]),
]
