"""Setting connections up, with the platforms that are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from connector.config import Config
from connector.platforms import registry
from connector.ports import Clock, Store
from connector.runtime.changes import ChangeFeed
from connector.service import ConnectionRuntime
from connector.service.connection_setup import ConnectionSetup


def connection_setup(
    store: Store,
    clock: Clock,
    config: Callable[[], Config],
    runtimes: Mapping[str, ConnectionRuntime],
    changes: ChangeFeed,
) -> ConnectionSetup:
    return ConnectionSetup(
        store,
        clock,
        config=config,
        runtimes=runtimes,
        load_platform=registry.load,
        sources=lambda: list(registry.SettingsModels()),
        on_read=partial(changes.publish, "connections"),
    )
