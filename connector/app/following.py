"""What other processes change and this one follows: settings made at run time, reloads, and the
Klaviyo accounts that connections belong to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from connector.app.connections import Connections
from connector.config import Config
from connector.ports import Store, StoredSetting
from connector.service.settings import effective_config


class Following:
    """`reload` applies the configuration here, with the arguments of that command: whether it did,
    and with what result."""

    def __init__(
        self,
        store: Store,
        connections: Connections,
        *,
        holder: str,
        reload: Callable[[Mapping[str, Any]], Awaitable[tuple[bool, Mapping[str, Any]]]],
    ) -> None:
        self._store = store
        self._connections = connections
        self._holder = holder
        self._reload = reload
        self._settings_read: Sequence[StoredSetting] = ()
        self._settings_used: Sequence[StoredSetting] = ()
        self._last_reload: int | None = None

    async def effective(self, config: Config) -> Config:
        """These files with the settings made at run time. Raises ConfigError and StoreError."""
        self._settings_read = await self._store.settings.all()
        return effective_config(config, self._settings_read)

    def note_used(self) -> None:
        """What `effective` returned last is the configuration of this process."""
        self._settings_used = self._settings_read

    async def follow_settings(self) -> None:
        """Raises StoreError."""
        stored = await self._store.settings.all()
        if stored != self._settings_used and await self._settled(requested=False):
            self._settings_used = stored

    async def follow_replicas(self) -> None:
        """Do here what another replica was ordered, and learn the accounts that it was named.
        Raises StoreError."""
        await self.follow_settings()
        last = await self._store.commands.last_reload(not_by=self._holder)
        seen = self._last_reload
        if seen is None or last <= seen or await self._settled(requested=True):
            self._last_reload = last
        await self._connections.learn_accounts(await self._store.facts.pinned_accounts())

    async def _settled(self, *, requested: bool) -> bool:
        """A store that failed meanwhile is tried again, a faulty configuration is not."""
        done, result = await self._reload({"requested": requested})
        return done or "faults" in result
