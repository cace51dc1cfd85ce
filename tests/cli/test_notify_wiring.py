"""The daemon sends notifications, and `connector notify test` reports the responses."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from connector.app import daemon
from connector.app.configuration import read_config
from connector.app.daemon import App
from connector.pipeline import lease
from connector.service import notify
from tests.stores import write_lock
from tests.waiting import async_until

from .conftest import Call, Folder, Platforms


class NotificationReceiver:
    """Accepts POSTs on loopback and answers with `status`."""

    def __init__(self) -> None:
        self.status, self.bodies = 200, list[Any]()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.bodies.append((self.path, orjson.loads(body)))
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/T0/s3cr3t"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[NotificationReceiver]:
    receiver = NotificationReceiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def platforms() -> Iterator[Platforms]:
    """Separate sandboxes: this test makes Klaviyo fail."""
    running = Platforms()
    yield running
    running.stop()


@pytest.fixture
def folder(
    tmp_path: Path, platforms: Platforms, receiver: NotificationReceiver
) -> Iterator[Folder]:
    folder = Folder(tmp_path / tmp_path.name, platforms)
    target = f'[[notify]]\nurl = "{receiver.url}"\n'
    text = folder.config.read_text()
    folder.config.write_text(f'{target}\n{target}format = "slack"\n\n{text}')
    yield folder
    folder.stop()


async def test_a_revoked_key_and_its_fix_are_notified(
    folder: Folder, receiver: NotificationReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "CHECK_INTERVAL", 0.1)
    monkeypatch.setattr(notify, "STARTUP_GRACE", 0.0)
    key = "cause acme K401"

    def notified(section: str) -> list[str]:
        json = [body for _, body in receiver.bodies if "raised" in body]
        return [x["text"] for body in json for x in body[section] if x["key"] == key]

    app = App(read_config(folder.config))
    await app.start(serve=False)
    try:
        folder.platforms.klaviyo.faults.add("*", "status", status=401)
        await asyncio.to_thread(folder.ingest, "ada@example.com")
        app.runtimes["acme"].events.wake()
        await async_until("the failure is notified", lambda: bool(notified("raised")))
        folder.platforms.klaviyo.faults.clear()
        await async_until("the recovery is notified", lambda: bool(notified("resolved")))
    finally:
        await app.stop()
    assert [text[:4] for text in notified("raised")] == ["K401"]
    assert any("resolved: K401" in body.get("text", "") for _, body in receiver.bodies)
    assert "ada@" not in orjson.dumps(receiver.bodies).decode()


async def test_a_locked_store_is_notified_while_it_is_locked(
    folder: Folder, receiver: NotificationReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease cannot be renewed meanwhile; nothing else is over for that."""
    folder.config.write_text(
        folder.config.read_text().replace("[[notify]]", '[[notify]]\npatience = "0s"')
    )
    monkeypatch.setattr(notify, "CHECK_INTERVAL", 0.1)
    monkeypatch.setattr(notify, "STARTUP_GRACE", 0.0)
    monkeypatch.setattr(daemon, "_HEARTBEAT_EVERY", 0.2)
    monkeypatch.setattr(lease, "TTL", 3.0)
    monkeypatch.setattr(lease, "_RENEW_EVERY", 0.2)

    def notified(section: str) -> list[str]:
        json = [body for _, body in receiver.bodies if "raised" in body]
        return [x["text"][:4].strip() for body in json for x in body[section]]

    passes, run_once = 0, notify.Notifier.run_once

    async def count(self: notify.Notifier) -> float:
        nonlocal passes
        found = await run_once(self)
        passes += 1
        return found

    monkeypatch.setattr(notify.Notifier, "run_once", count)
    app = App(read_config(folder.config))
    await app.start(serve=False)
    try:
        await async_until("it may deliver", app.leases.of("store").valid)
        folder.platforms.klaviyo.faults.add("*", "status", status=503)
        for name in ("ada", "bob", "cy", "dan"):
            await asyncio.to_thread(folder.ingest, f"{name}@example.com")
        app.runtimes["acme"].events.wake()
        await async_until("Klaviyo's absence is notified", lambda: "K503" in notified("raised"))
        with write_lock(folder.store):
            await async_until("the lease ends", lambda: not app.leases.of("store").valid())
            await async_until("the lock is notified", lambda: "S10" in notified("raised"))
            after = passes + 3
            await async_until("it is compared again", lambda: passes >= after)
            assert notified("resolved") == []
        await async_until("its end is notified", lambda: notified("resolved"))
    finally:
        await app.stop()
    assert [notified("raised").count(code) for code in ("K503", "S10")] == [1, 1]
    assert notified("resolved") == ["S10"]


def test_notify_test_posts_to_each_target_and_reports_the_result(
    call: Call,
    folder: Folder,
    receiver: NotificationReceiver,
) -> None:
    result = call("notify", "test", at=folder)
    assert (result.code, result.out) == (
        0,
        "notify 1 (json): ok, HTTP 200\nnotify 2 (slack): ok, HTTP 200\n",
    )
    assert sorted(path for path, _ in receiver.bodies) == ["/T0/s3cr3t"] * 2
    receiver.status = 404
    result = call("notify", "test", at=folder)
    assert result.code == 1
    assert "notify 1 (json): FAILED, HTTP 404" in result.out
    assert "s3cr3t" not in result.out + result.err


def test_notify_test_without_a_target_is_reported(
    call: Call,
    folder: Folder,
) -> None:
    folder.write()
    result = call("notify", "test", at=folder)
    assert result.code == 1
    assert "no [[notify]]" in result.err
