"""The console as an ASGI application: routes, headers, errors."""

from __future__ import annotations

from importlib.resources import files

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from connector.console.pages import (
    attention,
    audit,
    backfills,
    connection_settings,
    connections,
    dead_letters,
    fields,
    links,
    new_connection,
    overview,
    people,
    sign_in,
    use_in_klaviyo,
    webhook_builder,
)
from connector.console.session import ConsoleServices, Forbidden
from connector.console.view import content_policy, error_page
from connector.domain.errors import ConfigError, StoreError
from connector.web.access import AccessDenied
from connector.web.storable import is_storable_url

_HEADERS = {
    "content-security-policy": content_policy(),
    "x-content-type-options": "nosniff",
    # Not no-referrer: forms would then be sent with `Origin: null`.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_COMPRESS_FROM = 16_000
"""Bytes. Compressing small pages costs more than it saves, for every open tab."""
_STATIC_CACHE = "public, max-age=31536000, immutable"
"""Its URLs contain a digest of their content."""


class Console:
    """All pages of the console."""

    def __init__(self, services: ConsoleServices) -> None:
        pages = (
            overview,
            new_connection,
            fields,
            links,
            connection_settings,
            connections,
            backfills,
            dead_letters,
            people,
            attention,
            audit,
            use_in_klaviyo,
            webhook_builder,
            sign_in,
        )
        routes: list[Route | Mount] = [route for page in pages for route in page.routes]
        static = StaticFiles(directory=str(files("connector.console") / "static"))
        routes.append(Mount("/static", static))
        self._app = Starlette(
            routes=routes,
            middleware=[
                Middleware(_Headers),
                Middleware(GZipMiddleware, minimum_size=_COMPRESS_FROM, compresslevel=4),
            ],
            exception_handlers={
                AccessDenied: _access_denied,
                Forbidden: _forbidden,
                StoreError: _store_unavailable,
                ConfigError: _config_invalid,
                HTTPException: _http_error,
            },
        )
        self._app.state.services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_storable_url(scope):
            scope = {**scope, "path": "/not-found", "query_string": b""}
        await self._app(scope, receive, send)


class _Headers:
    """Sets the security headers of every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/static/") and message["status"] == 200:
                    headers["cache-control"] = _STATIC_CACHE
            await send(message)

        await self._app(scope, receive, with_headers)


async def _access_denied(request: Request, error: Exception) -> Response:
    assert isinstance(error, AccessDenied)
    if error.status == 401 and request.method == "GET":
        query = f"?{request.url.query}" if request.url.query else ""
        url = request.url_for("sign_in").include_query_params(next=request.url.path + query)
        return RedirectResponse(f"{url.path}?{url.query}", 303)
    return error_page(request, error.status, "You cannot do this", error.detail)


async def _forbidden(request: Request, error: Exception) -> Response:
    return error_page(request, 403, "This form is not valid", str(error))


async def _store_unavailable(request: Request, error: Exception) -> Response:
    assert isinstance(error, StoreError)
    text = f"{error.problem.value}: {error.problem.meaning}. {error.problem.remedy}."
    return error_page(request, 503, "The store does not answer", text)


async def _config_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConfigError)
    return error_page(request, 409, "The configuration is not valid", "; ".join(error.faults))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    titles = {404: "Page not found", 405: "This cannot be done here"}
    title = titles.get(error.status_code, "This did not work")
    return error_page(request, error.status_code, title, "")
