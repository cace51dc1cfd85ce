"""`/oauth/klaviyo/start` and `/oauth/klaviyo/callback`, for a person's browser.

Who may start: whoever has a ticket of `connector connect`, and whoever may use the console as an
operator (connector.web.access). Otherwise a stranger could connect an account of their own.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from connector.domain.errors import ConnectorError, Problem, StoreError
from connector.service.oauth import AuthorizationFailed, Connected, OAuthService, OtherAccount
from connector.web.access import Access, AccessDenied, Throttled
from connector.web.asgi import MAX_BODY

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

COOKIE = "connector_oauth"
_COOKIE_SECONDS = 900
_HOW_TO_START = (
    "Run `connector connect NAME` on the connector's machine and open the address that it prints. "
    "With a [console] password this page asks for it instead."
)
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        # No form-action: the redirect to Klaviyo after a form would be blocked.
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class OAuthApp:
    """The pages of an authorization. `prefix` is the path below which it answers; `back` is the
    console's page of a connection, as far as this server has one."""

    prefix = "/oauth/"

    def __init__(
        self, service: OAuthService, access: Access, back: Callable[[str], str] = lambda name: ""
    ) -> None:
        self._service = service
        self._access = access
        self._back = back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request)
        response.headers.update(_HEADERS)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        handlers = {
            ("GET", "start"): self._start,
            ("POST", "start"): self._sign_in,
            ("GET", "callback"): self._callback,
            ("POST", "confirm"): self._confirm,
        }
        party, _, step = request.url.path.removeprefix(self.prefix).partition("/")
        handler = handlers.get((request.method, step)) if party == "klaviyo" else None
        if handler is None:
            return page("Not found", "There is no such page.", status=404)
        try:
            return await handler(request)
        except AuthorizationFailed as error:
            return page("Not connected", error.detail, status=400)
        except StoreError as error:
            return page("Not connected", f"{error.problem.meaning}: try again later", status=503)
        except ConnectorError as error:
            return page("Not connected", error.detail, status=500)

    # ── start ────────────────────────────────────────────────────────────────────────────────────

    async def _start(self, request: Request) -> Response:
        name, ticket = (request.query_params.get(key, "") for key in ("connection", "ticket"))
        if name and ticket and (issuer := await self._service.issuer(name, ticket)) is not None:
            return await self._to_klaviyo(name, issuer)
        try:
            principal = self._access.identify(request)
        except AccessDenied as denied:
            if denied.status == 401:
                return self._ask_password(name)
            return page("Connect Klaviyo", _HOW_TO_START, status=403)
        if not principal.is_operator:
            return self._ask_password(name, 403, "Only an operator can connect an account.")
        if not name:
            return self._ask_connection()
        return await self._redirect(request, name, principal.name)

    async def _redirect(self, request: Request, name: str, by: str) -> Response:
        """To Klaviyo, from the address to which Klaviyo sends the browser back: the cookie belongs
        to it."""
        if request.url.netloc != urlsplit(self._service.public_url).netloc:
            return RedirectResponse(await self._service.ticket(name, by=by), 303)
        return await self._to_klaviyo(name, by)

    async def _to_klaviyo(self, name: str, by: str) -> Response:
        browser = secrets.token_urlsafe(32)
        response = RedirectResponse(await self._service.start(name, browser, by=by), 303)
        response.set_cookie(
            COOKIE,
            browser,
            max_age=_COOKIE_SECONDS,
            path=self.prefix,
            httponly=True,
            samesite="lax",
            secure=self._service.public_url.startswith("https"),
        )
        return response

    def _ask_connection(self) -> Response:
        links = "".join(
            f'<li><a href="start?{urlencode({"connection": name})}">{escape(name)}</a></li>'
            for name in self._service.names
        )
        if not links:
            text = 'No connection uses OAuth: set auth = "oauth" in its [connections.klaviyo].'
            return page("Connect Klaviyo", text)
        return page("Connect Klaviyo", "Which connection?", f"<ul>{links}</ul>")

    def _ask_password(self, name: str, status: int = 200, problem: str = "") -> Response:
        form = (
            '<form method="post" action="start">'
            '<p><label>Connection <input name="connection" required '
            f'value="{escape(name, quote=True)}"></label></p>'
            '<p><label>Password <input name="password" type="password" required></label></p>'
            "<p><button>Connect Klaviyo</button></p></form>"
        )
        text = problem or "Which connection? The password is that of the connector's console."
        return page("Connect Klaviyo", text, form, status=status)

    async def _sign_in(self, request: Request) -> Response:
        form = await _form(request)
        name, given = form.get("connection", ""), form.get("password", "")
        try:
            signed_in = self._access.sign_in(request, given)
        except Throttled as error:
            text = f"Too many wrong passwords: try again in {math.ceil(error.wait)} s."
            return page("Not connected", text, status=429)
        if signed_in is None:
            return self._ask_password(name, 401, "The password is wrong.")
        session, cookie = signed_in
        if session.role != "operator":
            return self._ask_password(name, 403, "Only an operator can connect an account.")
        response = await self._redirect(request, name, signed_in[0].role)
        self._access.remember(response, cookie)
        return response

    # ── the way back ─────────────────────────────────────────────────────────────────────────────

    async def _callback(self, request: Request) -> Response:
        browser = request.cookies.get(COOKIE, "")
        result = await self._service.callback(dict(request.query_params), browser)
        if isinstance(result, OtherAccount):
            return _ask_account(result)
        return self._connected(result)

    async def _confirm(self, request: Request) -> Response:
        form = await _form(request)
        browser = request.cookies.get(COOKIE, "")
        return self._connected(await self._service.confirm(form.get("confirmation", ""), browser))

    def _connected(self, result: Connected) -> Response:
        account = f"{result.account} {result.account_name}".strip()
        text = f"{result.connection} is connected to the Klaviyo account {account}."
        lines = "".join(
            f"<li><code>{escape(scope)}</code>: {escape(effect)}</li>"
            for scope, effect in result.missing.items()
        )
        body = ""
        if lines:
            body = (
                "<p>Scopes that were not granted, and what does not work without them:</p>"
                f"<ul>{lines}</ul><p>Add them to the app at Klaviyo, then connect again.</p>"
            )
        if back := self._back(result.connection):
            body += f'<p><a href="{escape(back, quote=True)}">Back to the console</a></p>'
        return page("Connected", text, body or "<p>You can close this page.</p>")


def _ask_account(found: OtherAccount) -> Response:
    account = f"{found.account} {found.account_name}".strip()
    text = (
        f"{Problem.KLAVIYO_ACCOUNT}: {found.connection} belongs to the Klaviyo account "
        f"{found.pinned}, and access was granted to {account}. If you continue, everything that "
        f"waits and every profile is sent to {account}. Close this page to keep {found.pinned}."
    )
    form = (
        '<form method="post" action="confirm"><input type="hidden" name="confirmation" '
        f'value="{escape(found.confirmation, quote=True)}">'
        f"<button>Use {escape(account)} from now on</button></form>"
    )
    return page("Another account", text, form, status=409)


def page(title: str, text: str, body: str = "", *, status: int = 200) -> Response:
    """A plain page; `body` is HTML."""
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title></head>'
        f"<body><main><h1>{escape(title)}</h1><p>{escape(text)}</p>{body}</main></body></html>\n",
        status,
    )


async def _form(request: Request) -> dict[str, str]:
    """The fields of an urlencoded form of at most 1 MiB."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            return {}
    return dict(parse_qsl(body.decode("utf-8", "replace")))
