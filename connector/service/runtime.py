"""A connection at run time: its lanes, workers and endpoints as one object graph."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from connector.actions.flow_endpoint import FlowEndpoint
from connector.domain.attention import AttentionItem, Check
from connector.domain.lanes import Millis
from connector.domain.messages import EventMessage, Fault, Skip
from connector.domain.records import Entry
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.lane_signals import LaneSignals
from connector.pipeline.webhook_endpoint import WebhookEndpoint
from connector.ports import Audiences, Fence, Flows, Lease, TargetGroups
from connector.ports.workers import Worker

_CANCEL_TIMEOUT = 1.0

CommandResult = tuple[bool, Mapping[str, Any]]
"""Whether a command was done, and its result or the error."""


Rendered = EventMessage | Skip | Fault
Rendering = Callable[[Sequence[Entry]], Awaitable[Sequence[Rendered]]]
"""Renders records with the mapping in use, and sends nothing."""


@dataclass(frozen=True, slots=True)
class RemoteSide:
    """A person's fields by their names at Klaviyo (its own with a leading `@`); None: not known,
    and `note` says why."""

    fields: Mapping[str, Any] | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class PersonNow:
    """A person as read at both remote APIs. `platform` is what the mapping makes of them."""

    platform: RemoteSide
    klaviyo: RemoteSide
    at: Millis


@dataclass(frozen=True, slots=True)
class CommandHandler:
    """Carries out one kind of command. A `long_running` one does not hold up other commands."""

    run: Callable[[Mapping[str, Any]], Awaitable[CommandResult]]
    long_running: bool = False


@dataclass(frozen=True, slots=True)
class RemoteDirectory:
    """What a person can choose from at both sides, read when they look. `audiences` is None where
    the platform has none."""

    groups: TargetGroups
    flows: Flows
    audiences: Audiences | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRuntime:
    """A connection, built and not yet started.

    `source` is the platform's name and `title` the one for people; `mode` and `modules` are as
    configured. `mapping` is the version in use, `account` Klaviyo's account id as far as it is
    known, `lease` that of the account. Lanes: `events` and `writes` deliver to Klaviyo, `reads`
    reads people at the platform, `actions` delivers points and pushes to the platform,
    `memberships` keep lists and segments. `checks` say whether both sides accept the credentials.
    `commands` are those that name this connection, `render` tries events with its mapping,
    `person_now` reads one person (by number) at both sides, `directory` lists what can be linked.
    `signals` wakes its lanes, `exit_stack` closes what it has open. `link` puts its links
    into use, under the fence of the lease.
    """

    name: str
    title: str
    enabled: bool
    source: str = ""
    mode: str = "live"
    modules: tuple[str, ...] = ()
    mapping: str
    account: str | None
    lease: Lease
    events: Dispatcher[Any]
    reads: Dispatcher[Any] | None = None
    writes: Dispatcher[Any] | None = None
    actions: Dispatcher[Any] | None = None
    memberships: tuple[Dispatcher[Any], ...] = ()
    workers: tuple[Worker, ...] = ()
    commands: Mapping[str, CommandHandler] = field(default_factory=dict)
    checks: tuple[Callable[[], Awaitable[Sequence[Check]]], ...] = ()
    render: Rendering | None = None
    person_now: Callable[[int], Awaitable[PersonNow]] | None = None
    directory: RemoteDirectory | None = None
    webhook_endpoint: WebhookEndpoint | None = None
    flow_endpoint: FlowEndpoint | None = None
    signals: LaneSignals = field(default_factory=LaneSignals)
    exit_stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    link: tuple[Callable[[Fence], Awaitable[None]], ...] = ()

    @property
    def dispatchers(self) -> list[Dispatcher[Any]]:
        """All lanes, in the order in which one hands work to the next."""
        found = (self.reads, self.events, self.writes, self.actions, *self.memberships)
        return [dispatcher for dispatcher in found if dispatcher is not None]

    def start(self) -> None:
        """Run lanes and workers; nothing where the connection is disabled."""
        if not self.enabled:
            return
        for worker in (*self.dispatchers, *self.workers):
            worker.start()

    async def stop(self, timeout: float) -> None:
        """Settle what is in flight within `timeout` seconds, then close everything."""
        await asyncio.gather(*(worker.stop(_CANCEL_TIMEOUT) for worker in self.workers))
        await asyncio.gather(*(dispatcher.stop(timeout) for dispatcher in self.dispatchers))
        await self.exit_stack.aclose()

    def wake(self) -> None:
        """Something outside changed, such as a decided approval: every worker has a look."""
        for worker in (*self.dispatchers, *self.workers):
            worker.wake()

    async def idle(self, ahead: float) -> bool:
        """Whether nothing is due now or within `ahead` seconds, and nothing is in flight."""
        if not self.enabled:
            return True
        # Workers hand work to lanes and lanes to workers: what one did meanwhile is seen at the
        # other, so workers are asked before and after the lanes.
        before = await self._workers_idle(ahead)
        lanes = all([await dispatcher.idle(ahead) for dispatcher in self.dispatchers])
        after = await self._workers_idle(ahead)
        return before and lanes and after and not any(d.busy for d in self.dispatchers)

    async def _workers_idle(self, ahead: float) -> bool:
        return all([await worker.idle(ahead) for worker in self.workers])

    async def attention(self) -> list[AttentionItem]:
        """What only the process that runs the connection can know; nothing where another one runs
        it, or none does."""
        found: list[AttentionItem] = []
        # A store that fails, so that the lease cannot be renewed, ends no other problem.
        if not self.lease.usable:
            return found
        for worker in (*self.dispatchers, *self.workers):
            found += await worker.attention()
        return found
