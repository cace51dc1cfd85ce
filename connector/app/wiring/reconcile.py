"""Reading Klaviyo back and comparing, as a command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connector.app.wiring.context import ConnectionContext
from connector.domain.lanes import EVENTS, PROFILES
from connector.domain.profiles import ProfileWrite
from connector.klaviyo.remote_state import KlaviyoRemoteState
from connector.pipeline.dispatch import Dispatcher
from connector.service import CommandHandler, CommandResult
from connector.sync.reconcile import Reconciler


def build_reconcile(
    context: ConnectionContext, events: Dispatcher[Any], writes: Dispatcher[ProfileWrite]
) -> Mapping[str, CommandHandler]:
    services = context.services
    reconciler = Reconciler(
        context.connection.name,
        writes.lane.id,
        events.lane.id,
        services.store.ledger,
        KlaviyoRemoteState(context.api),
        services.clock,
        services.metrics,
    )

    async def reconcile(args: Mapping[str, Any]) -> CommandResult:
        result = await reconciler.run(sample=args.get("sample"), fix=bool(args.get("fix")))
        context.signals.wake(PROFILES, EVENTS)
        return True, result

    return {"reconcile": CommandHandler(reconcile, long_running=True)}
