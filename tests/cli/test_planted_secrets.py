"""Secrets in every place that has one, searched for in everything that a person or a program can
read (guarantee 8)."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import SecretStr

from connector.domain.lanes import Millis
from connector.domain.oauth import KLAVIYO_OAUTH, GrantInfo
from connector.runtime.encryption import Cipher
from connector.store.sql import open_store
from tests.waiting import until

from .conftest import Call, Folder

KEY = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
MARK = "pl4nted"
"""Part of every secret below, whether configured, set at run time, stored or typed."""
ENCRYPTED = {"access": f"access-{MARK}-token", "refresh": f"refresh-{MARK}-token"}
HEAD = f"""\
[security]
encryption_key = "{KEY}"
[console]
password = "console-{MARK}"
viewer_password = "viewer-{MARK}"
api_tokens = ["ci:operator:operator-{MARK}"]
[klaviyo_app]
client_id = "our-app"
client_secret = "client-{MARK}"
[[notify]]
url = "http://127.0.0.1:9/hook-{MARK}"
[log]
level = "debug"
"""
TAIL = f"""
[connections.actions]
secret = "flow-{MARK}"
"""
JSON = {"content-type": "application/json"}
OPERATOR = JSON | {"authorization": f"Bearer operator-{MARK}"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def planted(call: Call, folder: Folder) -> Folder:
    """A daemon that runs, with secrets in its files, its settings and its store."""
    folder.write(key=f"pk_{MARK}_0123456789")
    text = folder.config.read_text()
    text = text.replace(f'private_key = "pk_{MARK}_0123456789"\n', "")
    text = text.replace('"jeri_sandbox"', f'"api-{MARK}"').replace("jeri_webhook", f"hook-{MARK}")
    folder.config.write_text(HEAD + text + TAIL)
    key = f"pk_{MARK}_0123456789"
    assert call("config", "set", "acme", "klaviyo.private_key", key, at=folder).code == 0
    asyncio.run(_store_tokens(folder))
    folder.start()
    return folder


async def _store_tokens(folder: Folder) -> None:
    store = await open_store(f"sqlite:///{folder.store}")
    sealed = Cipher([SecretStr(KEY)]).seal(list(ENCRYPTED.values()))
    info = GrantInfo(connected_at=Millis(1), scopes=(), account="ACCT", account_name="Shop")
    await store.secrets.put("acme", KLAVIYO_OAUTH, sealed, info.dump(), now=Millis(1))
    await store.aclose()


def call_everything(folder: Folder) -> Iterator[tuple[str, str]]:
    """(what was called, the answer) of all that the daemon's port offers, and what it refuses."""
    document = json.loads(folder.request("GET", "/api/openapi.json")[1])
    requests: list[tuple[str, str, Any, dict[str, str]]] = []
    for path, operations in document["paths"].items():
        filled = path.replace("{id}", "1").replace("{name}", "acme").replace("{key}", "k")
        if path == "/api/v1/events":
            continue
        for method in operations:
            for body in (None, b"{", json.dumps({"secret": f"typed-{MARK}"}).encode()):
                requests.append((method.upper(), filled, body, OPERATOR))
                requests.append((method.upper(), filled, body, JSON))
    step = {"connection": "acme", "amount": "5", "reason": "Thank you"}
    for direct in (False, True):
        body = json.dumps({**step, "direct": direct}).encode()
        requests.append(("POST", "/api/v1/webhook-builder", body, OPERATOR))
    pages = ("", "attention", "backfills", "connections/acme", "dead-letters", "people", "sign-in")
    tabs = (f"connections/acme/{tab}" for tab in ("fields", "links", "settings"))
    more = ("use-in-klaviyo/acme", "audit", "connections/new?source=jericommerce", *tabs)
    built = f"webhook-builder?{urlencode(step)}"
    for page in (*pages, *more, built, "unknown", "connections/none", "dead-letters/1"):
        requests.append(("GET", f"/{page}", None, OPERATOR))
    typed = urlencode({"password": f"typed-{MARK}", "connection": "acme"}).encode()
    for path in ("/sign-in", "/oauth/klaviyo/start", "/connections/acme/pause"):
        requests.append(("POST", path, typed, FORM))
    wrong = {"x-jeri-signature": f"typed-{MARK}", "api-key": f"typed-{MARK}"}
    for path in ("/webhooks/acme", "/flows/acme/balance/increase", "/flows/none/push"):
        requests.append(("POST", path, b"{}", wrong))
    query = urlencode({"state": f"typed-{MARK}", "code": f"typed-{MARK}", "connection": "acme"})
    for path in ("callback", "start"):
        requests.append(("GET", f"/oauth/klaviyo/{path}?{query}&ticket=typed-{MARK}", None, {}))
    requests.append(("GET", "/api/v1/status", None, {"authorization": f"Bearer typed-{MARK}"}))
    for path in ("/metrics", "/healthz", "/readyz", "/livez"):
        requests.append(("GET", path, None, {}))
    for method, path, body, headers in requests:
        status, text = folder.request(method, path, body, headers)
        assert status not in (0, 500) or path == "/healthz", (method, path, text)
        yield f"{method} {path} {body!r}", text


def read_everything(call: Call, folder: Folder) -> Iterator[tuple[str, str]]:
    """(what was run, its output) of the commands that show something."""
    for line in (
        "config show",
        "config export",
        "check --offline",
        "status",
        "status --json",
        "audit --json",
        "dead-letters list",
        "actions list",
        "webhook-builder acme --amount 5 --reason Hello --json",
        "support-bundle bundle.zip",
    ):
        result = call(*line.split(), at=folder)
        assert result.code == 0, (line, result.err)
        yield line, result.out + result.err
    with zipfile.ZipFile(folder.path / "bundle.zip") as archive:
        for name in archive.namelist():
            yield name, archive.read(name).decode()


def test_no_secret_is_shown_anywhere(call: Call, planted: Folder) -> None:
    leaks = {what for what, text in call_everything(planted) if MARK in text or KEY in text}
    headers, body = planted.platforms.traffic.make_event()
    planted.request("POST", "/webhooks/acme", body, headers)
    until("the notification has failed", lambda: "notif" in planted.log)
    leaks |= {what for what, text in read_everything(call, planted) if MARK in text or KEY in text}
    leaks |= {f"log: {x}" for x in planted.log.splitlines() if MARK in x or KEY in x}
    assert leaks == set()
    # An operator who asks for it gets the one secret that has to be pasted into Klaviyo.
    step = {"connection": "acme", "amount": "5", "reason": "Hello", "show_secret": True}
    body = json.dumps(step).encode()
    assert f"flow-{MARK}" in planted.request("POST", "/api/v1/webhook-builder", body, OPERATOR)[1]


def test_what_is_encrypted_is_not_readable_in_the_store(planted: Folder) -> None:
    planted.stop()
    written = b"".join(file.read_bytes() for file in planted.store.parent.iterdir())
    assert MARK.encode() not in written
