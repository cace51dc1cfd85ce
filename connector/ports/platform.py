"""Ports of a loyalty platform: what it sends and what can be asked of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from connector.domain.actions import Action
from connector.domain.attention import Check
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.ports.delivery import Quota


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
    connector.pipeline.rendering.EventView); `webhook` makes its receiver from validated settings,
    None where the platform pushes nothing. `open` makes, of settings and a
    connector.platforms.kit.Kit, the connection's client, None where the platform has no API.
    `person_view` is the pure view of a person as the platform's API shows it; `name_header` makes
    the headers that tell an event's name where it is not in the body. `direct` makes, of settings
    and an action whose texts may be Klaviyo's templates, the call that the platform's own guides
    have a flow make; None where they have none, a ValueError says why this action has none. Where
    settings decide about any of these, `shape` makes the platform that they describe.
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
    for_settings: Callable[[Any], Platform] | None = None
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
    members: MembershipWriter | None = None
    actions: Actions | None = None


@dataclass(frozen=True, slots=True)
class PersonRef:
    """A person to read: `view` is the JSON of the last view (empty: never read);
    with `renew` what is fetched seldom is fetched again. Further permits of a `backfill`'s read
    are asked for as a backfill's too."""

    person: int
    platform_id: str | None
    email: str | None
    view: bytes
    refetch: bool = False
    backfill: bool = False


@dataclass(frozen=True, slots=True)
class PersonSnapshot:
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

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        """The person now, or None where the platform does not know him. `reads` are the words of
        the view that the mapping needs. One permit was given; more are asked for as needed.
        Raises DeliveryError."""
        ...

    def needs_refetch(self, event: str) -> bool:
        """Whether this event makes what is fetched seldom be fetched again."""
        ...

    async def check(self) -> Sequence[Check]: ...


@dataclass(frozen=True, slots=True)
class PeoplePageItem:
    """A person as a listing shows him. `at` is the source's own time of it, None where it says
    none: then the page's counts."""

    platform_id: str | None
    email: str | None
    snapshot: PersonSnapshot
    at: Millis | None = None


@dataclass(frozen=True, slots=True)
class PeoplePage:
    """`cursor` is where the next page begins, to be kept when `more` is False too; `at` is when
    the page was asked for; `total` how many people there are in all, where the platform says."""

    people: Sequence[PeoplePageItem]
    cursor: str | None
    more: bool
    at: Millis
    total: int | None = None


class Stream(Protocol):
    """People page by page. Asks for its own permits; `backfill` leaves the live reserve alone."""

    async def page(
        self, cursor: str | None, fields: frozenset[str], *, backfill: bool = False
    ) -> PeoplePage:
        """The page at `cursor`, None: the first. Raises DeliveryError."""
        ...


class History(Protocol):
    """What happened to a person before the connector was there."""

    async def events(self, ref: PersonRef, since: Millis | None) -> Sequence[Record]:
        """Everything since then, oldest first. Asks for its own permits, as a backfill. Raises
        DeliveryError."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """Who is in an audience, a list or a segment. `profile` is Klaviyo's id, `since` when he
    joined, where it is said."""

    platform_id: str | None = None
    email: str | None = None
    profile_id: str | None = None
    joined_at: Millis | None = None


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
class MembershipResult:
    """What became of one membership change: `confirmed`, taken but not confirmed, or refused."""

    status: Literal["confirmed", "unconfirmed", "refused"]
    problem: Problem | None = None
    detail: str = ""


class MembershipWriter(Protocol):
    """Where a platform is told who is in a Klaviyo segment. `size` changes go in one call."""

    @property
    def endpoint(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def quota(self) -> Quota: ...

    async def update(
        self, target: str, changes: Sequence[tuple[Member, bool]]
    ) -> Sequence[MembershipResult]:
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
