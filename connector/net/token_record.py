"""The stored tokens of one owner: encrypted, and replaced by compare-and-set."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from pydantic import SecretStr

from connector.domain.lanes import Millis
from connector.domain.oauth import Grant, GrantInfo
from connector.ports import Clock, Secrets, StoredSecret
from connector.runtime.encryption import Cipher

MAX_PER_MINUTE = 10
"""Refreshes in 60 s for one authorization. Klaviyo throttles above about ten."""
_FOREVER = Millis(2**53)


class TokenRecord:
    """The stored tokens of one owner. Methods raise StoreError, and UnreadableSecret."""

    def __init__(self, store: Secrets, cipher: Cipher, owner: str, name: str, clock: Clock) -> None:
        self.owner = owner
        self._store, self._cipher, self._name, self._clock = store, cipher, name, clock

    async def load(self) -> StoredSecret | None:
        return await self._store.get(self.owner, self._name)

    def open(self, row: StoredSecret) -> tuple[str, str]:
        """(access token, refresh token)."""
        access, refresh = self._cipher.open(row)
        return access, refresh

    async def save(
        self, grant: Grant, info: GrantInfo, *, version: int | None = None
    ) -> int | None:
        """As Secrets.put, with the times of now."""
        now = self._clock.now()
        lifetime = grant.lifetime
        valid_until = _FOREVER if lifetime == float("inf") else Millis(now + round(lifetime * 1000))
        info = replace(info, valid_until=valid_until, refreshed_at=now, ended_at=None)
        sealed = self._cipher.seal([grant.access_token, grant.refresh_token])
        return await self._store.put(
            self.owner, self._name, sealed, info.dump(), now=now, version=version
        )

    async def seed(self, refresh_token: SecretStr, version: int) -> None:
        """Store a configured refresh token, to be used from now on."""
        info = GrantInfo(origin=digest(refresh_token))
        sealed = self._cipher.seal(["", refresh_token.get_secret_value()])
        await self._store.put(
            self.owner, self._name, sealed, info.dump(), now=self._clock.now(), version=version
        )

    async def mark_ended(self, row: StoredSecret) -> bool:
        """False where the row has changed since it was read."""
        now = self._clock.now()
        info = replace(GrantInfo.load(row.info), ended_at=now)
        return bool(
            await self._store.put(
                self.owner, self._name, row.sealed, info.dump(), now=now, version=row.version
            )
        )

    async def claim(self, row: StoredSecret, claim: str, over: str | None) -> bool:
        attempts = [*row.attempts, self._clock.now()][-MAX_PER_MINUTE:]
        return await self._store.claim(row, claim, attempts=attempts, over=over)

    async def release(self, claim: str) -> None:
        await self._store.release(self.owner, self._name, claim)

    def until_next_attempt(self, row: StoredSecret) -> float:
        """Seconds until another refresh stays within MAX_PER_MINUTE."""
        if len(row.attempts) < MAX_PER_MINUTE:
            return 0.0
        return max(0.0, 60.0 - (self._clock.now() - row.attempts[0]) / 1000)


def digest(token: SecretStr) -> str:
    return hashlib.sha256(token.get_secret_value().encode()).hexdigest()
