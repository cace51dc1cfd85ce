"""Event → person to read again → observation. Reads go the same road as deliveries: a lane, a
quota, an outcome for each; a platform that fails slows its own lane only."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b

from connector.errors import (
    Blocked,
    DeliveryError,
    Problem,
    Rejected,
    Wait,
)
from connector.mapping import CompiledMapping
from connector.model import (
    Check,
    Dead,
    Delivery,
    EmailChange,
    Entry,
    Fault,
    Gone,
    LaneId,
    Millis,
    Observation,
    Observed,
    OnLeave,
    Outcome,
    Retry,
    Skip,
    Stop,
    Unsent,
)
from connector.ports import Mode, Outgoing, Quota, Reader, Sight, Whom
from connector.states import changes_of

_WATCHED = 10
_TOO_MANY = 5
_NOT_THE_NEXT_PROBE = 300.0


def address_of(account: str, email: str) -> bytes:
    """16 bytes for a profile at its account: what one write at a time is about."""
    return blake2b(f"{account}\0{email}".encode(), digest_size=16).digest()


class PassThrough:
    """connector.ports.Renderer of reads: there is nothing to map on the way out."""

    version = ""

    async def prepare(self, entries: Sequence[Entry]) -> None: ...

    def render(self, entry: Entry) -> Entry | Skip | Fault:
        return entry


class Refresher:
    """connector.ports.Sink of reads: what it 'delivers' is observations.

    `lane` is the profile lane that the observations are for, `account` scopes its addresses.
    """

    bulk: Mode | None = None

    def __init__(
        self,
        reader: Reader,
        mapping: CompiledMapping,
        *,
        lane: LaneId,
        account: str,
        email_change: EmailChange,
        on_leave: OnLeave,
    ) -> None:
        self._reader = reader
        self._mapping = mapping
        self._lane = lane
        self._account = account
        self._email_change: EmailChange = email_change
        self._on_leave: OnLeave = on_leave
        self._known_found: deque[bool] = deque(maxlen=_WATCHED)
        self.single = Mode(reader.endpoint, size=1, parallel=reader.parallel)

    @property
    def quota(self) -> Quota:
        return self._reader.quota

    async def deliver(
        self, batch: Sequence[Outgoing[Entry]], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        tasks = [asyncio.create_task(self._read(out.entry)) for out in batch]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()

    async def _read(self, entry: Entry) -> Delivery:
        try:
            sight = await self._reader.read(self._whom(entry), self._mapping.reads)
        except DeliveryError as error:
            return _failed(entry.seq, error)
        if entry.data:
            self._known_found.append(sight is not None)
            if sight is None and self._known_found.count(False) > _TOO_MANY:
                problem = Problem.WRONG_PROGRAM
                # The next probe asks for another: this one may be gone for good.
                later = Retry(entry.seq, problem, _NOT_THE_NEXT_PROBE)
                return Delivery([later], stop=Stop("target", problem, problem.meaning))
        if sight is None:
            return Delivery([Gone(entry.seq, self._on_leave)])
        at = Millis(entry.occurred_at)
        seen = self.observation(
            entry.seq, sight, at=at, since=entry.received_at, backfill=entry.backfill
        )
        return Delivery([Observed(entry.seq, seen)])

    def _whom(self, entry: Entry) -> Whom:
        return Whom(
            person=entry.seq,
            platform_id=entry.unique_id or None,
            email=entry.email,
            view=entry.data,
            renew=entry.name == "renew",
            backfill=entry.backfill,
        )

    def observation(
        self, person: int, sight: Sight, *, at: Millis, since: Millis, backfill: bool = False
    ) -> Observation:
        """What the mapping makes of a sight that was asked for `at`, because of what came in
        `since`. A person without a usable address is observed too: he is held, and told once he
        has one."""
        identity = self._mapping.identify(sight.view)
        fault = identity if isinstance(identity, Fault) else None
        values = {} if isinstance(identity, Fault) else dict(identity.values)
        email = values.get("email")
        return Observation(
            person=person,
            view=sight.view,
            changes=changes_of(self._mapping.render_profile(sight.view, sight.covers)),
            identity=values,
            at=at,
            mapping=self._mapping.version,
            lane=self._lane,
            since=since,
            address=address_of(self._account, email) if email else None,
            email_change=self._email_change,
            problem=fault.problem if fault else None,
            email=email if self._reader.by_id else None,
            withheld="withheld" in sight.view,
            backfill=backfill,
        )

    def resumed(self) -> None:
        """A person says that they really left: none of them counts against the program now."""
        self._known_found.clear()

    def preview(self, out: Outgoing[Entry]) -> tuple[str, bytes]:
        return self._reader.endpoint, b""

    async def check(self) -> Sequence[Check]:
        return await self._reader.check()


def _failed(seq: int, error: DeliveryError) -> Delivery:
    """A read changes nothing, so whatever is not final is simply read again."""
    outcome: Outcome
    if isinstance(error, Blocked):
        return Delivery([Unsent(seq)], stop=Stop(error.scope, error.problem, error.detail))
    if isinstance(error, Rejected):
        outcome = Dead(seq, error.problem, error.detail)
    else:
        after = error.after if isinstance(error, Wait) else 0.0
        outcome = Retry(seq, error.problem, after, error.detail)
    return Delivery([outcome])
