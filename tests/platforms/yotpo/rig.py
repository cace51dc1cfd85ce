"""The Yotpo adapter with a sandbox in this process, on a clock that moves with every sleep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from connector.domain.actions import Action
from connector.domain.lanes import QuotaUsage
from connector.net.rate_limit import RateLimiter
from connector.platforms.kit import RefreshedToken
from connector.platforms.yotpo import PLATFORM
from connector.platforms.yotpo.settings import Settings
from connector.ports import (
    Actions,
    Client,
    History,
    PeoplePage,
    PersonRef,
    PersonSnapshot,
    Reader,
    Stream,
)
from connector.sandbox import YotpoSandbox
from connector.sandbox.yotpo.people import Customer
from connector.testing.contracts.platform import AutoAdvancingClock, make_kit

SETTINGS: dict[str, Any] = {
    "base_url": "http://127.0.0.1",
    "guid": "guid-sandbox",
    "api_key": "yotpo_sandbox",
    "webhook_secret": "whsec-0123456789",
}


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({**SETTINGS, **changes})


class Rig:
    """`async with Rig(…) as rig`. `sandbox` are the double's arguments, the rest settings.
    `platform` is a double that is used again, as after a restart."""

    def __init__(
        self,
        *,
        sandbox: dict[str, Any] | None = None,
        platform: YotpoSandbox | None = None,
        refreshed_token: RefreshedToken | None = None,
        **changes: Any,
    ) -> None:
        self.refreshed_token = refreshed_token
        self.clock = AutoAdvancingClock()
        # At the start of a second, as the sandbox counts them.
        self.platform = platform or YotpoSandbox(
            now=lambda: self.clock.now() / 1000,
            **{"people": 20, "rate_per_second": None, **(sandbox or {})},
        )
        self.settings = settings(**changes)
        self.limiters: list[RateLimiter] = []
        self.saved_usage: list[QuotaUsage] = []
        self.client: Client

    async def __aenter__(self) -> Rig:
        kit = make_kit(self.platform.app, self.clock)

        async def quota(credential: str, limits: Any) -> RateLimiter:
            limiter = await kit.quota(credential, limits)
            self.limiters.append(limiter)
            return limiter

        async def record_usage(usage: Sequence[QuotaUsage]) -> None:
            self.saved_usage.extend(usage)

        assert PLATFORM.open is not None
        self.client = await PLATFORM.open(
            self.settings,
            replace(
                kit,
                quota=quota,
                record_usage=record_usage,
                refreshed_token=self.refreshed_token,
            ),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    @property
    def reader(self) -> Reader:
        assert self.client.reader is not None
        return self.client.reader

    @property
    def changes(self) -> Stream:
        assert self.client.changes is not None
        return self.client.changes

    @property
    def history(self) -> History:
        assert self.client.history is not None
        return self.client.history

    @property
    def actions(self) -> Actions:
        assert self.client.actions is not None
        return self.client.actions

    async def permitted(self, quota: Any, endpoint: str) -> None:
        """Wait for a permit as a lane does."""
        while not (grant := quota.reserve(endpoint, 1)).count:
            await self.clock.sleep(grant.wait)

    async def read(self, who: Customer | PersonRef, *reads: str) -> PersonSnapshot | None:
        """Read as the lane does, with one permit."""
        ref = who if isinstance(who, PersonRef) else PersonRef(1, who.id, who.email, b"")
        await self.permitted(self.reader.quota, self.reader.endpoint)
        return await self.reader.read(ref, frozenset(reads))

    async def apply(self, action: Action) -> str | None:
        await self.permitted(self.actions.quota, self.actions.endpoint)
        return await self.actions.apply(action)

    async def walk(self, cursor: str | None = None) -> list[PeoplePage]:
        """The pages of the changes to the end of a walk."""
        pages: list[PeoplePage] = []
        while not pages or pages[-1].more:
            pages.append(await self.changes.page(cursor, frozenset()))
            cursor = pages[-1].cursor
            assert len(pages) < 100, "a walk does not end"
        return pages

    def requests(self, route: str) -> int:
        """How many calls of this route got a response."""
        found: Any = self.platform.state()["requests"]
        return sum(found.get(route, {}).values())


def body(topic: str = "swell/points/changed", **fields: Any) -> bytes:
    """A webhook's body."""
    name = topic.replace("swell", "Swell").replace("/", " ").title()
    return orjson.dumps({"topic": topic, "name": name, "email": "ana@example.com", **fields})
