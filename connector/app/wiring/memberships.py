"""Audiences kept as lists, segments kept as the platform's tags: a lane for each direction, a round
for each group that is read, a keeper for each that is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from connector.app.wiring.backfills import guard
from connector.app.wiring.context import Site, policy_of
from connector.config import Audience, Join, Segment
from connector.domain.errors import ConfigError, Problem
from connector.domain.memberships import (
    Group,
    Link,
    MembershipWrite,
)
from connector.domain.outcomes import (
    Outcome,
    Pending,
)
from connector.domain.records import (
    State,
)
from connector.klaviyo.groups import KlaviyoGroups
from connector.klaviyo.sink.jobs import ImportJobs
from connector.klaviyo.sink.members import MemberSink
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.import_jobs import Receipts
from connector.pipeline.rendering import MembershipRenderer
from connector.ports import Audiences, MembersPage, Renderer, Sink
from connector.service import KLAVIYO, Line
from connector.sync.memberships.group_scan import ReadBack, Round, Scan
from connector.sync.memberships.join_actions import Greeter, Greeting
from connector.sync.memberships.links import Named, audience_named
from connector.sync.memberships.platform_sink import Teller
from connector.sync.memberships.target_sync import Keeper, Rules

_IN_BULK = 0
"""A join is told in bulk, be it one; a leave is what goes singly."""


async def build(site: Site, line: Line) -> None:
    """After the actions, which the joins of segments order."""
    await _lists(site, line)
    await _tags(site, line)


@dataclass
class _Desk:
    """One direction of a connection while it is put together."""

    site: Site
    line: Line
    dispatcher: Dispatcher[Any]
    groups: Sequence[Group]
    rounds: list[Round] = field(default_factory=list)

    def target(self, name: str) -> Group:
        return next(g for g in self.groups if g.target == 0 and g.name == name)

    def source(self, name: str, target: Group) -> Group:
        return next(g for g in self.groups if g.target == target.id and g.name == name)

    @property
    def parts(self) -> dict[str, Any]:
        """What every round is made with."""
        shop, events = self.site.shop, self.line.events
        return {
            "memberships": shop.store.memberships,
            "lease": shop.lease,
            "clock": shop.clock,
            # Another Klaviyo account than before: nothing is read or made there unasked.
            "asleep": lambda: events.state.problem is Problem.KLAVIYO_ACCOUNT,
        }

    def keeper(
        self, target: Group, rules: Mapping[str, Rules], named: Mapping[str, Named], **more: Any
    ) -> Keeper:
        shop = self.site.shop
        return Keeper(
            self.line.name,
            target.id,
            rules,
            memberships=shop.store.memberships,
            approvals=shop.store.approvals,
            named=named,
            clock=shop.clock,
            told=self.dispatcher.wake,
            **more,
        )

    def add(self, round: Round) -> None:
        self.rounds.append(round)
        self.line.loops.append(round.run)
        self.line.idle.append(round.idle)
        self.line.needs.append(round.needs)


# ── audiences → lists ────────────────────────────────────────────────────────────────────────────


async def _lists(site: Site, line: Line) -> None:
    entries = site.connection.audiences if site.has("audiences") else ()
    side = site.client.audiences if site.client else None
    if entries and "audiences" not in site.platform.offers:
        raise ConfigError(
            [
                f"connections.{line.name}.audiences: found {len(entries)}, allowed none: "
                f"{site.platform.title} has no audiences"
            ]
        )
    links = [Link(e.audience, e.list, e.foreign_members == "remove") for e in entries]
    sink = MemberSink(site.api, trust_ids=site.connection.email_change == "new")
    desk = await _desk(site, line, KLAVIYO, links, sink)
    if desk is None or side is None:
        return
    klaviyo = KlaviyoGroups(site.api)
    by_list: dict[str, list[Audience]] = {}
    for entry in entries:
        by_list.setdefault(entry.list, []).append(entry)
    for name, feeding in by_list.items():
        _list(desk, name, feeding, side, klaviyo)
    _orders(desk, "audiences-sync")


def _list(
    desk: _Desk, name: str, feeding: Sequence[Audience], side: Audiences, klaviyo: KlaviyoGroups
) -> None:
    target, creates = desk.target(name), any(entry.create_list for entry in feeding)
    keeper = desk.keeper(
        target,
        {entry.audience: _rules_of_list(entry) for entry in feeding},
        {"audience": audience_named(side), "list": lambda name: klaviyo.named("list", name)},
        create=klaviyo.create_list if creates and not desk.site.shadow else None,
        guard=guard(desk.site),
    )
    every = min(entry.every for entry in feeding)

    async def list_page(id: str, cursor: str | None) -> MembersPage:
        return await klaviyo.members("list", id, cursor)

    desk.add(ReadBack(keeper, target.id, list_page, every=every, **desk.parts))
    for entry in feeding:
        source = desk.source(entry.audience, target)
        desk.add(Scan(keeper, source.id, side.members, every=entry.every, **desk.parts))


def _rules_of_list(entry: Audience) -> Rules:
    return Rules(
        entry.max_leave_share,
        entry.max_leave_floor,
        re_add=entry.on_manual_removal == "re-add",
        removes=entry.foreign_members == "remove",
    )


# ── segments → tags ──────────────────────────────────────────────────────────────────────────────


async def _tags(site: Site, line: Line) -> None:
    entries = site.connection.segments if site.has("segments") else ()
    members = site.client.members if site.client else None
    links = [Link(entry.segment, entry.target) for entry in entries]
    sink = None
    if members is not None and site.client is not None:
        remember = site.shop.store.memory.remember_spend
        sink = Teller(members, site.client.check, site.shop.clock, remember)
    desk = await _desk(site, line, site.connection.source, links, sink)
    if desk is None:
        return
    klaviyo = KlaviyoGroups(site.api)
    by_tag: dict[str, list[Segment]] = {}
    for entry in entries:
        by_tag.setdefault(entry.target, []).append(entry)
    for name, feeding in by_tag.items():
        _tag(desk, name, feeding, klaviyo)
    _orders(desk, "segments-sync")


def _tag(desk: _Desk, name: str, feeding: Sequence[Segment], klaviyo: KlaviyoGroups) -> None:
    target = desk.target(name)
    keeper = desk.keeper(
        target,
        {e.segment: Rules(e.max_leave_share, e.max_leave_floor) for e in feeding},
        {"segment": lambda name: klaviyo.named("segment", name)},
        create=None,
        guard=None,
    )

    async def page(id: str, cursor: str | None) -> MembersPage:
        return await klaviyo.members("segment", id, cursor)

    async def since(id: str, cursor: str | None, moment: Any) -> MembersPage:
        return await klaviyo.members("segment", id, cursor, since=moment)

    for entry in feeding:
        source = desk.source(entry.segment, target)
        greeter = _greeter(desk, entry, source)
        desk.add(
            Scan(
                keeper,
                source.id,
                page,
                since=since,
                greets=_greets(entry),
                joined=greeter.wake if greeter else lambda: None,
                every=entry.every,
                **desk.parts,
            )
        )


def _greets(entry: Segment) -> Callable[[Group], bool]:
    """The first complete scan is the baseline: whoever it finds was there before."""
    return lambda group: bool(entry.on_join) and (entry.on_join_existing or group.complete > 0)


def _greeter(desk: _Desk, entry: Segment, source: Group) -> Greeter | None:
    line, offers = desk.line, desk.site.platform.offers
    if not entry.on_join:
        return None
    lacking = sorted({join.action for join in entry.on_join} - offers)
    if lacking or line.act is None:
        found, title = ", ".join(lacking) or "actions", desk.site.platform.title
        raise ConfigError(
            [
                f"connections.{line.name}.segments: on_join of {entry.segment}: found {found}, "
                f"which {title} does not offer"
            ]
        )
    shop = desk.site.shop
    greetings = [_greeting(join) for join in entry.on_join]
    greeter = Greeter(
        source.id, entry.segment, greetings, line.act, shop.store.memberships, shop.clock
    )
    line.loops.append(greeter.run)
    line.idle.append(greeter.idle)
    return greeter


def _greeting(join: Join) -> Greeting:
    amount = -join.amount if join.action == "decrease" else join.amount
    return Greeting(join.action, amount, join.reason, join.message, join.url)


# ── both ─────────────────────────────────────────────────────────────────────────────────────────


async def _desk(
    site: Site,
    line: Line,
    destination: str,
    links: Sequence[Link],
    sink: Sink[MembershipWrite] | None,
) -> _Desk | None:
    """The direction's lane and groups, as configured now; None where nothing is to be kept, or the
    platform does not offer it, which the groups then say."""
    shop, name = site.shop, line.name
    store = shop.store.memberships
    kinds = ("audience", "list") if destination == KLAVIYO else ("segment", "tag")
    before = [g for g in await store.groups(name) if g.kind in kinds]
    if not links and not before:
        return None
    account = (site.account or site.connection.klaviyo.base_url) if destination == KLAVIYO else name
    lane = await shop.store.lanes.ensure(name, destination, "membership")
    await store.link(lane, links, account=account)
    groups = [g for g in await store.groups(name) if g.kind in kinds]
    if sink is None:
        for group in groups:
            why = f"{site.platform.title} does not offer it"
            await store.failing(group.id, Problem.NOT_OFFERED, why)
        return None
    if not links:
        return None
    if not site.shadow:
        await store.try_again(lane.id, [State.SKIPPED], now=shop.clock.now())
    return _Desk(site, line, await _lane(site, line, destination, sink), groups)


async def _lane(
    site: Site, line: Line, destination: str, sink: Sink[MembershipWrite]
) -> Dispatcher[Any]:
    shop = site.shop
    renderer: Renderer[MembershipWrite] = MembershipRenderer()

    def told(outcomes: Sequence[Outcome]) -> None:
        if any(isinstance(outcome, Pending) for outcome in outcomes):
            receipts.wake()
        if line.writes:
            line.writes.wake()

    dispatcher = await site.dispatcher(
        destination,
        "membership",
        shop.store.memberships,
        sink,
        site.muted(renderer),
        settled=told,
        policy=replace(policy_of(shop.config), bulk_threshold=_IN_BULK),
    )
    line.more.append(dispatcher)
    receipts = Receipts(
        dispatcher.lane,
        shop.store.memberships,
        ImportJobs(site.api),
        shop.lease,
        shop.clock,
        shop.metrics,
        settled=dispatcher.wake,
    )
    if destination == KLAVIYO:
        line.loops.append(receipts.run)
        line.idle.append(receipts.idle)
        line.needs.append(receipts.needs)
    return dispatcher


def _orders(desk: _Desk, kind: str) -> None:
    """Answers and orders that concern these groups."""
    store, lane = desk.site.shop.store.memberships, desk.dispatcher.lane

    def wake() -> None:
        for round in desk.rounds:
            round.wake()

    async def sync(args: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        name = args["name"]
        linked = [g for g in desk.groups if name in (g.name, g.far_id)]
        asked = {g.id for g in linked} | {g.target for g in linked}
        asked |= {g.id for g in desk.groups if g.target in asked}
        rounds = [round for round in desk.rounds if round.group in asked]
        if not rounds:
            known = ", ".join(sorted({g.name for g in desk.groups}))
            return False, {"error": f"{desk.line.name} links no `{name}`, but {known}"}
        for group in desk.groups:
            if group.id in asked and group.target == 0 and group.kind == "list":
                await store.lost(group.id)
        await store.try_again(lane.id, [State.DEAD], now=desk.site.shop.clock.now())
        for round in rounds:
            round.ring()
        return True, {"asked": name, "groups": sorted(asked - {0})}

    desk.line.decided.append(lambda answer: wake())
    desk.line.orders[kind] = sync
