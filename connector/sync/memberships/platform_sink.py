"""Who is in a segment, told to a platform through its side of members."""

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
    """connector.ports.Sink of memberships over connector.ports.Members. Repeating a change is
    harmless there, so what may have been taken is simply told again."""

    def __init__(
        self,
        members: MembershipWriter,
        check: Callable[[], Awaitable[Sequence[Check]]],
        clock: Clock,
        record_usage: Callable[[Sequence[QuotaUsage]], Awaitable[None]],
    ) -> None:
        self._members = members
        self._check = check
        self._clock = clock
        self._record_usage = record_usage
        self.single = BatchMode(members.endpoint, size=members.size, parallel=1)
        self.bulk: BatchMode | None = self.single

    @property
    def quota(self) -> Quota:
        return self._members.quota

    async def deliver(
        self, batch: Sequence[Out], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        size = self._members.size
        for start in range(0, len(batch), size):
            if start >= permits * size:
                yield Delivery([Unsent(out.entry.seq) for out in batch[start:]])
                return
            async for delivery in self._send(batch[start : start + size]):
                yield delivery
                if delivery.stop:
                    yield Delivery([Unsent(out.entry.seq) for out in batch[start + size :]])
                    return

    async def _send(self, batch: Sequence[Out]) -> AsyncIterator[Delivery]:
        """One call; where the platform refuses it as a whole, its halves, until the bad ones stand
        alone."""
        changes = [(_member(out.message), out.message.joins) for out in batch]
        try:
            result = await self._members.update(batch[0].message.group, changes)
        except Rejected as error:
            if len(batch) == 1:
                yield delivery_for([batch[0].entry.seq], error, REPEAT_HARMLESS)
                return
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]):
                await self._acquire_permit()
                async for delivery in self._send(part):
                    yield delivery
        except DeliveryError as error:
            yield delivery_for([out.entry.seq for out in batch], error, REPEAT_HARMLESS)
        else:
            yield Delivery([_outcome(o.entry.seq, t) for o, t in zip(batch, result, strict=True)])

    async def _acquire_permit(self) -> None:
        while True:
            grant = self.quota.reserve(self._members.endpoint, 1)
            if grant.count:
                await self._record_usage(grant.usage)
                return
            await self._clock.sleep(grant.wait)

    def resumed(self) -> None: ...

    def preview(self, out: Out) -> tuple[str, bytes]:
        return self._members.endpoint, b""

    async def check(self) -> Sequence[Check]:
        return await self._check()


def _member(write: MembershipWrite) -> Member:
    return Member(write.platform_id, write.email, write.profile_id)


def _outcome(seq: int, result: MembershipResult) -> Outcome:
    if result.status == "refused":
        return Dead(seq, result.problem or Problem.PLATFORM_REFUSED, result.detail)
    return Accepted(seq, "", confirmed=result.status == "confirmed")
