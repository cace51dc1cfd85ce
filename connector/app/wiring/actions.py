"""The door for Klaviyo's flows, and the lane of actions to the platform."""

from __future__ import annotations

from connector.actions.endpoint import FlowDoor
from connector.actions.held import Clerk
from connector.actions.requests import Rules, routes_of
from connector.actions.sink import ActionRenderer, ActionSink
from connector.app.wiring.context import Site
from connector.config import Actions
from connector.domain.actions import (
    Caps,
)
from connector.domain.lanes import (
    Lane,
)
from connector.ports import Actions as Side
from connector.service import Line


async def build(site: Site, line: Line) -> None:
    """The lane only where the platform takes actions. The door always: it says what is offered."""
    side = site.client.actions if site.client else None
    lane = await _lane(site, line, side) if side else None
    door = _door(site, line, lane)
    line.flows = door
    if lane:
        line.act = door.take


async def _lane(site: Site, line: Line, side: Side) -> Lane:
    shop, rules = site.shop, _rules(site)
    queue, client = shop.store.actions, site.client
    assert client is not None
    sink = ActionSink(
        side,
        clock=shop.clock,
        may_send=shop.lease.valid,
        not_applied=frozenset(rules.retry_statuses),
        address_of=site.api.profile_address,
        platform_id=lambda email: queue.platform_id(line.name, email),
        check=client.check,
    )
    renderer = site.muted(ActionRenderer(), on=site.has("actions"))
    dispatcher = await site.dispatcher(site.connection.source, "action", queue, sink, renderer)
    lane = dispatcher.lane
    queue.look_up_at(lane.id, [round(after * 1000) for after in rules.look_ups])
    clerk = Clerk(lane, queue, shop.store.approvals, shop.clock, released=dispatcher.wake)
    line.more.append(dispatcher)
    line.loops.append(clerk.run)
    line.decided.append(clerk.decided)
    return lane


def _door(site: Site, line: Line, lane: Lane | None) -> FlowDoor:
    shop, rules = site.shop, _rules(site)
    lanes = [d for d in line.more if lane and d.lane.id == lane.id]

    def arrived() -> None:
        for dispatcher in lanes:
            dispatcher.wake()

    return FlowDoor(
        lane,
        routes=routes_of(site.platform.offers),
        secrets=[secret.get_secret_value() for secret in rules.secret],
        rules=Rules(
            max_amount=rules.max_amount,
            dedupe_window=round(rules.dedupe_window * 1000),
            kept=round(shop.config.retention.action_keys * 1000),
        ),
        caps=Caps(rules.daily_per_person, rules.daily_total),
        queue=shop.store.actions,
        clock=shop.clock,
        metrics=shop.metrics,
        arrived=arrived,
        on=site.has("actions"),
    )


def _rules(site: Site) -> Actions:
    """What the connection allows; without a table the defaults, which hold for segments' joins."""
    return site.connection.actions or Actions()
