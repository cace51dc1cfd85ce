"""Klaviyo read back and compared, as an order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connector.app.wiring.context import ConnectionContext
from connector.klaviyo.remote_state import KlaviyoRemoteState
from connector.service import ConnectionRuntime
from connector.sync.reconcile import Reconciler


def build(context: ConnectionContext, runtime: ConnectionRuntime) -> None:
    """The errand `reconcile`; only for a site with profiles, after its states are laid."""
    services, writes = context.services, runtime.writes
    assert writes is not None
    reconciler = Reconciler(
        runtime.name,
        writes.lane.id,
        runtime.events.lane.id,
        services.store.ledger,
        KlaviyoRemoteState(context.api),
        services.clock,
        services.metrics,
    )

    async def reconcile(args: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        result = await reconciler.run(sample=args.get("sample"), fix=bool(args.get("fix")))
        writes.wake()
        runtime.events.wake()
        return True, result

    runtime.command_handlers["reconcile"] = reconcile
    runtime.long_running.add("reconcile")
