"""The members of a segment, sent to a platform."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from connector.domain.attention import Check
from connector.domain.errors import DeliveryError, Problem, Rejected
from connector.domain.lanes import QuotaUsage
from connector.domain.memberships import MembershipWrite
from connector.domain.outcomes import Accepted, Dead, Delivery, Outcome, Unsent
from connector.domain.settlement import REPEAT_HARMLESS, delivery_for
from connector.ports import (
    BatchMode,
    Clock,
    Member,
    MembershipResult,
    MembershipWriter,
    Outgoing,
    Quota,
)

Out = Outgoing[MembershipWrite]


class PlatformMembershipSink:
    """connector.ports.Sink of memberships over connector.ports.MembershipWriter. A change may be
    repeated without harm, so an ambiguous one is simply sent again."""

    def __init__(
        self,
        writer: MembershipWriter,
        check: Callable[[], Awaitable[Sequence[Check]]],
        clock: Clock,
        record_usage: Callable[[Sequence[QuotaUsage]], Awaitable[None]],
    ) -> None:
        self._writer = writer
        self._check = check
        self._clock = clock
        self._record_usage = record_usage
        self.single = BatchMode(writer.endpoint, size=writer.size, parallel=1)
        self.bulk: BatchMode | None = self.single

    @property
    def quota(self) -> Quota:
        return self._writer.quota

    async def deliver(
        self, batch: Sequence[Out], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        unsettled = [out.entry.seq for out in batch]
        async for delivery in self._send_all(batch[: permits * self._writer.size]):
            settled = {outcome.seq for outcome in delivery.outcomes}
            unsettled = [seq for seq in unsettled if seq not in settled]
            yield delivery
            if delivery.stop:
                break
        if unsettled:
            yield Delivery([Unsent(seq) for seq in unsettled])

    async def _send_all(self, batch: Sequence[Out]) -> AsyncIterator[Delivery]:
        for start in range(0, len(batch), self._writer.size):
            async for delivery in self._send(batch[start : start + self._writer.size]):
                yield delivery

    async def _send(self, batch: Sequence[Out]) -> AsyncIterator[Delivery]:
        """One call. A batch that the platform rejects as a whole is bisected, so that only the
        entries that it rejects alone are dead."""
        changes = [(_member(out.message), out.message.joins) for out in batch]
        try:
            results = await self._writer.update(batch[0].message.group, changes)
        except Rejected as error:
            if len(batch) == 1:
                yield delivery_for([batch[0].entry.seq], error, REPEAT_HARMLESS)
                return
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]):
                await self._acquire_permit(backfill=all(out.entry.backfill for out in part))
                async for delivery in self._send(part):
                    yield delivery
        except DeliveryError as error:
            yield delivery_for([out.entry.seq for out in batch], error, REPEAT_HARMLESS)
        else:
            pairs = zip(batch, results, strict=True)
            yield Delivery([_outcome(out.entry.seq, result) for out, result in pairs])

    async def _acquire_permit(self, *, backfill: bool) -> None:
        while True:
            grant = self.quota.reserve(self._writer.endpoint, 1, backfill=backfill)
            if grant.count:
                await self._record_usage(grant.usage)
                return
            await self._clock.sleep(grant.wait)

    def resumed(self) -> None: ...

    def preview(self, out: Out) -> tuple[str, bytes]:
        return self._writer.endpoint, b""

    async def check(self) -> Sequence[Check]:
        return await self._check()


def _member(write: MembershipWrite) -> Member:
    return Member(write.platform_id, write.email, write.profile_id)


def _outcome(seq: int, result: MembershipResult) -> Outcome:
    if result.status == "refused":
        return Dead(seq, result.problem or Problem.PLATFORM_REFUSED, result.detail)
    return Accepted(seq, "", confirmed=result.status == "confirmed")
