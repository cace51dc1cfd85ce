"""A daemon with a connection that uses OAuth, sandboxes, and a person's browser."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.runtime import log
from connector.sandbox import JeriCommerceSandbox, KlaviyoSandbox, Servers, Traffic, serve
from tests.callers import caller_of
from tests.paths import ROOT
from tests.waiting import PATIENCE, async_until, free_port

CONFIG = """\
[store]
url = "sqlite:///state.db"
min_free = "1MB"

[server]
port = {port}
public_url = "http://127.0.0.1:{port}"
shutdown_timeout = "5s"

[security]
encryption_key = {key}

[klaviyo_app]
client_id = "sandbox-app"
client_secret = "{secret}"

[delivery]
retry_base = "50ms"
probe_every = "200ms"
attach_wait = "0s"

[[connections]]
name = "acme"
source = "jericommerce"
mapping = "{mapping}"

[connections.settings]
base_url = "{jericommerce}"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"

[connections.klaviyo]
base_url = "{klaviyo}"
auth = "oauth"
authorize_url = "{klaviyo}/oauth/authorize"
token_url = "{klaviyo}/oauth/token"
revoke_url = "{klaviyo}/oauth/revoke"
{more}
"""


def new_key(filler: str) -> str:
    """A Fernet key."""
    return base64.urlsafe_b64encode(filler.encode() * 32).decode()


KEY, OTHER_KEY = new_key("k"), new_key("o")


class Browser(httpx.AsyncClient):
    """A browser: it keeps cookies and does not follow redirects by itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__(timeout=PATIENCE, **options)

    async def authorize(self, start: str) -> httpx.Response:
        """Open `start` and follow it to Klaviyo and back, to the page that a person sees."""
        response = await self.get(start)
        while response.is_redirect:
            response = await self.get(response.headers["location"])
        return response


@dataclass
class Rig:
    """Sandboxes, and the daemon on them while it runs."""

    folder: Path
    klaviyo: KlaviyoSandbox
    jericommerce: JeriCommerceSandbox
    urls: dict[str, str]
    port: int = field(default_factory=free_port)
    app: App = field(init=False)

    def write(
        self, *, key: str = f'"{KEY}"', secret: str = "sandbox-app-secret", more: str = ""
    ) -> Path:
        file = self.folder / "connector.toml"
        mapping = ROOT / "mappings" / "jericommerce.toml"
        text = CONFIG.format(
            port=self.port, key=key, secret=secret, more=more, mapping=mapping, **self.urls
        )
        file.write_text(text)
        return file

    @asynccontextmanager
    async def daemon(self) -> AsyncIterator[App]:
        file = self.folder / "connector.toml"
        self.app = App(read_config(file), reread=lambda: read_config(file))
        # As `connector run` does: tracebacks without the values of local variables.
        log.configure(format=self.app.config.log.format, level=self.app.config.log.level)
        try:
            await self.app.start()
            yield self.app
        finally:
            await self.app.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def start(self) -> str:
        return f"{self.url}/oauth/klaviyo/start?connection=acme"

    async def connect(self) -> httpx.Response:
        """A person connects the account, and Klaviyo's page is agreed to at once."""
        self.klaviyo.oauth.consent = "allow"
        async with Browser() as browser:
            return await browser.authorize(self.start)

    async def callback(self, browser: Browser) -> str:
        """Start, agree, and return the address that Klaviyo sends the browser back to."""
        self.klaviyo.oauth.consent = "allow"
        to_klaviyo = (await browser.get(self.start)).headers["location"]
        return str((await browser.get(to_klaviyo)).headers["location"])

    async def event(self, seed: int = 1) -> None:
        """The platform posts one event; with the same seed the same one."""
        headers, body = Traffic(self.jericommerce, "unused", seed=seed).make_event()
        async with caller_of(self.url) as caller:
            answer = await caller.post("/webhooks/acme", content=body, headers=headers)
        assert answer.status_code == 202, answer.text

    @property
    def events(self) -> int:
        """Events that Klaviyo has."""
        return sum(self.klaviyo.unique_ids().values())

    async def until_events(self, count: int) -> None:
        await async_until(f"{count} events at Klaviyo", lambda: self.events == count)

    async def attention(self) -> str:
        return "\n".join(await self.app.commands.attention_lines())

    async def until_attention_ends(self, problem: str) -> None:
        for _ in range(400):
            if problem not in await self.attention():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(await self.attention())

    def requests(self, route: str) -> dict[str, int]:
        """Status → how many requests Klaviyo answered with it."""
        found: Any = self.klaviyo.state()["requests"]
        return dict(found.get(route, {}))


def query(url: str) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}


@pytest.fixture
async def rig(tmp_path: Path, restore_logging_config: None) -> AsyncIterator[Rig]:
    klaviyo, jericommerce = KlaviyoSandbox(limits=False), JeriCommerceSandbox()
    servers: Servers = await serve(
        {"klaviyo": (klaviyo.app, 0), "jericommerce": (jericommerce.app, 0)}
    )
    made = Rig(tmp_path, klaviyo, jericommerce, {name: servers.url(name) for name in servers.ports})
    made.write()
    yield made
    await servers.aclose()
