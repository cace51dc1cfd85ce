"""The daemon tells, and `connector notify test` says what came back."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from connector.app.daemon import App, read_config
from connector.service import notify

from .conftest import Call, Folder, Platforms


class Hook:
    """Takes POSTs on loopback; `status` is what it answers."""

    def __init__(self) -> None:
        self.status, self.bodies = 200, list[Any]()
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hook.bodies.append((self.path, orjson.loads(body)))
                self.send_response(hook.status)
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
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.stop()


@pytest.fixture
def platforms() -> Iterator[Platforms]:
    """A pair of its own: its Klaviyo fails here."""
    running = Platforms()
    yield running
    running.stop()


@pytest.fixture
def folder(tmp_path: Path, platforms: Platforms, hook: Hook) -> Iterator[Folder]:
    made = Folder(tmp_path / tmp_path.name, platforms)
    target = f'[[notify]]\nurl = "{hook.url}"\n'
    made.config.write_text(f'{target}\n{target}format = "slack"\n\n' + made.config.read_text())
    yield made
    made.stop()


async def test_a_revoked_key_and_its_fix_are_notified(
    folder: Folder, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "CHECK_INTERVAL", 0.1)
    monkeypatch.setattr(notify, "STARTUP_GRACE", 0.0)
    key = "lane acme → klaviyo events"

    def notified(word: str) -> list[str]:
        json = [body for _, body in hook.bodies if "raised" in body]
        return [x["text"] for body in json for x in body[word] if x["key"] == key]

    async def until(word: str) -> None:
        async with asyncio.timeout(20):
            while not notified(word):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    app = App(read_config(folder.config))
    await app.start(serve=False)
    try:
        folder.platforms.klaviyo.faults.add("*", "status", status=401)
        await asyncio.to_thread(folder.ingest, "ada@example.com")
        app.runtimes["acme"].events.wake()
        await until("raised")
        folder.platforms.klaviyo.faults.clear()
        await until("resolved")
    finally:
        await app.stop()
    assert [text[:4] for text in notified("raised")] == ["K401"]
    assert any("resolved: K401" in body.get("text", "") for _, body in hook.bodies)
    assert "ada@" not in orjson.dumps(hook.bodies).decode()


def test_notify_test_posts_to_each_target_and_reports_the_result(
    call: Call,
    folder: Folder,
    hook: Hook,
) -> None:
    said = call("notify", "test", at=folder)
    assert (said.code, said.out) == (
        0,
        "notify 1 (json): taken, HTTP 200\nnotify 2 (slack): taken, HTTP 200\n",
    )
    assert sorted(path for path, _ in hook.bodies) == ["/T0/s3cr3t"] * 2
    hook.status = 404
    said = call("notify", "test", at=folder)
    assert said.code == 1
    assert "notify 1 (json): NOT TAKEN, HTTP 404" in said.out
    assert "s3cr3t" not in said.out + said.err


def test_notify_test_without_a_target_is_reported(
    call: Call,
    folder: Folder,
) -> None:
    folder.write()
    said = call("notify", "test", at=folder)
    assert said.code == 1
    assert "no [[notify]]" in said.err
