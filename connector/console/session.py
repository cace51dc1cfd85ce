"""What each page gets: the service, who looks at it, and checked forms."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from connector.config import Config
from connector.ports import Clock
from connector.runtime.changes import ChangeFeed
from connector.runtime.encryption import Seal
from connector.service import Commands
from connector.service.connection_setup import ConnectionSetup
from connector.service.webhook_builder import FlowTarget
from connector.service.webhook_builder.trial import Send
from connector.web.access import Access, Principal
from connector.web.storable import is_storable

BROWSER_COOKIE, FLASH_COOKIE = "connector_browser", "connector_flash"
_FLASH = "flash "


@dataclass(frozen=True, slots=True)
class ConsoleServices:
    """What the console works with. `config` is the configuration in use, `flow_target` what the
    flows of a connection call, `offered_modules` the modules that a connection can have, `send`
    makes one POST, `setup` sets connections up."""

    commands: Commands
    access: Access
    changes: ChangeFeed
    seal: Seal
    clock: Clock
    config: Callable[[], Config]
    flow_target: Callable[[str], FlowTarget]
    offered_modules: Callable[[str], frozenset[str]]
    send: Send
    setup: ConnectionSetup


class Forbidden(Exception):
    """A form without its token: it was not made by a page of this console."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a person who may see pages. `browser` identifies the browser for CSRF tokens:
    the session's id, or that of a cookie where no password is configured."""

    request: Request
    services: ConsoleServices
    principal: Principal
    browser: str

    @classmethod
    def of(cls, request: Request) -> Visit:
        """Raises AccessDenied."""
        services: ConsoleServices = request.app.state.services
        principal = services.access.identify(request)
        session = principal.session
        cookie = request.cookies.get(BROWSER_COOKIE, "")
        browser = session.id if session else cookie or secrets.token_urlsafe(16)
        return cls(request, services, principal, browser)

    @property
    def csrf_token(self) -> str:
        return self.services.access.sessions.csrf_token(self.browser)

    async def form(self) -> FormData:
        """The form of a change. Raises Forbidden without its token, AccessDenied for a viewer."""
        form = await self.request.form()
        given = form.get("csrf_token", "")
        if not isinstance(given, str) or not self.services.access.sessions.is_csrf_token(
            given, self.browser
        ):
            raise Forbidden("It has expired, or it was not made here. Go back and try again.")
        self.services.access.check_change(self.request, self.principal)
        if not is_storable([value for _, value in form.multi_items()]):
            raise HTTPException(400)
        return form

    async def run(self, kind: str, args: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Carry out a command: (whether it was done or still runs, its result or error)."""
        command = await self.services.commands.submit_and_wait(kind, args, by=self.principal.name)
        return command.ok is not False, command.result or {}

    def redirect(self, path: str, message: str, *, failed: bool = False) -> Response:
        """Go to a page that shows `message` once."""
        response = RedirectResponse(path, 303)
        text = f"{_FLASH}{'!' if failed else '.'}{message}"
        self._set_cookie(response, FLASH_COOKIE, self.services.seal.seal(text), max_age=60)
        return response

    def flash(self) -> tuple[str, bool] | None:
        """The message of the last change, and whether it failed."""
        text = self.services.seal.open(self.request.cookies.get(FLASH_COOKIE, "")) or ""
        if not text.startswith(_FLASH):
            return None
        text = text.removeprefix(_FLASH)
        return text[1:], text[0] == "!"

    def finish(self, response: Response) -> Response:
        """Set the cookies of a page."""
        if FLASH_COOKIE in self.request.cookies:
            response.delete_cookie(FLASH_COOKIE)
        if self.principal.session is None and BROWSER_COOKIE not in self.request.cookies:
            self._set_cookie(response, BROWSER_COOKIE, self.browser, max_age=None)
        return response

    def _set_cookie(
        self, response: Response, name: str, value: str, *, max_age: int | None
    ) -> None:
        response.set_cookie(
            name,
            value,
            max_age=max_age,
            httponly=True,
            samesite="lax",
            secure=self.services.access.secure,
        )


def error_text(result: Mapping[str, Any]) -> str:
    """Why a command was not possible: its faults, else its error."""
    return "; ".join(result.get("faults") or [str(result.get("error", "It failed: see the log."))])
