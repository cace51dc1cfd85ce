"""THE property of memberships: whatever happens in whatever order, in the end each list has the
union of its audiences and whom others put there, nobody was taken off by a scan that did not
finish, and no two writes of one membership were under way together.

A script is made of a seed; a failure prints both. Four people never leave their audience: whenever
a list is looked at after its first sync, they are on it, unless a hand took them off.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import httpx
import orjson
import pytest

from connector.domain.errors import Problem, Rejected, Unknown, Wait

from .conftest import Configs, Site, Wire
from .toy import address

QUICK = range(5)
PAUSES = (0.0, 0.1, 0.6, 2.0, 8.0, 35.0, 70.0)
ENDPOINTS = ("profile-bulk-import-jobs", "lists/{id}/relationships/profiles", "lists", "*")
ANCHORS = ("aa", "ff", "mm", "zz")
ENTRIES = """\
[[connections.audiences]]
audience = "vip"
list = "VIP"
every = "60s"
on_manual_removal = "re-add"

[[connections.audiences]]
audience = "gold"
list = "VIP"
every = "90s"
on_manual_removal = "re-add"

[[connections.audiences]]
audience = "gold"
list = "Gold"
every = "90s"
on_manual_removal = "re-add"
"""
FEEDS = {"VIP": ("vip", "gold"), "Gold": ("gold",)}
ALLOWED = {
    ("GET", "accounts"),
    ("GET", "lists"),
    ("GET", "profiles"),
    ("GET", "profile-bulk-import-jobs"),
    ("POST", "profile-bulk-import-jobs"),
    ("POST", "lists"),
    ("DELETE", "lists"),
}


class Watch(Wire):
    """A wire that knows which memberships are being written."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.klaviyo.app, site.clock)
        self.site = site
        self.flying: Counter[tuple[str, str]] = Counter()
        self.meets: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        written = self._written(request)
        for list_id, email in written:
            waits = any(
                list_id in job.lists and email in job.faces for job in self.site.klaviyo.jobs.open()
            )
            if self.flying[list_id, email] or waits:
                self.meets.append(f"{request.method} {email} {list_id}")
        self.flying.update(written)
        try:
            return await super().handle_async_request(request)
        finally:
            self.flying.subtract(written)

    def _written(self, request: httpx.Request) -> list[tuple[str, str]]:
        if request.method == "GET" or request.url.path == "/api/lists":
            return []
        data = orjson.loads(request.content)["data"]
        if request.method == "DELETE":
            people = self.site.klaviyo.profiles_by_id
            return [
                (request.url.path.split("/")[3], people[p["id"]]["email"])
                for p in data
                if p["id"] in people
            ]
        [on] = data["relationships"]["lists"]["data"]
        found = data["attributes"]["profiles"]["data"]
        return [(on["id"], p["attributes"]["email"]) for p in found]


class Script:
    """One interleaving."""

    def __init__(self, seed: int, configs: Configs) -> None:
        random.seed(seed)  # the back-off's, too
        self.pick = random.Random(seed)
        wires = random.Random(seed)
        self.seed = seed
        self.lines: list[str] = []
        delay = self.pick.choice((1.0, 20.0, 1e6))
        self.site = Site(configs(ENTRIES), job_delay=delay)
        self.wire = self.site.wire = Watch(self.site)
        self.site.toy.audiences = {"vip": list(ANCHORS), "gold": list(ANCHORS[:2])}
        self.site.toy.size = self.pick.choice((1, 2, 3))
        self.late: list[tuple[str, bool, str]] = []
        self.ever: dict[str, set[str]] = {name: set(who) for name, who in self._now().items()}
        self.by_hand: dict[str, set[str]] = {"VIP": set(), "Gold": set()}
        self.off: dict[str, set[str]] = {"VIP": set(), "Gold": set()}
        if self.pick.random() < 0.6:
            self.wire.before = lambda: wires.choice((0.0, 0.0, 0.2, 1.5))
            self.wire.after = lambda: wires.choice((0.0, 0.0, 0.2, 1.5))

    def note(self, line: str) -> None:
        self.lines.append(f"{self.site.clock.now() % 10**7 / 1000:9.3f} {line}")

    def _now(self) -> dict[str, list[str]]:
        return self.site.toy.audiences

    # ── what can happen ──────────────────────────────────────────────────────────────────────────

    async def change(self) -> None:
        """Somebody joins or leaves an audience; the platform may say so, at once or late."""
        audience = self.pick.choice(("vip", "gold"))
        who = self.pick.choice([f"{c}{n}" for c in "cgq" for n in range(3)])
        people = self._now()[audience]
        joined = who not in people
        (people.append if joined else people.remove)(who)
        self.ever[audience].add(who)
        self.note(f"{who} {'joins' if joined else 'leaves'} {audience}")
        luck = self.pick.random()
        if luck < 0.4:
            await self.site.push(who, joined, audience)
        elif luck < 0.6:
            self.late.append((who, joined, audience))

    async def say_late(self) -> None:
        if self.late:
            who, joined, audience = self.late.pop(self.pick.randrange(len(self.late)))
            self.note(f"late word: {who} {joined} {audience}")
            await self.site.push(who, joined, audience)

    async def hand(self) -> None:
        """Somebody at Klaviyo puts a person on a list or takes one off."""
        name = self.pick.choice(("VIP", "Gold"))
        if not any(x.name == name for x in self.site.klaviyo._world.lists.all):
            return
        on = self.site.on(name)
        if on and self.pick.random() < 0.5:
            who = self.pick.choice(on)
            self.site.take_off(who, name=name)
            self.by_hand[name].discard(who)
            self.off[name].add(who)
            self.note(f"by hand: {who} off {name}")
            return
        who = self.pick.choice(("stranger", "c0", "q2", "aa"))
        if who not in on:
            self.by_hand[name].add(who)
            self.note(f"by hand: {who} on {name}")
        self.site.put_on(who, name=name)

    async def platform_fails(self) -> None:
        fault = self.pick.choice(
            (
                Unknown(Problem.SERVER_FAULT),
                Wait(Problem.PLATFORM_THROTTLED, after=5.0),
                Rejected(Problem.PLATFORM_REFUSED, "cursor"),
            )
        )
        count = self.pick.randint(1, 4)
        self.note(f"platform: {count} × {fault}")
        self.site.toy.fails += [fault] * count

    async def klaviyo_fails(self) -> None:
        kinds: list[dict[str, Any]] = [
            {"kind": "status", "status": 429, "retry_after": self.pick.choice((1, 20))},
            {"kind": "status", "status": 503},
            {"kind": "status", "status": 500},
            {"kind": "status", "status": 500, "applied": True},
            {"kind": "reset_before"},
            {"kind": "reset_after"},
            {"kind": "html403"},
        ]
        fault = {"endpoint": self.pick.choice(ENDPOINTS)}
        fault |= self.pick.choice(kinds) | {"count": self.pick.randint(1, 3)}
        if self.pick.random() < 0.2:
            fault = {"endpoint": "profile-bulk-import-jobs", "kind": "empty_job_id", "count": 1}
        self.note(f"klaviyo: {fault}")
        self.site.klaviyo.faults.parse(fault)

    async def job(self) -> None:
        jobs = self.site.klaviyo.jobs
        if found := jobs.open():
            one = self.pick.choice(found)
            act = self.pick.choice((jobs.run, jobs.run, jobs.cancel, jobs.expire, jobs.stall))
            self.note(f"klaviyo: {act.__name__} a job of {one.total}")
            act(one.id)

    async def crash(self) -> None:
        self.note("killed and started again")
        await self.site.kill()
        self.wire.flying.clear()
        if self.pick.random() < 0.5:
            self.site.clock.move(self.pick.choice((1.0, 20.0, 90.0)))
        await self.site.start()

    async def go_on(self) -> None:
        pause = self.pick.choice(PAUSES)
        self.note(f"{pause} s pass")
        await self.site.clock.advance(pause)

    # ── one run ──────────────────────────────────────────────────────────────────────────────────

    async def run(self, steps: int) -> list[str]:
        acts = [
            (self.change, 14),
            (self.say_late, 3),
            (self.hand, 4),
            (self.platform_fails, 4),
            (self.klaviyo_fails, 5),
            (self.job, 4),
            (self.crash, 2),
            (self.go_on, 16),
        ]
        choices, weights = [act for act, _ in acts], [weight for _, weight in acts]
        await self.site.start()
        found: list[str] = []
        for _ in range(steps):
            await self.pick.choices(choices, weights)[0]()
            found += self.missing_anchors()
        await self.calm()
        return found + self.faults()

    def missing_anchors(self) -> list[str]:
        """Whom we took off although they never left."""
        removed = [
            (on, email)
            for r in self.wire.requests
            if r.method == "DELETE"
            for on, email in self.wire._written(r)
        ]
        names = {x.id: x.name for x in self.site.klaviyo._world.lists.all}
        return [
            f"{email} was taken off {names[on]}"
            for on, email in removed
            if email.partition("@")[0] in (ANCHORS if names[on] == "VIP" else ANCHORS[:2])
        ][:1]

    async def calm(self) -> None:
        """Every fault is over and time passes."""
        self.note("calm")
        self.site.klaviyo.faults.clear()
        self.site.toy.fails.clear()
        for _ in range(7):
            for job in self.site.klaviyo.jobs.open():
                self.site.klaviyo.jobs.run(job.id)
            await self.site.clock.advance(60.0)

    def faults(self) -> list[str]:
        found = []
        for name, feeds in FEEDS.items():
            union = {who for feed in feeds for who in self._now()[feed]}
            ever = {who for feed in feeds for who in self.ever[feed]}
            on, hand = set(self.site.on(name)), self.by_hand[name]
            if lacking := union - on:
                found.append(f"{name} lacks {lacking}")
            # Whom others put there stays; one who was in an audience, too, may be anybody's.
            if strange := on - union - hand:
                found.append(f"{name} still has {strange}")
            if lost := (hand - ever) - on:
                found.append(f"{name} lost {lost}, whom others had put there")
        if self.wire.meets:
            found.append(f"writes under way together: {self.wire.meets}")
        if self.site.klaviyo.overlapping_writes:
            found.append(f"overlapping writes: {dict(self.site.klaviyo.overlaps)}")
        if self.site.klaviyo.violations:
            found.append(f"violations: {dict(self.site.klaviyo.violations)}")
        return found + [fault for r in self.wire.requests if (fault := beyond(r))]


def beyond(request: httpx.Request) -> str | None:
    """Promise 7: what a request does that could touch a consent, or that is not ours to do."""
    kind = request.url.path.split("/")[2]
    if (request.method, kind) not in ALLOWED:
        return f"{request.method} {request.url.path}"
    if kind == "profile-bulk-import-jobs" and request.method == "POST":
        data = orjson.loads(request.content)["data"]
        for profile in data["attributes"]["profiles"]["data"]:
            if profile.keys() != {"type", "attributes"} or profile["attributes"].keys() != {
                "email"
            }:
                return f"an import carries {profile}"
    return None


def _email(profile: Any) -> Any:
    return profile.get("attributes", {}).get("email")


async def run(seed: int, configs: Configs, steps: int) -> None:
    script = Script(seed, configs)
    try:
        if found := await script.run(steps):
            rows = [str(g) for g in await script.site.store.memberships.groups()]
            head = f"seed {seed}"
            pytest.fail("\n".join([head, *script.lines, *rows, "--", *found]), pytrace=False)
    finally:
        await script.site.kill()


@pytest.mark.parametrize("seed", QUICK)
async def test_in_the_end_each_list_is_the_union_of_its_audiences(
    seed: int, configs: Configs
) -> None:
    await run(seed, configs, steps=40)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(1_000, 2_000, 100))
async def test_in_the_end_each_list_is_the_union_many_times(start: int, configs: Configs) -> None:
    for seed in range(start, start + 100):
        await run(seed, configs, steps=90)


def test_a_request_for_consent_would_be_seen() -> None:
    asked = httpx.Request("POST", "http://x/api/profile-subscription-bulk-create-jobs", content=b"")
    assert beyond(asked)
    body = {
        "data": {
            "attributes": {
                "profiles": {
                    "data": [
                        {
                            "type": "profile",
                            "attributes": {"email": address("ada"), "subscriptions": {}},
                        }
                    ]
                }
            }
        }
    }
    job = httpx.Request("POST", "http://x/api/profile-bulk-import-jobs", json=body)
    assert beyond(job)
