"""Setting connections up, with the platforms that are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from connector.app.wiring.credentials import check_side
from connector.config import Config, Connection
from connector.domain.attention import Check
from connector.platforms import registry
from connector.ports import Clock, Store
from connector.runtime.changes import ChangeFeed
from connector.service import ConnectionRuntime
from connector.service.connection_setup import ConnectionSetup, Side


def connection_setup(
    store: Store,
    clock: Clock,
    config: Callable[[], Config],
    runtimes: Mapping[str, ConnectionRuntime],
    changes: ChangeFeed,
) -> ConnectionSetup:
    async def check(wanted: Config, connection: Connection, side: Side) -> Sequence[Check]:
        return await check_side(wanted, connection, side, clock)

    return ConnectionSetup(
        store,
        clock,
        config=config,
        runtimes=runtimes,
        load_platform=registry.load,
        sources=lambda: list(registry.SettingsModels()),
        check_side=check,
        on_read=partial(changes.publish, "connections"),
    )
