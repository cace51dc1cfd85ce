"""Builds the endpoint of Klaviyo's flows and the lane of actions to the platform."""

from __future__ import annotations

from connector.actions.flow_endpoint import FlowEndpoint
from connector.actions.held_actions import HeldActionsWorker
from connector.actions.requests import ActionRules, routes_for
from connector.actions.sink import ActionRenderer, ActionSink
from connector.app.wiring.context import ConnectionContext
from connector.config import Actions
from connector.domain.actions import Action, Caps
from connector.pipeline.dispatch import Dispatcher
from connector.ports import Actions as ActionsPort
from connector.ports import Client
from connector.service import ConnectionRuntime


async def build(context: ConnectionContext, runtime: ConnectionRuntime) -> None:
    """Build the endpoint, and the lane where the platform takes actions."""
    client = context.client
    if client is None or client.actions is None:
        runtime.flow_endpoint = _endpoint(context, None)
        return
    dispatcher = await _dispatcher(context, client, client.actions)
    runtime.extra_dispatchers.append(dispatcher)
    runtime.flow_endpoint = _endpoint(context, dispatcher)
    runtime.enqueue_actions = runtime.flow_endpoint.submit
    services = context.services
    held_actions = HeldActionsWorker(
        dispatcher.lane,
        services.store.action_decisions,
        services.store.approvals,
        services.clock,
        on_released=dispatcher.wake,
    )
    runtime.workers.append(context.supervise("held_actions", held_actions))
    runtime.on_approval_decided.append(held_actions.on_approval_decided)


async def _dispatcher(
    context: ConnectionContext, client: Client, platform_actions: ActionsPort
) -> Dispatcher[Action]:
    services, rules, name = context.services, _rules(context), context.connection.name
    queue = services.store.actions.with_look_ups([round(s * 1000) for s in rules.look_ups])
    sink = ActionSink(
        platform_actions,
        clock=services.clock,
        may_send=services.lease.valid,
        not_applied=frozenset(rules.retry_statuses),
        address_of=context.api.profile_email,
        platform_id=lambda email: queue.platform_id(name, email),
        check=client.check,
    )
    renderer = context.suppress_if_off(ActionRenderer(), enabled=context.has("actions"))
    return await context.dispatcher(context.connection.source, "action", queue, sink, renderer)


def _endpoint(context: ConnectionContext, dispatcher: Dispatcher[Action] | None) -> FlowEndpoint:
    services, rules = context.services, _rules(context)
    return FlowEndpoint(
        dispatcher.lane if dispatcher else None,
        services.intake,
        services.clock,
        services.metrics,
        wakes=[dispatcher.wake] if dispatcher else [],
        routes=routes_for(context.platform.offers),
        secrets=[secret.get_secret_value() for secret in rules.secret],
        rules=ActionRules(
            max_amount=rules.max_amount,
            dedupe_window=round(rules.dedupe_window * 1000),
            key_retention=round(services.config.retention.action_keys * 1000),
        ),
        caps=Caps(rules.daily_per_person, rules.daily_total),
        enabled=context.has("actions"),
    )


def _rules(context: ConnectionContext) -> Actions:
    """[connections.actions], or its defaults, which hold for the actions of segment joins."""
    return context.connection.actions or Actions()
