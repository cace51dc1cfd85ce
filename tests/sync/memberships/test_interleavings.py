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

from connector.domain.errors import AmbiguousError, Problem, Rejected, RetryLater

from .conftest import Configs, Environment, FaultyTransport
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


class RecordingTransport(FaultyTransport):
    """A wire that knows which memberships are being written."""

    def __init__(self, env: Environment) -> None:
        super().__init__(env.klaviyo.app, env.clock)
        self.env = env
        self.in_flight: Counter[tuple[str, str]] = Counter()
        self.overlaps: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        written = self._written(request)
        for list_id, email in written:
            waits = any(
                list_id in job.lists and email in job.identifiers
                for job in self.env.klaviyo.jobs.open()
            )
            if self.in_flight[list_id, email] or waits:
                self.overlaps.append(f"{request.method} {email} {list_id}")
        self.in_flight.update(written)
        try:
            return await super().handle_async_request(request)
        finally:
            self.in_flight.subtract(written)

    def _written(self, request: httpx.Request) -> list[tuple[str, str]]:
        if request.method == "GET" or request.url.path == "/api/lists":
            return []
        data = orjson.loads(request.content)["data"]
        if request.method == "DELETE":
            people = self.env.klaviyo.profiles_by_id
            return [
                (request.url.path.split("/")[3], people[p["id"]]["email"])
                for p in data
                if p["id"] in people
            ]
        [on] = data["relationships"]["lists"]["data"]
        found = data["attributes"]["profiles"]["data"]
        return [(on["id"], p["attributes"]["email"]) for p in found]


class Scenario:
    """One interleaving."""

    def __init__(self, seed: int, configs: Configs) -> None:
        random.seed(seed)  # the back-off's, too
        self.rng = random.Random(seed)
        wires = random.Random(seed)
        self.seed = seed
        self.lines: list[str] = []
        delay = self.rng.choice((1.0, 20.0, 1e6))
        self.env = Environment(configs(ENTRIES), job_delay=delay)
        self.fault_transport = self.env.fault_transport = RecordingTransport(self.env)
        self.env.toy.audiences = {"vip": list(ANCHORS), "gold": list(ANCHORS[:2])}
        self.env.toy.size = self.rng.choice((1, 2, 3))
        self.delayed: list[tuple[str, bool, str]] = []
        self.ever_members: dict[str, set[str]] = {
            name: set(who) for name, who in self._now().items()
        }
        self.added_manually: dict[str, set[str]] = {"VIP": set(), "Gold": set()}
        self.removed_manually: dict[str, set[str]] = {"VIP": set(), "Gold": set()}
        if self.rng.random() < 0.6:
            self.fault_transport.before = lambda: wires.choice((0.0, 0.0, 0.2, 1.5))
            self.fault_transport.after = lambda: wires.choice((0.0, 0.0, 0.2, 1.5))

    def note(self, line: str) -> None:
        self.lines.append(f"{self.env.clock.now() % 10**7 / 1000:9.3f} {line}")

    def _now(self) -> dict[str, list[str]]:
        return self.env.toy.audiences

    # ── what can happen ──────────────────────────────────────────────────────────────────────────

    async def change(self) -> None:
        """Somebody joins or leaves an audience; the platform may say so, at once or late."""
        audience = self.rng.choice(("vip", "gold"))
        who = self.rng.choice([f"{c}{n}" for c in "cgq" for n in range(3)])
        people = self._now()[audience]
        joined = who not in people
        (people.append if joined else people.remove)(who)
        self.ever_members[audience].add(who)
        self.note(f"{who} {'joins' if joined else 'leaves'} {audience}")
        luck = self.rng.random()
        if luck < 0.4:
            await self.env.push(who, joined, audience)
        elif luck < 0.6:
            self.delayed.append((who, joined, audience))

    async def push_late(self) -> None:
        if self.delayed:
            who, joined, audience = self.delayed.pop(self.rng.randrange(len(self.delayed)))
            self.note(f"late word: {who} {joined} {audience}")
            await self.env.push(who, joined, audience)

    async def hand(self) -> None:
        """Somebody at Klaviyo puts a person on a list or takes one off."""
        name = self.rng.choice(("VIP", "Gold"))
        if not any(x.name == name for x in self.env.klaviyo._account.lists.all):
            return
        on = self.env.members_of(name)
        if on and self.rng.random() < 0.5:
            who = self.rng.choice(on)
            self.env.remove_from_list(who, name=name)
            self.added_manually[name].discard(who)
            self.removed_manually[name].add(who)
            self.note(f"by hand: {who} off {name}")
            return
        who = self.rng.choice(("stranger", "c0", "q2", "aa"))
        if who not in on:
            self.added_manually[name].add(who)
            self.note(f"by hand: {who} on {name}")
        self.env.add_to_list(who, name=name)

    async def platform_fails(self) -> None:
        fault = self.rng.choice(
            (
                AmbiguousError(Problem.SERVER_FAULT),
                RetryLater(Problem.PLATFORM_THROTTLED, after=5.0),
                Rejected(Problem.PLATFORM_REFUSED, "cursor"),
            )
        )
        count = self.rng.randint(1, 4)
        self.note(f"platform: {count} × {fault}")
        self.env.toy.failures += [fault] * count

    async def klaviyo_fails(self) -> None:
        kinds: list[dict[str, Any]] = [
            {"kind": "status", "status": 429, "retry_after": self.rng.choice((1, 20))},
            {"kind": "status", "status": 503},
            {"kind": "status", "status": 500},
            {"kind": "status", "status": 500, "applied": True},
            {"kind": "reset_before"},
            {"kind": "reset_after"},
            {"kind": "html403"},
        ]
        fault = {"endpoint": self.rng.choice(ENDPOINTS)}
        fault |= self.rng.choice(kinds) | {"count": self.rng.randint(1, 3)}
        if self.rng.random() < 0.2:
            fault = {"endpoint": "profile-bulk-import-jobs", "kind": "empty_job_id", "count": 1}
        self.note(f"klaviyo: {fault}")
        self.env.klaviyo.faults.parse(fault)

    async def job(self) -> None:
        jobs = self.env.klaviyo.jobs
        if found := jobs.open():
            one = self.rng.choice(found)
            act = self.rng.choice((jobs.run, jobs.run, jobs.cancel, jobs.expire, jobs.stall))
            self.note(f"klaviyo: {act.__name__} a job of {one.total}")
            act(one.id)

    async def crash(self) -> None:
        self.note("killed and started again")
        await self.env.kill()
        self.fault_transport.in_flight.clear()
        if self.rng.random() < 0.5:
            self.env.clock.move(self.rng.choice((1.0, 20.0, 90.0)))
        await self.env.start()

    async def wait(self) -> None:
        pause = self.rng.choice(PAUSES)
        self.note(f"{pause} s pass")
        await self.env.clock.advance(pause)

    # ── one run ──────────────────────────────────────────────────────────────────────────────────

    async def run(self, steps: int) -> list[str]:
        acts = [
            (self.change, 14),
            (self.push_late, 3),
            (self.hand, 4),
            (self.platform_fails, 4),
            (self.klaviyo_fails, 5),
            (self.job, 4),
            (self.crash, 2),
            (self.wait, 16),
        ]
        choices, weights = [act for act, _ in acts], [weight for _, weight in acts]
        await self.env.start()
        found: list[str] = []
        for _ in range(steps):
            await self.rng.choices(choices, weights)[0]()
            found += self.missing_anchors()
        await self.finish()
        return found + self.faults()

    def missing_anchors(self) -> list[str]:
        """Whom we took off although they never left."""
        removed = [
            (on, email)
            for r in self.fault_transport.requests
            if r.method == "DELETE"
            for on, email in self.fault_transport._written(r)
        ]
        names = {x.id: x.name for x in self.env.klaviyo._account.lists.all}
        return [
            f"{email} was taken off {names[on]}"
            for on, email in removed
            if email.partition("@")[0] in (ANCHORS if names[on] == "VIP" else ANCHORS[:2])
        ][:1]

    async def finish(self) -> None:
        """Every fault is over and time passes."""
        self.note("calm")
        self.env.klaviyo.faults.clear()
        self.env.toy.failures.clear()
        for _ in range(7):
            for job in self.env.klaviyo.jobs.open():
                self.env.klaviyo.jobs.run(job.id)
            await self.env.clock.advance(60.0)

    def faults(self) -> list[str]:
        found = []
        for name, feeds in FEEDS.items():
            union = {who for feed in feeds for who in self._now()[feed]}
            ever_members = {who for feed in feeds for who in self.ever_members[feed]}
            on, hand = set(self.env.members_of(name)), self.added_manually[name]
            if lacking := union - on:
                found.append(f"{name} lacks {lacking}")
            # Whom others put there stays; one who was in an audience, too, may be anybody's.
            if strange := on - union - hand:
                found.append(f"{name} still has {strange}")
            if lost := (hand - ever_members) - on:
                found.append(f"{name} lost {lost}, whom others had put there")
        if self.fault_transport.overlaps:
            found.append(f"writes under way together: {self.fault_transport.overlaps}")
        if self.env.klaviyo.overlapping_writes:
            found.append(f"overlapping writes: {dict(self.env.klaviyo.overlaps)}")
        if self.env.klaviyo.violations:
            found.append(f"violations: {dict(self.env.klaviyo.violations)}")
        return found + [fault for r in self.fault_transport.requests if (fault := forbidden(r))]


def forbidden(request: httpx.Request) -> str | None:
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
    scenario = Scenario(seed, configs)
    try:
        if found := await scenario.run(steps):
            rows = [str(g) for g in await scenario.env.store.memberships.groups()]
            head = f"seed {seed}"
            pytest.fail("\n".join([head, *scenario.lines, *rows, "--", *found]), pytrace=False)
    finally:
        await scenario.env.kill()


@pytest.mark.parametrize("seed", QUICK)
async def test_each_list_converges_to_the_union_of_its_audiences(
    seed: int, configs: Configs
) -> None:
    await run(seed, configs, steps=40)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", range(1_000, 2_000, 100))
async def test_each_list_converges_to_the_union_many_seeds(start: int, configs: Configs) -> None:
    for seed in range(start, start + 100):
        await run(seed, configs, steps=90)


def test_a_consent_request_would_be_detected() -> None:
    consent_request = httpx.Request(
        "POST", "http://x/api/profile-subscription-bulk-create-jobs", content=b""
    )
    assert forbidden(consent_request)
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
    assert forbidden(job)
