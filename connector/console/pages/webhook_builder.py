"""`/webhook-builder`: what to paste into the webhook of a Klaviyo flow. Its state is the query."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import FormData, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.console.session import Visit
from connector.console.view import page
from connector.service.webhook_builder import PRESETS, InvalidStep, Webhook, build, step_of
from connector.service.webhook_builder.trial import send_test

_ACTIONS = {
    "increase": "Give points",
    "decrease": "Take points",
    "adjust": "Adjust points (by the sign of the amount)",
    "push": "Send a push",
}
_TRIGGERS = {
    "metric": "Metric: someone does something",
    "list": "List: someone is added to a list",
    "date": "Date: a birthday or another date",
    "segment": "Segment: someone joins a segment",
}
_OF_THE_STEP = ("action", "amount", "reason", "trigger", "message", "url", "once_per")
_STATE = ("connection", "preset", *_OF_THE_STEP)


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    return await _page(visit, request.query_params)


async def change(request: Request) -> Response:
    """Show the secret, or make the call once; both are for operators."""
    visit = Visit.of(request)
    form = await visit.form()
    what = form.get("what")
    if what == "secret":
        return await _page(visit, form, secret=True)
    if what != "send-test":
        raise HTTPException(404)
    email = str(form.get("email", "")).strip()
    if not email:
        return await _page(visit, form, faults=("give the e-mail address of a test customer",))
    if form.get("confirmed") != "yes":
        kept = {key: str(form[key]) for key in (*_STATE, "email") if form.get(key)}
        return await page(visit, "confirm_test.html", email=email, kept=kept, back=_url(form))
    try:
        made = _build(visit, form)
    except InvalidStep as error:
        return await _page(visit, form, faults=error.faults)
    run = str(visit.services.clock.now())
    status, text = await send_test(made, email, run, visit.services.send)
    answer = f"POST {made.url} → {status or 'no answer'}: {text.strip()[:500]}"
    return visit.redirect(_url(form), answer, failed=not 200 <= status < 300)


async def _page(
    visit: Visit,
    given: QueryParams | FormData,
    *,
    secret: bool = False,
    faults: tuple[str, ...] = (),
) -> Response:
    made: Webhook | None = None
    if given.get("connection") and not faults:
        try:
            made = _build(visit, given)
        except InvalidStep as error:
            faults = tuple(error.faults)
    return await page(
        visit,
        "webhook_builder.html",
        given={key: str(given.get(key) or "") for key in _STATE},
        connections=[c.name for c in visit.services.config().connections],
        actions=_ACTIONS,
        triggers=_TRIGGERS,
        presets=PRESETS,
        faults=faults,
        made=made if made is None or secret else made.masked(),
        shows_secret=secret,
    )


def _build(visit: Visit, given: QueryParams | FormData) -> Webhook:
    """Raises InvalidStep."""
    step: dict[str, Any] = {key: str(given[key]) for key in _OF_THE_STEP if given.get(key)}
    name = str(given.get("connection", ""))
    preset = str(given.get("preset") or "") or None
    if preset is not None and preset not in PRESETS:
        raise InvalidStep(f"there is no preset {preset!r}")
    try:
        return build(step_of(preset, step), visit.services.flow_target(name))
    except KeyError:
        raise InvalidStep(f"there is no connection {name!r}") from None


def _url(given: QueryParams | FormData) -> str:
    state = {key: str(given[key]) for key in _STATE if given.get(key)}
    return f"/webhook-builder?{urlencode(state)}"


routes = [
    Route("/webhook-builder", show, name="webhook_builder"),
    Route("/webhook-builder", change, methods=["POST"]),
]
