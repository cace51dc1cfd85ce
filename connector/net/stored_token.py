"""An access token whose refresh token is kept in the store, encrypted.

The refresh token may be replaced with every use, so a new pair is stored before it is used, and it
is used once however many tasks and processes need it: a refresh is claimed at the stored version
first. A claim whose holder died is taken over after it was seen unchanged for `CLAIM_TTL` seconds
of this process's own clock, so clocks of two machines need not agree.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import SecretStr

from connector.domain.errors import (
    Blocked,
    ConnectorError,
    DeliveryError,
    Problem,
    Rejected,
    RetryLater,
    StoreError,
)
from connector.domain.oauth import Grant, GrantInfo
from connector.net.auth import (
    FAILURE_TTL,
    MARGIN,
    MIN_FORCED_INTERVAL,
    TokenEndpoint,
    lifetime_seconds,
    token_failure,
)
from connector.net.token_record import MAX_PER_MINUTE, TokenRecord, digest
from connector.ports import Clock, StoredSecret
from connector.runtime import log
from connector.runtime.encryption import UnreadableSecret

CLAIM_TTL = 60.0
"""Longer than a request to a token endpoint may take."""
_POLL, _MAX_WAIT = 0.1, 10.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How an authorization that is missing, or that was refused for good, is reported."""

    missing: Problem
    refused: Problem


class StoredToken:
    """connector.net.http.Token. `seed` is a configured refresh token: it is used until the server
    replaces it, and again when another one is configured. `problem` is the code when the client is
    refused.

    Raises RetryLater, or Blocked with scope account: the call that needed the token was not sent.
    """

    def __init__(
        self,
        endpoint: TokenEndpoint,
        record: TokenRecord,
        *,
        clock: Clock,
        ended: Ended,
        problem: Problem,
        seed: SecretStr | None = None,
        query: str | None = None,
    ) -> None:
        self.in_query = query is not None
        self._query = query
        self._endpoint = endpoint
        self._record = record
        self._clock = clock
        self._ended = ended
        self._problem = problem
        self._seed = seed
        self._auth: Mapping[str, str] | None = None
        self._valid_until = 0.0
        self._version = self._refused_version = 0
        self._forced_at = -MIN_FORCED_INTERVAL
        self._renewal: asyncio.Task[Mapping[str, str]] | None = None
        self._claim = ""
        self._unsaved: tuple[Grant, GrantInfo, int] | None = None
        self._watched: tuple[str, float] = ("", 0.0)
        self._failure: DeliveryError | None = None
        self._failed_until = 0.0
        self._log = log.get("oauth").bind(connection=record.owner)

    def __repr__(self) -> str:
        return f"StoredToken({self._record.owner!r}, ***)"

    async def __call__(self) -> Mapping[str, str]:
        if self._auth is not None and self._clock.monotonic() < self._valid_until:
            return self._auth
        if self._renewal is None:
            # A task of its own: a caller that is cancelled must not lose a new refresh token.
            self._renewal = asyncio.create_task(self._renew())
            self._renewal.add_done_callback(self._renewed)
        return await asyncio.shield(self._renewal)

    def invalidate(self, auth: Mapping[str, str]) -> bool:
        """Whether another attempt makes sense: a token that is not the current one was renewed
        meanwhile."""
        if auth is not self._auth:
            return True
        now = self._clock.monotonic()
        if now - self._forced_at < MIN_FORCED_INTERVAL:
            return False
        self._forced_at, self._refused_version, self._auth = now, self._version, None
        return True

    @property
    def valid_for(self) -> float:
        """Seconds until the current access token is renewed; 0 without one."""
        return 0.0 if self._auth is None else max(0.0, self._valid_until - self._clock.monotonic())

    async def end(self) -> None:
        """The app was removed at the remote side: no further call is made with this token. Raises
        StoreError."""
        row = await self._record.load()
        if row and GrantInfo.load(row.info).ended_at is None:
            self._auth = None
            if await self._record.mark_ended(row):
                self._log_ended("the app is not installed any more")

    def _log_ended(self, detail: str) -> None:
        problem = self._ended.refused
        self._log.error("oauth_access_ended", problem=problem.value, detail=detail)

    async def aclose(self) -> None:
        """Waits for a refresh under way, and up to 10 s for a store that does not take its answer:
        it may hold the only valid refresh token."""
        if self._renewal is not None:
            await asyncio.wait([self._renewal])
        deadline = self._clock.monotonic() + _MAX_WAIT
        while self._unsaved is not None:
            try:
                await self._save_unsaved()
            except StoreError as error:
                if self._clock.monotonic() >= deadline:
                    self._log.error(
                        "oauth_token_lost", problem=error.problem.value, detail=error.detail
                    )
                    break
                await self._clock.sleep(_POLL)
        await self._endpoint.aclose()

    def _renewed(self, task: asyncio.Task[Mapping[str, str]]) -> None:
        self._renewal = None
        if not task.cancelled():
            task.exception()  # its callers may all be gone

    # ── one renewal ──────────────────────────────────────────────────────────────────────────────

    async def _renew(self) -> Mapping[str, str]:
        """The authentication of a token that is valid now: the stored one, else a new one."""
        deadline = self._clock.monotonic() + _MAX_WAIT
        try:
            while True:
                await self._save_unsaved()
                row = await self._current_row()
                if self._is_valid(row):
                    return self._adopt(row)
                if self._failure and self._clock.monotonic() < self._failed_until:
                    raise self._failure.with_traceback(None)
                if await self._try_claim(row):
                    await self._refresh(row)
                elif self._clock.monotonic() >= deadline:
                    detail = "token endpoint: another process has not finished its refresh"
                    raise RetryLater(Problem.TIMED_OUT, detail, after=1.0)
                else:
                    await self._clock.sleep(_POLL)
        except UnreadableSecret as error:
            raise Blocked(error.problem, error.detail, scope="account") from None
        except StoreError as error:
            raise RetryLater(error.problem, error.detail) from None

    async def _current_row(self) -> StoredSecret:
        """Raises Blocked where there is none, or it has ended."""
        row = await self._record.load()
        if self._seed is not None:
            known = GrantInfo.load(row.info).origin if row else ""
            if row is None or known != digest(self._seed):
                await self._record.seed(self._seed, row.version if row else 0)
                row = await self._record.load()
        if row is None:
            raise Blocked(self._ended.missing, "no token is stored", scope="account")
        if GrantInfo.load(row.info).ended_at is not None:
            raise self._access_ended()
        return row

    def _access_ended(self) -> Blocked:
        detail = "the stored token is not valid any more"
        return Blocked(self._ended.refused, detail, scope="account")

    def _is_valid(self, row: StoredSecret) -> bool:
        return row.version != self._refused_version and self._seconds_left(row) > 0

    def _seconds_left(self, row: StoredSecret) -> float:
        """Until the access token should be renewed: a minute before its end, or a tenth of its
        lifetime if less."""
        info = GrantInfo.load(row.info)
        lifetime = (info.valid_until - info.refreshed_at) / 1000
        return (info.valid_until - self._clock.now()) / 1000 - min(MARGIN, lifetime / 10)

    def _adopt(self, row: StoredSecret) -> Mapping[str, str]:
        access, _ = self._record.open(row)
        self._valid_until = self._clock.monotonic() + self._seconds_left(row)
        self._version = row.version
        self._auth = {self._query: access} if self._query else {"Authorization": f"Bearer {access}"}
        return self._auth

    async def _try_claim(self, row: StoredSecret) -> bool:
        """Whether this process may refresh now. Raises RetryLater at MAX_PER_MINUTE."""
        now = self._clock.monotonic()
        if row.claim not in (None, self._claim):
            if self._watched[0] != row.claim:
                self._watched = (row.claim or "", now)
            if now - self._watched[1] < CLAIM_TTL:
                return False
        if wait := self._record.until_next_attempt(row):
            detail = f"token endpoint: {MAX_PER_MINUTE} refreshes in the last minute"
            raise RetryLater(self._problem, detail, after=wait)
        claim = secrets.token_hex(8)
        if not await self._record.claim(row, claim, row.claim):
            return False
        self._claim = claim
        return True

    async def _refresh(self, row: StoredSecret) -> None:
        """Use the refresh token of `row` once. The answer is stored, or kept in `_unsaved` until it
        can be. Raises RetryLater or Blocked."""
        _, refresh = self._record.open(row)
        try:
            fields = await self._endpoint.request("refresh_token", refresh_token=refresh)
        except DeliveryError as error:
            await self._refused(row, error)
            return
        self._failure = None
        info = GrantInfo.load(row.info)
        grant = grant_of(fields, refresh=refresh, scopes=info.scopes)
        self._unsaved = (grant, replace(info, scopes=grant.scopes), row.version)
        await self._save_unsaved()

    async def _save_unsaved(self) -> None:
        """A pair is stored before it is used. Where another process has stored one meanwhile, that
        one counts."""
        if self._unsaved is None:
            return
        grant, info, version = self._unsaved
        await self._record.save(grant, info, version=version)
        self._unsaved = None

    async def _refused(self, row: StoredSecret, error: DeliveryError) -> None:
        """Returns where the row has changed since it was read: another process renewed the token,
        or a person connected the account again."""
        if is_invalid_grant(error):
            if await self._record.mark_ended(row):
                self._log_ended(error.detail)
                raise self._access_ended()
            return
        await self._record.release(self._claim)
        failure = token_failure(error, self._problem)
        hold = max(FAILURE_TTL, failure.after if isinstance(failure, RetryLater) else 0.0)
        self._failure, self._failed_until = failure, self._clock.monotonic() + hold
        raise failure


def is_invalid_grant(error: ConnectorError) -> bool:
    """Whether a token endpoint refused the code or refresh token itself (RFC 6749, 5.2)."""
    return isinstance(error, Rejected) and any(
        text.startswith("invalid_grant") for _, text in error.pointers
    )


def grant_of(
    fields: Mapping[str, Any], *, refresh: str = "", scopes: tuple[str, ...] = ()
) -> Grant:
    """The grant of a token endpoint's answer; what the answer omits stays as it was."""
    renewed, scope = fields.get("refresh_token"), fields.get("scope")
    return Grant(
        access_token=fields["access_token"],
        refresh_token=renewed if isinstance(renewed, str) and renewed else refresh,
        lifetime=lifetime_seconds(fields.get("expires_in")),
        scopes=tuple(scope.split()) if isinstance(scope, str) and scope.strip() else scopes,
    )
