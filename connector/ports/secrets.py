"""Encrypted secrets and OAuth authorizations that are under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from connector.domain.lanes import Millis
from connector.domain.oauth import Grant


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """One encrypted value of an owner, usually a connection. `info` may be read by anyone.

    `version` grows with every change. `claim` names who is replacing the value, `attempts` when
    that was tried last, oldest first.
    """

    owner: str
    name: str
    sealed: str = field(repr=False)
    info: Mapping[str, Any]
    version: int
    claim: str | None = None
    attempts: tuple[Millis, ...] = ()


class Secrets(Protocol):
    """Encrypted values. What is stored is ciphertext (connector.runtime.encryption)."""

    async def get(self, owner: str, name: str) -> StoredSecret | None: ...

    async def all(self) -> Sequence[StoredSecret]: ...

    async def put(
        self,
        owner: str,
        name: str,
        sealed: str,
        info: Mapping[str, Any],
        *,
        now: Millis,
        version: int | None = None,
    ) -> int | None:
        """Store a value and give back its claim; returns the new version. With `version` only where
        the stored one is that (0: there is none), else None and nothing changes."""
        ...

    async def claim(
        self, secret: StoredSecret, claim: str, *, attempts: Sequence[Millis], over: str | None
    ) -> bool:
        """Announce that the value will be replaced. False where another process has changed or
        claimed it since `secret` was read; `over` is a claim that may be replaced."""
        ...

    async def release(self, owner: str, name: str, claim: str) -> None:
        """Give a claim back without a new value."""
        ...

    async def delete(self, owner: str, name: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Authorization:
    """One step of an OAuth authorization, known by the digest of a random value.

    `ticket` allows a browser to start it, `state` comes back with the redirect, `account` waits for
    a person who confirms another account. `browser` is the digest of a cookie, `started_by` who
    asked for it. `outcome`: what it came to, for the process that waits for it.
    """

    digest: str
    kind: Literal["ticket", "state", "account"]
    connection: str
    created_at: Millis
    expires_at: Millis
    browser: str = ""
    started_by: str = ""
    sealed: str = field(default="", repr=False)
    used_at: Millis | None = None
    outcome: Mapping[str, Any] | None = None


class Authorizations(Protocol):
    """Authorizations under way. Each is used once."""

    async def open(self, authorization: Authorization) -> None:
        """Store it; those that expired more than a day ago are deleted."""
        ...

    async def get(self, digest: str) -> Authorization | None: ...

    async def take(self, digest: str, *, now: Millis) -> bool:
        """Use it up. False where it was used before or has expired."""
        ...

    async def finish(self, digest: str, outcome: Mapping[str, Any]) -> None: ...

    async def latest(self, connection: str, *, since: Millis) -> Authorization | None:
        """The newest one created since then that has an outcome."""
        ...


class AuthorizationServer(Protocol):
    """Grants access to accounts. Methods raise DeliveryError."""

    scopes: Mapping[str, str]
    """Scope → what does not work without it."""

    def authorization_url(self, *, state: str, verifier: str, redirect_uri: str) -> str: ...

    async def exchange(self, code: str, *, verifier: str, redirect_uri: str) -> Grant:
        """Raises Rejected for a code that is used, expired or of another client."""
        ...

    async def account(self, grant: Grant) -> tuple[str, str]:
        """Id and name of the account that was granted."""
        ...

    async def revoke(self, refresh_token: str) -> None: ...


class OpenAuthorizationServer(Protocol):
    """Opens the authorization server of a connection."""

    def __call__(self, connection: Any) -> AbstractAsyncContextManager[AuthorizationServer]: ...
