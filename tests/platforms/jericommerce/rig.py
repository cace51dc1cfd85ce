"""The JeriCommerce adapter with a sandbox in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx
import orjson

from connector.domain.actions import Action
from connector.domain.lanes import QuotaUsage
from connector.net.http import Http
from connector.net.rate_limit import RateLimiter
from connector.platforms.jericommerce import open as open_client
from connector.platforms.jericommerce.api import QUOTA
from connector.platforms.jericommerce.reader import JeriCommerceReader
from connector.platforms.jericommerce.settings import Settings
from connector.ports import (
    Actions,
    Member,
    MembershipResult,
    MembershipWriter,
    PersonRef,
    PersonSnapshot,
)
from connector.sandbox import JeriCommerceSandbox
from connector.sandbox.jericommerce.people import Person
from connector.testing.contracts.platform import AutoAdvancingClock, make_kit

READS = frozenset({"balance", "pass_url"})


class Rig:
    """The parts of a client of a sandbox. `answer` responds instead of the sandbox."""

    def __init__(
        self,
        *,
        rate: int | None = None,
        answer: Any = None,
        retry_statuses: tuple[int, ...] = (423, 429, 503),
        sandbox: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.clock = AutoAdvancingClock()
        self.platform = JeriCommerceSandbox(
            now=lambda: self.clock.now() / 1000,
            people=20,
            rate_per_second=rate,
            **(sandbox or {}),
        )
        self.retry_statuses = frozenset(retry_statuses)
        self.settings = Settings.model_validate(
            {
                "base_url": "http://127.0.0.1",
                "program": "demo",
                "api_key": "jeri_sandbox",
                **settings,
            }
        )
        self.saved_usage: list[QuotaUsage] = []
        self.answer = answer
        self.reader: JeriCommerceReader
        self.actions: Actions
        self.members: MembershipWriter
        self.limiter: RateLimiter

    async def open(self) -> Rig:
        base = make_kit(self.platform.app, self.clock)

        async def quota(credential: str, limits: Any) -> RateLimiter:
            self.limiter = await base.quota(credential, limits)
            return self.limiter

        async def record_usage(usage: Sequence[QuotaUsage]) -> None:
            self.saved_usage.extend(usage)

        def http(base_url: str, credential: Any, not_applied: frozenset[int]) -> Http:
            return Http(
                base_url,
                vendor="platform",
                clock=self.clock,
                credential=credential,
                retry_statuses=not_applied,
                transport=httpx.MockTransport(self.answer),
            )

        kit = replace(
            base,
            http=http if self.answer else base.http,
            quota=quota,
            record_usage=record_usage,
            retry_statuses=self.retry_statuses,
        )
        client = await open_client(self.settings, kit)
        assert isinstance(client.reader, JeriCommerceReader)
        assert client.actions
        assert client.members
        self.reader, self.actions, self.members = client.reader, client.actions, client.members
        return self

    async def read(
        self, person: Person | str, view: Any = None, **how: Any
    ) -> PersonSnapshot | None:
        """Read as the lane does, with one permit."""
        email = person if isinstance(person, str) else person.email
        id = None if isinstance(person, str) else person.id
        await self.permit()
        ref = PersonRef(1, id, email, orjson.dumps(view) if view else b"", **how)
        return await self.reader.read(ref, READS)

    async def permit(self) -> None:
        """Wait for the one permit that a lane has when it calls."""
        while not (grant := self.limiter.reserve(QUOTA, 1)).count:
            await self.clock.sleep(grant.wait)

    async def apply(self, action: Action) -> str | None:
        await self.permit()
        return await self.actions.apply(action)

    async def update_members(
        self, target: str, *changes: tuple[Member, bool]
    ) -> Sequence[MembershipResult]:
        await self.permit()
        return await self.members.update(target, changes)

    @property
    def tokens(self) -> int:
        return self.platform.token_calls.total()
