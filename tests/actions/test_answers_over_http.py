"""What an answer means for a call, with a real daemon and the four platforms over HTTP."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from connector.ports import ActionView
from connector.sandbox import JeriCommerceSandbox, WllSandbox, YotpoSandbox
from tests.paths import ROOT
from tests.platforms.plugins.acme import KEY, Acme
from tests.platforms.plugins.daemon import Running, running

SECRET = "flow_secret"
HEAD = """\
[store]
url = "sqlite:///state.db"
[server]
port = 0
shutdown_timeout = "1s"
[delivery]
retry_base = "20ms"
[log]
level = "error"
"""
CONNECTION = """
[[connections]]
name = "{name}"
source = "{source}"
modules = ["actions"]
[connections.klaviyo]
private_key = "pk_sandbox"
[connections.actions]
secret = "flow_secret"
unknown_person_grace = "0s"
[connections.settings]
{settings}
"""
SETTINGS = {
    "yotpo": """
base_url = "${YOTPO_URL}"
guid = "guid-sandbox"
api_key = "yotpo_sandbox"
webhook_secret = "yotpo_webhook_secret"
rate_per_second = 500
""",
    "jericommerce": """
base_url = "${JERICOMMERCE_URL}"
push_url = "${JERICOMMERCE_URL}/v1/push"
program = "demo"
api_key = "jeri_sandbox"
webhook_secret = "jeri_webhook_secret"
rate_per_second = 500
""",
    "wll": """
base_url = "${WLL_URL}/v1"
auth_url = "${WLL_URL}/oauth/token"
api_key = "wll_sandbox"
client_id = "wll_client"
client_secret = "wll_client_secret"
webhook_secret = "wll_webhook_secret"
points_event_type = "FLOW_POINTS"
points_event_secret = "wll_points_secret"
""",
    "http": f"""
base_url = "${{HTTP_URL}}"
headers = {{ "x-api-key" = "{KEY}" }}
[connections.settings.adjust]
path = "/v1/members/{{email}}/points"
body = {{ change = "{{amount}}", note = "{{reason}}", key = "{{ref}}" }}
""",
}


class Answering:
    """An ASGI app before a platform: writes whose path contains `path` get `answer`, if it is
    set, after they were applied where `applied` is set."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app, self._path = app, path
        self.answer: Response | None = None
        self.applied = False
        self.writes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_write = scope["type"] == "http" and scope["method"] == "POST"
        if not is_write or self._path not in scope["path"]:
            return await self._app(scope, receive, send)
        self.writes += 1
        if self.answer is None:
            return await self._app(scope, receive, send)
        if self.applied:
            await self._app(scope, receive, _drop)
        await self.answer(scope, receive, send)


async def _drop(message: Any) -> None: ...


@dataclass
class Setup:
    """A daemon with one connection for each platform."""

    daemon: Running
    apps: dict[str, Answering]
    customers: dict[str, Any]

    async def call(self, name: str, key: str, amount: int = 10, **who: Any) -> None:
        """A flow call for the platform's own customer, or for the given one."""
        body = {
            **(who or self.customers[name]),
            "point_adjustment_amount": amount,
            "history_title": "Survey",
            "idempotency_key": key,
        }
        status, text = await self.daemon.flow(f"{name}/points/adjust", orjson.dumps(body), SECRET)
        assert status == 202, text

    async def actions(self, name: str) -> list[ActionView]:
        found = await self.daemon.app.store.action_views.find(connection=name, limit=1000)
        return sorted(found, key=lambda action: action.id)

    async def until(self, name: str, *states: str) -> list[ActionView]:
        """The actions of a connection, once their states are these, in order."""
        found: list[ActionView] = []
        for _ in range(4_000):
            found = await self.actions(name)
            if [action.state for action in found] == list(states):
                return found
            await asyncio.sleep(0.02)
        raise AssertionError([(a.state, a.problem, a.detail) for a in found])


def make_platforms() -> tuple[dict[str, Answering], dict[str, Any]]:
    """The platforms' apps, and a customer of each."""
    yotpo = YotpoSandbox(people=0, rate_per_second=None)
    jericommerce = JeriCommerceSandbox(people=0)
    wll, acme = WllSandbox(people=0), Acme()
    yotpo.add("ana@example.com", balance=100)
    jericommerce.add("ana@example.com")
    by_address = {"customer_email": "ana@example.com"}
    user = wll.add("ana@example.com")
    apps = {
        "yotpo": Answering(yotpo.app, "points/adjust"),
        "jericommerce": Answering(jericommerce.app, "/balance/"),
        "wll": Answering(wll.app, "/events"),
        "http": Answering(acme.app, "/points"),
    }
    customers = dict.fromkeys(apps, by_address) | {"wll": {"customer_id": user.auth}}
    return apps, customers


PLATFORMS = tuple(SETTINGS)


@pytest.fixture
async def setup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silenced_logs: None
) -> AsyncIterator[Setup]:
    shutil.copytree(ROOT / "mappings", tmp_path / "mappings")
    apps, customers = make_platforms()
    config = HEAD + "".join(
        CONNECTION.format(name=name, source=name, settings=text) for name, text in SETTINGS.items()
    )
    async with running(tmp_path, config, apps, {}, monkeypatch) as daemon:
        yield Setup(daemon, apps, customers)


ANSWERS: dict[str, Callable[[], Response]] = {
    "302": lambda: Response(status_code=302, headers={"location": "/elsewhere"}),
    "304": lambda: Response(status_code=304),
    "200 html": lambda: Response("<html>", 200, media_type="text/html"),
    "200 cut": lambda: Response('{"status": "succ', 200, media_type="application/json"),
    "500": lambda: Response(status_code=500),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", PLATFORMS)
async def test_an_answer_that_proves_nothing_is_ambiguous_and_not_repeated(
    setup: Setup, name: str, answer: str
) -> None:
    app = setup.apps[name]
    app.answer, app.applied = ANSWERS[answer](), True
    await setup.call(name, "k")
    if name == "yotpo":  # its history shows the adjustment
        await setup.until(name, "applied")
    else:
        await setup.until(name, "uncertain")
    app.answer = None
    await setup.call(name, "other")
    await setup.until(name, "applied" if name == "yotpo" else "uncertain", "applied")
    assert app.writes == 2
    lane = setup.daemon.app.runtimes[name].actions
    assert lane is not None
    assert lane.state.mode == "running"


UNKNOWN: dict[str, Callable[[int], dict[str, Any]]] = {
    "yotpo": lambda n: {"customer_email": f"stranger{n}@example.com"},
    "jericommerce": lambda n: {"customer_email": f"stranger{n}@example.com"},
    "wll": lambda n: {"customer_id": f"stranger-{n}"},
    "http": lambda n: {"customer_email": f"stranger{n}@example.com"},
}


@pytest.mark.parametrize("name", ["yotpo", "jericommerce", "wll"])
async def test_refusals_about_people_stop_no_other(setup: Setup, name: str) -> None:
    """The welcome flow also runs for newsletter subscribers, who are unknown to the platform."""
    for number in range(105):
        await setup.call(name, f"k{number}", **UNKNOWN[name](number))
    await setup.until(name, *["refused"] * 105)
    await setup.call(name, "known")
    found = await setup.until(name, *["refused"] * 105, "applied")
    assert {action.problem for action in found} == {"A50", None}
    lane = setup.daemon.app.runtimes[name].actions
    assert lane is not None
    assert lane.state.mode == "running"


@pytest.mark.parametrize("name", ["yotpo", "jericommerce"])
async def test_refusals_for_too_few_points_stop_no_other(setup: Setup, name: str) -> None:
    for number in range(20):
        await setup.call(name, f"k{number}", amount=-9999)
    found = await setup.until(name, *["refused"] * 20)
    assert {action.problem for action in found} == {"A60"}
