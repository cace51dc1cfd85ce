"""`/connections/{name}/settings`: each setting with its origin, credentials, and Klaviyo's
access."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from connector.config import Connection
from connector.console.connection_form import Answer, allow_oauth, find_connection, texts
from connector.console.session import Visit, error_text
from connector.console.view import page
from connector.domain.errors import ConfigError


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    return await _page(visit, find_connection(visit, request.path_params["name"]))


async def change(request: Request) -> Response:
    """Store what the form changes, or test the stored credentials."""
    visit = Visit.of(request)
    connection = find_connection(visit, request.path_params["name"])
    form = await visit.form()
    name, setup = connection.name, visit.services.setup
    there = f"/connections/{name}/settings"
    if form.get("what") == "test":
        try:
            result = await setup.check(name)
        except KeyError:
            return visit.redirect(there, f"{name} does not run here.", failed=True)
        word = "Both sides accept the credentials." if result.accepted else "Not accepted."
        return visit.redirect(there, word, failed=not result.accepted)
    try:
        groups = setup.groups(name, setup.platform_of(connection))
    except ConfigError:
        raise HTTPException(404) from None
    entered = setup.entered(groups, texts(form))
    if entered.faults:
        return await _page(visit, connection, form, Answer(False, entered.faults))
    if not entered.set and not entered.unset:
        return visit.redirect(there, "Nothing was changed.")
    args = {"connection": name, "set": entered.set, "unset": entered.unset}
    answer = await Answer.of(visit, "settings", args)
    if not answer.done:
        return await _page(visit, connection, form, answer)
    count = len(entered.set) + len(entered.unset)
    return visit.redirect(there, f"{count} changed, and in effect.")


async def connect(request: Request) -> Response:
    """On to Klaviyo, which asks the person."""
    visit = Visit.of(request)
    connection = find_connection(visit, request.path_params["name"])
    await visit.form()
    return RedirectResponse(f"/oauth/klaviyo/start?connection={connection.name}", 303)


async def disconnect(request: Request) -> Response:
    """Revoke the access at Klaviyo; asks once."""
    visit = Visit.of(request)
    name = find_connection(visit, request.path_params["name"]).name
    form = await visit.form()
    there = f"/connections/{name}/settings"
    if form.get("confirmed") != "yes":
        return await page(
            visit,
            "confirm.html",
            title=f"Disconnect {name} from Klaviyo?",
            effect="The access is revoked, and the app is removed at Klaviyo. Nothing is sent "
            "until an account is connected again; what arrives is kept.",
            label="Disconnect",
            back=there,
        )
    done, result = await visit.run("disconnect", {"connection": name})
    message = f"{name} is disconnected from Klaviyo." if done else error_text(result)
    return visit.redirect(there, message, failed=not done)


async def _page(
    visit: Visit,
    connection: Connection,
    form: FormData | Mapping[str, str] | None = None,
    answer: Answer | None = None,
) -> Response:
    name, setup = connection.name, visit.services.setup
    try:
        platform = setup.platform_of(connection)
        groups, address = setup.groups(name, platform), setup.webhook(connection)
    except ConfigError as error:
        answer, groups, address = Answer(False, {}, tuple(error.faults)), [], None
    response = await page(
        visit,
        "connection_settings.html",
        status=422 if answer and not answer.done else 200,
        name=name,
        connection=connection,
        groups=groups,
        given=texts(form) if form else {},
        answer=answer or Answer(True),
        access=await setup.klaviyo(connection),
        check=setup.last_check(name),
        address=address,
        ours=setup.is_ours(name),
        can_store=setup.can_store_secrets,
    )
    return allow_oauth(visit, response, connection)


routes = [
    Route("/connections/{name}/settings", show, name="connection_settings"),
    Route("/connections/{name}/settings", change, methods=["POST"]),
    Route("/connections/{name}/connect", connect, methods=["POST"]),
    Route("/connections/{name}/disconnect", disconnect, methods=["POST"]),
]
