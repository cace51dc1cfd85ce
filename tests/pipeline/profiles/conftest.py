"""A whole connection without sockets: the real store in memory, lanes and workers as the
ConnectionBuilder builds them, and both sandboxes behind a network that the test disturbs."""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import httpx
import orjson
import pytest
from sqlalchemy import select

from connector.app.configuration import read_config
from connector.app.wiring import ConnectionBuilder
from connector.config import Config
from connector.domain.records import State
from connector.ports import Fence
from connector.runtime.metrics import Metrics
from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox
from connector.sandbox.jericommerce.people import TIERS, Person
from connector.service import ConnectionRuntime
from connector.store.sql import SqlStore
from connector.store.tables import outbox, profiles, reads
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.lease import FakeLease
from connector.testing.fakes.store import InlineDatabase, memory_store
from tests.building import build_confirmed
from tests.paths import ROOT

SYNCED_FIELDS = (
    "balance",
    "birthdate",
    "jericommerce_tier_name",
    "jericommerce_tier_balance",
    "jericommerce_tier_entered_at",
    "jericommerce_tier_expires_at",
    "jericommerce_download_wallet_pass_url",
)
_FOREVER = 10 * 365 * 86_400_000
_SECRET = "jeri_webhook_secret"
_PLATFORM_PORT, _KLAVIYO_PORT = 8001, 8002
_TOML = """\
[store]
url = "sqlite:///nowhere.db"

[log]
level = "error"

[delivery]
bulk_threshold = {bulk_threshold}
attach_wait = "{attach_wait}"

[[connections]]
name = "acme"
source = "jericommerce"
mapping = "{mapping}"
email_change = "{email_change}"
on_leave = "{on_leave}"

[connections.settings]
base_url = "http://127.0.0.1:8001"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"
rate_per_second = 1000

[connections.klaviyo]
base_url = "http://127.0.0.1:8002"
private_key = "pk_sandbox"
rate_share = 1.0
"""


class FaultyTransport(httpx.AsyncBaseTransport):
    """The network between the connector and a sandbox. `before` and `after` are seconds that a
    request and its answer take; `overlaps` lists writes of one profile that were in flight at the
    same time."""

    def __init__(self, app: Any, clock: FakeClock, addresses: Callable[[str], str]) -> None:
        self._inner = httpx.ASGITransport(app)
        self._clock = clock
        self._addresses = addresses
        self.before: Callable[[], float] = lambda: 0.0
        self.after: Callable[[], float] = lambda: 0.0
        self.in_flight: Counter[str] = Counter()
        self.overlaps: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        written = self._written(request)
        self.overlaps += [f"{request.method} {w}" for w in written if self.in_flight[w]]
        self.in_flight.update(written)
        try:
            return await self._forward(request)
        finally:
            self.in_flight.subtract(written)

    async def _forward(self, request: httpx.Request) -> httpx.Response:
        if seconds := self.before():
            await self._clock.sleep(seconds)
        try:
            response = await self._inner.handle_async_request(request)
        except ConnectionResetError as error:
            raise httpx.ReadError("reset") from error
        if seconds := self.after():
            await self._clock.sleep(seconds)
        return response

    def _written(self, request: httpx.Request) -> list[str]:
        """The addresses of the profiles whose fields a request writes."""
        path = request.url.path
        if request.method not in ("POST", "PATCH") or not path.startswith("/api/profile"):
            return []
        data = orjson.loads(request.content)["data"]
        if path.startswith("/api/profiles/"):
            return [self._addresses(path.rsplit("/", 1)[1])]
        if path == "/api/profile-import":
            return [data["attributes"]["email"]]
        return [p["attributes"]["email"] for p in data["attributes"]["profiles"]["data"]]


class Network(httpx.AsyncBaseTransport):
    """Forwards each request to the transport of its port."""

    def __init__(self, by_port: Mapping[int | None, FaultyTransport]) -> None:
        self._by_port = by_port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._by_port[request.url.port].handle_async_request(request)


class Environment:
    """A platform, a Klaviyo account, and a daemon between them that can be killed and restarted."""

    def __init__(
        self,
        config: Config,
        *,
        people: int = 0,
        lag: float = 0.0,
        job_delay: Any = 1.0,
        bulk_errors: Any = "all",
        limits: bool = False,
    ) -> None:
        self.clock = FakeClock()
        self.config = config
        self.klaviyo = KlaviyoSandbox(
            now=self._now,
            limits=limits,
            job_delay=job_delay,
            bulk_errors=bulk_errors,
            log_writes=True,
        )
        self.platform = JeriCommerceSandbox(now=self._now, people=people, lag=lag)
        self.fault_transports = {
            "klaviyo": FaultyTransport(self.klaviyo.app, self.clock, self._address_of),
            "jericommerce": FaultyTransport(self.platform.app, self.clock, str),
        }
        self.database = InlineDatabase()
        self.starts = 0
        self.runtime: ConnectionRuntime
        self.store: SqlStore
        self.metrics: Metrics
        self._outside: set[asyncio.Task[Any]] = set()
        self._webhook_count = 0

    def _now(self) -> float:
        return self.clock.now() / 1000

    def _address_of(self, id: str) -> str:
        found = self.klaviyo.profiles_by_id.get(id)
        return (found or {}).get("email", id)

    # ── the daemon ───────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        self._outside = asyncio.all_tasks()
        self.database = self.database.reopened()
        self.store = memory_store(self.database)
        self.starts += 1
        fence = await self.store.leases.acquire(
            "store",
            f"holder{self.starts}",
            now=self.clock.now(),
            ttl=_FOREVER,
            dead_holder=f"holder{self.starts - 1}",
        )
        assert isinstance(fence, Fence)
        now = self.clock.now()
        for queue in (self.store.outbox, self.store.reads, self.store.profiles):
            await queue.recover(fence, now=now)
        self.metrics = metrics = Metrics("test")
        network = Network(
            {
                _PLATFORM_PORT: self.fault_transports["jericommerce"],
                _KLAVIYO_PORT: self.fault_transports["klaviyo"],
            }
        )
        known_accounts: dict[str, str] = {}
        builder = ConnectionBuilder(
            self.config,
            self.store,
            lambda connection, account: FakeLease(fence),
            self.clock,
            metrics,
            new_transport=lambda: network,
            known_accounts=known_accounts,
        )
        # A start that cannot read the account scopes addresses by the base URL instead, so they
        # would differ between two starts. Another test is about that.
        with self.klaviyo.faults.suspended():
            connection = self.config.connections[0]
            building = asyncio.create_task(build_confirmed(builder, connection, known_accounts))
            while not building.done():
                await self.clock.advance(0.5)
        self.runtime = building.result()
        for worker in (*self.runtime.dispatchers, *self.runtime.workers):
            worker.start()

    async def kill(self) -> None:
        """As `kill -9`: what is in flight is cut off and nothing is settled."""
        self.database.dead = True
        tasks = asyncio.all_tasks() - self._outside - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for fault_transport in self.fault_transports.values():
            fault_transport.in_flight.clear()

    # ── what happens outside ─────────────────────────────────────────────────────────────────────

    def webhook(self, name: str, person: Person, *, email: str | None = "") -> dict[str, Any]:
        """A webhook about a person, to be delivered now or later. `email`: "" is the person's own,
        None leaves it out."""
        self._webhook_count += 1
        body: dict[str, Any] = {
            "id": f"evt-{self._webhook_count}",
            "customerId": person.id,
            "createdAt": person.owner.moment().isoformat() if person.owner else "2026-11-01T00:00Z",
            "properties": {"amount": 5},
        }
        if email is not None:
            body["email"] = email or person.email
        return {"name": name, "body": body}

    async def deliver(self, delivery: Mapping[str, Any]) -> None:
        endpoint = self.runtime.webhook_endpoint
        assert endpoint
        body = orjson.dumps(delivery["body"])
        headers = {
            "x-jericommerce-event-type": delivery["name"],
            "x-jericommerce-hmac-sha256": hmac.digest(_SECRET.encode(), body, sha256).hex(),
        }
        await endpoint.receive("", headers, body)

    async def send_event(self, name: str, person: Person, **how: Any) -> None:
        await self.deliver(self.webhook(name, person, **how))

    async def run_until_idle(self, minutes: int = 12) -> None:
        """Let time pass until nothing is ready or in flight; open import jobs are run."""
        for _ in range(minutes):
            for job in self.klaviyo.jobs.open():
                self.klaviyo.jobs.run(job.id)
            await self.clock.advance(60.0)
            if not self.busy():
                break

    def rows(self, query: Any) -> list[Any]:
        return self.database.execute(lambda c: list(c.execute(query)))

    def busy(self) -> list[str]:
        """The rows that are ready or in flight."""
        found = []
        for table, key in ((outbox, "seq"), (reads, "person"), (profiles, "person")):
            query = select(table).where(table.c.state.in_((State.READY, State.CLAIMED)))
            found += [
                f"{table.name} {getattr(row, key)} {State(row.state).name} due {row.due} "
                f"now {self.clock.now()} {row.problem}"
                for row in self.rows(query)
            ]
        return found

    # ── what must hold ────────────────────────────────────────────────────────────────────────

    def synced_fields(self, email: str) -> dict[str, Any]:
        """Those of SYNCED_FIELDS that the profile has at Klaviyo."""
        found = self.klaviyo.profile(email)
        properties = found["properties"] if found else {}
        return {name: properties[name] for name in SYNCED_FIELDS if name in properties}

    def state_of(self, person: Person) -> dict[str, Any]:
        """SYNCED_FIELDS as the platform has them, without the pass link."""
        fields: dict[str, Any] = {"balance": person.balance}
        if person.birthdate:
            fields["birthdate"] = person.birthdate.isoformat()
        if person.tier is not None:
            fields |= {
                "jericommerce_tier_name": TIERS[person.tier][0],
                "jericommerce_tier_balance": person.tier_balance,
                "jericommerce_tier_entered_at": person.entered_at.isoformat(),
                "jericommerce_tier_expires_at": person.expires_at.isoformat(),
            }
        return fields

    def difference(self, person: Person) -> str | None:
        """How Klaviyo differs from the platform, if it does. The pass link has a new token in each
        answer of the platform, so it must be the one of the last read."""
        remote = self.synced_fields(person.email)
        link = remote.pop(SYNCED_FIELDS[-1], None)
        if remote != self.state_of(person):
            return f"{person.email}: Klaviyo {remote}, platform {self.state_of(person)}"
        views = {
            str(orjson.loads(row.view).get("pass_url"))
            for row in self.rows(select(reads.c.view).where(reads.c.view.is_not(None)))
        }
        return None if link in views else f"{person.email}: pass link {link} was never read"

    def klaviyo_requests(self, *prefixes: str) -> dict[str, int]:
        """The number of requests to Klaviyo by route, of routes that begin so."""
        by_route = cast(dict[str, dict[str, int]], self.klaviyo.state()["requests"])
        return {
            route: sum(by_status.values())
            for route, by_status in by_route.items()
            if route.startswith(prefixes)
        }

    def profile_requests(self) -> dict[str, int]:
        """The number of requests that write profiles, by route."""
        return self.klaviyo_requests("POST /api/profile", "PATCH /api/profiles")


class Configs:
    """Makes configurations; each is read once."""

    def __init__(self, folder: Path, mapping: Path) -> None:
        self._folder, self._mapping = folder, mapping
        self._cache: dict[str, Config] = {}

    def __call__(
        self,
        *,
        bulk_threshold: int = 50,
        email_change: str = "new",
        on_leave: str = "keep",
        attach_wait: str = "1s",
    ) -> Config:
        text = _TOML.format(
            mapping=self._mapping,
            bulk_threshold=bulk_threshold,
            email_change=email_change,
            on_leave=on_leave,
            attach_wait=attach_wait,
        )
        if text not in self._cache:
            path = self._folder / f"{len(self._cache)}.toml"
            path.write_text(text)
            self._cache[text] = read_config(path)
        return self._cache[text]


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Configs:
    return Configs(tmp_path_factory.mktemp("configs"), ROOT / "mappings" / "jericommerce.toml")


@pytest.fixture(autouse=True)
def mute_logs(silenced_logs: None) -> None:
    """Thousands of planned faults would fill the log."""
