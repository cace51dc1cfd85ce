"""Credentials for remote APIs: keys, and tokens on Authlib's transport-free core.

Nothing else imports authlib, with the first token, and nothing here opens a connection: a token's
transport is passed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

import orjson
from pydantic import SecretStr

from connector.domain.errors import (
    AmbiguousError,
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
)
from connector.ports import Clock

MARGIN = 60.0
"""Seconds before its expiry at which a token is renewed, or a tenth of its lifetime if less."""
FAILURE_TTL = 5.0
"""Seconds for which a failed token request is not repeated: its error is raised again."""
MIN_FORCED_INTERVAL = 300.0
"""A remote API that refuses every token must not cause a token request with every call."""


class HeaderKey:
    """A fixed key in a header: `Authorization: Klaviyo-API-Key pk_…`, `api-key: …`."""

    def __init__(self, header: str, key: SecretStr, *, prefix: str = "") -> None:
        self._header, self._key, self._prefix = header, key, prefix

    def __call__(self) -> Mapping[str, str]:
        return {self._header: self._prefix + self._key.get_secret_value()}

    def __repr__(self) -> str:
        return f"HeaderKey({self._header!r}, ***)"


class QueryKey:
    """A fixed token in the URL, for a remote API that accepts it nowhere else."""

    in_query = True

    def __init__(self, name: str, key: SecretStr) -> None:
        self._name, self._key = name, key

    async def __call__(self) -> Mapping[str, str]:
        return {self._name: self._key.get_secret_value()}

    def invalidate(self, auth: Mapping[str, str]) -> bool:
        """False: there is no other."""
        return False

    def __repr__(self) -> str:
        return f"QueryKey({self._name!r}, ***)"


class _TokenResponse(Protocol):
    def json(self) -> Any: ...


class Transport(Protocol):
    """The token endpoint. connector.net.http.Http is one whose base address is the token URL."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        route: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _TokenResponse: ...

    async def aclose(self) -> None: ...


def authorization_url(
    url: str, *, client_id: str, redirect_uri: str, scope: str, state: str, verifier: str
) -> str:
    """Where a browser asks for an authorization code, with PKCE (RFC 7636, S256)."""
    from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
    from authlib.oauth2.rfc7636 import create_s256_code_challenge

    return str(
        prepare_grant_uri(
            url,
            client_id,
            "code",
            redirect_uri=redirect_uri,
            scope=scope,
            state=state,
            code_challenge_method="S256",
            code_challenge=create_s256_code_challenge(verifier),
        )
    )


class TokenEndpoint:
    """A token endpoint, and how the client authenticates there. A request is a form or, with
    `as_json`, JSON. `route` is what is logged and counted."""

    def __init__(
        self,
        transport: Transport,
        *,
        client_id: str,
        client_secret: SecretStr,
        auth_method: str = "client_secret_post",
        as_json: bool = False,
        route: str = "POST /oauth/token",
    ) -> None:
        self._transport = transport
        self._client_id, self._client_secret = client_id, client_secret
        self._auth_method = auth_method
        self._as_json = as_json
        self._route = route

    def __repr__(self) -> str:
        return f"TokenEndpoint({self._route!r}, ***)"

    async def request(self, grant_type: str, **fields: str) -> Mapping[str, Any]:
        """The endpoint's answer, with an access token in it. Raises DeliveryError."""
        from authlib.oauth2.rfc6749.parameters import prepare_token_request

        answer = await self._send(prepare_token_request(grant_type, **fields))
        found = answer.json()
        if not isinstance(found, dict) or not isinstance(found.get("access_token"), str):
            raise AmbiguousError(Problem.ANSWER_UNREADABLE, "the answer holds no access_token")
        return found

    async def revoke(self, refresh_token: str) -> None:
        """Ask for the end of an authorization (RFC 7009), where this is a revocation endpoint.
        Raises DeliveryError."""
        from authlib.oauth2.rfc7009.parameters import prepare_revoke_token_request

        body, _ = prepare_revoke_token_request(refresh_token, "refresh_token")
        await self._send(body)

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def _send(self, body: str) -> _TokenResponse:
        from authlib.oauth2.auth import ClientAuth

        secret = self._client_secret.get_secret_value()
        client = ClientAuth(self._client_id, secret, self._auth_method)
        _, headers, body = client.prepare("POST", "", {"accept": "application/json"}, body)
        if self._as_json:
            content = orjson.dumps(dict(parse_qsl(body, keep_blank_values=True)))
        else:
            headers = {**headers, "content-type": "application/x-www-form-urlencoded"}
            content = body.encode()
        return await self._transport.call(
            "POST", "", route=self._route, content=content, headers=headers
        )


class OAuthToken:
    """An access token for machines (RFC 6749): by refresh token where one is given, else by client
    credentials.

    Cached for its lifetime, and fetched once however many calls need it at the same time. `extra`
    are parameters of the token request, which is a form or, with `as_json`, JSON. The token is sent
    as `Authorization: Bearer`, or in the query under the name `query`; `extra_header` is a fixed
    key sent with it. `problem` is the code when the endpoint refuses the client or the grant.
    Raises RetryLater, or Blocked with scope account: the call that needed the token was not sent.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        clock: Clock,
        client_id: str,
        client_secret: SecretStr,
        refresh_token: SecretStr | None = None,
        extra: Mapping[str, str] | None = None,
        as_json: bool = False,
        auth_method: str = "client_secret_post",
        query: str | None = None,
        extra_header: HeaderKey | None = None,
        problem: Problem = Problem.PLATFORM_KEY,
        route: str = "POST /oauth/token",
    ) -> None:
        self.in_query = query is not None
        self._query = query
        self._endpoint = TokenEndpoint(
            transport,
            client_id=client_id,
            client_secret=client_secret,
            auth_method=auth_method,
            as_json=as_json,
            route=route,
        )
        self._clock = clock
        self._refresh_token = refresh_token
        self._extra = dict(extra or {})
        self._extra_header = extra_header
        self._problem = problem
        self._route = route
        self._lock = asyncio.Lock()
        self._auth: Mapping[str, str] | None = None
        self._valid_until = 0.0
        self._forced_at = -MIN_FORCED_INTERVAL
        self._failure: DeliveryError | None = None
        self._failed_until = 0.0

    def __repr__(self) -> str:
        return f"OAuthToken({self._route!r}, ***)"

    async def __call__(self) -> Mapping[str, str]:
        async with self._lock:
            if self._auth is None or self._clock.monotonic() >= self._valid_until:
                self._auth = await self._fetch()
            return self._auth

    def invalidate(self, auth: Mapping[str, str]) -> bool:
        """Whether another attempt makes sense: a token that is not the current one was renewed
        meanwhile."""
        if auth is not self._auth:
            return True
        now = self._clock.monotonic()
        if now - self._forced_at < MIN_FORCED_INTERVAL:
            return False
        self._forced_at, self._auth = now, None
        return True

    async def aclose(self) -> None:
        await self._endpoint.aclose()

    async def _fetch(self) -> Mapping[str, str]:
        requested_at = self._clock.monotonic()
        if self._failure is not None and requested_at < self._failed_until:
            raise self._failure.with_traceback(None)
        try:
            fields = await self._request_token()
        except DeliveryError as error:
            failure = token_failure(error, self._problem)
            hold = max(FAILURE_TTL, failure.after if isinstance(failure, RetryLater) else 0.0)
            self._failure, self._failed_until = failure, self._clock.monotonic() + hold
            raise failure from None
        self._failure = None
        lifetime = lifetime_seconds(fields.get("expires_in"))
        self._valid_until = requested_at + lifetime - min(MARGIN, lifetime / 10)
        renewed = fields.get("refresh_token")
        if self._refresh_token is not None and isinstance(renewed, str) and renewed:
            self._refresh_token = SecretStr(renewed)
        return self._auth_for(fields["access_token"])

    def _auth_for(self, token: str) -> Mapping[str, str]:
        if self._query is not None:
            return {self._query: token}
        return {
            **(self._extra_header() if self._extra_header else {}),
            "Authorization": f"Bearer {token}",
        }

    async def _request_token(self) -> Mapping[str, Any]:
        if self._refresh_token is None:
            return await self._endpoint.request("client_credentials", **self._extra)
        refresh_token = self._refresh_token.get_secret_value()
        return await self._endpoint.request(
            "refresh_token", **self._extra, refresh_token=refresh_token
        )


def token_failure(error: DeliveryError, problem: Problem) -> RetryLater | Blocked:
    """The error of a call whose token could not be fetched: the call was not sent.

    The status stays out: a 404 of the token endpoint is not an unknown person."""
    detail = f"token endpoint: {error.detail}"
    if isinstance(error, RetryLater):
        return RetryLater(error.problem, detail, after=error.after)
    if isinstance(error, Rejected) or (isinstance(error, Blocked) and error.status in {401, 403}):
        return Blocked(problem, detail, scope="account")
    if isinstance(error, Blocked):
        return Blocked(error.problem, detail, scope="account")
    return RetryLater(error.problem, detail)


def lifetime_seconds(lifetime: Any) -> float:
    """A token's lifetime in seconds; without an expiry it is valid until it is refused."""
    try:
        return max(0.0, float(lifetime))
    except (TypeError, ValueError):
        return float("inf")
