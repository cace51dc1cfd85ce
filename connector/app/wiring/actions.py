"""The door for Klaviyo's flows, and the lane of actions to the platform."""

from __future__ import annotations

from dataclasses import replace

from connector.actions.flow_endpoint import FlowEndpoint
from connector.actions.held_actions import HeldActionsWorker
from connector.actions.requests import ActionRules, routes_for
from connector.actions.sink import ActionRenderer, ActionSink
from connector.app.wiring.context import ConnectionContext, dispatch_policy
from connector.config import Actions
from connector.domain.actions import Caps
from connector.domain.lanes import Lane
from connector.ports import Actions as ActionsPort
from connector.service import ConnectionRuntime


async def build(context: ConnectionContext, runtime: ConnectionRuntime) -> None:
    """The lane only where the platform takes actions. The door always: it says what is offered."""
    platform_actions = context.client.actions if context.client else None
    lane = await _lane(context, runtime, platform_actions) if platform_actions else None
    endpoint = _endpoint(context, runtime, lane)
    runtime.flow_endpoint = endpoint
    if lane:
        runtime.enqueue_actions = endpoint.submit


async def _lane(
    context: ConnectionContext, runtime: ConnectionRuntime, platform_actions: ActionsPort
) -> Lane:
    services, rules = context.services, _rules(context)
    queue, client = services.store.actions, context.client
    assert client is not None
    sink = ActionSink(
        platform_actions,
        clock=services.clock,
        may_send=services.lease.valid,
        not_applied=frozenset(rules.retry_statuses),
        address_of=context.api.profile_email,
        platform_id=lambda email: queue.platform_id(runtime.name, email),
        check=client.check,
    )
    renderer = context.suppress_if_off(ActionRenderer(), enabled=context.has("actions"))
    policy = replace(
        dispatch_policy(services.config),
        look_ups=[round(after * 1000) for after in rules.look_ups],
    )
    dispatcher = await context.dispatcher(
        context.connection.source, "action", queue, sink, renderer, policy=policy
    )
    lane = dispatcher.lane
    held_actions = HeldActionsWorker(
        lane, queue, services.store.approvals, services.clock, on_released=dispatcher.wake
    )
    runtime.extra_dispatchers.append(dispatcher)
    runtime.loops.append(held_actions.run)
    runtime.on_approval_decided.append(held_actions.on_approval_decided)
    return lane


def _endpoint(
    context: ConnectionContext, runtime: ConnectionRuntime, lane: Lane | None
) -> FlowEndpoint:
    services, rules = context.services, _rules(context)
    lanes = [d for d in runtime.extra_dispatchers if lane and d.lane.id == lane.id]

    def on_accepted() -> None:
        for dispatcher in lanes:
            dispatcher.wake()

    return FlowEndpoint(
        lane,
        routes=routes_for(context.platform.offers),
        secrets=[secret.get_secret_value() for secret in rules.secret],
        rules=ActionRules(
            max_amount=rules.max_amount,
            dedupe_window=round(rules.dedupe_window * 1000),
            key_retention=round(services.config.retention.action_keys * 1000),
        ),
        caps=Caps(rules.daily_per_person, rules.daily_total),
        queue=services.store.actions,
        clock=services.clock,
        metrics=services.metrics,
        on_accepted=on_accepted,
        on=context.has("actions"),
    )


def _rules(context: ConnectionContext) -> Actions:
    """What the connection allows; without a table the defaults, which hold for segments' joins."""
    return context.connection.actions or Actions()
