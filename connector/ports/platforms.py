"""The ports of platforms, Klaviyo included: what they say, what they can be told, and what a lane
needs to deliver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel

from connector.errors import Problem
from connector.model import (
    Action,
    Check,
    Delivery,
    Entry,
    Fault,
    Millis,
    Record,
    Skip,
    Spend,
)
from connector.ports.queues import Fence


class Webhook(Protocol):
    """A platform's way of telling us things."""

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        """Raise Unauthorised unless the caller proved itself. `headers` are lower case, `secret`
        is the last part of the URL where there is one."""
        ...

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        """Raise Malformed, saying what was wrong and where, or return what the body says."""
        ...


Offer = Literal[
    "events",
    "profiles",
    "people",
    "audiences",
    "segments",
    "increase",
    "decrease",
    "adjust",
    "push",
]


@dataclass(frozen=True, slots=True)
class DirectCall:
    """What a Klaviyo flow sends to a platform itself: address, headers and the JSON body. Texts of
    the body may be Klaviyo's templates."""

    url: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Platform:
    """What a platform declares of itself: INTERFACE 7.

    `settings` validates `[connections.settings]`; `event_view` is the pure view of an event (see
    connector.rendering.EventView); `webhook` makes its receiver from validated settings, None
    where the platform pushes nothing. `open` makes, of settings and a connector.adapters.kit.Kit,
    the connection's client, None where the platform has no API. `person_view` is the pure view of
    a person as the platform's API shows it; `name_header` makes the headers that tell an event's
    name where it is not in the body. `direct` makes, of settings and an action whose texts may be
    Klaviyo's templates, the call that the platform's own guides have a flow make; None where
    they have none, a ValueError says why this action has none. Where settings decide about any of
    these, `shape` makes the platform that they describe.
    """

    source: str
    title: str
    settings: type[BaseModel]
    offers: frozenset[Offer]
    event_view: Callable[[str, int, dict[str, Any], str | None], dict[str, Any]]
    webhook: Callable[[Any], Webhook] | None = None
    open: Callable[[Any, Any], Awaitable[Client]] | None = None
    person_view: Callable[[dict[str, Any], str | None], dict[str, Any]] | None = None
    name_header: Callable[[str], Mapping[str, str]] = lambda name: {}
    direct: Callable[[Any, Action], DirectCall] | None = None
    shape: Callable[[Any], Platform] | None = None
    api_version: int = 1


@dataclass(frozen=True, slots=True)
class Client:
    """A platform's API as one connection uses it: its sides, None where it has none.

    `people` lists everybody, for a backfill; `changes` tells who changed since its cursor, for a
    poll. `check` asks whether it can be reached and the credential is good.
    """

    check: Callable[[], Awaitable[Sequence[Check]]]
    aclose: Callable[[], Awaitable[None]]
    reader: Reader | None = None
    people: Stream | None = None
    changes: Stream | None = None
    history: History | None = None
    audiences: Audiences | None = None
    members: Members | None = None
    actions: Actions | None = None


@dataclass(frozen=True, slots=True)
class Whom:
    """A person to read: `view` is the JSON of the last view (empty: never read);
    with `renew` what is fetched seldom is fetched again. Further permits of a `backfill`'s read
    are asked for as a backfill's too."""

    person: int
    platform_id: str | None
    email: str | None
    view: bytes
    renew: bool = False
    backfill: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """What a read showed: the platform's documented view, and the words of it that this read
    could have shown, had they a value.

    The view of a person of whom nothing may be told holds `withheld` alone: `placeholder` (the
    address is nobody's) or `restricted` (the platform says so). His records are skipped."""

    view: dict[str, Any]
    covers: frozenset[str]


class Reader(Protocol):
    """The side of a platform that tells about one person."""

    @property
    def endpoint(self) -> str: ...
    @property
    def parallel(self) -> int: ...
    @property
    def by_id(self) -> bool:
        """Whether a person can be read of whom only the platform's id is known."""
        ...

    @property
    def quota(self) -> Quota: ...

    async def read(self, who: Whom, reads: frozenset[str]) -> Sight | None:
        """The person now, or None where the platform does not know him. `reads` are the words of
        the view that the mapping needs. One permit was given; more are asked for as needed.
        Raises DeliveryError."""
        ...

    def renews(self, event: str) -> bool:
        """Whether this event makes what is fetched seldom be fetched again."""
        ...

    async def check(self) -> Sequence[Check]: ...


@dataclass(frozen=True, slots=True)
class Listed:
    """A person as a listing shows him. `at` is the source's own time of it, None where it says
    none: then the page's counts."""

    platform_id: str | None
    email: str | None
    sight: Sight
    at: Millis | None = None


@dataclass(frozen=True, slots=True)
class PeoplePage:
    """`cursor` is where the next page begins, to be kept when `more` is False too; `at` is when
    the page was asked for; `total` how many people there are in all, where the platform says."""

    people: Sequence[Listed]
    cursor: str | None
    more: bool
    at: Millis
    total: int | None = None


class Stream(Protocol):
    """People page by page. Asks for its own permits; `backfill` leaves the live reserve alone."""

    async def page(
        self, cursor: str | None, reads: frozenset[str], *, backfill: bool = False
    ) -> PeoplePage:
        """The page at `cursor`, None: the first. Raises DeliveryError."""
        ...


class History(Protocol):
    """What happened to a person before the connector was there."""

    async def events(self, who: Whom, since: Millis | None) -> Sequence[Record]:
        """Everything since then, oldest first. Asks for its own permits, as a backfill. Raises
        DeliveryError."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """Who is in an audience, a list or a segment. `profile` is Klaviyo's id, `since` when he
    joined, where it is said."""

    platform_id: str | None = None
    email: str | None = None
    profile: str | None = None
    since: Millis | None = None


@dataclass(frozen=True, slots=True)
class MembersPage:
    """`cursor` is where the next page begins; with `more` False the scan is complete."""

    members: Sequence[Member]
    cursor: str | None
    more: bool


class Audiences(Protocol):
    """A platform's own groups of people. Asks for its own permits. Both raise DeliveryError."""

    async def names(self) -> Mapping[str, str]:
        """Audience id → name."""
        ...

    async def members(self, audience: str, cursor: str | None) -> MembersPage: ...


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one membership change: `confirmed`, taken but not confirmed, or refused."""

    word: Literal["confirmed", "unconfirmed", "refused"]
    problem: Problem | None = None
    detail: str = ""


class Members(Protocol):
    """Where a platform is told who is in a Klaviyo segment. `size` changes go in one call."""

    @property
    def endpoint(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def quota(self) -> Quota: ...

    async def tell(self, target: str, changes: Sequence[tuple[Member, bool]]) -> Sequence[Told]:
        """One answer per change (True: is in it), in order. One permit was given. Repeating it is
        harmless. Raises DeliveryError where the call as a whole failed."""
        ...


class Actions(Protocol):
    """Where a platform is told to change points or push a message: promise 4."""

    @property
    def endpoint(self) -> str: ...
    @property
    def quota(self) -> Quota: ...
    @property
    def parallel(self) -> int: ...

    async def apply(self, action: Action) -> str | None:
        """Do it, once. One permit was given. The platform's own id of it, where it says one.
        Raises DeliveryError: Wait where it is certain that nothing was done, Unknown where it may
        have been, Rejected or Blocked where the platform refused."""
        ...

    async def look_up(self, action: Action) -> Literal["applied", "absent", "unknowable"]:
        """Whether the platform did it. Never `absent` where a missing item proves nothing. One
        permit was given. Raises DeliveryError."""
        ...


@dataclass(frozen=True, slots=True)
class Touched:
    """What a bulk write moves at Klaviyo: list ids that people join, segment ids that they enter,
    metric names that they get; with `fields` the fields of their profiles, and so any segment and
    any date that flows hang on."""

    lists: frozenset[str] = frozenset()
    segments: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    fields: bool = False


class Flows(Protocol):
    """Klaviyo's automations."""

    async def live(self, on: Touched) -> Sequence[str]:
        """Names of the live flows that what is touched may start. Asks for its own permits.
        Raises DeliveryError, Blocked with status 403 where the key may not see flows."""
        ...


GroupKind = Literal["list", "segment"]


class Groups(Protocol):
    """Klaviyo's lists and segments, and who has a profile there. Asks for its own permits, as a
    backfill. All raise DeliveryError."""

    async def named(self, kind: GroupKind, name: str) -> Mapping[str, str]:
        """Id → name of those that bear exactly this name, else of the one with this id."""
        ...

    async def count(self, kind: GroupKind, id: str) -> int | None:
        """How many members it has, as Klaviyo counts them."""
        ...

    async def members(
        self, kind: GroupKind, id: str, cursor: str | None, *, since: Millis | None = None
    ) -> MembersPage:
        """Oldest members first; with `since` only those who joined then or later."""
        ...

    async def create_list(self, name: str) -> str:
        """The id of a new list. Unknown: there may be one now, so look before creating again."""
        ...

    async def known(self, emails: Sequence[str]) -> set[str]:
        """Those of these addresses, in lower case, that Klaviyo has a profile of."""
        ...


class EndedJob(Protocol):
    """What became of an import job: `failed` by position in the request; `unplaced` failures
    whose record the answer did not name."""

    @property
    def outcome(self) -> Literal["complete", "cancelled", "lost"]: ...
    @property
    def failed(self) -> Mapping[int, tuple[Problem, str]]: ...
    @property
    def unplaced(self) -> int: ...


class Jobs(Protocol):
    """The far end's jobs that hold our writes. Both raise DeliveryError."""

    async def open(self) -> set[str]: ...

    async def ended(self, id: str) -> EndedJob | None: ...


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A profile as the far end has it: its id there, and its fields by the names of
    connector.states."""

    id: str
    fields: Mapping[str, Any]


class Mirror(Protocol):
    """The far end read back, at backfill priority. Both raise DeliveryError."""

    async def profiles(self, emails: Sequence[str]) -> Mapping[str, Mirrored]:
        """By address, those that exist."""
        ...

    async def has_event(self, profile: str, unique_id: str, at: Millis) -> bool:
        """Whether the profile with this id has the event that happened `at`."""
        ...


M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Outgoing(Generic[M]):
    """An entry and what the mapping made of it."""

    entry: Entry
    message: M


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to deliver: `size` entries a request at most, `parallel` requests at a time."""

    endpoint: str
    size: int
    parallel: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Quota for `count` requests, given `at` (monotonic); when it is 0, ask again after `wait`
    seconds."""

    count: int
    wait: float
    spend: Sequence[Spend] = ()
    at: float = 0.0


class Quota(Protocol):
    """The only way to be allowed a request: promise 9 and 'a self-inflicted 429 is a defect'."""

    def reserve(self, endpoint: str, want: int, *, backfill: bool = False) -> Grant: ...

    def release(self, endpoint: str, grant: Grant, unused: int) -> None:
        """Give back a part of a grant that was not used."""
        ...


class Sink(Protocol[M]):
    """Delivers rendered entries. Sending twice must be harmless in `single` mode."""

    @property
    def single(self) -> Mode: ...
    @property
    def bulk(self) -> Mode | None: ...
    @property
    def quota(self) -> Quota: ...

    def deliver(
        self, batch: Sequence[Outgoing[M]], *, bulk: bool, permits: int
    ) -> AsyncIterator[Delivery]:
        """Send and yield outcomes as they become known. Every entry ends in exactly one outcome.
        `permits` requests of quota are already reserved; more are asked for as needed. Raises
        nothing that a far end can cause."""
        ...

    def resumed(self) -> None:
        """A person has started deliveries again, whatever stopped them."""
        ...

    def preview(self, out: Outgoing[M]) -> tuple[str, bytes]:
        """The route and body that this entry alone would be sent with. Sends nothing."""
        ...

    async def check(self) -> Sequence[Check]:
        """Can it be reached, is the credential good? A Check of level fault where not."""
        ...


class Renderer(Protocol[M_co]):
    """What the mapping makes of an entry. `version` is the mapping's, for the claim."""

    @property
    def version(self) -> str: ...

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Fetch the older mapping versions that these entries must be rendered with."""
        ...

    def render(self, entry: Entry) -> M_co | Skip | Fault: ...


class Lease(Protocol):
    """Ours for now, by the monotonic clock: asked right before every send."""

    @property
    def fence(self) -> Fence: ...

    def valid(self) -> bool: ...
