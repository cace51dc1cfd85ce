"""Guarantee 4 under kills: at every point around a send, with connections lost before and after the
platform applied it, and with Klaviyo repeating calls for a day."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import pytest

from connector.domain.actions import Action, ActionReceipt, ActionRequest

from .conftest import Fault, Platform, Rig

POINTS = (
    "received",
    "stored",
    "claimed",
    "left",
    "applied",
    "answered",
    "settled",
    "looking",
)
"""Before and after the commit of a call; marked as sent; at the platform before and after it was
applied; the answer received and settled; being looked up."""

_PEOPLE = 12
_MINUTE, _HOUR = 60.0, 3600.0


@dataclass
class KillSwitch:
    """Kills when a point is reached for the n-th time."""

    point: str
    count: int
    triggered: asyncio.Event = field(default_factory=asyncio.Event)

    async def at_point(self, point: str) -> None:
        if point == self.point:
            self.count -= 1
        if self.count <= 0:
            self.triggered.set()
        if self.triggered.is_set():
            await asyncio.Event().wait()  # a killed process does nothing more


class Campaign:
    """Klaviyo sends calls, repeats those without an answer, and some of the others."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.rng = random.Random(seed)
        self.unanswered: list[ActionRequest] = []
        self.answered: list[ActionRequest] = []
        self.killed: Counter[str] = Counter()
        self._number = 0

    def fault(self) -> Fault:
        return self.rng.choices(("", "before", "after", "wait"), (70, 10, 10, 10))[0]

    def new(self) -> ActionRequest:
        self._number += 1
        email = f"p{self.rng.randrange(_PEOPLE)}@example.com"
        action = Action("increase", email=email, amount=1 + self._number, reason="r")
        return ActionRequest(action, "balance/increase", f"k{self._number}", None)

    async def post(self, request: ActionRequest) -> None:
        if request not in self.unanswered:
            self.unanswered.append(request)
        answer = await self.rig.endpoint.submit("flow", [request])
        assert isinstance(answer, ActionReceipt)
        self.unanswered.remove(request)
        self.answered.append(request)

    async def run_until_killed(self, point: str) -> None:
        """Run the daemon until this point is reached, at most for a while."""
        killer = KillSwitch(point, self.rng.randint(1, 3))
        await self.rig.start(killer.at_point)
        posts = [asyncio.create_task(self.post(a)) for a in [*self.unanswered]]
        posts += [asyncio.create_task(self.post(self.new())) for _ in range(3)]
        if self.answered:
            posts.append(asyncio.create_task(self.repeat()))
        for _ in range(6):
            if killer.triggered.is_set():
                break
            await self.rig.after(self.rng.choice((0.2, 5.0, 70.0, 620.0)))
        if killer.triggered.is_set():
            self.killed[point] += 1
        await self.rig.kill()
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        self.rig.clock.move(self.rng.choice((1.0, 40 * _MINUTE, 20 * _HOUR)))

    async def repeat(self) -> None:
        """Klaviyo repeats a call that was answered: the answer was lost."""
        answer = await self.rig.endpoint.submit("flow", [self.rng.choice(self.answered)])
        assert answer == ActionReceipt(0, 1, 0)

    async def run_until_settled(self) -> None:
        """Run without faults until nothing is left to do."""
        self.rig.platform.default_fault = lambda: ""
        await self.rig.start()
        for request in [*self.unanswered]:
            await self.post(request)
        while {action.problem for action in await self.rig.all_actions() if not action.settled_at}:
            await self.rig.after(700.0)


async def run_with_kills(
    rig: Rig, kills: int, seed: int, *, points: Collection[str] = ()
) -> tuple[Campaign, int]:
    """(the campaign, how many were parked). Every call is applied exactly once or parked. There are
    `kills` at least, and one at each of the points."""
    campaign = Campaign(rig, seed)
    rig.platform.default_fault = campaign.fault
    runs = 0
    while sum(campaign.killed.values()) < kills or not campaign.killed.keys() >= set(points):
        await campaign.run_until_killed(POINTS[runs % len(POINTS)])
        runs += 1
        assert runs < kills * 4
    await campaign.run_until_settled()
    all_actions = await rig.all_actions()
    assert len(all_actions) == len(campaign.answered)
    assert {action.state for action in all_actions} <= {"applied", "uncertain"}
    applied = rig.platform.ledger
    assert max(applied.values()) == 1
    for action in all_actions:
        if action.state == "applied":
            assert applied[action.ref] == 1, action
        else:
            assert (action.problem, applied[action.ref] <= 1) == ("A10", True)
    assert set(applied) <= {action.ref for action in all_actions}
    return campaign, sum(action.state == "uncertain" for action in all_actions)


async def test_with_lookups_disabled_an_action_that_was_killed_is_parked(
    make_rig: Callable[..., Rig],
) -> None:
    """One look right after the start proves nothing: the platform may still apply it."""
    rig = make_rig(look_ups=())
    killer = KillSwitch("left", 1)
    await rig.start(killer.at_point)
    await rig.send("k")
    assert killer.triggered.is_set()
    await rig.kill()
    await rig.start()
    await rig.after(601.0)
    [action] = await rig.all_actions()
    assert (action.state, action.problem) == ("uncertain", "A10")
    assert not rig.platform.ledger


@pytest.mark.parametrize("supports_lookup", [True, False], ids=["looks up", "cannot look up"])
async def test_after_a_kill_anywhere_every_action_is_applied_once_or_parked(
    make_rig: Callable[..., Rig], supports_lookup: bool
) -> None:
    rig = make_rig(Platform(supports_lookup=supports_lookup))
    points = set(POINTS) - (set() if supports_lookup else {"looking"})
    _, parked = await run_with_kills(rig, kills=16, seed=1, points=points)
    if not supports_lookup:
        assert parked > 0


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("supports_lookup", [True, False], ids=["looks up", "cannot look up"])
async def test_three_hundred_kills(
    make_rig: Callable[..., Rig], supports_lookup: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = make_rig(Platform(supports_lookup=supports_lookup))
    campaign, parked = await run_with_kills(rig, kills=300, seed=7)
    with capsys.disabled():
        print(
            f"\n300 kills ({'looked up' if supports_lookup else 'nothing to look up'}): "
            f"{len(campaign.answered)} actions, {len(rig.platform.sent)} sends, "
            f"{len(rig.platform.lookups)} look-ups, {parked} parked, "
            f"{sum(n > 1 for n in rig.platform.ledger.values())} doubled; "
            f"by point {dict(sorted(campaign.killed.items()))}"
        )
