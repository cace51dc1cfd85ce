"""A whole connection without sockets: the real store in memory, the lanes, scans and workers as the
ConnectionBuilder builds them, Klaviyo's sandbox and a toy platform."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from connector.app.configuration import read_config
from connector.app.wiring import ConnectionBuilder
from connector.config import Config
from connector.domain.memberships import Group
from connector.domain.records import Page, Record
from connector.platforms import registry
from connector.ports import Fence
from connector.runtime.metrics import Metrics
from connector.sandbox import KlaviyoSandbox
from connector.service import Commands, ConnectionRuntime
from connector.service.process import Process
from connector.store.sql import SqlStore
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.lease import FakeLease
from connector.testing.fakes.store import InlineDatabase, memory_store
from tests.building import build_confirmed

from . import toy

_TESTS, _TESTS_KEPT = count(1), 10
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
    """The network between the connector and Klaviyo. It keeps every request. `before` and `after`
    are seconds that a request and its answer take; `fail_with` is an error instead of an answer."""

    def __init__(self, klaviyo: KlaviyoSandbox, clock: FakeClock) -> None:
        self._clock = clock
        self.before: Callable[[], float] = lambda: 0.0
        self.after: Callable[[], float] = lambda: 0.0
        self.fail_with: Callable[[httpx.Request], Exception | None] = lambda request: None
        self.requests: list[httpx.Request] = []
        self.connect(klaviyo)

    def connect(self, klaviyo: KlaviyoSandbox) -> None:
        self._inner = httpx.ASGITransport(klaviyo.app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if error := self.fail_with(request):
            raise error
        try:
            if seconds := self.before():
                await self._clock.sleep(seconds)
            response = await self._inner.handle_async_request(request)
            if seconds := self.after():
                await self._clock.sleep(seconds)
        except ConnectionResetError as error:
            raise httpx.ReadError("reset") from error
        return response

    async def aclose(self) -> None:
        """Clients of an earlier start share the transport with those of the next."""


class Environment:
    """A platform, a Klaviyo account, and a daemon between them that can be killed and restarted."""

    def __init__(self, config: Config, **klaviyo: Any) -> None:
        self.clock = FakeClock()
        self.config = config
        self.klaviyo = self._new_account(**klaviyo)
        self.fault_transport = FaultyTransport(self.klaviyo, self.clock)
        self.toy = toy.STATE = toy.ToyState()
        self.database = InlineDatabase()
        self.starts = 0
        self.running = False
        self.events = 0
        self.fence: Fence
        self.runtime: ConnectionRuntime
        self.store: SqlStore
        self.commands: Commands
        self.metrics: Metrics

    def _new_account(self, **options: Any) -> KlaviyoSandbox:
        return KlaviyoSandbox(
            now=lambda: self.clock.now() / 1000, log_writes=True, **({"limits": False} | options)
        )

    def replace_account(self, account_id: str) -> None:
        """The key of the connection belongs to another, empty Klaviyo account from now on."""
        self.klaviyo = self._new_account(account_id=account_id)
        self.fault_transport.connect(self.klaviyo)

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
        self.fence = fence
        for queue in (self.store.outbox, self.store.memberships, self.store.actions):
            await queue.recover(fence, now=now)
        self.metrics = Metrics("test")
        known_accounts: dict[str, str] = {}
        builder = ConnectionBuilder(
            self.config,
            self.store,
            lambda connection, account: FakeLease(fence),
            self.clock,
            self.metrics,
            new_transport=lambda: self.fault_transport,
            known_accounts=known_accounts,
        )
        self.runtime = await self._build(builder, known_accounts)
        self.running = True
        self.commands = Commands(
            self.store,
            self.clock,
            process=Process(clock=self.clock, runtimes={"acme": self.runtime}),
        )
        self.runtime.start()

    async def _build(
        self, builder: ConnectionBuilder, known_accounts: dict[str, str]
    ) -> ConnectionRuntime:
        """Faults begin when the runtime is built."""
        fail_with = self.fault_transport.fail_with
        self.fault_transport.fail_with = lambda request: None
        with self.klaviyo.faults.suspended():
            connection = self.config.connections[0]
            building = asyncio.create_task(build_confirmed(builder, connection, known_accounts))
            while not building.done():
                await self.clock.advance(0.5)
        self.fault_transport.fail_with = fail_with
        return building.result()

    async def kill(self) -> None:
        """As `kill -9`: what is in flight is cut off and nothing is settled."""
        self.running = False
        self.database.dead = True
        tasks = asyncio.all_tasks() - self._outside - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ── what happens outside ─────────────────────────────────────────────────────────────────────

    async def membership_event(self, name: str, joined: bool, audience: str = "vip") -> None:
        """The platform reports by itself that a person joined or left."""
        self.events += 1
        record = Record(
            key=f"k{self.events}",
            unique_id=f"toy:{self.events}",
            name="Audience",
            occurred_at=self.clock.now(),
            data=b"{}",
            person=f"id-{name}",
            email=toy.address(name),
            membership=(audience, joined),
        )
        lane = self.runtime.events.lane
        await self.store.outbox.append([Page(lane, "webhook", [record], self.clock.now())])
        for dispatcher in self.runtime.dispatchers:
            dispatcher.wake()

    async def run_for(self, seconds: float = 200.0) -> None:
        await self.clock.advance(seconds)

    async def sync(self, what: str = "audiences", name: str = "vip") -> None:
        """Run the command that scans a link now, and wait until its changes are sent."""
        done, result = await self.commands.execute(
            f"{what}-sync", {"connection": "acme", "name": name}
        )
        assert done, result
        await self.clock.advance(8.0)

    async def decide(self, approved: bool = True) -> None:
        """Approve or reject every open approval."""
        for approval in await self.store.approvals.find():
            kind = "approve" if approved else "reject"
            await self.commands.execute(kind, {"id": approval.id, "by": "ana"})
        await self.clock.advance(8.0)

    # ── Klaviyo's lists ──────────────────────────────────────────────────────────────────────────

    def members_of(self, name: str = "VIP") -> list[str]:
        """Who is on a Klaviyo list."""
        members = self.klaviyo.list_members(self.klaviyo.list_ids()[name])
        return sorted(email.partition("@")[0] for email in members)

    def add_to_list(self, *names: str, name: str = "VIP") -> str:
        """Another program adds people to a list, which is created where there is none; its id."""
        id = self.klaviyo.list_ids().get(name) or self.klaviyo.make_list(name)
        self.klaviyo.add_to_list(id, *map(toy.address, names))
        return id

    def remove_from_list(self, *names: str, name: str = "VIP") -> None:
        self.klaviyo.remove_from_list(self.klaviyo.list_ids()[name], *map(toy.address, names))

    # ── the connector's state ────────────────────────────────────────────────────────────────────

    async def group(self, name: str) -> Group:
        return next(g for g in await self.store.member_groups.all() if g.name == name)

    async def open_approvals(self) -> list[tuple[str, str]]:
        return [(a.what, a.subject) for a in await self.store.approvals.find()]

    async def attention_keys(self) -> list[str]:
        """What the connection says that a person must look at."""
        return [item.key for item in await self.runtime.attention()]

    def count(self, method: str, ending: str) -> int:
        """Requests to Klaviyo of this method whose path ends so."""
        return sum(
            r.method == method and r.url.path.rstrip("/").endswith(ending)
            for r in self.fault_transport.requests
        )

    def bodies(self) -> list[dict[str, Any]]:
        return [orjson.loads(r.content) for r in self.fault_transport.requests if r.content]


Configs = Callable[..., Config]
Start = Callable[..., Awaitable[Environment]]


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configs:
    """Makes a configuration of one connection from its entries."""
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
async def start(configs: Configs) -> AsyncIterator[Start]:
    """Makes an environment, not started, from a connection's entries and its audiences' people."""
    envs: list[Environment] = []

    async def make(
        entries: str = VIP, *, people: Mapping[str, list[str]] | None = None, **given: Any
    ) -> Environment:
        options = {k: given.pop(k) for k in ("limits", "job_delay") if k in given}
        env = Environment(configs(entries, **given), **options)
        env.toy.audiences = {"vip": []} | dict(people or {})
        envs.append(env)
        return env

    yield make
    for env in envs:
        if env.running:
            await env.kill()


@pytest.fixture(autouse=True)
def mute_logs(silenced_logs: None) -> Iterator[None]:
    """A whole search for garbage takes as long as some tests, so it comes after several."""
    yield
    if next(_TESTS) % _TESTS_KEPT == 0:
        gc.collect()
