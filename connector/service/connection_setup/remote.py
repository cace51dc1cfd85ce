"""What a person chooses from at both sides: audiences, lists and segments by name, read when they
look, and what linking two of them would mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from connector.domain.errors import Blocked, ConnectorError, DeliveryError
from connector.ports import AffectedResources, Clock
from connector.service.runtime import ConnectionRuntime, RemoteDirectory
from connector.sync.flow_guard import FLOWS_UNKNOWN
from connector.sync.group_names import offer

_FRESH = 60.0
_WAIT = 4.0
"""Seconds that a page waits for names; those that come later appear by themselves."""
_COUNT_LIMIT = 2_000
"""People of an audience that are counted before a person decides."""


@dataclass(slots=True)
class Names:
    """Id → name. `complete` is False while further pages are read; `fault` says why there are
    none."""

    names: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    fault: str = ""

    @property
    def sorted(self) -> list[tuple[str, str]]:
        """(id, name) by name."""
        return sorted(self.names.items(), key=lambda item: item[1].casefold())


@dataclass(frozen=True, slots=True)
class LinkPreview:
    """What linking would mean, before it is done. `here` people are in the source, or at least
    that many if `more`; `there` are on the list now, None where the list does not exist yet or
    Klaviyo does not say. `flows` are the live flows that a join starts, or why they are unknown.
    `near` are names like that of a source that does not exist."""

    source: str
    target: str
    here: int | None = None
    more: bool = False
    there: int | None = None
    exists: bool = False
    flows: Sequence[str] | str = ()
    faults: Sequence[str] = ()
    near: Sequence[str] = ()


class RemoteNames:
    """Names by connection, kept for a minute. `on_read` is called when a slow reading has ended."""

    def __init__(
        self,
        runtimes: Mapping[str, ConnectionRuntime],
        clock: Clock,
        on_read: Callable[[], None],
    ) -> None:
        self._runtimes = runtimes
        self._clock = clock
        self._on_read = on_read
        self._known: dict[tuple[str, str], tuple[object, float, Names]] = {}
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def audiences(self, connection: str) -> Names:
        return await self._read(connection, "audience")

    async def lists(self, connection: str) -> Names:
        return await self._read(connection, "list")

    async def segments(self, connection: str) -> Names:
        return await self._read(connection, "segment")

    async def _read(self, connection: str, kind: str) -> Names:
        runtime = self._runtimes.get(connection)
        directory = runtime.directory if runtime else None
        if directory is None:
            return Names(fault="the connection does not run here")
        key, now = (connection, kind), self._clock.monotonic()
        of, at, names = self._known.get(key, (None, 0.0, Names()))
        if of is not runtime or now - at > _FRESH:
            names = Names()
            self._known[key] = (runtime, now, names)
            if task := self._tasks.pop(key, None):
                task.cancel()
            self._tasks[key] = asyncio.create_task(self._collect(directory, kind, names))
        await asyncio.wait({self._tasks[key]}, timeout=_WAIT)
        return names

    async def _collect(self, directory: RemoteDirectory, kind: str, names: Names) -> None:
        began = self._clock.monotonic()
        try:
            async for page in _pages(directory, kind):
                names.names.update(page)
        except ConnectorError as error:
            names.fault = error.detail
        names.complete = True
        if self._clock.monotonic() - began > _WAIT:
            self._on_read()


async def _pages(directory: RemoteDirectory, kind: str) -> AsyncIterator[Mapping[str, str]]:
    if kind == "audience":
        if directory.audiences is not None:
            yield await directory.audiences.names()
        return
    async for page in directory.groups.all("list" if kind == "list" else "segment"):
        yield page


async def preview_audience(directory: RemoteDirectory, audience: str, list_: str) -> LinkPreview:
    """What keeping this audience as this list would mean. Changes nothing."""
    faults: list[str] = []
    near: Sequence[str] = ()
    here: int | None = None
    more, there, exists = False, None, False
    flows: Sequence[str] | str = ()
    try:
        ids = await _audience_ids(directory, audience)
        if len(ids) == 1:
            here, more = await _count_audience(directory, ids[0])
        else:
            fault, near = await _not_one(directory, "audience", audience, ids)
            faults.append(fault)
    except DeliveryError as error:
        faults.append(f"audience {audience}: {error.detail}")
    try:
        found = await directory.groups.find("list", list_)
        if len(found) > 1:
            fault, _ = await _not_one(directory, "list", list_, found)
            faults.append(fault)
        elif found:
            [id] = found
            exists, there = True, await directory.groups.count("list", id)
            flows = await _flows(directory, AffectedResources(lists=frozenset({id})))
    except DeliveryError as error:
        faults.append(f"list {list_}: {error.detail}")
    return LinkPreview(audience, list_, here, more, there, exists, flows, faults, near)


async def preview_segment(directory: RemoteDirectory, segment: str, target: str) -> LinkPreview:
    """What sending this segment to the platform would mean. Changes nothing."""
    try:
        found = await directory.groups.find("segment", segment)
        if len(found) != 1:
            fault, near = await _not_one(directory, "segment", segment, found)
            return LinkPreview(segment, target, faults=[fault], near=near)
        [id] = found
        here = await directory.groups.count("segment", id)
    except DeliveryError as error:
        return LinkPreview(segment, target, faults=[f"segment {segment}: {error.detail}"])
    return LinkPreview(segment, target, here=here, exists=True)


async def _not_one(
    directory: RemoteDirectory, kind: str, name: str, ids: Collection[str]
) -> tuple[str, Sequence[str]]:
    """What is wrong with a name that not exactly one group has, and the names that are like it."""
    if ids:
        listed = ", ".join(sorted(ids))
        return f"{kind} {name}: {len(ids)} have this name: give one of the ids {listed}", []
    instead = await offer(name, _pages(directory, kind))
    return f"there is no {kind} {name}{instead.text}", instead.near


async def _audience_ids(directory: RemoteDirectory, audience: str) -> list[str]:
    names = await directory.audiences.names() if directory.audiences else {}
    return [id for id, name in names.items() if audience in (id, name)]


async def _count_audience(directory: RemoteDirectory, id: str) -> tuple[int, bool]:
    """How many people are in it, and whether there are more."""
    assert directory.audiences is not None
    count, cursor = 0, None
    while True:
        page = await directory.audiences.members(id, cursor)
        count += len(page.members)
        if not page.more or count >= _COUNT_LIMIT:
            return count, page.more
        cursor = page.cursor


async def _flows(directory: RemoteDirectory, affected: AffectedResources) -> Sequence[str] | str:
    try:
        return sorted(await directory.flows.live(affected))
    except Blocked as error:
        if error.status != 403:
            raise
        return FLOWS_UNKNOWN
