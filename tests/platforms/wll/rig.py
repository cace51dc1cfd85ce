"""The WLL adapter with a sandbox in this process, on a clock that moves with every sleep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from connector.domain.lanes import QuotaUsage
from connector.net.http import CallStats, Credential, Http, InProcess
from connector.platforms.wll import open as open_client
from connector.platforms.wll.settings import Settings
from connector.ports import Client
from connector.sandbox import WllSandbox
from connector.testing.contracts.platform import AutoAdvancingClock, make_kit

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


class Rig:
    """A tenant and its client. `seen` holds every call; `answer` replaces the sandbox."""

    def __init__(self, *, people: int = 5, answer: Any = None, **settings: Any) -> None:
        self.clock = AutoAdvancingClock()
        self.platform = WllSandbox(now=lambda: self.clock.now() / 1000, people=people)
        self.seen: list[CallStats] = []
        self.saved_usage: list[QuotaUsage] = []
        self.settings = Settings.model_validate({**SETTINGS, **settings})
        self._answer = answer

    async def open(self, retry_statuses: frozenset[int] = frozenset({429, 503})) -> Client:
        async def record_usage(usage: Sequence[QuotaUsage]) -> None:
            self.saved_usage += usage

        def http(base_url: str, credential: Credential, not_applied: frozenset[int]) -> Http:
            return Http(
                base_url,
                vendor="platform",
                clock=self.clock,
                credential=credential,
                retry_statuses=not_applied,
                on_call=self.seen.append,
                transport=InProcess(self._answer or self.platform.app),
            )

        kit = make_kit(self.platform.app, self.clock)
        kit = replace(kit, http=http, record_usage=record_usage, retry_statuses=retry_statuses)
        return await open_client(self.settings, kit)

    def calls(self) -> list[tuple[str, int | None]]:
        return [(call.route, call.status) for call in self.seen]
