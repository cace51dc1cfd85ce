"""OAuth at the Klaviyo sandbox: one app and its installation in the account.

Sources: the documentation of OAuth (client authentication by HTTP Basic, PKCE S256, lifetimes,
`invalid_grant` after a removal, `access_denied` after a refusal) and answers that third parties
recorded live. Guesses: the texts of the consent page; a code that is used twice ends what it
granted (RFC 6749, 4.1.2); a refresh token that was replaced is refused.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal
from urllib.parse import parse_qsl, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from connector.sandbox.gate import JSON
from connector.sandbox.klaviyo.errors import ApiJSON

_WINDOW = 60.0
_REQUIRED = ("response_type", "client_id", "redirect_uri", "scope", "state")


@dataclass(slots=True)
class _Code:
    redirect_uri: str
    challenge: str
    scopes: tuple[str, ...]
    expires_at: float
    used: bool = False


@dataclass(slots=True)
class Install:
    """The app's installation: its tokens, and until when each access token is valid."""

    scopes: tuple[str, ...]
    refresh_token: str
    access_tokens: dict[str, float] = field(default_factory=dict)
    code: str = ""


class OAuthServer:
    """The authorization server. Its attributes are switches of a test.

    `redirect_uris`: what the app has registered; None: every address. `consent`: what the person
    decides; `ask` shows a page. `granted`: the scopes that are granted; None: those requested.
    `rotation`: whether a refresh replaces the refresh token. Lifetimes are in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.client_id, self.client_secret = "sandbox-app", "sandbox-app-secret"
        self.redirect_uris: Sequence[str] | None = None
        self.consent: Literal["ask", "allow", "deny"] = "ask"
        self.granted: Sequence[str] | None = None
        self.rotation: Literal["always", "never"] = "always"
        self.code_lifetime, self.token_lifetime = 300.0, 3600.0
        self.refreshes_per_minute = 10
        self.refreshes = 0
        self.install: Install | None = None
        self._now = now
        self._codes: dict[str, _Code] = {}
        self._recent: deque[float] = deque()
        self.routes = [
            Route("/oauth/authorize", self._authorize, methods=["GET"]),
            Route("/oauth/authorize", self._decide, methods=["POST"]),
            Route("/oauth/token", self._token, methods=["POST"]),
            Route("/oauth/revoke", self._revoke, methods=["POST"]),
            Route("/api/application-installs", self._installs, methods=["GET"]),
        ]

    # ── what a test does at Klaviyo's side ───────────────────────────────────────────────────────

    def uninstall(self, *, keep_access: bool = False) -> None:
        """The app is removed in Klaviyo. With `keep_access` its access tokens live on until they
        expire: how long they do is not documented."""
        if self.install and keep_access:
            self.install.refresh_token = ""
        else:
            self.install = None

    def expire_access(self) -> None:
        """Every access token ends now."""
        if self.install:
            self.install.access_tokens.clear()

    def scopes_of(self, authorization: bytes | None) -> tuple[str, ...] | None:
        """The scopes of a bearer token that is valid now, else None."""
        scheme, _, token = (authorization or b"").decode("latin-1").partition(" ")
        if scheme != "Bearer" or self.install is None:
            return None
        valid = self.install.access_tokens.get(token, 0.0) > self._now()
        return self.install.scopes if valid else None

    # ── authorization ────────────────────────────────────────────────────────────────────────────

    async def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        if fault := self._fault(query):
            return HTMLResponse(f"<h1>OAuth error</h1><p>{escape(fault)}</p>", 400)
        if query.get("code_challenge_method") != "S256" or not query.get("code_challenge"):
            return self._back(query, error="invalid_request")
        if self.consent != "ask":
            return self._decided(query, allowed=self.consent == "allow")
        hidden = "".join(
            f'<input type="hidden" name="{escape(key)}" value="{escape(value)}">'
            for key, value in query.items()
        )
        scopes = "".join(f"<li>{escape(scope)}</li>" for scope in query["scope"].split())
        return HTMLResponse(
            f"<!doctype html><title>Connect</title><h1>An app asks for access</h1><ul>{scopes}</ul>"
            f'<form method="post" action="/oauth/authorize">{hidden}'
            '<button name="decision" value="allow">Allow</button> '
            '<button name="decision" value="deny">Deny</button></form>'
        )

    async def _decide(self, request: Request) -> Response:
        query = dict(parse_qsl((await request.body()).decode()))
        decision = query.pop("decision", "deny")
        if fault := self._fault(query):
            return HTMLResponse(f"<h1>OAuth error</h1><p>{escape(fault)}</p>", 400)
        return self._decided(query, allowed=decision == "allow")

    def _fault(self, query: dict[str, str]) -> str:
        missing = [name for name in _REQUIRED if not query.get(name)]
        if missing:
            return f"missing: {', '.join(missing)}"
        if query["client_id"] != self.client_id or query["response_type"] != "code":
            return "unknown client"
        if self.redirect_uris is not None and query["redirect_uri"] not in self.redirect_uris:
            return "the redirect URI is not registered"
        return ""

    def _decided(self, query: dict[str, str], *, allowed: bool) -> Response:
        if not allowed:
            return self._back(query, error="access_denied")
        requested = query["scope"].split()
        granted = [s for s in requested if self.granted is None or s in self.granted]
        code = secrets.token_urlsafe(24)
        self._codes[code] = _Code(
            query["redirect_uri"],
            query.get("code_challenge", ""),
            tuple(granted),
            self._now() + self.code_lifetime,
        )
        return self._back(query, code=code)

    def _back(self, query: dict[str, str], **answer: str) -> Response:
        answer["state"] = query["state"]
        separator = "&" if "?" in query["redirect_uri"] else "?"
        return RedirectResponse(query["redirect_uri"] + separator + urlencode(answer), 302)

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────

    async def _token(self, request: Request) -> Response:
        form, refused = await self._client_form(request)
        if refused is not None:
            return refused
        match form.get("grant_type"):
            case "authorization_code":
                return self._exchange(form)
            case "refresh_token":
                return self._refresh(form)
        return JSON({"error": "unsupported_grant_type"}, 400)

    async def _client_form(self, request: Request) -> tuple[dict[str, str], Response | None]:
        """The form of an authenticated client, else the answer that refuses it."""
        basic = f"{self.client_id}:{self.client_secret}".encode()
        if request.headers.get("authorization") != f"Basic {base64.b64encode(basic).decode()}":
            return {}, JSON({"error": "invalid_client"}, 401)
        kind = request.headers.get("content-type", "").partition(";")[0]
        if kind != "application/x-www-form-urlencoded":
            return {}, JSON({"error": "invalid_grant_type"}, 400)
        return dict(parse_qsl((await request.body()).decode())), None

    def _exchange(self, form: dict[str, str]) -> Response:
        code = self._codes.get(form.get("code", ""))
        if code is None or code.expires_at <= self._now():
            return JSON({"error": "invalid_grant"}, 400)
        if code.used:
            if self.install and self.install.code == form["code"]:
                self.install = None
            return JSON({"error": "invalid_grant"}, 400)
        hashed = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()
        if code.challenge != challenge or form.get("redirect_uri") != code.redirect_uri:
            return JSON({"error": "invalid_grant"}, 400)
        code.used = True
        self.install = Install(code.scopes, secrets.token_urlsafe(24), code=form["code"])
        return self._issue(self.install)

    def _refresh(self, form: dict[str, str]) -> Response:
        now = self._now()
        while self._recent and self._recent[0] <= now - _WINDOW:
            self._recent.popleft()
        if len(self._recent) >= self.refreshes_per_minute:
            return JSON({"error": "too_many_requests"}, 429, {"retry-after": "60"})
        self._recent.append(now)
        given = form.get("refresh_token", "")
        if self.install is None or not given or given != self.install.refresh_token:
            return JSON({"error": "invalid_grant"}, 400)
        self.refreshes += 1
        if self.rotation == "always":
            self.install.refresh_token = secrets.token_urlsafe(24)
        if self.granted is not None:
            self.install.scopes = tuple(s for s in self.install.scopes if s in self.granted)
        return self._issue(self.install)

    def _issue(self, install: Install) -> Response:
        token = secrets.token_urlsafe(24)
        install.access_tokens[token] = self._now() + self.token_lifetime
        return JSON(
            {
                "access_token": token,
                "refresh_token": install.refresh_token,
                "token_type": "Bearer",
                "expires_in": round(self.token_lifetime),
                "scope": " ".join(install.scopes),
            }
        )

    async def _revoke(self, request: Request) -> Response:
        form, refused = await self._client_form(request)
        if refused is not None:
            return refused
        if self.install and form.get("token") == self.install.refresh_token:
            self.install = None
        return JSON({"success": True})

    async def _installs(self, request: Request) -> Response:
        present = self.install is not None and self.install.refresh_token
        found = [{"type": "application-install", "id": "install-1"}] if present else []
        links = {"self": str(request.url), "next": None, "prev": None}
        return ApiJSON({"data": found, "links": links})


SCOPES = {
    "POST /api/events": ("events:write",),
    "GET /api/events": ("events:read",),
    "POST /api/event-bulk-create-jobs": ("events:write",),
    "GET /api/accounts": ("accounts:read",),
    "GET /api/metrics": ("metrics:read",),
    "GET /api/flows": ("flows:read",),
    "POST /api/lists": ("lists:write",),
    "GET /api/lists": ("lists:read",),
    "GET /api/lists/{id}": ("lists:read",),
    "GET /api/lists/{id}/profiles": ("lists:read", "profiles:read"),
    "GET /api/lists/{id}/relationships/profiles": ("lists:read", "profiles:read"),
    "POST /api/lists/{id}/relationships/profiles": ("lists:write", "profiles:write"),
    "DELETE /api/lists/{id}/relationships/profiles": ("lists:write", "profiles:write"),
    "GET /api/segments": ("segments:read",),
    "GET /api/segments/{id}": ("segments:read",),
    "GET /api/segments/{id}/profiles": ("segments:read", "profiles:read"),
    "GET /api/segments/{id}/relationships/profiles": ("segments:read", "profiles:read"),
    "POST /api/data-privacy-deletion-jobs": ("data-privacy:write",),
    "GET /api/application-installs": ("applications:read",),
}
"""The scopes of an operation, from the spec's `x-klaviyo-scopes`."""


def required_scopes(label: str) -> tuple[str, ...]:
    """The scopes of an operation. Those of profiles and their jobs follow from the method."""
    if label in SCOPES:
        return SCOPES[label]
    return ("profiles:read",) if label.startswith("GET ") else ("profiles:write",)
