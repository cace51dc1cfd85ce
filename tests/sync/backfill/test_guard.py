"""The flow guard: when an approval is requested, and what it contains (guarantee 9)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from connector.domain.errors import Blocked, Problem
from connector.ports import AffectedResources, Approvals
from connector.sync.approval_requests import ApprovalRequests
from connector.sync.flow_guard import FLOWS_UNKNOWN, FlowGuard, FlowGuardMode
from connector.testing.fakes.clock import FakeClock
from connector.testing.fakes.store import memory_store

FIELDS = AffectedResources(fields=True)


class FakeFlows:
    """connector.ports.Flows with fixed names, or with an error."""

    def __init__(self, *names: str, error: Blocked | None = None) -> None:
        self.names = names
        self.error = error
        self.requests = 0

    async def live(self, affected: AffectedResources) -> Sequence[str]:
        self.requests += 1
        if self.error:
            raise self.error
        return self.names


def make(
    mode: FlowGuardMode,
    flows: FakeFlows,
    *,
    approvals: Approvals | None = None,
    account: str = "ACC",
) -> tuple[FlowGuard, Approvals]:
    approvals = approvals or memory_store().approvals
    requests = ApprovalRequests("acme", approvals, FakeClock(), account=account, share=0.3)
    return FlowGuard(mode, flows, requests), approvals


async def decide(approvals: Approvals, approved: bool) -> None:
    [approval] = await approvals.find()
    assert await approvals.decide(approval.id, approved=approved, by="ana", now=FakeClock().now())


async def test_one_approval_is_requested_with_the_counts_and_flow_names() -> None:
    flows = FakeFlows("Welcome", "Gold")
    guard, approvals = make("ask", flows)
    for _ in range(3):
        assert await guard("backfill", "backfill 1", 200, FIELDS, new_to_klaviyo=7) == "waiting"
    assert flows.requests == 1
    [approval] = await approvals.find()
    assert (approval.what, approval.subject) == ("backfill", "backfill 1")
    assert approval.detail == {
        "account": "ACC",
        "target": "profile fields",
        "people": 200,
        "valid_for_people": "140 to 260",
        "new_to_klaviyo": 7,
        "live_flows": ["Gold", "Welcome"],
    }


@pytest.mark.parametrize(("approved", "verdict"), [(True, "allowed"), (False, "rejected")])
async def test_the_decision_is_valid_until_the_operation_ends(approved: bool, verdict: str) -> None:
    guard, approvals = make("ask", FakeFlows("Welcome"))
    assert await guard("backfill", "backfill 1", None, FIELDS) == "waiting"
    [approval] = await approvals.find()
    assert approval.detail["people"] == "unknown"
    await approvals.decide(approval.id, approved=approved, by="ana", now=FakeClock().now())
    for _ in range(2):
        assert await guard("backfill", "backfill 1", None, FIELDS) == verdict
    assert await guard("backfill", "backfill 2", None, FIELDS) == "waiting"
    await guard.close_request("backfill", "backfill 1")
    assert await guard("backfill", "backfill 1", None, FIELDS) == "waiting"


@pytest.mark.parametrize("approved", [True, False])
async def test_a_decision_holds_for_exactly_what_was_asked(approved: bool) -> None:
    """Another account, target, flow or number of people is asked about again."""
    lists = AffectedResources(lists=frozenset({"L1"}))
    verdict = "allowed" if approved else "rejected"
    flows = FakeFlows("Welcome")
    guard, approvals = make("ask", flows)

    async def ask(people: int, affected: AffectedResources, asker: FlowGuard = guard) -> str:
        return await asker("first_sync", "VIP", people, affected)

    assert await ask(100, lists) == "waiting"
    await decide(approvals, approved)
    assert await ask(100, lists) == verdict
    assert await ask(70, lists) == await ask(130, lists) == verdict
    for people, affected, names, account in (
        (131, lists, ["Welcome"], "ACC"),
        (69, lists, ["Welcome"], "ACC"),
        (100, AffectedResources(lists=frozenset({"L2"})), ["Welcome"], "ACC"),
        (100, lists, ["Welcome", "Winback"], "ACC"),
        (100, lists, ["Welcome"], "OTHER"),
    ):
        guard, approvals = make("ask", FakeFlows("Welcome"))
        assert await ask(100, lists, guard) == "waiting"
        await decide(approvals, approved)
        changed, _ = make("ask", FakeFlows(*names), approvals=approvals, account=account)
        assert await ask(people, affected, changed) == "waiting"
        [approval] = await approvals.find(pending=False)
        assert (approval.state, approval.detail["people"]) == ("pending", people)


async def test_a_number_that_was_listed_cannot_approve_something_larger() -> None:
    guard, approvals = make("ask", FakeFlows("Welcome"))
    assert await guard("backfill", "backfill 1", 100, FIELDS) == "waiting"
    [listed] = await approvals.find()
    assert await guard("backfill", "backfill 1", 5_000, FIELDS) == "waiting"
    now = FakeClock().now()
    assert await approvals.decide(listed.id, approved=True, by="ana", now=now) is None
    assert await guard("backfill", "backfill 1", 5_000, FIELDS) == "waiting"


async def test_a_rejection_counts_until_a_person_asks_again_or_no_flow_is_live() -> None:
    flows = FakeFlows("Welcome")
    guard, approvals = make("ask", flows)
    await guard("first_sync", "VIP", 10, FIELDS)
    await decide(approvals, approved=False)
    assert await guard("first_sync", "VIP", 10, FIELDS) == "rejected"
    await guard.ask_again("first_sync", "VIP")
    assert await guard("first_sync", "VIP", 10, FIELDS) == "waiting"
    await guard.ask_again("first_sync", "VIP")
    assert len(await approvals.find()) == 1
    await decide(approvals, approved=False)
    flows.names = ()
    assert await guard("first_sync", "VIP", 10, FIELDS) == "allowed"
    assert await approvals.find(pending=False) == []


async def test_without_a_live_flow_no_approval_is_requested() -> None:
    guard, approvals = make("ask", FakeFlows())
    assert await guard.evaluate("backfill", "b", 5, FIELDS) == ("allowed", [])
    assert await approvals.find(pending=False) == []


async def test_without_the_scope_it_warns_and_continues() -> None:
    no_scope = Blocked(Problem.KLAVIYO_SCOPE, "HTTP 403", scope="lane", status=403)
    guard, approvals = make("ask", FakeFlows(error=no_scope))
    assert await guard.evaluate("backfill", "b", 5, FIELDS) == ("allowed", FLOWS_UNKNOWN)
    assert await approvals.find(pending=False) == []


async def test_a_rejected_key_is_not_a_missing_scope() -> None:
    refused = Blocked(Problem.KLAVIYO_KEY, "HTTP 401", scope="account", status=401)
    guard, _ = make("ask", FakeFlows(error=refused))
    with pytest.raises(Blocked):
        await guard("backfill", "b", 5, FIELDS)


async def test_warn_names_the_flows_and_off_makes_no_request() -> None:
    guard, approvals = make("warn", FakeFlows("Welcome"))
    assert await guard.evaluate("backfill", "b", 5, FIELDS) == ("allowed", ["Welcome"])
    flows = FakeFlows("Welcome")
    guard, _ = make("off", flows)
    assert await guard("backfill", "b", 5, FIELDS) == "allowed"
    assert (flows.requests, await approvals.find(pending=False)) == (0, [])
