"""Time, and the ports of the store: each is small and one intent wide, every method is one
transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from connector.errors import Problem
from connector.model import (
    Added,
    Appended,
    Call,
    Checkpoint,
    Claim,
    Conflict,
    Entry,
    Group,
    Kind,
    Lane,
    LaneId,
    LaneState,
    Link,
    Millis,
    Observation,
    Outcome,
    Page,
    ProfileWrite,
    Request,
    Spend,
    State,
)

if TYPE_CHECKING:
    from connector.ports.platforms import Member, MembersPage


class Clock(Protocol):
    """Time, injected: no other module asks the system what time it is."""

    def now(self) -> Millis:
        """Wall clock, ms since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def wait(self, event: asyncio.Event, timeout: float | None) -> bool:
        """True when `event` was set within `timeout` seconds (None: for ever)."""
        ...


# ── the store ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ready:
    """What a lane could take now, live traffic and backfills apart. Counts stop at the limit that
    was asked for. `next_due` is when the earliest record that is not ready yet becomes so."""

    fresh: int
    solo: int
    next_due: Millis | None
    backfill_fresh: int = 0
    backfill_solo: int = 0

    def count(self, *, solo: bool, backfill: bool) -> int:
        if backfill:
            return self.backfill_solo if solo else self.backfill_fresh
        return self.solo if solo else self.fresh

    @property
    def any(self) -> bool:
        return bool(self.fresh or self.solo or self.backfill_fresh or self.backfill_solo)


@dataclass(frozen=True, slots=True)
class Fence:
    """Proof of a lease: a store call that carries a fence of a lost lease changes nothing and
    raises StoreError(STORE_HELD)."""

    resource: str
    holder: str
    token: int


class Queue(Protocol):
    """Entries that a lane takes out, one holder at a time."""

    async def ready(self, lane: LaneId, *, now: Millis, limit: int) -> Ready: ...

    async def claim(
        self,
        lane: Lane,
        fence: Fence,
        *,
        now: Millis,
        limit: int,
        solo: bool,
        mapping: str,
        spend: Sequence[Spend] = (),
        backfill: bool | None = None,
    ) -> Claim | None:
        """Mark up to `limit` ready entries as sent by this holder, live before backfill, oldest
        first; the spend of quota is saved with it. None when nothing was ready. `backfill`: only
        those of backfills, or only the others.

        An entry in doubt keeps the mapping version it was first sent with.
        """
        ...

    async def settle(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        now: Millis,
        requests: Sequence[Request] = (),
        horizon: int,
    ) -> int:
        """Write outcomes; returns how many entries changed.

        Only entries that this claim still holds change: a late or second settle changes nothing.
        A Retry whose first failure is `horizon` ms ago or longer becomes a dead letter.
        """
        ...

    async def recover(self, fence: Fence, *, now: Millis) -> int:
        """Entries claimed by holders that are gone go back in doubt; returns how many."""
        ...

    async def extend(self, lane: LaneId, pause: int) -> int:
        """Push the retry horizon of a lane's entries back by `pause` ms: time in a pause does not
        count. Returns how many entries were retrying."""
        ...


@dataclass(frozen=True, slots=True)
class FreshView:
    """A person's newest view, when its read was sent, and whether a write of his profile is in
    flight (then no other write may carry his fields)."""

    view: Mapping[str, Any]
    at: Millis
    writing: bool


@dataclass(frozen=True, slots=True)
class Sighting:
    """A person as a listing shows him: `person` is the platform's id. The observation has no
    number of a person yet; `covers` are the words of its view that the listing could show."""

    person: str | None
    email: str | None
    observation: Observation
    covers: frozenset[str]


class Reads(Queue, Protocol):
    """People to read again at their platform. Settling takes Observed and Gone, and lets the
    events that waited for a person go; what was asked for while a read was under way is read
    once more after it."""

    async def ask(
        self,
        lane: LaneId,
        who: Mapping[int, Millis],
        *,
        gap: int = 0,
        backfill: bool = False,
        first: bool = False,
    ) -> None:
        """Have people read again: person → since when. Not before `gap` ms after the last read;
        `first`: before everybody else."""
        ...

    async def take_in(
        self,
        lane: Lane,
        seen: Sequence[Sighting],
        *,
        now: Millis,
        checkpoint: Checkpoint | None = None,
    ) -> Sequence[int]:
        """Observe listed people, each with an id or an address, and keep the cursor, in one
        transaction; their numbers. Reads that are asked for are still made."""
        ...

    async def fresh(self, people: Sequence[int]) -> Mapping[int, FreshView]: ...


@dataclass(frozen=True, slots=True)
class OpenReceipt:
    """An import job that holds writes in flight. An empty id: a job that may exist."""

    id: str
    since: Millis
    people: int


class Receipted(Queue, Protocol):
    """A queue whose entries an import job may hold in flight until its receipt is closed."""

    async def receipts(self, lane: LaneId) -> Sequence[OpenReceipt]: ...

    async def close_receipt(
        self,
        lane: LaneId,
        receipt: str,
        *,
        now: Millis,
        failed: Mapping[int, tuple[Problem, str]],
    ) -> int:
        """The job is over: `failed` by position die, the others are confirmed."""
        ...

    async def doubt_receipt(self, lane: LaneId, receipt: str, *, now: Millis) -> int:
        """Nobody will say what became of it: all that it held is told again."""
        ...

    async def open_jobs(self) -> set[str]:
        """Receipts that hold writes in flight, of all lanes of all such queues."""
        ...


class Profiles(Receipted, Protocol):
    """People as states at the destination: promise 5. One write per address is in flight at a
    time, whatever the lane; Pending keeps it in flight until its receipt is closed."""

    async def start_anew(self, lane: LaneId, *, now: Millis) -> int:
        """Forget what was confirmed: the lane belongs to another account from now on."""
        ...

    async def end_shadow(self, lane: LaneId, *, now: Millis) -> int:
        """The lane sends from now on: whoever was passed over is told, at backfill priority; how
        many they are."""
        ...

    async def outdated(self, lane: LaneId, mapping: str) -> int:
        """How many people were rendered with another mapping version."""
        ...


@dataclass(frozen=True, slots=True)
class Leaving:
    """How many people a sync would take off a target, `of` how many who should be on it."""

    count: int
    of: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A target in numbers: who should be on it (`here`), who is as far as we know (`there`), in
    `both`, whose change waits to be told (`waiting`), was told and not confirmed (`unsure`), whom
    somebody took off by hand (`removed`), and whom nobody of ours put there (`foreign`)."""

    here: int
    there: int
    both: int
    waiting: int
    unsure: int
    removed: int
    foreign: int


class Memberships(Receipted, Protocol):
    """People as members of lists and tags: promises 5 and 6. One write of a membership is in
    flight at a time, so a leave never crosses a join; a leave is a `solo` entry.

    Who should be on a target is the union of what its sources' last complete scans showed, of what
    was pushed since, and of whom a scan that still runs has found; only a complete scan, applied,
    makes anybody leave."""

    async def link(self, lane: Lane, links: Sequence[Link], *, account: str) -> None:
        """The lane's links are these from now on. `account` is where people are told apart."""
        ...

    async def groups(self, connection: str | None = None) -> Sequence[Group]:
        """Those that are configured, a target before its sources."""
        ...

    async def found(self, group: int, far_id: str, title: str, *, now: Millis) -> None:
        """The far end knows the group by this id; who waited for that may be told again."""
        ...

    async def lost(self, group: int) -> None:
        """Its id is not good any more: it is looked up by its name anew."""
        ...

    async def failing(self, group: int, problem: Problem | None, detail: str = "") -> None:
        """Why the group cannot be read or kept now; None: it can."""
        ...

    async def begin(self, group: int, fence: Fence, *, now: Millis) -> Group:
        """A scan from the start; what an unfinished one had is not counted."""
        ...

    async def stage(
        self,
        group: int,
        page: MembersPage,
        fence: Fence,
        *,
        asked_at: Millis,
        now: Millis,
        greets: bool = False,
        without_address: int = 0,
    ) -> Group:
        """A page of a source's scan, with its cursor: whom it names is a member now, unless a
        newer word says otherwise. The last page completes the scan. With `greets` those who
        joined are kept for `to_greet`. Members have addresses, in lower case."""
        ...

    async def read_back(
        self, group: int, page: MembersPage, fence: Fence, *, asked_at: Millis, now: Millis
    ) -> Group:
        """A page of a list as it is, with its cursor. What was told after the page was asked for
        counts more."""
        ...

    async def compare(self, target: int, *, re_add: bool, now: Millis) -> int:
        """After a complete read-back: members who should be there and are not were taken off by
        hand, and are put back if `re_add`; returns how many of them there are now."""
        ...

    async def leaving(self, source: int) -> Leaving:
        """What `apply` would take off the source's target."""
        ...

    async def apply(self, source: int, *, now: Millis) -> int:
        """Whom the last complete scan did not find leaves; returns how many are taken off."""
        ...

    async def repeat(self, target: int, *, now: Millis) -> int:
        """Tell again what was taken and not confirmed, after everything else."""
        ...

    async def open(self, target: int, *, now: Millis) -> int:
        """The target may be told from now on; returns how many wait for that."""
        ...

    async def dismiss(self, target: int, *, now: Millis) -> int:
        """Foreign members leave."""
        ...

    async def standing(self, target: int) -> Standing: ...

    async def to_greet(self, source: int, *, limit: int) -> Sequence[Member]:
        """Who joined and was not greeted, in the order of their addresses."""
        ...

    async def greeted(self, source: int, emails: Sequence[str]) -> None: ...

    async def try_again(self, lane: LaneId, states: Sequence[State], *, now: Millis) -> int:
        """What ended in one of these states is ready again."""
        ...

    async def forget_account(self, connection: str, *, now: Millis) -> None:
        """Klaviyo's side is another account from now on: its ids and what it was told is gone."""
        ...


class Outbox(Queue, Protocol):
    """Records between receipt and receipt: promises 1, 2 and 10."""

    async def append(self, pages: Sequence[Page]) -> Sequence[Appended]:
        """Store all pages with their checkpoints in one transaction; one answer per page.

        A record known by its key is a duplicate and changes nothing. One without an address is
        completed from its person where that person has been seen, else held; a page that brings a
        person's address releases what was held for that person.
        """
        ...

    async def forget_timeline(self, *, before: Millis, limit: int) -> int:
        """Forget what only timelines need: requests, the journal, orders that are done. At most
        `limit` of each; returns how many in all."""
        ...

    async def empty_bodies(self, *, before: Millis, after: int, limit: int) -> int | None:
        """Forget the bodies of settled records received before then, looking at `limit` records
        after number `after`; returns where to go on, None at the end. Their ids stay known."""
        ...

    async def prune(self, *, now: Millis, keep: Mapping[State, int], limit: int) -> int:
        """Forget settled records older than `keep[state]` ms, at most `limit`; returns how many.
        What is ready, claimed or not named in `keep` stays."""
        ...


@dataclass(frozen=True, slots=True)
class Letter:
    """A held or dead record as a person sees it: no address in it."""

    id: int
    connection: str
    destination: str
    kind: Kind
    state: State
    name: str
    unique_id: str
    problem: str
    detail: str
    attempts: int
    received_at: Millis
    settled_at: Millis | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A record whole, for a person who asked for this one."""

    letter: Letter
    entry: Entry
    request: Request | None


class DeadLetters(Protocol):
    """Records that ended badly or wait for a person. Nothing leaves except by an order."""

    async def groups(self) -> Sequence[tuple[str, State, str, int]]:
        """(connection, state, problem code, how many), most first."""
        ...

    async def find(
        self, *, problem: str | None = None, connection: str | None = None, limit: int = 100
    ) -> Sequence[Letter]: ...

    async def show(self, id: int) -> Stored | None: ...

    async def retry(
        self,
        *,
        ids: Sequence[int] = (),
        problem: str | None = None,
        every: bool = False,
        now: Millis,
    ) -> int:
        """Put dead letters back in line with the same unique id; returns how many."""
        ...

    async def discard(self, ids: Sequence[int], *, reason: str, now: Millis) -> int: ...


class Lanes(Protocol):
    """The roads out and whether they run."""

    async def ensure(self, connection: str, destination: str, kind: Kind) -> Lane: ...

    async def all(self) -> Sequence[tuple[Lane, LaneState]]: ...

    async def set_state(self, lane: LaneId, state: LaneState) -> None: ...


@dataclass(frozen=True, slots=True)
class Backlog:
    """A lane at one instant. `oldest` is when its oldest undelivered record was received."""

    lane: Lane
    state: LaneState
    ready: int
    claimed: int
    held: int
    dead: int
    oldest: Millis | None


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of a person's timeline: what (`event`, `read`, `write`), where it stands, why, and
    the request that carried it. `data` is the source's record or the fields written, as JSON."""

    at: Millis
    what: str
    name: str
    state: str
    problem: str | None
    detail: str
    data: bytes | None
    request: Request | None


@dataclass(frozen=True, slots=True)
class PersonState:
    """A person as the store knows him: `wanted` and `confirmed` as connector.states has them."""

    id: int
    platform_id: str | None
    email: str | None
    read_state: str | None
    read_at: Millis | None
    gone_at: Millis | None
    write_state: str | None
    problem: str | None
    wanted: Mapping[str, Any]
    confirmed: Mapping[str, Any]
    moments: Sequence[Moment]


class Insight(Protocol):
    """Read-only views for status, metrics and timelines."""

    async def people(self, connection: str, who: str) -> Sequence[int]:
        """Numbers of the people with this platform id or address."""
        ...

    async def person(self, id: int, limit: int) -> PersonState:
        """One person with the newest `limit` moments, oldest first."""
        ...

    async def backlog(self) -> Sequence[Backlog]: ...

    async def dead_by_cause(self) -> Sequence[tuple[str, str, int]]:
        """(connection, problem code, dead letters)."""
        ...

    async def population(self) -> Mapping[tuple[str, str], int]:
        """(connection, `known` | `held` | `gone`) → people: those with an address, those who wait
        for one, and those whom the platform no longer knows (who are counted nowhere else)."""
        ...

    async def streams(self) -> Sequence[tuple[str, str, str, Millis]]:
        """(connection, stream, cursor, saved at)."""
        ...

    async def recent_requests(self, limit: int) -> Sequence[tuple[str, str, Request]]:
        """(connection, destination, request), newest first."""
        ...

    async def latencies(self, lane: LaneId, limit: int) -> Sequence[int]:
        """ms from receipt to acceptance of the newest accepted records."""
        ...

    async def write_latencies(self, limit: int) -> Sequence[int]:
        """ms from the receipt of what asked for it to the acceptance of people's last writes."""
        ...


class Checkpoints(Protocol):
    """Cursors of streams. They are saved only with what they stand for: Outbox.append,
    Reads.take_in."""

    async def load(self, connection: str, stream: str) -> Checkpoint | None: ...


class Memory(Protocol):
    """Small durable facts that the loops need after a restart."""

    async def spent(self, *, since_second: int) -> Sequence[Spend]: ...

    async def remember_spend(self, spend: Sequence[Spend]) -> None: ...

    async def remember_mapping(self, version: str, text: str, *, now: Millis) -> None:
        """Keep the text of a mapping version for as long as an entry in doubt names it."""
        ...

    async def mapping(self, version: str) -> str | None: ...

    async def pinned(self, connection: str) -> str | None:
        """The account this connection belongs to, None before its first contact."""
        ...

    async def pin_account(self, connection: str, account: str, *, anew: bool = False) -> str:
        """The account this connection belongs to: `account` at first contact or `anew`, else
        what it was."""
        ...


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease, and until when."""

    holder: str
    expires_at: Millis


class Leases(Protocol):
    """At most one holder per resource: promise 12."""

    async def acquire(
        self, resource: str, holder: str, *, now: Millis, ttl: int, gone: str | None = None
    ) -> Fence | Holder:
        """The fence when it was free, expired, already ours or held by `gone`, who is known to
        be dead; else who holds it."""
        ...

    async def renew(self, fence: Fence, *, now: Millis, ttl: int) -> bool: ...

    async def release(self, fence: Fence) -> None: ...

    async def holder(self, resource: str) -> Holder | None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What a person asked for, as a row: whoever holds the store carries it out."""

    id: int
    kind: str
    args: Mapping[str, Any]
    placed_at: Millis
    done_at: Millis | None = None
    ok: bool | None = None
    result: Mapping[str, Any] | None = None


class Orders(Protocol):
    async def place(self, kind: str, args: Mapping[str, Any], *, by: str, now: Millis) -> int: ...

    async def take(self, *, now: Millis) -> Sequence[Order]:
        """Orders that nobody has taken, oldest first, now taken by the caller."""
        ...

    async def reopen(self) -> int:
        """What was taken by somebody who is gone, and never finished, is to be taken again."""
        ...

    async def finish(
        self, id: int, *, ok: bool, result: Mapping[str, Any], now: Millis
    ) -> None: ...

    async def get(self, id: int) -> Order | None: ...


@dataclass(frozen=True, slots=True)
class Approval:
    """Something that waits for a person's yes. `what` is a closed word (a metric's label),
    `subject` what it is about within the connection, `detail` what the person should know: numbers
    and names, no addresses."""

    id: int
    connection: str
    what: str
    subject: str
    detail: Mapping[str, Any]
    state: Literal["pending", "approved", "rejected"]
    asked_at: Millis
    decided_at: Millis | None = None
    decided_by: str | None = None


class Approvals(Protocol):
    """Promise 9, and promise 6's second half."""

    async def ask(
        self, connection: str, what: str, subject: str, detail: Mapping[str, Any], *, now: Millis
    ) -> Approval:
        """The open question about this subject, made if there is none; one that still waits gets
        the newest detail. An answer stands until it is closed."""
        ...

    async def find(self, *, pending: bool = True) -> Sequence[Approval]:
        """Open questions, oldest first; also those that were answered and not yet closed."""
        ...

    async def decide(self, id: int, *, approved: bool, by: str, now: Millis) -> Approval | None:
        """Answer it. None where there is no such open question, or it was answered already."""
        ...

    async def close(self, connection: str, what: str, subject: str) -> None:
        """The answer was acted on, or the question is no more: the next one is asked anew."""
        ...


DeedState = Literal[
    "waiting", "sending", "uncertain", "held", "applied", "skipped", "refused", "discarded"
]


@dataclass(frozen=True, slots=True)
class Deed:
    """An action as a person sees it, who it is for included. `uncertain` is looked up until
    `settled_at` is set: from then on a person decides. `ours` and `theirs` are what it is known by
    here and at the platform; `evidence` is an answer that came too late to settle anything."""

    id: int
    connection: str
    name: str
    origin: str
    who: str
    amount: int
    reason: str
    state: DeedState
    problem: str | None
    detail: str
    ours: str
    theirs: str | None
    received_at: Millis
    sent_at: Millis | None
    settled_at: Millis | None
    looks: int
    resent: bool
    evidence: str | None
    decided_by: str | None


@dataclass(frozen=True, slots=True)
class Pace:
    """A lane of actions: how many wait to be sent, and requests a second in the last minute."""

    waiting: int
    per_second: float


Decision = Literal["applied", "again", "refuse"]


class ActionQueue(Queue, Protocol):
    """Adjustments and pushes: promise 4. A claim is the mark "sent": what was claimed and never
    settled is looked up, not sent again."""

    def look_up_at(self, lane: LaneId, after: Sequence[int]) -> None:
        """From now on this lane's unknown outcomes are looked up so many ms after the send."""
        ...

    async def add(self, calls: Sequence[Call]) -> Sequence[Added | Conflict]:
        """Store calls in one transaction, each whole or not at all; one answer per call.

        An action known by its identity and content is a duplicate and changes nothing. One beyond
        a cap is held, and a question (`cap`) asked.
        """
        ...

    async def find(
        self, *, connection: str | None = None, stuck: bool = False, limit: int = 100
    ) -> Sequence[Deed]:
        """Uncertain and held ones first, then the newest; `stuck`: those that wait for a person."""
        ...

    async def decide(self, id: int, word: Decision, *, by: str, now: Millis) -> Deed | str:
        """What a person says of an action: it was applied; send it (again); it shall not be sent.
        The action as it is now, or why this cannot be said of it."""
        ...

    async def answer_cap(self, lane: Lane, asked: Approval, *, now: Millis) -> int:
        """Release or refuse what a cap held until the question was answered, and close it; what
        was held since is asked about anew. Returns how many changed."""
        ...

    async def resume_found(self, lane: LaneId, *, now: Millis) -> int:
        """Release what was held because its person was not known, where he has been seen since."""
        ...

    async def platform_id(self, connection: str, email: str) -> str | None:
        """The platform's id of the person with this address, where he has been seen."""
        ...

    async def uncertain(self) -> Mapping[str, int]:
        """Connection → actions of which nobody knows whether they were applied."""
        ...

    async def pace(self, lane: LaneId, *, now: Millis) -> Pace: ...

    async def forget(self, *, before: Millis, limit: int) -> int:
        """Forget settled actions received before then, at most `limit`: their keys count again."""
        ...


class Notices(Protocol):
    """What each target of `[[notify]]` was told and is not over yet. `target` is a digest."""

    async def told(self, target: str) -> Mapping[str, str]:
        """key → text."""
        ...

    async def tell(
        self, target: str, news: Mapping[str, str], *, over: Sequence[str], now: Millis
    ) -> None:
        """The target knows these now, and that those keys are over."""
        ...


BackfillState = Literal["waiting", "running", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Backfill:
    """One run. `waiting`: for a person's yes. `cursor` is the source's own and stands behind the
    last page that was fed; `exhausted`: there is no page after it. `counts` are what feeding found,
    by closed words, `notes` a few lines about it for the person, `total` how many there are at the
    source, where that is known."""

    id: int
    connection: str
    source: str
    args: Mapping[str, Any]
    state: BackfillState
    started_at: Millis
    cursor: str | None = None
    exhausted: bool = False
    total: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    ended_at: Millis | None = None
    problem: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """A person as a source names him: by the platform's id, by address, or both."""

    person: str | None
    email: str | None


@dataclass(frozen=True, slots=True)
class Fed:
    """A page of a source. People come `named`, to be read, or `seen` already. `cursor` is where
    the next page begins, `more` whether there is one; `counts` and `notes` are added to the run's,
    `total` replaces it."""

    cursor: str | None
    more: bool
    named: Sequence[Named] = ()
    seen: Sequence[Sighting] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    total: int | None = None


class Backfills(Protocol):
    """Runs, and what becomes of their people (promise 9)."""

    async def begin(
        self, connection: str, source: str, args: Mapping[str, Any], *, now: Millis
    ) -> Backfill: ...

    async def find(self, connection: str | None = None, *, limit: int = 20) -> Sequence[Backfill]:
        """The newest first."""
        ...

    async def get(self, id: int) -> Backfill | None: ...

    async def move(
        self,
        id: int,
        state: BackfillState,
        *,
        now: Millis,
        problem: Problem | None = None,
        detail: str = "",
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Another state. One that ends before its time withdraws its reads that nobody has begun;
        they wait until it goes on. `counts` replaces some."""
        ...

    async def start(self, id: int, *, now: Millis, total: int | None, notes: Sequence[str]) -> None:
        """It may begin, or go on with the reads that it had withdrawn: from waiting to running,
        and from no other state."""
        ...

    async def feed(self, id: int, reads: Lane, page: Fed, *, now: Millis) -> int | None:
        """Have a page's people read, after all live traffic, and keep the cursor, in one
        transaction; how many were new to this run. None, and nothing stored, where the run is not
        running. Where the run's args say `force`, what was confirmed of them is told again."""
        ...

    async def seen_after(
        self, connection: str, after: int, limit: int
    ) -> Sequence[tuple[int, Named]]:
        """People ever seen, by number."""
        ...

    async def ever_seen(self, connection: str) -> int:
        """How many."""
        ...

    async def outstanding(self, reads: LaneId, writes: LaneId, *, limit: int) -> tuple[int, int]:
        """(people to be read, people to be told) of backfills, each counted up to `limit`."""
        ...

    async def tally(self, id: int) -> Mapping[str, int]:
        """What became of the run's people, live changes meanwhile included: sent, unchanged, held,
        invalid, unknown, dead, pending. Looks at each of them."""
        ...

    async def entries(
        self, connection: str, named: Sequence[Named], *, now: Millis
    ) -> Sequence[Entry]:
        """These people as a claim of reads would hold them; a number below 0 stands for one whom
        nobody has seen. Stores nothing."""
        ...

    async def compare(
        self, seen: Sequence[Observation], *, now: Millis
    ) -> Sequence[ProfileWrite | None]:
        """What each observation would have us tell, None: nothing. Stores nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Whom a name stands for: `people` of the connection, every address of theirs, and how many
    rows were erased."""

    people: int
    emails: Sequence[str] = ()
    rows: int = 0


class Erasure(Protocol):
    """Forgetting people for good. `who` is an address or the platform's id."""

    async def find(self, connection: str, who: str) -> Forgotten:
        """Whom it would be about. Nothing is erased."""
        ...

    async def forget(self, connection: str, who: str, *, now: Millis) -> Forgotten:
        """Erase whoever has this name, and whoever shares his address, wherever he stands; leave
        what stops him from being made again."""
        ...

    async def lift(self, connection: str, who: str) -> bool:
        """He may come back. False where he was not forgotten by this name."""
        ...


@dataclass(frozen=True, slots=True)
class ToldPerson:
    """A person of whom nothing waits to be told: the fields that were confirmed as they are now
    (None: unset), by the names of connector.states."""

    person: int
    email: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToldEvent:
    """An event that was accepted."""

    seq: int
    email: str
    unique_id: str
    at: Millis


class Ledger(Protocol):
    """What a far end has confirmed, for whoever reads it back."""

    async def people(self, lane: LaneId, *, after: int, limit: int) -> Sequence[ToldPerson]:
        """In the order of their numbers, from behind `after` on."""
        ...

    async def some_people(self, lane: LaneId, count: int) -> Sequence[ToldPerson]:
        """By chance."""
        ...

    async def events(self, lane: LaneId, *, before: Millis, limit: int) -> Sequence[ToldEvent]:
        """The newest that were accepted by then."""
        ...

    async def tell_people(self, people: Sequence[int], *, now: Millis) -> int:
        """All that is wanted of them is told again, at backfill priority."""
        ...

    async def tell_events(self, events: Sequence[int], *, now: Millis) -> int:
        """Put accepted events back in line with the same unique ids; how many still had their
        body."""
        ...


class Store(Outbox, Protocol):
    """Everything that is remembered, by intent."""

    @property
    def dead_letters(self) -> DeadLetters: ...
    @property
    def lanes(self) -> Lanes: ...
    @property
    def insight(self) -> Insight: ...
    @property
    def checkpoints(self) -> Checkpoints: ...
    @property
    def memory(self) -> Memory: ...
    @property
    def leases(self) -> Leases: ...
    @property
    def orders(self) -> Orders: ...
    @property
    def reads(self) -> Reads: ...
    @property
    def profiles(self) -> Profiles: ...
    @property
    def approvals(self) -> Approvals: ...
    @property
    def memberships(self) -> Memberships: ...
    @property
    def actions(self) -> ActionQueue: ...
    @property
    def notices(self) -> Notices: ...
    @property
    def erasure(self) -> Erasure: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def backfills(self) -> Backfills: ...

    async def aclose(self) -> None: ...
