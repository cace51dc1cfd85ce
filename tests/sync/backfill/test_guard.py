"""The flow guard: who asks, when, and what a person is told (promise 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from connector.domain.errors import Blocked, Problem
from connector.ports import Touched
from connector.sync.flow_guard import CANNOT_KNOW, FlowGuard, Guard
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.store import MemoryApprovals

FIELDS = Touched(fields=True)


class Automations:
    """connector.ports.Flows of a test's making."""

    def __init__(self, *names: str, fault: Blocked | None = None) -> None:
        self.names = names
        self.fault = fault
        self.asked = 0

    async def live(self, on: Touched) -> Sequence[str]:
        self.asked += 1
        if self.fault:
            raise self.fault
        return self.names


def make(mode: FlowGuard, flows: Automations) -> tuple[Guard, MemoryApprovals]:
    approvals = MemoryApprovals()
    return Guard("acme", mode, flows, approvals, FakeClock()), approvals


async def test_a_person_is_asked_once_and_told_the_numbers_and_the_names() -> None:
    flows = Automations("Welcome", "Gold")
    guard, approvals = make("ask", flows)
    for _ in range(3):
        assert await guard("backfill", "backfill 1", 200, FIELDS, new_to_klaviyo=7) == "waiting"
    assert flows.asked == 1
    [asked] = await approvals.find()
    assert (asked.what, asked.subject) == ("backfill", "backfill 1")
    detail = {"people": 200, "new_to_klaviyo": 7, "live_flows": ["Gold", "Welcome"]}
    assert asked.detail == detail


@pytest.mark.parametrize(("approved", "verdict"), [(True, "allowed"), (False, "rejected")])
async def test_the_answer_counts_until_it_is_over(approved: bool, verdict: str) -> None:
    guard, approvals = make("ask", Automations("Welcome"))
    assert await guard("backfill", "backfill 1", None, FIELDS) == "waiting"
    [asked] = await approvals.find()
    assert asked.detail["people"] == "unknown"
    await approvals.decide(asked.id, approved=approved, by="ana", now=FakeClock().now())
    for _ in range(2):
        assert await guard("backfill", "backfill 1", None, FIELDS) == verdict
    assert await guard("backfill", "backfill 2", None, FIELDS) == "waiting"
    await guard.over("backfill", "backfill 1")
    assert await guard("backfill", "backfill 1", None, FIELDS) == "waiting"


async def test_where_no_live_flow_hangs_on_it_nobody_is_asked() -> None:
    guard, approvals = make("ask", Automations())
    assert await guard.rule("backfill", "b", 5, FIELDS) == ("allowed", [])
    assert await approvals.find(pending=False) == []


async def test_without_the_scope_it_warns_and_goes_on() -> None:
    lacks = Blocked(Problem.KLAVIYO_SCOPE, "HTTP 403", scope="lane", status=403)
    guard, approvals = make("ask", Automations(fault=lacks))
    assert await guard.rule("backfill", "b", 5, FIELDS) == ("allowed", CANNOT_KNOW)
    assert await approvals.find(pending=False) == []


async def test_a_refused_key_is_no_missing_scope() -> None:
    refused = Blocked(Problem.KLAVIYO_KEY, "HTTP 401", scope="account", status=401)
    guard, _ = make("ask", Automations(fault=refused))
    with pytest.raises(Blocked):
        await guard("backfill", "b", 5, FIELDS)


async def test_warn_names_the_flows_and_off_does_not_even_look() -> None:
    warns: Any = Automations("Welcome")
    guard, approvals = make("warn", warns)
    assert await guard.rule("backfill", "b", 5, FIELDS) == ("allowed", ["Welcome"])
    silent = Automations("Welcome")
    guard, _ = make("off", silent)
    assert await guard("backfill", "b", 5, FIELDS) == "allowed"
    assert (silent.asked, await approvals.find(pending=False)) == (0, [])
