"""The network between the processes and the sandboxes: requests travel by themselves, so that one
may arrive after its sender has given up or died, within LATE seconds."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from .loop import OWNER, Owner, SimulatedLoop

READ_TIMEOUT = 30.0
"""Seconds without a byte after which httpx gives up."""

LATE = 25.0
"""Seconds after which a request that its sender has given up does not arrive any more."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to one request. `before` and `after`: seconds that it and its answer travel.
    `refused`: no connection is made. `lost`: the answer never comes. `trickles`: some byte of the
    answer comes all the time, so that no time-out of httpx ends the wait."""

    before: float = 0.0
    after: float = 0.0
    refused: bool = False
    lost: bool = False
    trickles: bool = False


class Network:
    """Forwards requests to the ASGI app of their port. `on_send(owner, request)` is called when a
    request leaves, `on_change(request, ±1)` when it leaves and when it has been carried out.
    `on_arrival(owner, request, late)` when it has been carried out, before its answer travels;
    `late`: its sender had given it up, or did not run any more.
    `on_answer(owner, request, seconds)` when its sender stops waiting. `disturbed`: the share of
    requests that have a bad fate; `planned`: a fate of the next request of a method and with a path
    that holds a text."""

    def __init__(
        self, loop: SimulatedLoop, rng: random.Random, apps: Mapping[int | None, Any]
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._apps = {port: httpx.ASGITransport(app) for port, app in apps.items()}
        self.disturbed = 0.0
        self.on_send: Callable[[Owner | None, httpx.Request], None] = lambda owner, request: None
        self.on_change: Callable[[httpx.Request, int], None] = lambda request, change: None
        self.on_arrival: Callable[[Owner | None, httpx.Request, bool], None] = _ignore
        self.on_answer: Callable[[Owner | None, httpx.Request, float], None] = _ignore
        self.planned: list[tuple[str, str, Fate]] = []
        self.sent = 0

    def transport(self) -> httpx.AsyncBaseTransport:
        """A transport of the process that makes it."""
        return _Transport(self)

    def _fate(self, request: httpx.Request) -> Fate:
        rng = self._rng
        for plan in self.planned:
            method, text, fate = plan
            if request.method == method and text in request.url.path:
                self.planned.remove(plan)
                return fate
        if rng.random() >= self.disturbed:
            quick = rng.random() < 0.5
            return Fate() if quick else Fate(rng.random() * 0.3, rng.random() * 0.3)
        return rng.choice(_BAD)(rng)

    async def send(self, request: httpx.Request) -> httpx.Response:
        owner = OWNER.get()
        if owner is not None and owner.condition == "dead":
            raise asyncio.CancelledError
        self.sent += 1
        self.on_send(owner, request)
        fate, since = self._fate(request), self._loop.time()
        answer: asyncio.Future[httpx.Response] = self._loop.create_future()
        given_up = asyncio.Event()
        requests = owner.requests if owner else {}
        requests[given_up] = None
        self._loop.spawn(None, self._travel(owner, request, fate, answer, given_up))
        try:
            async with asyncio.timeout(None if fate.trickles else READ_TIMEOUT):
                return await answer
        except TimeoutError as error:
            raise httpx.ReadTimeout("no answer in time") from error
        finally:
            given_up.set()
            requests.pop(given_up, None)
            if owner is None or owner.condition == "running":
                self.on_answer(owner, request, self._loop.time() - since)

    async def _arrive(self, seconds: float, given_up: asyncio.Event) -> None:
        """Wait for the request's way there, which is shorter once no one waits for it."""
        arrives = self._loop.time() + seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await given_up.wait()
        await asyncio.sleep(min(arrives - self._loop.time(), self._rng.random() * LATE))

    async def _travel(
        self,
        owner: Owner | None,
        request: httpx.Request,
        fate: Fate,
        answer: asyncio.Future[httpx.Response],
        given_up: asyncio.Event,
    ) -> None:
        if fate.refused:
            if not answer.done():
                answer.set_exception(httpx.ConnectError("refused"))
            return
        self.on_change(request, 1)
        await self._arrive(fate.before, given_up)
        late = given_up.is_set()
        response: httpx.Response | Exception
        try:
            response = await self._apps[request.url.port].handle_async_request(request)
        except ConnectionResetError:
            response = httpx.ReadError("reset")
        finally:
            self.on_change(request, -1)
        self.on_arrival(owner, request, late)
        if fate.lost:
            return
        await asyncio.sleep(fate.after)
        if not answer.done():
            if isinstance(response, Exception):
                answer.set_exception(response)
            else:
                answer.set_result(response)


def _ignore(owner: Owner | None, request: httpx.Request, what: float) -> None: ...


def late(rng: random.Random) -> Fate:
    """It arrives when its sender has given up."""
    return Fate(before=READ_TIMEOUT + rng.random() * 25)


_BAD: tuple[Callable[[random.Random], Fate], ...] = (
    lambda rng: Fate(before=rng.random() * 5, after=rng.random() * 5),
    lambda rng: Fate(refused=True),
    lambda rng: Fate(lost=True),
    late,
    lambda rng: Fate(after=25.0 + rng.random() * 10),
    lambda rng: Fate(after=rng.choice((20.0, 120.0, 900.0)), trickles=True),
)


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, network: Network) -> None:
        self._network = network

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._network.send(request)
