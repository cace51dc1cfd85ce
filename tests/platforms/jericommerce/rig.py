"""The JeriCommerce adapter at a sandbox, without sockets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import orjson

from connector.domain.actions import Action
from connector.domain.lanes import QuotaUsage
from connector.net.http import Http
from connector.net.rate_limit import RateLimiter
from connector.platforms.jericommerce import open as open_client
from connector.platforms.jericommerce.api import ANY_CALL
from connector.platforms.jericommerce.reader import JeriCommerceReader
from connector.platforms.jericommerce.settings import Settings
from connector.platforms.kit import Kit
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
from connector.testing.fakes.clock import FakeClock

READS = frozenset({"balance", "pass_url"})


class Broken(httpx.AsyncBaseTransport):
    """The way to the sandbox: what it breaks off is a broken line."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._inner.handle_async_request(request)
        except ConnectionResetError as error:
            raise httpx.ReadError("reset") from error


class AutoAdvancingClock(FakeClock):
    """Whoever sleeps wakes at once, and it is later."""

    async def sleep(self, seconds: float) -> None:
        self.move(seconds)


class Rig:
    """The sides of a client at a sandbox; `answer` stands for the platform instead."""

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
        self.remembered: list[QuotaUsage] = []
        self.answer = answer
        self.reader: JeriCommerceReader
        self.actions: Actions
        self.members: MembershipWriter
        self.governor: RateLimiter

    async def open(self) -> Rig:
        async def quota(credential: str, limits: Any) -> RateLimiter:
            self.governor = RateLimiter(credential, limits, clock=self.clock, share=1.0)
            return self.governor

        async def record_usage(spend: Sequence[QuotaUsage]) -> None:
            self.remembered.extend(spend)

        def http(base_url: str, credential: Any, not_applied: frozenset[int]) -> Http:
            transport: Any = Broken(self.platform.app)
            if self.answer:
                transport = httpx.MockTransport(self.answer)
            return Http(
                base_url,
                vendor="platform",
                clock=self.clock,
                credential=credential,
                retry_statuses=not_applied,
                http=httpx.AsyncClient(transport=transport),
            )

        kit = Kit(self.clock, http, quota, record_usage, self.retry_statuses)
        client = await open_client(self.settings, kit)
        assert isinstance(client.reader, JeriCommerceReader)
        assert client.actions
        assert client.members
        self.reader, self.actions, self.members = client.reader, client.actions, client.members
        return self

    async def read(
        self, person: Person | str, view: Any = None, **how: Any
    ) -> PersonSnapshot | None:
        """As the lane reads: with one permit in hand."""
        email = person if isinstance(person, str) else person.email
        id = None if isinstance(person, str) else person.id
        await self.permit()
        who = PersonRef(1, id, email, orjson.dumps(view) if view else b"", **how)
        return await self.reader.read(who, READS)

    async def permit(self) -> None:
        """The one that a lane has in hand when it calls."""
        while not (grant := self.governor.reserve(ANY_CALL, 1)).count:
            await self.clock.sleep(grant.wait)

    async def apply(self, action: Action) -> str | None:
        await self.permit()
        return await self.actions.apply(action)

    async def tell(self, target: str, *changes: tuple[Member, bool]) -> Sequence[MembershipResult]:
        await self.permit()
        return await self.members.update(target, changes)

    @property
    def tokens(self) -> int:
        return self.platform.token_calls.total()
