"""A connection as it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.actions.flow_endpoint import FlowEndpoint
from connector.domain.actions import ActionReceipt, ActionRequest, Conflict, Origin
from connector.domain.attention import AttentionItem, Check
from connector.pipeline.dispatch import Dispatcher
from connector.pipeline.intake import WebhookEndpoint
from connector.pipeline.profile_reads import ProfileReadSink
from connector.ports import Approval

KLAVIYO = "klaviyo"

CommandHandler = Callable[[Mapping[str, Any]], Awaitable[tuple[bool, Mapping[str, Any]]]]
"""Carries out one kind of order: (whether it was done, what it came to or why not)."""


@dataclass(slots=True)
class ConnectionRuntime:
    """A connection as it runs: its doors for webhooks and flows, its lanes, what runs beside them.

    `mapping` is the version in use, `account` Klaviyo's id where it could be read. `more` are
    lanes besides events, reads and writes; `loops` run for ever beside the lanes; `idle` say
    whether those have nothing to do; `needs` what a person must look at; `orders` which orders
    this line carries out, for those that name its connection, of which `errands` take their time
    and hold up no other; `decided` is told of every answer
    to a question that this connection asked. `act` stores actions for the platform, None where it
    takes none."""

    name: str
    title: str
    enabled: bool
    mapping: str
    account: str | None
    checks: list[Callable[[], Awaitable[Sequence[Check]]]]
    close: list[Callable[[], Awaitable[None]]]
    events: Dispatcher[Any] = field(init=False)
    webhook_endpoint: WebhookEndpoint | None = None
    flow_endpoint: FlowEndpoint | None = None
    reads: Dispatcher[Any] | None = None
    writes: Dispatcher[Any] | None = None
    profile_reads: ProfileReadSink | None = None
    by_id: bool = False
    extra_dispatchers: list[Dispatcher[Any]] = field(default_factory=list)
    loops: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    idle: list[Callable[[], Awaitable[bool]]] = field(default_factory=list)
    attention: list[Callable[[], Awaitable[Sequence[AttentionItem]]]] = field(default_factory=list)
    command_handlers: dict[str, CommandHandler] = field(default_factory=dict)
    long_running: set[str] = field(default_factory=set)
    enqueue_actions: (
        Callable[[Origin, Sequence[ActionRequest]], Awaitable[ActionReceipt | Conflict]] | None
    ) = None
    on_approval_decided: list[Callable[[Approval], None]] = field(default_factory=list)

    async def aclose(self) -> None:
        for close in self.close:
            await close()

    @property
    def dispatchers(self) -> list[Dispatcher[Any]]:
        found = (self.reads, self.events, self.writes, *self.extra_dispatchers)
        return [dispatcher for dispatcher in found if dispatcher is not None]
