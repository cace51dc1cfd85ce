"""Connecting and disconnecting Klaviyo accounts by OAuth (RFC 6749 with PKCE, RFC 7636).

A browser starts with a ticket or as an operator, gets a cookie, and comes back from Klaviyo with
the state that belongs to this cookie. Each state is used once and expires after ten minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from connector.config import Config, Connection
from connector.domain.errors import ConnectorError, DeliveryError, Problem, Rejected
from connector.domain.lanes import Millis
from connector.domain.oauth import KLAVIYO_OAUTH, Grant, GrantInfo
from connector.ports import AuditEntry, Authorization, Clock, OpenAuthorizationServer, Store
from connector.runtime import log
from connector.runtime.encryption import Cipher

CALLBACK = "/oauth/klaviyo/callback"
_STATE_TTL = 10 * 60_000
TICKET_TTL = 15 * 60_000

AfterConnect = Callable[[str, bool], Awaitable[None]]
"""(connection, whether its account was changed by a person): take the new tokens into use."""


class AuthorizationFailed(ConnectorError):
    """An authorization that came to nothing. The stored tokens are as they were."""


@dataclass(frozen=True, slots=True)
class Connected:
    """`missing`: scopes that were not granted, with what does not work without each."""

    connection: str
    account: str
    account_name: str
    missing: Mapping[str, str]

    def outcome(self) -> dict[str, Any]:
        return {
            "connected": self.connection,
            "account": self.account,
            "account_name": self.account_name,
            "missing_scopes": dict(self.missing),
        }


@dataclass(frozen=True, slots=True)
class OtherAccount:
    """The browser must confirm that the connection belongs to another account from now on."""

    connection: str
    pinned: str
    account: str
    account_name: str
    confirmation: str


def digest(value: str) -> str:
    """What is stored of a random value."""
    return hashlib.sha256(value.encode()).hexdigest()


class OAuthService:
    """`config` is the one in effect, `open_server` opens a connection's authorization server."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        config: Callable[[], Config],
        open_server: OpenAuthorizationServer,
        after_connect: AfterConnect,
    ) -> None:
        self._store = store
        self._clock = clock
        self._config = config
        self._open_server = open_server
        self._after_connect = after_connect
        self._log = log.get("oauth")

    @property
    def public_url(self) -> str:
        return self._config().server.public_url.rstrip("/")

    @property
    def redirect_uri(self) -> str:
        """Exactly what must be registered with the app at Klaviyo."""
        return self.public_url + CALLBACK

    @property
    def names(self) -> list[str]:
        """The connections that use OAuth."""
        return [c.name for c in self._config().connections if c.klaviyo.auth == "oauth"]

    def connection(self, name: str) -> Connection:
        """A connection that uses OAuth. Raises AuthorizationFailed."""
        config = self._config()
        try:
            found = config.connection(name)
        except KeyError:
            names = ", ".join(self.names) or "none"
            text = f"no connection {name!r}; connections with OAuth: {names}"
            raise AuthorizationFailed(Problem.CONFIG_FAULTY, text) from None
        if found.klaviyo.auth != "oauth":
            text = f'{name} uses a private key: set auth = "oauth" in its [connections.klaviyo]'
            raise AuthorizationFailed(Problem.CONFIG_FAULTY, text)
        return found

    # ── start ────────────────────────────────────────────────────────────────────────────────────

    async def ticket(self, name: str, *, by: str) -> str:
        """An address that lets whoever opens it within 15 minutes connect `name`."""
        self.connection(name)
        value = secrets.token_urlsafe(24)
        await self._open("ticket", value, name, TICKET_TTL, by=by)
        query = urlencode({"connection": name, "ticket": value})
        return f"{self.public_url}/oauth/klaviyo/start?{query}"

    async def issuer(self, name: str, ticket: str) -> str | None:
        """Who issued this ticket; None unless it is for this connection and has not expired."""
        found = await self._store.authorizations.get(digest(ticket))
        if found is None or (found.kind, found.connection) != ("ticket", name):
            return None
        return found.started_by if found.expires_at > self._clock.now() else None

    async def start(self, name: str, browser: str, *, by: str) -> str:
        """Where to send the browser that has the cookie `browser`."""
        connection = self.connection(name)
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(64)
        sealed = self._cipher.seal(verifier)
        await self._open("state", state, name, _STATE_TTL, browser=browser, by=by, sealed=sealed)
        async with self._open_server(connection) as server:
            return server.authorization_url(
                state=state, verifier=verifier, redirect_uri=self.redirect_uri
            )

    async def _open(
        self,
        kind: Literal["ticket", "state", "account"],
        value: str,
        connection: str,
        ttl: int,
        *,
        by: str,
        browser: str = "",
        sealed: str = "",
    ) -> None:
        now = self._clock.now()
        await self._store.authorizations.open(
            Authorization(
                digest(value),
                kind,
                connection,
                now,
                Millis(now + ttl),
                browser=digest(browser) if browser else "",
                started_by=by,
                sealed=sealed,
            )
        )

    # ── callback ─────────────────────────────────────────────────────────────────────────────────

    async def callback(self, query: Mapping[str, str], browser: str) -> Connected | OtherAccount:
        """What Klaviyo sent the browser back with. Raises AuthorizationFailed, after which nothing
        has changed."""
        found = await self._take("state", query.get("state", ""), browser)
        try:
            result = await self._callback(found, query)
        except ConnectorError as error:
            self._log.warning(
                "connect_failed",
                connection=found.connection,
                problem=error.problem.value,
                detail=error.detail,
            )
            await self._store.authorizations.finish(found.digest, {"error": error.detail})
            if isinstance(error, AuthorizationFailed):
                raise
            raise AuthorizationFailed(error.problem, error.detail) from None
        if isinstance(result, Connected):
            await self._store.authorizations.finish(found.digest, result.outcome())
        return result

    async def _take(
        self, kind: Literal["state", "account"], value: str, browser: str
    ) -> Authorization:
        """The authorization of this value, used up. Raises AuthorizationFailed where it does not
        belong to this browser; then it stays usable by the browser to which it belongs."""
        found = await self._store.authorizations.get(digest(value)) if value else None
        problem = Problem.KLAVIYO_NOT_CONNECTED
        if found is None or found.kind != kind:
            raise AuthorizationFailed(problem, "the state is unknown: start again")
        if not browser or not hmac.compare_digest(found.browser, digest(browser)):
            text = "the state belongs to another browser: start again in this one"
            raise AuthorizationFailed(problem, text)
        if not await self._store.authorizations.take(found.digest, now=self._clock.now()):
            text = "the state was used before or is older than 10 minutes: start again"
            raise AuthorizationFailed(problem, text)
        return found

    async def _callback(
        self, found: Authorization, query: Mapping[str, str]
    ) -> Connected | OtherAccount:
        connection = self.connection(found.connection)
        if query.get("error"):
            denied = query["error"] == "access_denied"
            text = "access was denied at Klaviyo" if denied else "Klaviyo reported an error"
            raise AuthorizationFailed(
                Problem.KLAVIYO_NOT_CONNECTED, f"{text}, so nothing has changed: start again"
            )
        if not query.get("code"):
            text = "the answer has no code: start again"
            raise AuthorizationFailed(Problem.KLAVIYO_NOT_CONNECTED, text)
        verifier = self._cipher.open(found.sealed)
        async with self._open_server(connection) as server:
            try:
                grant = await server.exchange(
                    query["code"], verifier=verifier, redirect_uri=self.redirect_uri
                )
            except DeliveryError as error:
                raise _exchange_failed(error) from None
            info = await self._info(server, grant)
            missing = {scope: server.scopes[scope] for scope in info.missing(list(server.scopes))}
        pinned = await self._store.facts.pinned_account(connection.name)
        if pinned is not None and pinned != info.account:
            return await self._ask(found, pinned, grant, info)
        await self._store.facts.pin_account(connection.name, info.account)
        await self._connect(found, grant, info, other=False)
        return Connected(connection.name, info.account, info.account_name, missing)

    async def _info(self, server: Any, grant: Grant) -> GrantInfo:
        """Who was granted. Raises AuthorizationFailed where that cannot be read."""
        try:
            account, name = await server.account(grant)
        except DeliveryError as error:
            text = (
                f"the account could not be read ({error.detail}), so nothing is connected: "
                "does the app have the scope accounts:read?"
            )
            raise AuthorizationFailed(error.problem, text) from None
        now = self._clock.now()
        return GrantInfo(connected_at=now, scopes=grant.scopes, account=account, account_name=name)

    async def _connect(
        self, found: Authorization, grant: Grant, info: GrantInfo, *, other: bool
    ) -> None:
        name, now = found.connection, self._clock.now()
        valid = 2**53 if grant.lifetime == float("inf") else now + round(grant.lifetime * 1000)
        stored = {**info.dump(), "valid_until": valid, "refreshed_at": now}
        sealed = self._cipher.seal([grant.access_token, grant.refresh_token])
        await self._store.secrets.put(name, KLAVIYO_OAUTH, sealed, stored, now=now)
        account = f"account: {info.account}"
        await self._store.audit.record(AuditEntry(now, found.started_by, "connect", name, account))
        self._log.info("account_connected", connection=name, account=info.account)
        await self._after_connect(name, other)

    # ── another account than before ──────────────────────────────────────────────────────────────

    async def _ask(
        self, found: Authorization, pinned: str, grant: Grant, info: GrantInfo
    ) -> OtherAccount:
        """Keep the new tokens aside until the same browser confirms the account."""
        value = secrets.token_urlsafe(32)
        pending = [grant.access_token, grant.refresh_token, grant.lifetime, info.dump()]
        now = self._clock.now()
        await self._store.authorizations.open(
            Authorization(
                digest(value),
                "account",
                found.connection,
                now,
                Millis(now + _STATE_TTL),
                browser=found.browser,
                started_by=found.started_by,
                sealed=self._cipher.seal(pending),
            )
        )
        await self._store.authorizations.finish(
            found.digest, {"other_account": info.account, "pinned": pinned}
        )
        return OtherAccount(found.connection, pinned, info.account, info.account_name, value)

    async def confirm(self, confirmation: str, browser: str) -> Connected:
        """The person confirmed that the connection belongs to the other account."""
        found = await self._take("account", confirmation, browser)
        access, refresh, lifetime, stored = self._cipher.open(found.sealed)
        info = GrantInfo.load(stored)
        grant = Grant(access, refresh, float(lifetime or 0), info.scopes)
        await self._connect(found, grant, info, other=True)
        async with self._open_server(self.connection(found.connection)) as server:
            missing = {scope: server.scopes[scope] for scope in info.missing(list(server.scopes))}
        result = Connected(found.connection, info.account, info.account_name, missing)
        await self._store.authorizations.finish(found.digest, result.outcome())
        return result

    # ── disconnect ───────────────────────────────────────────────────────────────────────────────

    async def disconnect(self, name: str) -> dict[str, Any]:
        """Revoke the tokens at Klaviyo, which removes the app there, and delete them here. Raises
        DeliveryError where Klaviyo could not be reached; then nothing has changed."""
        connection = self.connection(name)
        row = await self._store.secrets.get(name, KLAVIYO_OAUTH)
        if row is None:
            raise AuthorizationFailed(Problem.KLAVIYO_NOT_CONNECTED, f"{name} is not connected")
        info = GrantInfo.load(row.info)
        if info.ended_at is None:
            _, refresh = self._cipher.open(row)
            async with self._open_server(connection) as server:
                await server.revoke(refresh)
        await self._store.secrets.delete(name, KLAVIYO_OAUTH)
        self._log.info("account_disconnected", connection=name, account=info.account)
        return {"disconnected": name, "account": info.account}

    async def outcome(self, name: str, since: Millis) -> Mapping[str, Any] | None:
        """What the newest authorization of this connection came to, None while it is open."""
        found = await self._store.authorizations.latest(name, since=since)
        return found.outcome if found else None

    @property
    def _cipher(self) -> Cipher:
        return Cipher(self._config().security.encryption_key)


def _exchange_failed(error: DeliveryError) -> AuthorizationFailed:
    if isinstance(error, Rejected):
        text = (
            f"Klaviyo refused the code ({error.detail}): it is valid once and for 5 minutes, and "
            "the redirect URI of the app must equal this server's; start again"
        )
    else:
        text = f"the code could not be exchanged ({error.detail}): start again"
    return AuthorizationFailed(error.problem, text)
