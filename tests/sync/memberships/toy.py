"""A toy platform with audiences, tags and actions, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.config.connections import PlatformSettings
from connector.domain.actions import Action
from connector.domain.attention import Check
from connector.domain.errors import DeliveryError
from connector.net.rate_limit import Limit
from connector.platforms.kit import Kit
from connector.ports import Client, Member, MembershipResult, MembersPage, Platform, Quota

MEMBERS_ENDPOINT = "POST /members"
LIMIT = {MEMBERS_ENDPOINT: Limit(1_000, 60_000), "POST /actions": Limit(1_000, 60_000)}


@dataclass
class ToyState:
    """Who is in which audience, and what the platform received. `failures` are raised by the next
    calls, one each; `before_page` is called before each page of members."""

    audiences: dict[str, list[str]] = field(default_factory=dict)
    pages: int = 0
    size: int = 3
    failures: list[DeliveryError] = field(default_factory=list)
    before_page: Callable[[str, str | None], None] = lambda audience, cursor: None
    tags: dict[str, set[str]] = field(default_factory=dict)
    calls: list[list[tuple[str, bool]]] = field(default_factory=list)
    result_for: Callable[[str], MembershipResult] = lambda email: MembershipResult("confirmed")
    applied: list[Action] = field(default_factory=list)

    def raise_next(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


STATE = ToyState()
"""The state that `open` connects to; a test replaces it."""


class ToyClient:
    """connector.ports.Audiences, MembershipWriter and Actions."""

    size = 100
    parallel = 1
    endpoint = MEMBERS_ENDPOINT

    def __init__(self, quota: Quota) -> None:
        self.quota = quota

    async def names(self) -> Mapping[str, str]:
        STATE.raise_next()
        return {f"A-{name}": name for name in STATE.audiences}

    async def members(self, audience: str, cursor: str | None) -> MembersPage:
        """The cursor is the last address of the page before, so that a page skips no one when
        others join or leave meanwhile."""
        STATE.before_page(audience, cursor)
        STATE.raise_next()
        STATE.pages += 1
        people = sorted(
            p for p in STATE.audiences[audience.removeprefix("A-")] if p > (cursor or "")
        )
        page, more = people[: STATE.size], len(people) > STATE.size
        found = [Member(f"id-{p}", None if p.startswith("-") else address(p)) for p in page]
        return MembersPage(found, page[-1] if more else None, more)

    async def update(
        self, target: str, changes: Sequence[tuple[Member, bool]]
    ) -> Sequence[MembershipResult]:
        STATE.raise_next()
        STATE.calls.append([(m.email or "", joins) for m, joins in changes])
        tag = STATE.tags.setdefault(target, set())
        results = []
        for member, joins in changes:
            result = STATE.result_for(member.email or "")
            if result.status != "refused":
                (tag.add if joins else tag.discard)(member.email or "")
            results.append(result)
        return results

    async def apply(self, action: Action) -> str | None:
        STATE.raise_next()
        STATE.applied.append(action)
        return None

    async def look_up(self, action: Action) -> Any:
        return "unknowable"


def address(name: str) -> str:
    return f"{name}@example.com"


async def _check() -> Sequence[Check]:
    return [Check("toy", "ok")]


async def _close() -> None: ...


async def open(settings: PlatformSettings, kit: Kit) -> Client:
    client = ToyClient(await kit.quota("toy", LIMIT))
    return Client(check=_check, aclose=_close, audiences=client, members=client, actions=client)


def _view(name: str, at: int, data: dict[str, Any], email: str | None) -> dict[str, Any]:
    return {"email": email, "event": {"name": name, "properties": {}}}


PLATFORM = Platform(
    source="toy",
    title="Toy",
    settings=PlatformSettings,
    offers=frozenset({"events", "audiences", "segments", "increase", "push"}),
    event_view=_view,
    open=open,
)
EVENTS_ONLY = Platform(
    source="mute",
    title="Mute",
    settings=PlatformSettings,
    offers=frozenset({"events"}),
    event_view=_view,
)
