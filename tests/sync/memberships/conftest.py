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

from connector.app.daemon import read_config
from connector.app.wiring import ConnectionBuilder
from connector.app.wiring.context import SharedServices
from connector.config import Config
from connector.domain.errors import ConfigError
from connector.domain.memberships import Group
from connector.domain.records import Page, Record
from connector.net.http import Http
from connector.platforms import registry
from connector.ports import Fence, Lease
from connector.runtime.metrics import Metrics
from connector.sandbox import KlaviyoSandbox
from connector.service import Commands, ConnectionRuntime
from connector.store.sql import SqlStore
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.store import InlineDatabase, memory_store

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


class FaultyTransport(httpx.AsyncBaseTransport):
    """Between us and Klaviyo. Every request is kept; `before` and `after` seconds pass on the way;
    `overlaps` names memberships whose writes were under way at the same time."""

    def __init__(self, app: Any, clock: FakeClock) -> None:
        self._inner = httpx.ASGITransport(app)
        self._clock = clock
        self.before: Callable[[], float] = lambda: 0.0
        self.after: Callable[[], float] = lambda: 0.0
        self.requests: list[httpx.Request] = []
        self.fail_with: Callable[[httpx.Request], Exception | None] = lambda request: None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if refused := self.fail_with(request):
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


class StaticLease(Lease):
    """A lease that lasts."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence

    @property
    def fence(self) -> Fence:
        return self._fence

    def valid(self) -> bool:
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _TestServices(SharedServices):
    fault_transport: FaultyTransport

    def http(self, connection: Any, base_url: str, destination: str, **how: Any) -> Http:
        watch = how.pop("observe_headers", None)
        client = httpx.AsyncClient(transport=self.fault_transport)
        return Http(base_url, clock=self.clock, on_call=watch, http=client, **how)


class Environment:
    """A platform, an account, and a daemon between them that can be killed and started again."""

    def __init__(self, config: Config, **klaviyo: Any) -> None:
        self.clock = FakeClock()
        self.config = config
        self.klaviyo = KlaviyoSandbox(
            now=lambda: self.clock.now() / 1000, log_writes=True, **({"limits": False} | klaviyo)
        )
        self.fault_transport = FaultyTransport(self.klaviyo.app, self.clock)
        self.toy = toy.STATE = toy.ToyState()
        self.database = InlineDatabase()
        self.starts = 0
        self.said = 0
        self.runtime: ConnectionRuntime
        self.store: SqlStore
        self.commands: Commands
        self.metrics: Metrics

    # ── the daemon ───────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        self._outside = asyncio.all_tasks()
        self.database = self.database.reopened()
        self.store = memory_store(self.database)
        self.starts += 1
        now = self.clock.now()
        fence = await self.store.leases.acquire(
            "store",
            f"holder{self.starts}",
            now=now,
            ttl=_FOREVER,
            dead_holder=f"holder{self.starts - 1}",
        )
        assert isinstance(fence, Fence)
        for queue in (self.store, self.store.memberships, self.store.actions):
            await queue.recover(fence, now=now)
        self.metrics = Metrics("test")
        builder = ConnectionBuilder(
            self.config, self.store, StaticLease(fence), self.clock, self.metrics
        )
        services = {f.name: getattr(builder._services, f.name) for f in fields(SharedServices)}
        builder._services = _TestServices(**services, fault_transport=self.fault_transport)
        fail_with, self.fault_transport.fail_with = (
            self.fault_transport.fail_with,
            lambda request: None,
        )
        faults, self.klaviyo.faults._faults = self.klaviyo.faults._faults, []
        building = asyncio.create_task(builder.build(self.config.connections[0]))
        while not building.done():
            await self.clock.advance(0.5)
        self.klaviyo.faults._faults, self.fault_transport.fail_with = faults, fail_with
        self.runtime = building.result()
        self.commands = Commands(self.store, self.clock, runtimes={"acme": self.runtime})
        self._loops = [
            asyncio.create_task(dispatcher.run()) for dispatcher in self.runtime.dispatchers
        ]
        for worker in self.runtime.workers:
            worker.start()

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
        lane = self.runtime.events.lane
        await self.store.append([Page(lane, "webhook", [record], self.clock.now())])
        for dispatcher in self.runtime.dispatchers:
            dispatcher.wake()

    async def run_for(self, seconds: float = 200.0) -> None:
        """Time passes: jobs end, lost ones are given up, groups are read again."""
        await self.clock.advance(seconds)

    async def sync(self, what: str = "audiences", name: str = "vip") -> None:
        """A person wants everything of a link read now, and it is told."""
        done, said = await self.commands.execute(
            f"{what}-sync", {"connection": "acme", "name": name}
        )
        assert done, said
        await self.clock.advance(8.0)

    # ── what is where ────────────────────────────────────────────────────────────────────────────

    def members_of(self, name: str = "VIP") -> list[str]:
        """Who is on a Klaviyo list."""
        self.klaviyo.jobs.settle()
        [found] = [x for x in self.klaviyo._account.lists.all if x.name == name]
        return sorted(e.partition("@")[0] for e in self.klaviyo.list_members(found.id))

    def add_to_list(self, *names: str, name: str = "VIP") -> str:
        """Somebody else puts people on a list, which is made where there is none; its id."""
        account = self.klaviyo._account
        lists = [x for x in account.lists.all if x.name == name]
        made = lists[0] if lists else account.lists.create(name, "single_opt_in", account.now())
        for each in names:
            made.join(self.profile(each), account.now())
        return made.id

    def remove_from_list(self, *names: str, name: str = "VIP") -> None:
        [found] = [x for x in self.klaviyo._account.lists.all if x.name == name]
        for each in names:
            found.leave(self.profile(each))

    def profile(self, name: str) -> Any:
        memory, email = self.klaviyo._account.memory, toy.address(name)
        found = memory.by("email", email)
        if found is None:
            found = memory.create(self.klaviyo._account.now())
            given = _given(email)
            memory.update(found, given, self.klaviyo._account.now(), nulls=False, patch=False)
        return found

    async def group(self, name: str) -> Group:
        return next(g for g in await self.store.memberships.groups() if g.name == name)

    async def open_approvals(self) -> list[tuple[str, str]]:
        return [(a.what, a.subject) for a in await self.store.approvals.find()]

    async def answer(self, approved: bool = True) -> None:
        for approval in await self.store.approvals.find():
            kind = "approve" if approved else "reject"
            await self.commands.execute(kind, {"id": approval.id, "by": "ana"})
        await self.clock.advance(8.0)

    def count(self, method: str, ending: str) -> int:
        return sum(
            r.method == method and r.url.path.rstrip("/").endswith(ending)
            for r in self.fault_transport.requests
        )


def _given(email: str) -> Any:
    from connector.sandbox.klaviyo.rules import ProfileIn

    return ProfileIn(None, {"email": email}, {}, "")


Configs = Callable[..., Config]
Start = Callable[..., Awaitable[Environment]]


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configs:
    known = {"toy": toy.PLATFORM, "mute": toy.EVENTS_ONLY}
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
    envs: list[Environment] = []

    async def make(
        entries: str = VIP, *, people: dict[str, list[str]] | None = None, **given: Any
    ) -> Environment:
        options = {k: given.pop(k) for k in ("limits", "job_delay") if k in given}
        env = Environment(configs(entries, **given), **options)
        env.toy.audiences = {"vip": []} | (people or {})
        envs.append(env)
        return env

    yield make
    for env in envs:
        if env.starts:
            await env.kill()


@pytest.fixture(autouse=True)
def mute_logs(silenced_logs: None) -> Iterator[None]:
    yield
    gc.collect()


def bodies(env: Environment) -> list[dict[str, Any]]:
    return [orjson.loads(r.content) for r in env.fault_transport.requests if r.content]


__all__ = ["VIP", "ConfigError", "Start", "bodies"]
