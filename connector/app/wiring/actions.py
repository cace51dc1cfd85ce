"""The endpoint for Klaviyo's flows, and the lane of actions to the platform."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from connector.actions.flow_endpoint import FlowEndpoint
from connector.actions.held_actions import HeldActionsWorker
from connector.actions.requests import ActionRules, routes_for
from connector.actions.sink import ActionRenderer, ActionSink, is_look_up
from connector.app.wiring.context import ConnectionContext, dispatch_policy
from connector.config import Actions, PlatformSettings
from connector.domain.actions import Caps
from connector.domain.lanes import ACTIONS, Lane, Millis
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.rendering import GatedRenderer
from connector.ports import Actions as ActionsPort
from connector.ports import Client
from connector.ports.workers import Worker
from connector.sync.memberships.join_actions import SubmitActions


@dataclass(frozen=True, slots=True)
class ActionParts:
    """`endpoint` answers flows. Where the platform takes no actions there is no lane, and the
    endpoint says which routes are offered."""

    endpoint: FlowEndpoint
    dispatcher: Dispatcher[Any] | None
    held_actions: Worker | None

    @property
    def submit(self) -> SubmitActions | None:
        """Stores actions for the platform."""
        return self.endpoint.submit if self.dispatcher else None


async def build_actions(context: ConnectionContext) -> ActionParts:
    client = context.client
    if client is None or client.actions is None:
        return ActionParts(_build_endpoint(context, None), None, None)
    dispatcher = await _build_lane(context, client, client.actions)
    services = context.services
    held_actions = HeldActionsWorker(
        dispatcher.lane,
        services.store.action_decisions,
        services.store.approvals,
        services.clock,
        caps=_caps(context),
        on_released=dispatcher.wake,
    )
    return ActionParts(
        _build_endpoint(context, dispatcher.lane),
        dispatcher,
        context.supervise("held_actions", held_actions),
    )


async def _build_lane(
    context: ConnectionContext, client: Client, platform_actions: ActionsPort
) -> Dispatcher[Any]:
    services, rules = context.services, _rules(context)
    queue = services.store.actions
    lane = await context.lane(ACTIONS)
    settings = _digest(context.connection.settings)
    sink = ActionSink(
        platform_actions,
        clock=services.clock,
        may_send=context.lease.valid,
        not_applied=frozenset(rules.retry_statuses),
        address_of=context.api.profile_email,
        identify=lambda id, email: queue.identify(lane, id, email),
        check=client.check,
        settings=settings,
        unknown_person_grace=round(rules.unknown_person_grace * 1000),
    )
    live = context.suppressed("actions") is None
    renderer = GatedRenderer(ActionRenderer(settings), live=live, is_read=is_look_up)
    policy = replace(
        dispatch_policy(services.config),
        look_ups=[round(after * 1000) for after in rules.look_ups],
    )
    dispatcher: Dispatcher[Any] = await context.dispatcher(ACTIONS, sink, renderer, policy=policy)

    async def resume(now: Millis) -> int:
        caps, decisions = _caps(context), services.store.action_decisions
        count = await decisions.release_waiting(lane, caps=caps, now=now)
        dispatcher.wake()
        return count

    if live:
        context.resumptions.append(resume)
    return dispatcher


def _build_endpoint(context: ConnectionContext, lane: Lane | None) -> FlowEndpoint:
    services, rules = context.services, _rules(context)
    return FlowEndpoint(
        lane,
        services.intake,
        services.clock,
        services.metrics,
        wake=context.signals.wake_at,
        routes=routes_for(context.platform.offers),
        secrets=[secret.get_secret_value() for secret in rules.secret],
        rules=ActionRules(
            max_amount=rules.max_amount,
            dedupe_window=round(rules.dedupe_window * 1000),
            key_retention=round(services.config.retention.action_keys * 1000),
        ),
        caps=_caps(context),
        enabled=context.has("actions"),
        suppressed=context.suppressed("actions"),
    )


def _digest(settings: PlatformSettings) -> str:
    """Of the platform's own settings but the secrets, which pydantic hides."""
    own = settings.model_dump_json(exclude=set(PlatformSettings.model_fields))
    return blake2b(own.encode(), digest_size=16).hexdigest()


def _rules(context: ConnectionContext) -> Actions:
    """As configured; without a table the defaults, which also hold for join actions."""
    return context.connection.actions or Actions()


def _caps(context: ConnectionContext) -> Caps:
    rules = _rules(context)
    return Caps(rules.daily_per_person, rules.daily_total)
