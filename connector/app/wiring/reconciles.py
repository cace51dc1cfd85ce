"""Klaviyo read back and compared, as an order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connector.app.wiring.context import Site
from connector.klaviyo.remote_state import KlaviyoMirror
from connector.service import Line
from connector.sync.reconcile import Reconciler


def build(site: Site, line: Line) -> None:
    """The errand `reconcile`; only for a site with profiles, after its states are laid."""
    shop, writes = site.shop, line.writes
    assert writes is not None
    reconciler = Reconciler(
        line.name,
        writes.lane.id,
        line.events.lane.id,
        shop.store.ledger,
        KlaviyoMirror(site.api),
        shop.clock,
        shop.metrics,
    )

    async def reconcile(args: Mapping[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        result = await reconciler.run(sample=args.get("sample"), fix=bool(args.get("fix")))
        writes.wake()
        line.events.wake()
        return True, result

    line.orders["reconcile"] = reconcile
    line.errands.add("reconcile")
