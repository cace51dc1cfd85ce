"""A daemon whose remote APIs answer when the test says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.domain.records import Page
from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox, Traffic, serve
from connector.store.tables import memberships
from connector.testing.contracts.store import record
from tests.callers import caller_of
from tests.paths import MAPPINGS, ROOT
from tests.waiting import async_until

CONFIG = """\
[store]
url = "{store}"

[server]
port = 0
shutdown_timeout = "5s"

[delivery]
retry_base = "20ms"
retry_max = "100ms"
probe_every = "200ms"
"""
CONNECTION = """
[[connections]]
name = "{name}"
source = "jericommerce"
mapping = "{mapping}"

[connections.settings]
base_url = "{platform}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"
rate_per_second = 100

[connections.klaviyo]
base_url = "{klaviyo}"
private_key = "{key}"
"""
AUDIENCE = """
[[connections]]
name = "acme"
source = "wll"
mapping = "{mapping}"

[connections.settings]
base_url = "{platform}/v1"
auth_url = "{platform}/oauth/token"
api_key = "wll_sandbox"
client_id = "wll_client"
client_secret = "wll_client_secret"
webhook_secret = "wll_webhook_secret"

[connections.klaviyo]
base_url = "{klaviyo}"
private_key = "pk_sandbox"

[[connections.audiences]]
audience = "VIP"
list = "VIP"
"""


class Gated:
    """An application in front of which requests wait while `open` is cleared. `waiting` are those
    that do, `given_up` those that did until their caller closed the connection."""

    def __init__(self, app: Any) -> None:
        self.open = asyncio.Event()
        self.waiting: list[str] = []
        self.given_up: list[str] = []
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.open.is_set():
            await self._app(scope, receive, send)
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.waiting.append(scope["path"])
        opened = asyncio.create_task(self.open.wait())
        closed = asyncio.create_task(receive())
        await asyncio.wait({opened, closed}, return_when=asyncio.FIRST_COMPLETED)
        self.waiting.remove(scope["path"])
        opened.cancel()
        if not self.open.is_set():
            self.given_up.append(scope["path"])
            return

        async def replay() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        closed.cancel()
        await self._app(scope, replay, send)


class World:
    """Remote APIs on loopback, and the daemons that run on one store, one after another."""

    def __init__(self, folder: Path, servers: Any, store: str) -> None:
        self.folder, self.servers, self._store = folder, servers, store
        self.klaviyo = KlaviyoSandbox(limits=False)
        self.platform = JeriCommerceSandbox()
        self.klaviyo_gate, self.platform_gate = Gated(self.klaviyo.app), Gated(self.platform.app)
        self.traffic = Traffic(self.platform, "unused")
        self.mapping = folder / "mapping.toml"
        self.mapping.write_text((ROOT / "mappings" / "jericommerce.toml").read_text())
        self.file = folder / "connector.toml"
        self.app: App

    async def open(self) -> None:
        await self.servers.start("klaviyo", self.klaviyo_gate, 0)
        await self.servers.start("platform", self.platform_gate, 0)
        self.configure(self.connection())

    def connection(self, name: str = "acme", **changed: str) -> str:
        urls = {side: self.servers.url(side) for side in ("klaviyo", "platform")}
        fields = urls | {"mapping": str(self.mapping), "key": "pk_sandbox"} | changed
        return CONNECTION.format(name=name, **fields)

    def audience(self) -> str:
        """A connection with the audience VIP, whose platform does not answer."""
        urls = {side: self.servers.url(side) for side in ("klaviyo", "platform")}
        return AUDIENCE.format(mapping=MAPPINGS / "wll.toml", **urls)

    async def connection_to(self, klaviyo: KlaviyoSandbox, key: str, *, name: str = "acme") -> str:
        """A connection to another account."""
        await self.servers.start(key, klaviyo.app, 0)
        return self.connection(name, klaviyo=self.servers.url(key), key=key)

    def configure(self, *connections: str) -> None:
        self.file.write_text(CONFIG.format(store=self._store) + "".join(connections))

    def answer(self) -> None:
        """From now on the remote APIs answer."""
        self.klaviyo_gate.open.set()
        self.platform_gate.open.set()

    def silence(self) -> None:
        self.klaviyo_gate.open.clear()
        self.platform_gate.open.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[App]:
        self.app = App(read_config(self.file), reread=lambda: read_config(self.file))
        try:
            await self.app.start()
            yield self.app
        finally:
            await self.app.stop()

    async def post(self, connection: str = "acme") -> str:
        """Post an event; its unique id once it was acknowledged."""
        headers, body = self.traffic.make_event()
        async with caller_of(f"http://127.0.0.1:{self.app.port}") as caller:
            path = f"/webhooks/{connection}"
            answer = await caller.post(path, content=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return f"jericommerce:{json.loads(body)['id']}"

    async def attention(self) -> str:
        """What the daemon says needs a person, or waits for a remote API."""
        items = [*await self.app.commands.attention(0.0), *self.app._problems.items()]
        return "\n".join(item.line for item in items)


async def address_of_who_joins_when_named(world: World, app: App) -> bytes | None:
    """As it is stored for a person who joins VIP after the connection was built for the account
    that Klaviyo names, and before this process works for it."""
    scopes, lane = app.store.address_scopes, app.runtimes["acme"].events.lane
    move = scopes.move

    async def move_before_a_join(connection: str, account: str) -> int:
        moved = await move(connection, account)
        joined = record(email="ada@example.com", membership=("VIP", True))
        await app.store.outbox.append([Page(lane, "webhook", [joined], app.clock.now())])
        return moved

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scopes, "move", move_before_a_join)
        world.answer()
        await async_until("it runs", lambda: app.connections.running)
        await async_until("the lease is taken", lambda: app.runtimes["acme"].lease.valid())
    query = select(memberships.c.address)
    return await app.store.database.read(lambda c: c.execute(query).scalar_one())


@asynccontextmanager
async def opened(folder: Path, store: str = "sqlite:///state.db") -> AsyncIterator[World]:
    servers = await serve({})
    world = World(folder, servers, store)
    try:
        await world.open()
        yield world
    finally:
        world.answer()
        await servers.aclose()
