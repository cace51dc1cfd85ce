"""What the store knows of the connections that are built together, read once for all of them.

With a query for each part of each connection a start takes as long as it has connections, squared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from connector.domain.lanes import Kind, Lane, LaneId, LaneState
from connector.domain.memberships import Group
from connector.mapping import CompiledMapping
from connector.ports import Clock, Store


class StoredFacts:
    """Accounts, lanes and groups as they were when `load` read them. Nothing else changes those of
    a connection while it is built: its lanes do not run, and whoever takes its lease later reads
    their states again."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._accounts: Mapping[str, str] = {}
        self._lanes: dict[tuple[str, str, str], Lane] = {}
        self._states: dict[LaneId, LaneState] = {}
        self._groups: dict[str, list[Group]] = {}
        self._mappings: set[str] = set()

    async def load(self) -> None:
        """Raises StoreError."""
        self._accounts = await self._store.facts.pinned_accounts()
        for lane, state in await self._store.lanes.all():
            self._lanes[lane.connection, lane.destination, lane.kind] = lane
            self._states[lane.id] = state
        for group in await self._store.member_groups.all():
            self._groups.setdefault(group.connection, []).append(group)

    def clear(self) -> None:
        """Once all are built: they refer to this for as long as they run, and three hundred that
        were built one by one would hold the lanes of all three hundred each."""
        self._accounts = {}
        for read in (self._lanes, self._states, self._groups):
            read.clear()

    def account(self, connection: str) -> str | None:
        """The Klaviyo account of the connection; None before its first contact."""
        return self._accounts.get(connection)

    def lanes(self) -> list[tuple[Lane, str | None]]:
        """All lanes, with the account of their connection."""
        return [(lane, self._accounts.get(lane.connection)) for lane in self._lanes.values()]

    def groups(self, connection: str) -> Sequence[Group]:
        """The groups that its links named before it was built."""
        return self._groups.get(connection, ())

    async def lane(self, connection: str, destination: str, kind: Kind) -> Lane:
        """The lane of this route, which is created where there is none. Raises StoreError."""
        route = (connection, destination, kind)
        if route not in self._lanes:
            self._lanes[route] = await self._store.lanes.ensure(connection, destination, kind)
        return self._lanes[route]

    def state(self, lane: Lane) -> LaneState:
        """The state of the lane; that of a new one where it has just been created."""
        return self._states.get(lane.id, LaneState())

    async def save_mapping(self, mapping: CompiledMapping) -> None:
        """Keep the text of the mapping. Raises StoreError, and then none of the connections may be
        used that were built beside this one."""
        if mapping.version not in self._mappings:
            self._mappings.add(mapping.version)
            now = self._clock.now()
            await self._store.facts.save_mapping(mapping.version, mapping.text, now=now)
