"""`/livez`, `/readyz`, `/healthz` and `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from connector.domain.attention import store_item
from connector.domain.errors import StoreError
from connector.ports import Clock
from connector.runtime import log
from connector.runtime.metric_registry import CONTENT_TYPE
from connector.runtime.metrics import Metrics
from connector.service import Commands

STALL_TIMEOUT = 60.0


class Health:
    """Answers the health routes.

    `refresh` updates the gauges that are read from the store. `intake_closed`: whether webhooks
    cannot be stored now. `ready` is set by the daemon between its start and its stop.
    """

    def __init__(
        self,
        clock: Clock,
        metrics: Metrics,
        commands: Commands,
        refresh: Callable[[], Awaitable[None]],
        *,
        intake_closed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._intake_closed = intake_closed
        self._clock = clock
        self._metrics = metrics
        self._commands = commands
        self._refresh = refresh
        self._last = clock.monotonic()
        self.ready = False
        self._log = log.get("health")

    def heartbeat(self) -> None:
        """Note that the event loop runs and the store has answered, with an error or without."""
        self._last = self._clock.monotonic()

    async def livez(self, request: Request) -> Response:
        """200; 503 when the last heartbeat is more than 60 s ago."""
        stalled = self._clock.monotonic() - self._last
        if stalled > STALL_TIMEOUT:
            return PlainTextResponse(f"standstill for {stalled:.0f} s\n", status_code=503)
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 while webhooks can be stored, else 503."""
        if not self.ready or self._intake_closed():
            return PlainTextResponse("not ready\n", status_code=503)
        return PlainTextResponse("ok\n")

    async def healthz(self, request: Request) -> Response:
        """200; 500 with one line for each thing that needs a person. A remote side that is away
        counts once that has lasted for `[[notify]] patience`."""
        try:
            lines = await self._commands.attention_lines()
        except StoreError as error:
            lines = [store_item(error).line]
        if lines:
            return PlainTextResponse("\n".join(lines) + "\n", status_code=500)
        return PlainTextResponse("ok\n")

    async def metrics(self, request: Request) -> Response:
        try:
            await self._refresh()
        except StoreError as error:
            # The counters of this process matter most while the store is away.
            self._log.warning("store_metrics_unavailable", problem=error.problem.value)
        text = await asyncio.to_thread(self._metrics.render)
        return Response(text, media_type=CONTENT_TYPE)
