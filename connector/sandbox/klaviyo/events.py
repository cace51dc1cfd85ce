"""Klaviyo's endpoints for events and metrics: create, bulk create, read.

Guesses: an unknown `profile.data.id` is rejected with 400; nulls in an event's profile have the
same effect as in an import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.sandbox.klaviyo import reads
from connector.sandbox.klaviyo.account import AccountState
from connector.sandbox.klaviyo.documents import Documents
from connector.sandbox.klaviyo.event_rules import Group, Parsed, parse_bulk, parse_event
from connector.sandbox.klaviyo.rules import Violation


class EventApi:
    """The endpoints. `repeat`: the sandbox's `bulk_repeat`. `first`: a bulk 400 names only the
    first bad item."""

    def __init__(
        self,
        account: AccountState,
        documents: Documents,
        *,
        repeat: Literal["drop", "fail"],
        first: bool,
    ) -> None:
        self._account = account
        self._documents = documents
        self._repeat = repeat
        self._first = first
        self.routes = [
            Route("/api/events", self._create, methods=["POST"]),
            Route("/api/events", self._all, methods=["GET"]),
            Route("/api/event-bulk-create-jobs", self._bulk, methods=["POST"]),
            Route("/api/metrics", self._metrics, methods=["GET"]),
        ]

    async def _create(self, request: Request) -> Response:
        return self._accept(await request.body(), parse_event, bulk=False)

    async def _bulk(self, request: Request) -> Response:
        return self._accept(await request.body(), parse_bulk, bulk=True)

    def _accept(
        self, body: bytes, parse: Callable[[Any, float], Parsed], *, bulk: bool
    ) -> Response:
        account, now = self._account, self._account.now()
        parsed = parse(account.load(body), now)
        found = parsed.violations
        found += self._unknown_profiles(parsed.groups)
        if bulk and not found:
            found += self._repeated_ids(parsed.groups)
        account.check(found, first=bulk and self._first)
        for group in parsed.groups:
            account.ledger.note("event", group.profile, account.memory.find(group.profile), now)
            account.memory.apply(group, now)
        return Response(status_code=202)

    def _unknown_profiles(self, groups: Sequence[Group]) -> Iterator[Violation]:
        for group in groups:
            id = group.profile.id
            if id is not None and self._account.memory.by_id(id) is None:
                pointer = f"{group.profile.pointer}/id"
                yield Violation("profile_unknown", pointer, "A profile with this id does not exist")

    def _repeated_ids(self, groups: Sequence[Group]) -> Iterator[Violation]:
        """Unique ids that repeat within the request or, with "fail", that were recorded before."""
        seen: set[tuple[object, str, str]] = set()
        for group in groups:
            profile = self._account.memory.find(group.profile)
            person: object = profile.number if profile else _first_identifier(group)
            for event in group.events:
                if event.unique_id is None:
                    continue
                key = (person, event.metric, event.unique_id)
                pointer = f"{event.pointer}/attributes/unique_id"
                if key in seen:
                    detail = "The unique_id is repeated for this profile and metric."
                    yield Violation("unique_id_repeated", pointer, detail)
                elif (
                    self._repeat == "fail"
                    and profile is not None
                    and self._account.memory.has_event(profile, event.metric, event.unique_id)
                ):
                    detail = "The unique_id was already used for this profile and metric."
                    yield Violation("unique_id_recorded", pointer, detail)
                seen.add(key)

    async def _all(self, request: Request) -> Response:
        page = reads.events(self._account.memory, request.query_params, request.url)
        return self._documents.page(request, *page, includes=("metric", "profile"))

    async def _metrics(self, request: Request) -> Response:
        page = reads.metrics(self._account.memory, request.query_params, request.url)
        return self._documents.page(request, *page, includes=("flow-triggers",))


def _first_identifier(group: Group) -> tuple[str, str]:
    """Identifies the person of a group without a profile, to compare two groups of one request."""
    attributes = group.profile.attributes
    for name in ("email", "phone_number", "external_id", "anonymous_id", "_kx"):
        value = attributes.get(name)
        if value is not None:
            return name, value.lower() if name == "email" else value
    return "id", str(group.profile.id)
