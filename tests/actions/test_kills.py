"""Promise 4 under kills: at every named point around a send, with connections that break before and
after the platform applied it, and with Klaviyo repeating for a day."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from connector.domain.actions import (
    Action,
    Added,
    Asked,
)

from .conftest import Fault, Platform, Rig

POINTS = (
    "taken",
    "stored",
    "claimed",
    "left",
    "applied",
    "answered",
    "settled",
    "looking",
)
"""Before and after the commit of a call; marked as sent; at the platform before and after it was
applied; the answer in hand and written; being looked up."""

_PEOPLE = 12
_MINUTE, _HOUR = 60.0, 3600.0


@dataclass
class Killer:
    """Kills when a point is reached for the n-th time."""

    point: str
    count: int
    dying: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self, point: str) -> None:
        if point == self.point:
            self.count -= 1
        if self.count <= 0:
            self.dying.set()
        if self.dying.is_set():
            await asyncio.Event().wait()  # nothing more is done in this life


class Campaign:
    """Klaviyo posts, repeats what was not answered, and repeats some of what was."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.chance = random.Random(seed)
        self.unanswered: list[Asked] = []
        self.answered: list[Asked] = []
        self.killed: Counter[str] = Counter()
        self._number = 0

    def fault(self) -> Fault:
        return self.chance.choices(("", "before", "after", "wait"), (70, 10, 10, 10))[0]

    def new(self) -> Asked:
        self._number += 1
        email = f"p{self.chance.randrange(_PEOPLE)}@example.com"
        action = Action("increase", email=email, amount=1 + self._number, reason="r")
        return Asked(action, "balance/increase", f"k{self._number}", None)

    async def post(self, asked: Asked) -> None:
        if asked not in self.unanswered:
            self.unanswered.append(asked)
        answer = await self.rig.door.take("flow", [asked])
        assert isinstance(answer, Added)
        self.unanswered.remove(asked)
        self.answered.append(asked)

    async def life(self, point: str) -> None:
        """One life of the daemon, ended at this point if it is reached."""
        killer = Killer(point, self.chance.randint(1, 3))
        await self.rig.start(killer.reached)
        posts = [asyncio.create_task(self.post(a)) for a in [*self.unanswered]]
        posts += [asyncio.create_task(self.post(self.new())) for _ in range(3)]
        if self.answered:
            posts.append(asyncio.create_task(self.repeat()))
        for _ in range(6):
            if killer.dying.is_set():
                break
            await self.rig.after(self.chance.choice((0.2, 5.0, 70.0, 620.0)))
        if killer.dying.is_set():
            self.killed[point] += 1
        await self.rig.kill()
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)
        self.rig.clock.move(self.chance.choice((1.0, 40 * _MINUTE, 20 * _HOUR)))

    async def repeat(self) -> None:
        """Klaviyo repeats what was answered already: the answer never reached it."""
        answer = await self.rig.door.take("flow", [self.chance.choice(self.answered)])
        assert answer == Added(0, 1, 0)

    async def rest(self) -> None:
        """A life without trouble, until nothing is left to do."""
        self.rig.platform.otherwise = lambda: ""
        await self.rig.start()
        for asked in [*self.unanswered]:
            await self.post(asked)
        while {deed.problem for deed in await self.rig.deeds() if not deed.settled_at}:
            await self.rig.after(700.0)


async def survive(rig: Rig, kills: int, seed: int) -> tuple[Campaign, int]:
    """(the campaign, how many were parked). Every call is applied exactly once or parked."""
    campaign = Campaign(rig, seed)
    rig.platform.otherwise = campaign.fault
    lives = 0
    while sum(campaign.killed.values()) < kills:
        await campaign.life(POINTS[lives % len(POINTS)])
        lives += 1
        assert lives < kills * 4
    await campaign.rest()
    deeds = await rig.deeds()
    assert len(deeds) == len(campaign.answered)
    assert {deed.state for deed in deeds} <= {"applied", "uncertain"}
    applied = rig.platform.ledger
    assert max(applied.values()) == 1
    for deed in deeds:
        if deed.state == "applied":
            assert applied[deed.ours] == 1, deed
        else:
            assert (deed.problem, applied[deed.ours] <= 1) == ("A10", True)
    assert set(applied) <= {deed.ours for deed in deeds}
    return campaign, sum(deed.state == "uncertain" for deed in deeds)


@pytest.mark.parametrize("remembers", [True, False], ids=["looks up", "cannot look up"])
async def test_killed_anywhere_every_action_is_applied_once_or_waits_for_a_person(
    make_rig: Callable[..., Rig], remembers: bool
) -> None:
    rig = make_rig(Platform(remembers=remembers))
    campaign, parked = await survive(rig, kills=16, seed=1)
    points = set(POINTS) - (set() if remembers else {"looking"})
    assert points <= set(campaign.killed)
    if not remembers:
        assert parked > 0


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("remembers", [True, False], ids=["looks up", "cannot look up"])
async def test_three_hundred_kills(
    make_rig: Callable[..., Rig], remembers: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = make_rig(Platform(remembers=remembers))
    campaign, parked = await survive(rig, kills=300, seed=7)
    with capsys.disabled():
        print(
            f"\n300 kills ({'looked up' if remembers else 'nothing to look up'}): "
            f"{len(campaign.answered)} actions, {len(rig.platform.sent)} sends, "
            f"{len(rig.platform.looked)} look-ups, {parked} parked, "
            f"{sum(n > 1 for n in rig.platform.ledger.values())} doubled; "
            f"by point {dict(sorted(campaign.killed.items()))}"
        )
