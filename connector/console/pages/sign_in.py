"""`/sign-in` and `/sign-out`. The role follows from which password it is."""

from __future__ import annotations

import secrets
from math import ceil

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from connector.console.session import BROWSER_COOKIE, ConsoleServices, Forbidden, Visit
from connector.console.view import plain_page
from connector.web.access import SESSION_COOKIE, Throttled


def _services(request: Request) -> ConsoleServices:
    found: ConsoleServices = request.app.state.services
    return found


def _next(value: object) -> str:
    """A path of this server; anything else would send people elsewhere after the sign-in."""
    path = value if isinstance(value, str) else ""
    safe = path.startswith("/") and not path.startswith("//") and "\\" not in path
    return path if safe else "/"


def _form(
    request: Request, next: object, *, status: int = 200, error: str = "", wait: float = 0.0
) -> Response:
    """`next`: where a sign-in leads. `wait`: in seconds, until one is possible."""
    services = _services(request)
    browser = request.cookies.get(BROWSER_COOKIE) or secrets.token_urlsafe(16)
    response = plain_page(
        "sign_in.html",
        status=status,
        error=error,
        next=_next(next),
        csrf_token=services.access.sessions.csrf_token(browser),
    )
    response.set_cookie(
        BROWSER_COOKIE, browser, httponly=True, samesite="lax", secure=services.access.secure
    )
    if wait:
        response.headers["retry-after"] = str(ceil(wait))
    return response


async def show(request: Request) -> Response:
    if not _services(request).access.has_password:
        return RedirectResponse("/", 303)
    return _form(request, request.query_params.get("next"))


async def submit(request: Request) -> Response:
    services, form = _services(request), await request.form()
    browser = request.cookies.get(BROWSER_COOKIE, "")
    token = str(form.get("csrf_token", ""))
    if not services.access.sessions.is_csrf_token(token, browser):
        raise Forbidden("The form has expired. Go back and try again.")
    try:
        signed_in = services.access.sign_in(request, str(form.get("password", "")))
    except Throttled as error:
        text = f"Too many wrong passwords from your address: try again in {error.wait:.0f} s."
        return _form(request, form.get("next"), status=429, error=text, wait=error.wait)
    if signed_in is None:
        return _form(request, form.get("next"), status=401, error="This is not the password.")
    response = RedirectResponse(_next(form.get("next")), 303)
    services.access.remember(response, signed_in[1])
    return response


async def sign_out(request: Request) -> Response:
    """Also for a viewer: it changes nothing but this browser."""
    visit = Visit.of(request)
    form = await request.form()
    token = str(form.get("csrf_token", ""))
    if not visit.services.access.sessions.is_csrf_token(token, visit.browser):
        raise Forbidden("The form has expired. Go back and try again.")
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(SESSION_COOKIE)
    return response


routes = [
    Route("/sign-in", show, name="sign_in"),
    Route("/sign-in", submit, methods=["POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
]
