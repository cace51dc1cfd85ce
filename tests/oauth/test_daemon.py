"""The command line and the daemon around an OAuth connection."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from connector.domain.oauth import KLAVIYO_OAUTH, UNUSED_LIFETIME, GrantInfo
from connector.store.sql import open_store
from tests.oauth.conftest import KEY, OTHER_KEY, Browser, Rig
from tests.paths import ROOT
from tests.processes import Process
from tests.waiting import async_until


@dataclass(frozen=True)
class Command:
    """A command, and the files that it writes to. Platforms answer it from this event loop."""

    process: Process
    out: Path
    err: Path

    async def address(self) -> str:
        """The address that `connector connect` prints."""
        await async_until("an address is printed", lambda: "\nhttp" in f"\n{self.err.read_text()}")
        return next(x for x in self.err.read_text().splitlines() if x.startswith("http"))

    async def finished(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr at its end."""
        await async_until("the command has ended", lambda: self.process.poll() is not None)
        return self.process.wait(), self.out.read_text(), self.err.read_text()


@asynccontextmanager
async def command(rig: Rig, *arguments: str) -> AsyncIterator[Command]:
    environ = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "PATH": os.environ["PATH"]}
    out, err = rig.folder / "stdout", rig.folder / "stderr"
    with out.open("w") as stdout, err.open("w") as stderr:
        # In a thread: the first one waits for the imports of its server.
        process = await asyncio.to_thread(
            Process, arguments, cwd=rig.folder, env=environ, stdout=stdout, stderr=stderr
        )
    try:
        yield Command(process, out, err)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("daemon", [True, False])
async def test_connect_and_disconnect_with_and_without_a_daemon(rig: Rig, daemon: bool) -> None:
    rig.klaviyo.oauth.consent = "allow"

    async def check() -> None:
        async with command(rig, "connect", "acme") as process, Browser() as browser:
            page = await browser.authorize(await process.address())
            assert page.status_code == 200, page.text
            code, out, _ = await process.finished()
        assert (code, out) == (0, "connected acme to SANDBX Sandbox\n") or "SANDBX" in out
        async with command(rig, "disconnect", "acme") as process:
            code, out, err = await process.finished()
        assert code == 0, err
        assert "disconnected: acme" in out
        assert rig.klaviyo.oauth.install is None

    if daemon:
        async with rig.daemon():
            await check()
    else:
        await check()


async def test_the_documented_steps_lead_from_init_to_a_connected_account(rig: Rig) -> None:
    """docs/marketplace.md ("Try it without an account") on what `connector init` writes."""
    file, secrets = rig.folder / "connector.toml", rig.folder / ".env"
    file.unlink()
    async with command(rig, "init") as process:
        assert (await process.finished())[0] == 0
    filled = {"ACME_PROGRAM": "demo", "ACME_API_KEY": "jeri_sandbox"}
    filled["ACME_WEBHOOK_SECRET"] = "jeri_webhook_secret"
    text = secrets.read_text()
    for name, value in filled.items():
        assert f"\n{name}=\n" in text
        text = text.replace(f"\n{name}=\n", f"\n{name}={value}\n")
    app = "KLAVIYO_CLIENT_ID=sandbox-app\nKLAVIYO_CLIENT_SECRET=sandbox-app-secret\n"
    secrets.write_text(text + app)
    klaviyo, jericommerce = rig.urls["klaviyo"], rig.urls["jericommerce"]
    sandbox = [f'base_url = "{klaviyo}"'] + [
        f'{key}_url = "{klaviyo}/oauth/{key}"' for key in ("authorize", "token", "revoke")
    ]
    changes = {
        'base_url = "${KLAVIYO_BASE_URL:-https://a.klaviyo.com}"': "\n".join(sandbox),
        '# base_url = "https://api.jericommerce.com"': f'base_url = "{jericommerce}"',
        '# auth = "oauth"': 'auth = "oauth"',
        "8787": str(rig.port),
    }
    text = file.read_text()
    for written, wanted in changes.items():
        assert written in text
        text = text.replace(written, wanted)
    file.write_text(text)
    rig.klaviyo.oauth.consent = "allow"
    async with rig.daemon():
        async with command(rig, "connect", "acme") as process, Browser() as browser:
            assert (await browser.authorize(await process.address())).status_code == 200
            assert (await process.finished())[0] == 0
        await rig.event()
        await rig.until_events(1)
    async with command(rig, "check") as process:
        code, out, err = await process.finished()
    assert code == 0, out + err


async def test_connect_says_that_access_was_denied(rig: Rig) -> None:
    rig.klaviyo.oauth.consent = "deny"
    async with command(rig, "connect", "acme") as process, Browser() as browser:
        await browser.authorize(await process.address())
        code, out, err = await process.finished()
    assert (code, out) == (1, "")
    assert "access was denied" in err


async def test_connect_ends_when_no_one_answers(rig: Rig) -> None:
    async with command(rig, "connect", "acme", "--wait", "1s") as process:
        code, _, err = await process.finished()
    assert code == 1
    assert "nothing has changed" in err


async def test_check_reports_the_state_of_the_access(rig: Rig) -> None:
    async with command(rig, "check") as process:
        code, out, _ = await process.finished()
    assert code == 1
    assert "K620" in out
    rig.klaviyo.oauth.granted = ["accounts:read", "events:write"]
    async with rig.daemon():
        await rig.connect()
    async with command(rig, "check") as process:
        _, out, _ = await process.finished()
    assert "K403: the scope lists:write was not granted" in out
    assert "account SANDBX" in out
    rig.klaviyo.oauth.uninstall()
    async with command(rig, "check") as process:
        code, out, _ = await process.finished()
    assert code == 1
    assert "Klaviyo" in out


async def test_oauth_without_an_encryption_key_is_a_fault_that_says_how_to_make_one(
    rig: Rig,
) -> None:
    rig.write(key='""')
    async with command(rig, "run") as process:
        code, _, err = await process.finished()
    assert code == 2
    assert "security.encryption_key: found no key" in err
    assert "openssl rand" in err


async def test_a_new_first_key_encrypts_what_is_stored_again(rig: Rig) -> None:
    async with rig.daemon():
        await rig.connect()
    rig.write(key=f'["{OTHER_KEY}", "{KEY}"]')
    async with rig.daemon():
        pass
    rig.write(key=f'"{OTHER_KEY}"')
    async with rig.daemon():
        await rig.event()
        await rig.until_events(1)


async def test_a_lost_key_stops_deliveries_and_says_so(rig: Rig) -> None:
    async with rig.daemon():
        await rig.connect()
    rig.write(key=f'"{OTHER_KEY}"')
    async with rig.daemon() as app:
        await rig.event()
        lane = app.runtimes["acme"].events
        await async_until("the lane is blocked", lambda: lane.state.mode == "blocked")
        assert lane.state.problem == "S80"
    rig.write()
    async with rig.daemon():
        await rig.until_events(1)


async def test_a_grant_that_is_not_used_is_announced_before_it_ends(rig: Rig) -> None:
    async with rig.daemon() as app:
        await rig.connect()
        row = await app.store.secrets.get("acme", KLAVIYO_OAUTH)
        assert row is not None
        old = {**row.info, "refreshed_at": app.clock.now() - UNUSED_LIFETIME + 86_400_000}
        await app.store.secrets.put("acme", KLAVIYO_OAUTH, row.sealed, old, now=app.clock.now())
        assert "K630 acme" in await rig.attention()
        await app.maintenance.refresh_metrics()
        shown = app.metrics.render().decode()
        assert 'connector_oauth_expiry_timestamp_seconds{connection="acme"}' in shown


async def test_the_install_probe_notices_that_the_app_was_removed(rig: Rig) -> None:
    rig.write(more='install_probe = "1s"')
    async with rig.daemon():
        await rig.connect()
        assert "K610" not in await rig.attention()
        rig.klaviyo.oauth.uninstall(keep_access=True)
        found: list[str] = []

        async def look() -> None:
            found.append(await rig.attention())

        for _ in range(100):
            await look()
            if "K610" in found[-1]:
                break
            await asyncio.sleep(0.05)
        assert "K610 acme" in found[-1]


async def test_an_idle_connection_refreshes_its_token_before_it_expires(rig: Rig) -> None:
    rig.klaviyo.oauth.token_lifetime = 3.0
    async with rig.daemon():
        await rig.connect()
        await async_until("a refresh", lambda: rig.klaviyo.oauth.refreshes >= 1)


async def test_the_stored_grant_is_described_in_the_clear(rig: Rig) -> None:
    async with rig.daemon():
        await rig.connect()
    store = await open_store(f"sqlite:///{rig.folder}/state.db")
    row = await store.secrets.get("acme", KLAVIYO_OAUTH)
    await store.aclose()
    assert row is not None
    info = GrantInfo.load(row.info)
    assert (info.account, info.ended_at) == ("SANDBX", None)
