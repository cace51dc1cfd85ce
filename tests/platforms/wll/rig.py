"""A WLL client at a sandbox, on a clock that waits for nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connector.domain.lanes import QuotaUsage
from connector.net.http import CallStats, Credential, Http, in_process
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms.kit import Kit
from connector.platforms.wll import open as open_client
from connector.platforms.wll.settings import Settings
from connector.ports import Client
from connector.sandbox import WllSandbox
from connector.testing.fakes.clock import FakeClock

SETTINGS: dict[str, Any] = {
    "base_url": "http://127.0.0.1/v1",
    "auth_url": "http://127.0.0.1/oauth/token",
    "api_key": "wll_sandbox",
    "client_id": "wll_client",
    "client_secret": "wll_client_secret",
    "webhook_secret": "wll_webhook_secret",
    "points_event_type": "FLOW_POINTS",
    "points_event_secret": "wll_points_secret",
    "join_event": "AUDIENCE_JOINED",
    "leave_event": "AUDIENCE_LEFT",
}


class AutoAdvancingClock(FakeClock):
    """Whoever sleeps wakes at once, and it is later."""

    async def sleep(self, seconds: float) -> None:
        self.move(seconds)


class Rig:
    """A tenant and a client of it. `seen` holds every call, `answer` stands for the sandbox."""

    def __init__(self, *, people: int = 5, answer: Any = None, **settings: Any) -> None:
        self.clock = AutoAdvancingClock()
        self.platform = WllSandbox(now=lambda: self.clock.now() / 1000, people=people)
        self.seen: list[CallStats] = []
        self.spent: list[QuotaUsage] = []
        self.settings = Settings.model_validate({**SETTINGS, **settings})
        self._answer = answer

    async def open(self, retry_statuses: frozenset[int] = frozenset({429, 503})) -> Client:
        async def quota(credential: str, limits: Mapping[str, Limit]) -> RateLimiter:
            return RateLimiter("wll", limits, clock=self.clock, share=1.0)

        async def record_usage(spend: Sequence[QuotaUsage]) -> None:
            self.spent += spend

        def http(base_url: str, credential: Credential, not_applied: frozenset[int]) -> Http:
            return Http(
                base_url,
                vendor="platform",
                clock=self.clock,
                credential=credential,
                retry_statuses=not_applied,
                on_call=self.seen.append,
                http=in_process(self._answer or self.platform.app),
            )

        kit = Kit(self.clock, http, quota, record_usage, retry_statuses)
        return await open_client(self.settings, kit)

    def calls(self) -> list[tuple[str, int | None]]:
        return [(call.route, call.status) for call in self.seen]
