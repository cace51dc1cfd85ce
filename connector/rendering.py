"""From a stored record to a message: the platform's view, then the mapping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from connector.errors import ConfigError, Problem
from connector.mapping import CompiledMapping, compile_mapping
from connector.model import Entry, EventMessage, Fault, Skip
from connector.ports import Memory

EventView = Callable[[str, int, dict[str, Any], str | None], dict[str, Any]]
"""(name, occurred at in ms, the source's JSON, address) → the platform's documented view."""


class EventRenderer:
    """connector.ports.Renderer of events.

    What may have been applied already is rendered with the mapping version it was first sent
    with: another metric name or identity would make a second event of it.
    """

    def __init__(self, mapping: CompiledMapping, view: EventView, memory: Memory | None) -> None:
        self._mapping = mapping
        self._view = view
        self._memory = memory
        self._older: dict[str, CompiledMapping] = {}

    @property
    def version(self) -> str:
        return self._mapping.version

    async def prepare(self, entries: Sequence[Entry]) -> None:
        known = {self.version, *self._older}
        if self._memory is None:
            return
        for version in {e.mapping for e in entries if e.solo and e.mapping} - known:
            text = await self._memory.mapping(version)
            if text is not None:
                try:
                    self._older[version] = compile_mapping(text, origin=f"version {version}")
                except ConfigError:
                    # Only a newer program refuses what an older one took: today's words then.
                    self._older[version] = self._mapping

    def render(self, entry: Entry) -> EventMessage | Skip | Fault:
        mapping = self._mapping
        if entry.solo and entry.mapping:
            mapping = self._older.get(entry.mapping, mapping)
        try:
            view = self._view(entry.name, entry.occurred_at, orjson.loads(entry.data), entry.email)
            return mapping.render_event(
                view, unique_id=entry.unique_id, occurred_at=entry.occurred_at
            )
        except Exception as error:
            # One record must not stop its lane, whatever is wrong with it or with a plug-in.
            return Fault(Problem.MAPPING_FAILED, f"{type(error).__name__} while rendering")
