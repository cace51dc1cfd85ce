"""Changing connections of a running daemon over the API, and the log of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from connector.sandbox.wll.server import WllSandbox
from tests.callers import caller_of
from tests.paths import ROOT
from tests.platforms.plugins.daemon import running

CONFIG = """\
[store]
url = "sqlite:///state.db"
min_free = "1MB"

[server]
port = 0

[security]
encryption_key = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="

[console]
api_tokens = ["deploy:operator:op-token", "board:viewer:view-token"]

[[connections]]
name = "acme"
source = "wll"
mapping = "{mapping}"

[connections.settings]
base_url = "${{WLL_URL}}/v1"
auth_url = "${{WLL_URL}}/oauth/token"
api_key = "wll_sandbox"
client_id = "wll_client"
client_secret = "wll_client_secret"
webhook_secret = "wll_webhook_secret"

[connections.klaviyo]
private_key = "pk_sandbox"

[[connections.audiences]]
audience = "Gold"
list = "Gold members"
"""


class Caller:
    """A program with a token."""

    def __init__(self, http: httpx.AsyncClient, token: str) -> None:
        self._http = http
        self.headers = {"authorization": f"Bearer {token}"}

    async def acme(self) -> dict[str, Any]:
        """The connection as listed."""
        answer = await self._http.get("/api/v1/connections", headers=self.headers)
        [found] = answer.json()["items"]
        assert isinstance(found, dict)
        return found

    async def change(self, name: str = "acme", **changes: Any) -> httpx.Response:
        url = f"/api/v1/connections/{name}"
        return await self._done(await self._http.patch(url, json=changes, headers=self.headers))

    async def add(self, body: dict[str, Any], key: str = "") -> httpx.Response:
        headers = self.headers | ({"idempotency-key": key} if key else {})
        url = "/api/v1/connections"
        return await self._done(await self._http.post(url, json=body, headers=headers))

    async def _done(self, answer: httpx.Response) -> httpx.Response:
        """The answer once the command is done, which may take longer than the request waits."""
        while answer.status_code == 202 or answer.json().get("state") == "running":
            await asyncio.sleep(0.1)
            location = answer.headers.get("location") or str(answer.url)
            answer = await self._http.get(location, headers=self.headers)
        return answer

    async def audit(self, query: str = "") -> dict[str, Any]:
        answer = await self._http.get(f"/api/v1/audit{query}", headers=self.headers)
        found = answer.json()
        assert isinstance(found, dict)
        return found


@pytest.fixture
async def http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restore_logging_config: None
) -> AsyncIterator[httpx.AsyncClient]:
    text = CONFIG.format(mapping=ROOT / "mappings" / "wll.toml")
    async with running(tmp_path, text, {"wll": WllSandbox().app}, {}, monkeypatch) as daemon:
        url = f"http://127.0.0.1:{daemon.app.port}"
        async with caller_of(url, timeout=30) as made:
            yield made


@pytest.fixture
def operator(http: httpx.AsyncClient) -> Caller:
    return Caller(http, "op-token")


async def test_a_connection_is_paused_and_resumed(operator: Caller) -> None:
    assert (await operator.acme())["paused"] is False
    assert (await operator.change(paused=True)).status_code == 200
    assert (await operator.acme())["paused"] is True
    assert (await operator.change(paused=False)).status_code == 200
    assert (await operator.acme())["paused"] is False


async def test_settings_are_in_effect_at_once_and_say_who_made_them(operator: Caller) -> None:
    before = await operator.acme()
    assert (before["mode"], before["enabled"], before["settings"]) == ("live", True, [])
    assert before["audiences"][0]["list"] == "Gold members"
    changed = await operator.change(mode="shadow", modules=["events", "profiles"])
    assert changed.json()["result"]["changed"] == ["mode", "modules"]
    after = await operator.acme()
    assert (after["mode"], after["modules"]) == ("shadow", ["events", "profiles"])
    settings = {s["key"]: (s["value"], s["changed_by"]) for s in after["settings"]}
    assert settings["mode"] == ("shadow", "deploy")
    assert (await operator.change(mode=None)).status_code == 200
    assert (await operator.acme())["mode"] == "live"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"audiences": []}, "found in a file"),
        ({"segments": [{"segment": "x"}]}, "connections.acme"),
        ({"paused": True, "mode": "live"}, "give either `paused`"),
        ({"paused": None}, "give either `paused`"),
        ({}, "give either `paused`"),
        ({"mod": "shadow"}, "body.mod"),
        ({"modules": ["points"]}, "body.modules"),
    ],
)
async def test_a_change_that_is_not_possible_changes_nothing(
    operator: Caller, changes: dict[str, Any], fault: str
) -> None:
    before = await operator.acme()
    answer = await operator.change(**changes)
    assert answer.status_code == 422
    assert any(fault in line for line in answer.json()["faults"]), answer.text
    assert await operator.acme() == before
    assert all(entry["error"] for entry in (await operator.audit())["items"])


NEW = {
    "name": "club",
    "source": "wll",
    "modules": ["events", "actions"],
    "settings": {"client_id": "wll_client", "api_key": "wll_key_of_club", "client_secret": "s3"},
    "klaviyo": {"private_key": "pk_of_club"},
    "actions": {"secret": "flow_of_club"},
}


async def test_a_connection_is_made_and_completed(http: httpx.AsyncClient) -> None:
    """Once, however often the request is repeated."""
    operator = Caller(http, "op-token")
    made = await operator.add(NEW | {"enabled": False}, key="one")
    assert made.status_code == 200, made.text
    assert "settings.api_key" in made.json()["result"]["changed"]
    again = await operator.add(NEW | {"enabled": False}, key="one")
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    other = NEW | {"enabled": False, "klaviyo": {"private_key": "pk_other"}}
    assert (await operator.add(other, key="one")).status_code == 422
    assert (await operator.change("club", enabled=True)).status_code == 200
    listed = (await http.get("/api/v1/connections", headers=operator.headers)).json()["items"]
    [club] = [found for found in listed if found["name"] == "club"]
    assert (club["enabled"], club["modules"]) == (True, ["events", "actions"])
    settings = {setting["key"]: setting["value"] for setting in club["settings"]}
    assert settings["klaviyo.private_key"] == settings["actions.secret"] == "***"
    assert settings["settings.client_id"] == "wll_client"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"settings": {"client_id": "x"}}, "connections.club.settings.api_key: found"),
        ({"settings": {**NEW["settings"], "guid": "x"}}, "connections.club.settings.guid: found"),  # type: ignore[dict-item]
        ({"source": "unheard"}, "connections.club.source: found"),
        ({"name": "acme"}, "connections.acme.name: found"),
        ({"name": "A b"}, "name: found"),
        ({"audiences": [{"audience": "x"}]}, "connections.club.audiences"),
        ({"klaviyo": {"base_url": "http://x"}}, "body.klaviyo.base_url"),
    ],
)
async def test_a_connection_that_is_not_valid_is_not_made(
    operator: Caller, changes: dict[str, Any], fault: str
) -> None:
    answer = await operator.add(NEW | changes)
    assert answer.status_code == 422, answer.text
    assert any(fault in line for line in answer.json()["faults"]), answer.text
    assert "wll_key_of_club" not in answer.text
    audited = (await operator.audit())["items"]
    assert all(entry["error"] for entry in audited)
    assert "wll_key_of_club" not in str(audited)


async def test_a_viewer_makes_no_connection(http: httpx.AsyncClient) -> None:
    assert (await Caller(http, "view-token").add(NEW)).status_code == 403


async def test_a_viewer_reads_and_changes_nothing(
    http: httpx.AsyncClient, operator: Caller
) -> None:
    viewer = Caller(http, "view-token")
    assert (await viewer.change(paused=True)).status_code == 403
    assert (await viewer.acme())["paused"] is False
    assert (await viewer.audit())["items"] == []
    assert (await operator.change("other", paused=True)).status_code == 404


async def test_the_audit_says_who_changed_what(operator: Caller) -> None:
    await operator.change(mode="shadow")
    await operator.change(paused=True)
    first = await operator.audit("?limit=1")
    [pause] = first["items"]
    assert (pause["by"], pause["what"], pause["connection"]) == ("deploy", "pause", "acme")
    second = await operator.audit(f"?limit=1&cursor={first['next']}&connection=acme")
    [mode] = second["items"]
    assert (mode["what"], mode["subject"]) == ("setting_changed", "mode")
    assert (mode["before"], mode["after"]) == ("live", "shadow")
    assert second["next"] is None
