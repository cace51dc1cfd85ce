"""Who may use the console and the API, and as what.

A caller is an operator or a viewer by a session cookie or a bearer token. Without a password, one
on this machine is the operator, as long as nothing suggests that a proxy is in between; everyone
else is refused. Whoever is known by a cookie, or by being on this machine, must also come from a
page of ours to change anything: a browser sends both for any page.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from starlette.requests import HTTPConnection
from starlette.responses import Response

from connector.config.models import ApiToken, Console, Role
from connector.domain.hosts import is_loopback
from connector.ports import Clock
from connector.web.sessions import Session, Sessions
from connector.web.throttle import Network, Throttle, client_address

SESSION_COOKIE = "connector_session"

_PROXY_HEADERS = frozenset({"forwarded", "via", "x-real-ip"})
_PROXY_PREFIX = "x-forwarded-"
_VIEWER_REFUSED = "a viewer cannot change anything, or see personal data: sign in as operator"
_SIGN_IN_FAILURES, _SECONDS_PER_FAILURE = 5, 10.0


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. `name` is written to the audit. `session` is None for a token and on this machine
    without a password."""

    name: str
    role: Role
    via: Literal["token", "session", "loopback"]
    session: Session | None = None

    @property
    def is_operator(self) -> bool:
        return self.role == "operator"


class AccessDenied(Exception):
    """The caller may not do this: an HTTP status, 401 or 403, and what to do."""

    def __init__(self, status: Literal[401, 403], detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Throttled(Exception):
    """Too many wrong passwords from one address; `wait` in seconds."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"try again in {wait:.0f} s")
        self.wait = wait


class _Rules:
    """Who is who by `[console]`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.tokens: Sequence[ApiToken] = console.tokens
        self.passwords: tuple[tuple[Role, str], ...] = (
            *(("operator", p.get_secret_value()) for p in console.password),
            *(("viewer", p.get_secret_value()) for p in console.viewer_password),
        )


class Access:
    """The rules of `[console]`, as it is now. `secure`: whether browsers reach this server by
    https."""

    def __init__(
        self,
        console: Callable[[], Console],
        clock: Clock,
        sessions: Sessions,
        *,
        secure: bool = False,
        trusted_proxies: Sequence[Network] = (),
    ) -> None:
        self.sessions = sessions
        self.secure = secure
        self._trusted_proxies = trusted_proxies
        self._console = console
        self._rules = _Rules(console())
        self._failures = Throttle(clock, burst=_SIGN_IN_FAILURES, seconds=_SECONDS_PER_FAILURE)

    @property
    def has_password(self) -> bool:
        return bool(self._current().passwords)

    def identify(self, request: HTTPConnection) -> Principal:
        """Raises AccessDenied: 401 where a password or token is missing or wrong, 403 where none is
        configured and the caller is not on this machine."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._by_token(token.strip())
        if self.has_password:
            return self._by_session(request)
        if not _is_local(request):
            raise AccessDenied(403, "set [console] password to use this from another machine")
        return Principal("loopback", "operator", "loopback")

    def check_change(self, request: HTTPConnection, principal: Principal) -> None:
        """Raises AccessDenied (403) where this caller may not change anything, or where a page of
        another origin may have caused the request."""
        if not principal.is_operator:
            raise AccessDenied(403, _VIEWER_REFUSED)
        if principal.via != "token" and not _is_same_origin(request):
            raise AccessDenied(403, "a page of another origin cannot change anything")

    def sign_in(self, request: HTTPConnection, password: str) -> tuple[Session, str] | None:
        """The new session and its cookie; None for a wrong password. Raises Throttled."""
        address = client_address(request.scope, request.headers, self._trusted_proxies)
        if wait := self._failures.wait(address):
            raise Throttled(wait)
        passwords = self._current().passwords
        found = [(role, known) for role, known in passwords if _matches(known, password)]
        if not found:
            self._failures.failed(address)
            return None
        role, known = found[0]
        return self.sessions.create(role, known)

    def remember(self, response: Response, cookie: str) -> None:
        """Give the browser the cookie of its session."""
        response.set_cookie(
            SESSION_COOKIE, cookie, httponly=True, samesite="lax", secure=self.secure
        )

    def _current(self) -> _Rules:
        """A reload may have changed them."""
        console = self._console()
        if console is not self._rules.console:
            self._rules = _Rules(console)
        return self._rules

    def _by_token(self, token: str) -> Principal:
        for known in self._current().tokens:
            if hmac.compare_digest(known.token.get_secret_value().encode(), token.encode()):
                return Principal(known.name, known.role, "token")
        raise AccessDenied(401, "the bearer token is none of [console] api_tokens")

    def _by_session(self, request: HTTPConnection) -> Principal:
        session = self.sessions.read(request.cookies.get(SESSION_COOKIE, ""))
        if session is None:
            raise AccessDenied(401, "sign in, or send a bearer token")
        passwords = self._current().passwords
        known = {(role, self.sessions.digest(password)) for role, password in passwords}
        if (session.role, session.password) not in known:
            raise AccessDenied(401, "the password has changed: sign in again")
        return Principal(session.role, session.role, "session", session)


def _matches(known: str, password: str) -> bool:
    """`known` is the password, or an Argon2 hash of it."""
    if not known.startswith("$argon2"):
        return hmac.compare_digest(known.encode(), password.encode())
    try:
        return PasswordHasher().verify(known, password)
    except (VerificationError, InvalidHashError):
        return False


def _is_local(request: HTTPConnection) -> bool:
    """Whether the peer and the Host that it asked for are this machine, without a proxy between."""
    peer = request.client.host if request.client else ""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    names = request.headers.keys()
    proxied = any(name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIX) for name in names)
    return is_loopback(peer) and is_loopback(host) and not proxied


def _is_same_origin(request: HTTPConnection) -> bool:
    """By Fetch-Metadata and Origin; a program that is no browser sends neither."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
