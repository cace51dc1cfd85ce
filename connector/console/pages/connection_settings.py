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
from connector.console.connection_form import (
    Answer,
    allow_oauth,
    find_connection,
    set_in_file,
    texts,
)
from connector.console.session import Visit, error_text
from connector.console.view import page
from connector.domain.errors import ConfigError
from connector.service.connection_setup import CheckResult
from connector.service.connection_setup.form import faults_by_key


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    return await _page(visit, find_connection(visit, request.path_params["name"]))


async def change(request: Request) -> Response:
    """Store what the form changes, or test the credentials in it, or else the stored ones."""
    visit = Visit.of(request)
    connection = find_connection(visit, request.path_params["name"])
    form = await visit.form()
    name, setup = connection.name, visit.services.setup
    there, test = f"/connections/{name}/settings", form.get("what") == "test"
    try:
        groups = setup.groups(name, setup.platform_of(connection))
    except ConfigError:
        raise HTTPException(404) from None
    entered = setup.entered(groups, texts(form))
    if entered.faults:
        return await _page(visit, connection, form, Answer(False, entered.faults))
    try:
        result = await setup.check_entered(connection, groups, entered, by=visit.principal.name)
    except ConfigError as error:
        if test:
            faults, others = faults_by_key(name, error.faults)
            return await _page(visit, connection, form, Answer(False, faults, tuple(others)))
        result = None  # storing it says what is wrong
    if result is None and test:
        return await _test_stored(visit, name)
    if result and (test or result.refused):
        return await _page(visit, connection, form, _verdict(result), result)
    if not entered.set and not entered.unset:
        return visit.redirect(there, "Nothing was changed.")
    args = {"connection": name, "set": entered.set, "unset": entered.unset}
    answer = await Answer.of(visit, "settings", args)
    if not answer.done:
        return await _page(visit, connection, form, answer)
    count = len(entered.set) + len(entered.unset)
    message = f"{count} changed, and in effect."
    if result and not result.accepted:
        away = "; ".join(check.detail for check in result.checks if check.level == "fault")
        message += f" The credentials could not be tested ({away}): test them again later."
    return visit.redirect(there, message)


def _verdict(result: CheckResult) -> Answer:
    """Of a test of what was entered."""
    if result.accepted:
        text = "The credentials are accepted, and not saved yet: enter the secrets again, and save."
        return Answer(True, others=(text,))
    word = "not accepted" if result.refused else "not tested, because the other side is away"
    return Answer(False, others=(f"Nothing was saved: {word}. Secrets have to be entered again.",))


async def _test_stored(visit: Visit, name: str) -> Response:
    there = f"/connections/{name}/settings"
    try:
        result = await visit.services.setup.check(name)
    except KeyError:
        return visit.redirect(there, f"{name} does not run here.", failed=True)
    word = "Both sides accept the credentials." if result.accepted else "Not accepted."
    return visit.redirect(there, word, failed=not result.accepted)


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
    tested: CheckResult | None = None,
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
        in_file=set_in_file(visit, connection.name),
        status=422 if answer and not answer.done else 200,
        name=name,
        connection=connection,
        groups=groups,
        given=texts(form) if form else {},
        answer=answer or Answer(True),
        access=await setup.klaviyo(connection),
        check=tested or setup.last_check(name),
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
