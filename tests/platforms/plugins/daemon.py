"""A daemon in this process, with a sandbox of Klaviyo and the platforms of a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.sandbox import KlaviyoSandbox, serve
from tests.callers import caller_of
from tests.waiting import PATIENCE, async_until


@dataclass
class Running:
    """A daemon and the remote APIs that it calls."""

    app: App
    klaviyo: KlaviyoSandbox
    urls: Mapping[str, str]

    async def post(
        self, connection: str, body: bytes, headers: Mapping[str, str], secret: str = ""
    ) -> tuple[int, str]:
        path = f"/webhooks/{connection}" + (f"/{secret}" if secret else "")
        async with caller_of(f"http://127.0.0.1:{self.app.port}") as caller:
            answer = await caller.post(path, content=body, headers=dict(headers))
        return answer.status_code, answer.text

    async def flow(self, route: str, body: bytes, secret: str) -> tuple[int, str]:
        async with caller_of(f"http://127.0.0.1:{self.app.port}") as caller:
            headers = {"api-key": secret}
            answer = await caller.post(f"/flows/{route}", content=body, headers=headers)
        return answer.status_code, answer.text

    async def get(self, path: str) -> tuple[int, str]:
        async with caller_of(f"http://127.0.0.1:{self.app.port}") as caller:
            answer = await caller.get(path)
        return answer.status_code, answer.text

    async def until(self, look: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """The result of `look`, once it is true."""
        for _ in range(round(seconds * 100)):
            if found := look():
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(f"not within {seconds} s")

    def properties(self, email: str) -> dict[str, Any]:
        """The custom properties of a profile at Klaviyo."""
        profile = self.klaviyo.profile(email) or {}
        found: dict[str, Any] = profile.get("properties") or {}
        return found


@asynccontextmanager
async def running(
    folder: Path,
    config: str,
    platforms: Mapping[str, Any],
    environ: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    job_delay: float = 1.0,
) -> AsyncIterator[Running]:
    """`config` is the text of connector.toml; `{NAME}_URL` and KLAVIYO_BASE_URL are set. Import
    jobs take `job_delay` seconds, unless the test runs them."""
    klaviyo = KlaviyoSandbox(limits=False, job_delay=job_delay)
    apps = {"klaviyo": (klaviyo.app, 0)} | {name: (app, 0) for name, app in platforms.items()}
    servers = await serve(apps)
    urls = {name: servers.url(name) for name in servers.ports}
    monkeypatch.setenv("KLAVIYO_BASE_URL", urls["klaviyo"])
    for name in platforms:
        monkeypatch.setenv(f"{name.upper()}_URL", urls[name])
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    file = folder / "connector.toml"
    file.write_text(config)
    app = App(read_config(file), reread=lambda: read_config(file))
    try:
        await app.start()
        try:
            # Lanes start once Klaviyo has named their account.
            await async_until("all run", lambda: app.connections.running == set(app.runtimes))
            yield Running(app, klaviyo, urls)
        finally:
            await app.stop()
    finally:
        await servers.aclose()
