"""Memberships in both directions."""

from __future__ import annotations

from typing import Any

from connector.app.wiring.audiences import build_audiences
from connector.app.wiring.context import ConnectionContext
from connector.app.wiring.membership_direction import MembershipParts
from connector.app.wiring.segments import build_segments
from connector.pipeline.dispatch import Dispatcher
from connector.sync.memberships.join_actions import SubmitActions


async def build_memberships(
    context: ConnectionContext, events: Dispatcher[Any], submit: SubmitActions | None
) -> MembershipParts:
    """`submit` queues the actions of people who join segments, None where the platform takes
    none. `events` shows whether the Klaviyo account is in question."""
    audiences = await build_audiences(context, events)
    return audiences | await build_segments(context, events, submit)
