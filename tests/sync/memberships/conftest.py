"""A connection whole and without sockets: the real store in memory, the lanes, rounds and receipts
as the workshop puts them together, Klaviyo's sandbox and a toy platform."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson
import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from connector.app.daemon import read_config
from connector.app.wiring import Workshop
from connector.app.wiring.context import Shop
from connector.config import Config
from connector.domain.errors import ConfigError
from connector.domain.memberships import (
    Group,
)
from connector.domain.records import (
    Page,
    Record,
)
from connector.net.http import Http
from connector.platforms import registry
from connector.ports import Fence, Lease
from connector.runtime.metrics import Metrics
from connector.sandbox import KlaviyoSandbox
from connector.service import Line, Operator
from connector.store.sql import SqlStore
from connector.store.tables import metadata
from connector.testing.fakes.clock import FakeClock
from tests.inline import InlineDatabase

from . import toy

T = TypeVar("T")
_FOREVER = 10 * 365 * 86_400_000
_HEAD = """\
[store]
url = "sqlite:///nowhere.db"

[log]
level = "error"

[[connections]]
name = "acme"
source = "{source}"
mapping = "{mapping}"
mode = "{mode}"
modules = {modules}

[connections.klaviyo]
base_url = "http://127.0.0.1"
private_key = "pk_sandbox"
rate_share = {share}
flow_guard = "{flow_guard}"

"""
_MAPPING = """\
version = 1
source = "{source}"

[identity]
email = ["email"]
"""
VIP = '[[connections.audiences]]\naudience = "vip"\nlist = "VIP"\n'


class Wire(httpx.AsyncBaseTransport):
    """Between us and Klaviyo. Every request is kept; `before` and `after` seconds pass on the way;
    `overlaps` names memberships whose writes were under way at the same time."""

    def __init__(self, app: Any, clock: FakeClock) -> None:
        self._inner = httpx.ASGITransport(app)
        self._clock = clock
        self.before: Callable[[], float] = lambda: 0.0
        self.after: Callable[[], float] = lambda: 0.0
        self.requests: list[httpx.Request] = []
        self.closed: Callable[[httpx.Request], Exception | None] = lambda request: None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if refused := self.closed(request):
            raise refused
        try:
            if wait := self.before():
                await self._clock.sleep(wait)
            answer = await self._inner.handle_async_request(request)
            if wait := self.after():
                await self._clock.sleep(wait)
        except ConnectionResetError as error:
            raise httpx.ReadError("reset") from error
        return answer


class Held(Lease):
    """A lease that lasts."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence

    @property
    def fence(self) -> Fence:
        return self._fence

    def valid(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wired(Shop):
    wire: Wire

    def http(self, connection: Any, base_url: str, destination: str, **how: Any) -> Http:
        watch = how.pop("watch", None)
        client = httpx.AsyncClient(transport=self.wire)
        return Http(base_url, clock=self.clock, seen=watch, http=client, **how)


class Site:
    """A platform, an account, and a daemon between them that can be killed and started again."""

    def __init__(self, config: Config, **klaviyo: Any) -> None:
        self.clock = FakeClock()
        self.config = config
        self.klaviyo = KlaviyoSandbox(
            now=lambda: self.clock.now() / 1000, log_writes=True, **({"limits": False} | klaviyo)
        )
        self.wire = Wire(self.klaviyo.app, self.clock)
        self.toy = toy.WORLD = toy.World()
        self.engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        metadata.create_all(self.engine)
        self.starts = 0
        self.said = 0
        self.line: Line
        self.store: SqlStore
        self.operator: Operator
        self.metrics: Metrics

    # ── the daemon ───────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        self._outside = asyncio.all_tasks()
        self.database = InlineDatabase(self.engine)
        self.store = SqlStore("sqlite://", self.database)
        self.starts += 1
        now = self.clock.now()
        fence = await self.store.leases.acquire(
            "store",
            f"holder{self.starts}",
            now=now,
            ttl=_FOREVER,
            gone=f"holder{self.starts - 1}",
        )
        assert isinstance(fence, Fence)
        for queue in (self.store, self.store.memberships, self.store.actions):
            await queue.recover(fence, now=now)
        self.metrics = Metrics("test")
        workshop = Workshop(self.config, self.store, Held(fence), self.clock, self.metrics)
        shop = {f.name: getattr(workshop._shop, f.name) for f in fields(Shop)}
        workshop._shop = _Wired(**shop, wire=self.wire)
        closed, self.wire.closed = self.wire.closed, lambda request: None
        faults, self.klaviyo.faults._faults = self.klaviyo.faults._faults, []
        building = asyncio.create_task(workshop.build(self.config.connections[0]))
        while not building.done():
            await self.clock.advance(0.5)
        self.klaviyo.faults._faults, self.wire.closed = faults, closed
        self.line = building.result()
        self.operator = Operator(self.store, self.clock, lines={"acme": self.line})
        loops = [dispatcher.run() for dispatcher in self.line.dispatchers]
        loops += [loop() for loop in self.line.loops]
        self._loops = [asyncio.create_task(loop) for loop in loops]

    async def kill(self) -> None:
        """As `kill -9`: whatever is in flight is cut off and nothing is settled."""
        self.database.dead = True
        ours = asyncio.all_tasks() - self._outside - {asyncio.current_task()}
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)

    # ── what happens outside ─────────────────────────────────────────────────────────────────────

    async def push(self, name: str, joined: bool, audience: str = "vip") -> None:
        """The platform says by itself that somebody joined or left."""
        self.said += 1
        record = Record(
            key=f"k{self.said}",
            unique_id=f"toy:{self.said}",
            name="Audience",
            occurred_at=self.clock.now(),
            data=b"{}",
            person=f"id-{name}",
            email=toy.address(name),
            membership=(audience, joined),
        )
        lane = self.line.events.lane
        await self.store.append([Page(lane, "webhook", [record], self.clock.now())])
        for dispatcher in self.line.dispatchers:
            dispatcher.wake()

    async def rest(self, seconds: float = 200.0) -> None:
        """Time passes: jobs end, lost ones are given up, groups are read again."""
        await self.clock.advance(seconds)

    async def sync(self, what: str = "audiences", name: str = "vip") -> None:
        """A person wants everything of a link read now, and it is told."""
        done, said = await self.operator.carry_out(
            f"{what}-sync", {"connection": "acme", "name": name}
        )
        assert done, said
        await self.clock.advance(8.0)

    # ── what is where ────────────────────────────────────────────────────────────────────────────

    def on(self, name: str = "VIP") -> list[str]:
        """Who is on a Klaviyo list."""
        self.klaviyo.jobs.settle()
        [found] = [x for x in self.klaviyo._world.lists.all if x.name == name]
        return sorted(e.partition("@")[0] for e in self.klaviyo.list_members(found.id))

    def put_on(self, *names: str, name: str = "VIP") -> str:
        """Somebody else puts people on a list, which is made where there is none; its id."""
        world = self.klaviyo._world
        lists = [x for x in world.lists.all if x.name == name]
        made = lists[0] if lists else world.lists.create(name, "single_opt_in", world.now())
        for each in names:
            made.join(self.profile(each), world.now())
        return made.id

    def take_off(self, *names: str, name: str = "VIP") -> None:
        [found] = [x for x in self.klaviyo._world.lists.all if x.name == name]
        for each in names:
            found.leave(self.profile(each))

    def profile(self, name: str) -> Any:
        memory, email = self.klaviyo._world.memory, toy.address(name)
        found = memory.by("email", email)
        if found is None:
            found = memory.create(self.klaviyo._world.now())
            given = _given(email)
            memory.update(found, given, self.klaviyo._world.now(), nulls=False, patch=False)
        return found

    async def group(self, name: str) -> Group:
        return next(g for g in await self.store.memberships.groups() if g.name == name)

    async def questions(self) -> list[tuple[str, str]]:
        return [(a.what, a.subject) for a in await self.store.approvals.find()]

    async def answer(self, approved: bool = True) -> None:
        for asked in await self.store.approvals.find():
            kind = "approve" if approved else "reject"
            await self.operator.carry_out(kind, {"id": asked.id, "by": "ana"})
        await self.clock.advance(8.0)

    def count(self, method: str, ending: str) -> int:
        return sum(
            r.method == method and r.url.path.rstrip("/").endswith(ending)
            for r in self.wire.requests
        )


def _given(email: str) -> Any:
    from connector.sandbox.klaviyo.rules import ProfileIn

    return ProfileIn(None, {"email": email}, {}, "")


Configs = Callable[..., Config]
Start = Callable[..., Awaitable[Site]]


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configs:
    known = {"toy": toy.PLATFORM, "mute": toy.MUTE}
    monkeypatch.setattr(registry, "load", lambda source, *_: known[source])

    def make(entries: str = VIP, *, source: str = "toy", **given: Any) -> Config:
        mapping = tmp_path / f"{source}.toml"
        mapping.write_text(_MAPPING.format(source=source))
        values = {"mode": "live", "share": 1.0, "flow_guard": "ask"}
        values["modules"] = '["events", "audiences", "segments", "actions"]'
        path = tmp_path / "connector.toml"
        path.write_text(
            _HEAD.format(**(values | {"mapping": mapping, "source": source} | given)) + entries
        )
        return read_config(path)

    return make


@pytest.fixture
async def start(configs: Configs) -> Any:
    """Makes a site of connections' entries, audiences and people given by name, and starts it."""
    sites: list[Site] = []

    async def make(
        entries: str = VIP, *, people: dict[str, list[str]] | None = None, **given: Any
    ) -> Site:
        options = {k: given.pop(k) for k in ("limits", "job_delay") if k in given}
        site = Site(configs(entries, **given), **options)
        site.toy.audiences = {"vip": []} | (people or {})
        sites.append(site)
        return site

    yield make
    for site in sites:
        if site.starts:
            await site.kill()


@pytest.fixture(autouse=True)
def quiet(silence: None) -> Iterator[None]:
    yield
    gc.collect()


def bodies(site: Site) -> list[dict[str, Any]]:
    return [orjson.loads(r.content) for r in site.wire.requests if r.content]


__all__ = ["VIP", "ConfigError", "Site", "Start", "bodies"]
