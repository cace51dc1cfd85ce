"""Calls wait for a person who is not known yet, and follow them, with a real daemon over HTTP."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from connector.ports import ActionView
from connector.sandbox import JeriCommerceSandbox, Traffic, WllSandbox
from connector.sandbox.wll.users import User
from tests.paths import ROOT
from tests.platforms.plugins.daemon import Running, running

from .test_answers_over_http import HEAD, SETTINGS

SECRET = "flow_secret"
CONNECTION = """
[[connections]]
name = "{name}"
source = "{name}"
[connections.klaviyo]
private_key = "pk_sandbox"
flow_guard = "off"
[connections.actions]
secret = "flow_secret"
daily_per_person = 20
[connections.settings]
{settings}
"""


@dataclass
class Setup:
    """A daemon with White Label Loyalty and JeriCommerce, both without customers at first."""

    daemon: Running
    wll: WllSandbox
    jericommerce: JeriCommerceSandbox
    number: int = 0

    async def call(self, name: str, **who: Any) -> None:
        self.number += 1
        body = {
            **who,
            "point_adjustment_amount": 1,
            "history_title": "Survey",
            "idempotency_key": f"k{self.number}",
        }
        status, text = await self.daemon.flow(f"{name}/points/adjust", orjson.dumps(body), SECRET)
        assert status == 202, text

    async def webhook_about(self, user: User) -> None:
        self.number += 1
        event = {
            "type": "CASHBACK_REGISTERED",
            "reportedAt": f"2026-11-01T10:00:00.{self.number:03d}Z",
            "subject": user.auth,
            "payload": {"amount": 5},
        }
        answer = await self.daemon.post("wll", orjson.dumps(event), {}, "wll_webhook_secret")
        assert answer[0] == 202

    async def actions(self, name: str) -> list[ActionView]:
        found = await self.daemon.app.store.action_views.find(connection=name, limit=1000)
        return sorted(found, key=lambda action: action.id)

    async def until(self, name: str, expected: dict[str, int], seconds: float = 90.0) -> None:
        """Wait until the connection's actions have these states, so many of each."""
        found: list[ActionView] = []
        for _ in range(round(seconds * 50)):
            found = await self.actions(name)
            if Counter(action.state for action in found) == expected:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(Counter((a.state, a.problem, a.detail) for a in found))


@pytest.fixture
async def setup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silenced_logs: None
) -> AsyncIterator[Setup]:
    shutil.copytree(ROOT / "mappings", tmp_path / "mappings")
    wll, jericommerce = WllSandbox(people=0), JeriCommerceSandbox(people=0)
    config = HEAD + "".join(
        CONNECTION.format(name=name, settings=SETTINGS[name]) for name in ("wll", "jericommerce")
    )
    apps = {"wll": wll.app, "jericommerce": jericommerce.app}
    async with running(tmp_path, config, apps, {}, monkeypatch) as daemon:
        yield Setup(daemon, wll, jericommerce)


async def test_calls_by_address_are_applied_once_wll_says_whose_it_is(setup: Setup) -> None:
    """WLL cannot look people up by address: only a read of the user shows it."""
    user = setup.wll.add("ana@example.com")
    for _ in range(3):
        await setup.call("wll", customer_email="ana@example.com")
    await setup.until("wll", {"held": 3})
    await setup.webhook_about(user)
    await setup.until("wll", {"applied": 3})


async def test_all_ids_of_a_wll_user_are_one_person_with_one_cap(setup: Setup) -> None:
    user = setup.wll.add("ana@example.com")
    for _ in range(14):
        await setup.call("wll", customer_email="ana@example.com")
    await setup.until("wll", {"held": 14})
    for _ in range(8):
        await setup.call("wll", customer_id=str(user.account))
    await setup.until("wll", {"held": 14, "applied": 8})
    await setup.webhook_about(user)
    await setup.until("wll", {"held": 2, "applied": 20})
    for id in (user.id, user.auth, str(user.account)):
        await setup.call("wll", customer_id=id)
    await setup.until("wll", {"held": 5, "applied": 20})
    found = await setup.actions("wll")
    assert {a.problem for a in found if a.state == "held"} == {"A20"}
    [approval] = await setup.daemon.app.store.approvals.find()
    done, _ = await setup.daemon.app.commands.execute("approve", {"id": approval.id, "by": "ana"})
    assert done
    await setup.until("wll", {"applied": 25})


async def test_a_call_by_jericommerces_id_waits_for_the_address(setup: Setup) -> None:
    person = setup.jericommerce.add("ana@example.com")
    await setup.call("jericommerce", customer_id=person.id)
    await setup.until("jericommerce", {"held": 1})
    traffic = Traffic(setup.jericommerce, "unused")
    headers, body = traffic.make_event()
    assert orjson.loads(body)["customerId"] == person.id
    assert (await setup.daemon.post("jericommerce", body, headers))[0] == 202
    await setup.until("jericommerce", {"applied": 1})


async def test_an_unanswered_again_is_refused_and_not_held_again(setup: Setup) -> None:
    await setup.call("wll", customer_email="stranger@example.com")
    await setup.until("wll", {"held": 1})
    [action] = await setup.actions("wll")
    done, _ = await setup.daemon.app.commands.execute("again", {"id": action.id, "by": "ana"})
    assert done
    await setup.until("wll", {"refused": 1})
    [action] = await setup.actions("wll")
    assert action.problem == "A40"
