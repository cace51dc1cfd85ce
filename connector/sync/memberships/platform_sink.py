"""Who is in a segment, told to a platform through its side of members."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from connector.domain.attention import (
    Check,
)
from connector.domain.errors import Blocked, DeliveryError, Problem, Rejected, Wait
from connector.domain.lanes import (
    Spend,
)
from connector.domain.memberships import (
    MembershipWrite,
)
from connector.domain.outcomes import (
    Accepted,
    Dead,
    Delivery,
    Doubt,
    Outcome,
    Retry,
    Stop,
    Unsent,
)
from connector.ports import Clock, Member, Members, Mode, Outgoing, Quota, Told

Out = Outgoing[MembershipWrite]


class Teller:
    """connector.ports.Sink of memberships over connector.ports.Members. Repeating a change is
    harmless there, so what may have been taken is simply told again."""

    def __init__(
        self,
        members: Members,
        check: Callable[[], Awaitable[Sequence[Check]]],
        clock: Clock,
        remember: Callable[[Sequence[Spend]], Awaitable[None]],
    ) -> None:
        self._members = members
        self._check = check
        self._clock = clock
        self._remember = remember
        self.single = Mode(members.endpoint, size=members.size, parallel=1)
        self.bulk: Mode | None = self.single

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
            async for delivery in self._call(batch[start : start + size]):
                yield delivery
                if delivery.stop:
                    yield Delivery([Unsent(out.entry.seq) for out in batch[start + size :]])
                    return

    async def _call(self, batch: Sequence[Out]) -> AsyncIterator[Delivery]:
        """One call; where the platform refuses it as a whole, its halves, until the bad ones stand
        alone."""
        changes = [(_member(out.message), out.message.joins) for out in batch]
        try:
            told = await self._members.tell(batch[0].message.group, changes)
        except Rejected as error:
            if len(batch) == 1:
                yield Delivery([Dead(batch[0].entry.seq, error.problem, error.detail)])
                return
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]):
                await self._permit()
                async for delivery in self._call(part):
                    yield delivery
        except DeliveryError as error:
            yield _failed([out.entry.seq for out in batch], error)
        else:
            yield Delivery([_outcome(o.entry.seq, t) for o, t in zip(batch, told, strict=True)])

    async def _permit(self) -> None:
        while True:
            grant = self.quota.reserve(self._members.endpoint, 1)
            if grant.count:
                await self._remember(grant.spend)
                return
            await self._clock.sleep(grant.wait)

    def resumed(self) -> None: ...

    def preview(self, out: Out) -> tuple[str, bytes]:
        return self._members.endpoint, b""

    async def check(self) -> Sequence[Check]:
        return await self._check()


def _member(write: MembershipWrite) -> Member:
    return Member(write.platform_id, write.email, write.profile)


def _outcome(seq: int, told: Told) -> Outcome:
    if told.word == "refused":
        return Dead(seq, told.problem or Problem.PLATFORM_REFUSED, told.detail)
    return Accepted(seq, "", confirmed=told.word == "confirmed")


def _failed(seqs: Sequence[int], error: DeliveryError) -> Delivery:
    if isinstance(error, Blocked):
        stop = Stop(error.scope, error.problem, error.detail)
        return Delivery([Unsent(seq) for seq in seqs], stop=stop)
    if isinstance(error, Wait):
        return Delivery([Retry(seq, error.problem, error.after, error.detail) for seq in seqs])
    return Delivery([Doubt(seq, error.problem, 0.0, error.detail) for seq in seqs])
