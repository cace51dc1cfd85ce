"""Ports of a loyalty platform: what it sends and what can be requested of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel

from connector.domain.actions import Action
from connector.domain.attention import Check
from connector.domain.errors import Problem
from connector.domain.lanes import Millis
from connector.domain.records import Record
from connector.ports.delivery import Quota

API_VERSION = 1
"""The version of what `connector.sdk` exports."""

EventView: TypeAlias = Callable[[str, int, dict[str, Any], str | None], dict[str, Any]]
"""(event name, time of it in ms, record body, e-mail address if known apart from the body) → the
event's view. Pure."""

PersonView: TypeAlias = Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]]
"""(the platform's object of a person, extras) → the person's view. Pure.

Extras are what further API calls returned, by name: a wallet pass link, the list of tiers. One
that was not fetched is a missing key."""


class Webhook(Protocol):
    """Receives a platform's webhook requests."""

    def verify(self, headers: Mapping[str, str], body: bytes, secret: str | None) -> None:
        """Raise Unauthorised unless the request is authentic. `headers` are lower case, `secret`
        is the last part of the URL, if there is one."""
        ...

    def parse(self, headers: Mapping[str, str], body: bytes) -> Sequence[Record]:
        """The records of a body. Raises Malformed, which names the field."""
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
    """The request of a Klaviyo flow that calls the platform itself. Texts of the body may be
    Klaviyo templates."""

    url: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform as it declares itself to the connector.

    - `settings` validates `[connections.settings]`.
    - `webhook` makes the receiver from validated settings; None: the platform has no webhooks.
    - `open` makes the client from settings and a connector.platforms.kit.Kit; None: no API.
    - `person_view` is None where people cannot be read.
    - `name_header` makes the headers that carry an event's name, if the body does not.
    - `direct` makes the call that the platform's own guides let a Klaviyo flow send, from settings
      and an action whose texts may be Klaviyo templates. ValueError: why this action has none.
    - `actions_lack` says which setting is missing for points and pushes; empty: none.
    - `person_note` says how the platform finds the person of a flow call, where that is not by
      e-mail address alone.
    - `secret_in_address` says whether callers present `webhook_secret` as the last part of the
      webhook's address; otherwise they sign with it.
    - `webhook_note` says where at the platform the webhook's address is entered.
    - `for_settings` makes the platform that these settings describe, if they decide about any of
      the above.
    """

    source: str
    title: str
    settings: type[BaseModel]
    offers: frozenset[Offer]
    event_view: EventView
    webhook: Callable[[Any], Webhook] | None = None
    open: Callable[[Any, Any], Awaitable[Client]] | None = None
    person_view: PersonView | None = None
    name_header: Callable[[str], Mapping[str, str]] = lambda name: {}
    direct: Callable[[Any, Action], DirectCall] | None = None
    actions_lack: Callable[[Any], str] = lambda settings: ""
    person_note: str = ""
    secret_in_address: Callable[[Any], bool] = lambda settings: False
    webhook_note: str = ""
    for_settings: Callable[[Any], Platform] | None = None
    api_version: int = API_VERSION

    @property
    def modules(self) -> list[str]:
        """The modules that a connection to it can have."""
        return [module for module, needed in _MODULES.items() if needed & self.offers]


_MODULES: Mapping[str, frozenset[Offer]] = {
    "events": frozenset(("events",)),
    "profiles": frozenset(("profiles",)),
    "audiences": frozenset(("audiences",)),
    "segments": frozenset(("segments",)),
    "actions": frozenset(("increase", "decrease", "adjust", "push")),
}
"""Module → one of these must be offered."""


@dataclass(frozen=True, slots=True)
class Client:
    """A platform's API as one connection uses it. A part that the platform lacks is None.

    `people` lists everyone, for a backfill; `changes` lists who changed since its cursor, for a
    poll. `check` reports whether the API answers and accepts the credential.
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
    """A person to read. `view` is the JSON of the view that the last read returned (empty: never
    read), so that extras fetched then need not be fetched again; with `refetch` they must be.
    Further permits of a read for a `backfill` are requested as a backfill's too."""

    person: int
    platform_id: str | None
    email: str | None
    view: bytes
    refetch: bool = False
    backfill: bool = False


@dataclass(frozen=True, slots=True)
class PersonSnapshot:
    """The result of a read. `covers` are the fields of the view that this read can show: one of
    them that is missing in `view` has no value.

    A person whose data must not be used has a view of `withheld` alone: `placeholder` (the address
    is not a person's) or `restricted` (the platform says so). Their records are skipped.

    `aliases` are all ids of the platform for this person, the one to read them by first: people who
    were known by different ones are merged."""

    view: dict[str, Any]
    covers: frozenset[str]
    aliases: tuple[str, ...] = ()


class Reader(Protocol):
    """Reads one person."""

    @property
    def endpoint(self) -> str:
        """The name under which `quota` counts a read."""
        ...

    @property
    def parallel(self) -> int:
        """How many reads may be in flight."""
        ...

    @property
    def by_id(self) -> bool:
        """Whether a person can be read when only their platform id is known."""
        ...

    @property
    def quota(self) -> Quota: ...

    async def read(self, ref: PersonRef, fields: frozenset[str]) -> PersonSnapshot | None:
        """The person now; None if the platform does not know them. `fields` are those of the view
        that the mapping uses. The caller has one permit; further ones are requested here. Raises
        DeliveryError."""
        ...

    async def check(self) -> Sequence[Check]:
        """Whether people can be read. Requests its own permit; raises nothing."""
        ...


@dataclass(frozen=True, slots=True)
class PeoplePageItem:
    """A person as a list shows them. `at` is the platform's own time of the data; None: the time
    of the page counts."""

    platform_id: str | None
    email: str | None
    snapshot: PersonSnapshot
    at: Millis | None = None


@dataclass(frozen=True, slots=True)
class PeoplePage:
    """`cursor` is where the next page begins and is kept when `more` is False too; `at` is when
    the page was requested; `total` is the number of people, if the platform says it."""

    people: Sequence[PeoplePageItem]
    cursor: str | None
    more: bool
    at: Millis
    total: int | None = None


class Stream(Protocol):
    """People, page by page. Requests its own permits."""

    async def page(
        self, cursor: str | None, fields: frozenset[str], *, backfill: bool = False
    ) -> PeoplePage:
        """The page at `cursor`; None: the first. `backfill` leaves the live reserve of the quota
        alone. Raises DeliveryError."""
        ...


class History(Protocol):
    """A person's past events. Requests its own permits, as a backfill."""

    async def events(self, ref: PersonRef, since: Millis | None) -> Sequence[Record]:
        """All events since then, oldest first. Raises DeliveryError."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an audience, a list or a segment. `profile_id` is Klaviyo's id; `joined_at` is
    None if it is not known."""

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
    """A platform's own groups of people. Requests its own permits; raises DeliveryError."""

    async def names(self) -> Mapping[str, str]:
        """Audience id → name."""
        ...

    async def members(self, audience: str, cursor: str | None) -> MembersPage: ...


@dataclass(frozen=True, slots=True)
class MembershipResult:
    """The result of one membership change: applied, accepted without confirmation, or refused."""

    status: Literal["confirmed", "unconfirmed", "refused"]
    problem: Problem | None = None
    detail: str = ""


class MembershipWriter(Protocol):
    """Writes the members of Klaviyo segments to a platform."""

    @property
    def endpoint(self) -> str: ...
    @property
    def size(self) -> int:
        """How many changes one call takes."""
        ...

    @property
    def quota(self) -> Quota: ...

    async def update(
        self, target: str, changes: Sequence[tuple[Member, bool]]
    ) -> Sequence[MembershipResult]:
        """One result per change (True: is a member), in order. The caller has one permit.
        Repeating it is harmless. Raises DeliveryError if the call as a whole failed."""
        ...


class Actions(Protocol):
    """Changes points and sends push notifications: guarantee 4."""

    @property
    def endpoint(self) -> str: ...
    @property
    def quota(self) -> Quota: ...
    @property
    def parallel(self) -> int: ...

    async def apply(self, action: Action) -> str | None:
        """Apply it, once. The caller has one permit. Returns the platform's own id of it, if the
        answer has one. Raises DeliveryError: RetryLater if it was certainly not applied,
        AmbiguousError if it may have been, Rejected or Blocked if the platform refused it."""
        ...

    async def look_up(self, action: Action) -> Literal["applied", "absent", "unknowable"]:
        """Whether the platform applied it. Never `absent` where a missing item proves nothing.
        The caller has one permit. Raises DeliveryError."""
        ...
