"""Is it alive, can it take webhooks, does it need a person, what does it count (INTERFACE 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from connector.domain.errors import StoreError
from connector.ports import Clock
from connector.runtime import log
from connector.runtime.metrics import CONTENT_TYPE, Metrics
from connector.service import Commands

STALL_TIMEOUT = 60.0


class Health:
    """`beat` is called whenever the loop has moved and the store has answered; `shut` tells when
    webhooks could not be stored."""

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
        self._last = self._clock.monotonic()

    async def livez(self, request: Request) -> Response:
        stalled = self._clock.monotonic() - self._last
        if stalled > STALL_TIMEOUT:
            return PlainTextResponse(f"standstill for {stalled:.0f} s\n", status_code=503)
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        if not self.ready or self._intake_closed():
            return PlainTextResponse("not ready\n", status_code=503)
        return PlainTextResponse("ok\n")

    async def healthz(self, request: Request) -> Response:
        try:
            lines = await self._commands.attention_texts()
        except StoreError as error:
            lines = [f"{error.problem}: {error.problem.meaning}"]
        if lines:
            return PlainTextResponse("\n".join(lines) + "\n", status_code=500)
        return PlainTextResponse("ok\n")

    async def metrics(self, request: Request) -> Response:
        try:
            await self._refresh()
        except StoreError as error:
            # What this process counts is worth more than ever then.
            self._log.warning("metrics without those of the store", problem=error.problem.value)
        text = await asyncio.to_thread(self._metrics.render)
        return Response(text, media_type=CONTENT_TYPE)
