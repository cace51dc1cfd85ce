"""Removing a field from many people at once, because a mapping changed or a value is gone: it waits
for approval where live flows may depend on it (guarantee 9).

The profile lane counts the people who lose each field. Where they are too many, the store leaves
the field out of further writes (connector.domain.unsets), everything else of these people is
written, and the flow guard asks a person.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from connector.domain.approvals import DEFAULT_SHARE, MASS_UNSET
from connector.domain.attention import AttentionItem
from connector.domain.errors import DeliveryError, Problem
from connector.domain.lanes import LaneId
from connector.domain.messages import Fault, Skip
from connector.domain.profile_state import write_from_json
from connector.domain.profiles import ProfileWrite
from connector.domain.records import Entry
from connector.ports import AffectedResources, Clock, Renderer, UnsetFields
from connector.runtime import log
from connector.runtime.failures import FailureStreak
from connector.sync.flow_guard import FlowGuard

_SETTLE_SECONDS = 30.0
"""How long the people are counted before a person is asked about them."""
_WAITING_SECONDS, _REJECTED_SECONDS = 60.0, 600.0


class CountingRenderer:
    """connector.ports.Renderer of profile writes that counts who loses which field before they are
    sent. `on_held` is called when further removals of a field wait."""

    def __init__(
        self,
        inner: Renderer[ProfileWrite],
        lane: LaneId,
        unset_fields: UnsetFields,
        clock: Clock,
        *,
        on_held: Callable[[], None],
    ) -> None:
        self._inner = inner
        self._lane = lane
        self._unset_fields = unset_fields
        self._clock = clock
        self._on_held = on_held
        self._earlier_writes = 0

    @property
    def version(self) -> str:
        return self._inner.version

    async def prepare(self, entries: Sequence[Entry]) -> None:
        unsets: Counter[str] = Counter()
        for entry in entries:
            write = write_from_json(entry.data)
            if not (write.is_cleanup or write.pending_move):
                unsets.update(write.unsets)
        if not unsets:
            self._earlier_writes += len(entries)
        elif await self._note(unsets, len(entries)):
            self._on_held()
        await self._inner.prepare(entries)

    async def _note(self, unsets: Mapping[str, int], writes: int) -> Sequence[str]:
        earlier_writes, self._earlier_writes = self._earlier_writes, 0
        return await self._unset_fields.note(
            self._lane,
            unsets,
            writes=writes,
            earlier_writes=earlier_writes,
            now=self._clock.now(),
        )

    def render(self, entry: Entry) -> ProfileWrite | Skip | Fault:
        return self._inner.render(entry)


class MassUnsetWorker:
    """connector.ports.workers.Loop that asks about the fields whose removal waits, and releases
    them. `on_released` is called when the lane can send more."""

    def __init__(
        self,
        lane: LaneId,
        mapping: str,
        unset_fields: UnsetFields,
        guard: FlowGuard,
        clock: Clock,
        *,
        on_released: Callable[[], None],
    ) -> None:
        self._lane = lane
        self._mapping = mapping
        self._unset_fields = unset_fields
        self._guard = guard
        self._clock = clock
        self._on_released = on_released
        self.wakeup = asyncio.Event()
        self._ask_at: dict[str, float] = {}
        self._log = log.get("mass_unset")
        self._failures = FailureStreak(self._log, "mass_unset_unchecked", "mass_unset_checked")

    def wake(self) -> None:
        self.wakeup.set()

    async def idle(self) -> bool:
        """True: what waits for a person is no work that is due."""
        return True

    async def attention(self) -> Sequence[AttentionItem]:
        """Nothing: approvals are listed by the store."""
        return ()

    async def run_once(self) -> float | None:
        """Seconds until the next pass; None where no removal waits."""
        held = await self._unset_fields.held(self._lane)
        self._ask_at = {field: at for field, at in self._ask_at.items() if field in held}
        waits = []
        for field, people in held.items():
            try:
                waits.append(await self._check(field, people))
            except DeliveryError as error:
                self._failures.record(error.detail, problem=error.problem.value)
                waits.append(_WAITING_SECONDS)
            else:
                self._failures.clear()
        return min(waits, default=None)

    async def _check(self, field: str, people: int) -> float:
        now = self._clock.monotonic()
        ask_at = self._ask_at.setdefault(field, now + _SETTLE_SECONDS)
        if now < ask_at:
            return ask_at - now
        affected, mapping = AffectedResources(fields=True), self._mapping
        verdict = await self._guard(MASS_UNSET, field, people, affected, mapping=mapping)
        if verdict != "allowed":
            return _WAITING_SECONDS if verdict == "waiting" else _REJECTED_SECONDS
        allowed = people + round(people * DEFAULT_SHARE)
        released = await self._unset_fields.release(
            self._lane, field, allowed=allowed, now=self._clock.now()
        )
        await self._guard.close_request(MASS_UNSET, field)
        del self._ask_at[field]
        self._log.info("mass_unset_released", people=released, meaning=Problem.MASS_UNSET.meaning)
        self._on_released()
        return _WAITING_SECONDS
