"""Whether a changed mapping would render records that an earlier one could not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from connector.domain.errors import Problem
from connector.domain.messages import Fault, Skip
from connector.domain.records import Entry
from connector.ports import Clock, DeadLetterFilter, DeadLetters
from connector.runtime.concurrency import in_turns
from connector.service.runtime import ConnectionRuntime, Rendered, Rendering

CAUSES: Final = frozenset(
    (Problem.MAPPING_FAILED, Problem.UNKNOWN_EVENT, Problem.METRIC_NAME, Problem.TIME_OUT_OF_RANGE)
)
"""Problems that rendering alone decides: no remote API was asked."""
SAMPLE: Final = 500
_LIFE = 10.0
"""Seconds for which a result is given out, however many pages show it."""


@dataclass(frozen=True, slots=True)
class MappingTrial:
    """What the present mapping makes of records that died with one cause: of the newest `checked`
    of `total`, `passing` would be sent and `skipped` left out by a rule; all others would fail
    again."""

    connection: str
    cause: str
    total: int
    checked: int
    passing: int
    skipped: int

    @property
    def sampled(self) -> bool:
        return self.checked < self.total


class MappingTrials:
    """Renders dead letters and sends nothing. `runtimes` are those of this process."""

    def __init__(
        self, letters: DeadLetters, clock: Clock, runtimes: Mapping[str, ConnectionRuntime]
    ) -> None:
        self._letters = letters
        self._clock = clock
        self._runtimes = runtimes
        self._found: dict[tuple[str, str, str], tuple[float, MappingTrial | None]] = {}

    async def of_cause(self, connection: str, cause: str) -> MappingTrial | None:
        """None unless a mapping was changed since records with this cause were rendered, or where
        the connection does not run here. Raises StoreError."""
        runtime = self._runtimes.get(connection)
        if runtime is None or runtime.render is None or cause not in CAUSES:
            return None
        key, now = (connection, cause, runtime.mapping), self._clock.monotonic()
        known = self._found.get(key)
        if known is None or now - known[0] >= _LIFE:
            known = now, await self._try(runtime, runtime.render, cause)
            self._found = {k: v for k, v in self._found.items() if now - v[0] < _LIFE}
            self._found[key] = known
        return known[1]

    async def _try(
        self, runtime: ConnectionRuntime, render: Rendering, cause: str
    ) -> MappingTrial | None:
        which = DeadLetterFilter(connection=runtime.name, cause=cause)
        entries = await self._letters.entries(which, limit=SAMPLE)
        changed = [entry for entry in entries if entry.mapping != runtime.mapping]
        if not changed:
            return None
        passing = skipped = 0
        async for part in in_turns(changed):
            for result in await render(part):
                skipped += isinstance(result, Skip)
                passing += not isinstance(result, Skip | Fault)
        total = await self._letters.count(which)
        checked = len(entries)
        return MappingTrial(runtime.name, cause, max(total, checked), checked, passing, skipped)

    async def of_record(self, connection: str, entry: Entry) -> Rendered | None:
        """The EventMessage, Skip or Fault that the present mapping makes of one record; None where
        the connection does not run here, or the record is not an event."""
        runtime = self._runtimes.get(connection)
        if runtime is None or runtime.render is None:
            return None
        [result] = await runtime.render([entry])
        return result
