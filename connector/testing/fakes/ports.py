"""A platform in this process: its double, a kit that calls it, and simulated faults."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from connector.domain.actions import Action
from connector.domain.errors import DeliveryError
from connector.domain.lanes import QuotaUsage
from connector.mapping import VIEW_PATHS
from connector.net.http import Credential, Http, InProcess
from connector.net.rate_limit import Limit, RateLimiter
from connector.platforms.kit import Kit
from connector.ports import Client, Member, PersonRef
from connector.testing.fakes.clock import FakeClock
from connector.testing.hostile_json import encoded

App = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application."""

READS = frozenset(VIEW_PATHS)
"""Every field of a view."""


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """One request of a webhook: headers in lower case, `secret` the last part of the URL."""

    headers: Mapping[str, str]
    body: bytes
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class Double:
    """The platform, emulated. `target` is a segment whose members can be written, `action` an
    action that it applies."""

    app: App
    known_person: PersonRef
    unknown_person: PersonRef = field(
        default_factory=lambda: PersonRef(2, "no-such-person", "nobody@example.com", b"")
    )
    target: str = "spring"
    action: Action | None = None

    def sample_action(self) -> Action:
        """`action`, else five points for `known_person`."""
        ref = self.known_person
        return self.action or Action(
            "increase",
            "ref-1",
            email=ref.email,
            person=ref.platform_id,
            amount=5,
            reason="a reason",
            earned=True,
        )


class AutoAdvancingClock(FakeClock):
    """A sleep returns at once and moves the time by its length."""

    async def sleep(self, seconds: float) -> None:
        self.move(seconds)


def make_kit(app: App, clock: FakeClock | None = None) -> Kit:
    """A kit whose platform is an ASGI application in this process. Without a `clock` no call
    waits."""
    now = clock or AutoAdvancingClock()

    async def quota(credential: str, limits: Mapping[str, Limit]) -> RateLimiter:
        return RateLimiter("contract", limits, clock=now, share=1.0)

    async def record_usage(usage: Sequence[QuotaUsage]) -> None: ...

    def http(base_url: str, credential: Credential, not_applied: frozenset[int]) -> Http:
        return Http(
            base_url,
            vendor="platform",
            clock=now,
            credential=credential,
            retry_statuses=not_applied,
            transport=InProcess(app),
        )

    return Kit(now, http, quota, record_usage, retry_statuses=frozenset({423, 429, 503}))


def calls(client: Client, double: Double) -> list[tuple[str, Callable[[], Awaitable[Any]]]]:
    """(name, call) of every part that the client has."""
    found: list[tuple[str, Callable[[], Awaitable[Any]]]] = []
    if reader := client.reader:
        found.append(("reader", lambda: reader.read(double.known_person, READS)))
    if people := client.people:
        found.append(("people", lambda: people.page(None, READS, backfill=True)))
    if changes := client.changes:
        found.append(("changes", lambda: changes.page(None, READS)))
    if history := client.history:
        found.append(("history", lambda: history.events(double.known_person, None)))
    if audiences := client.audiences:
        found.append(("audiences", lambda: audiences.names()))
    if members := client.members:
        ref = double.known_person
        member = Member(platform_id=ref.platform_id, email=ref.email)
        found.append(("members", lambda: members.update(double.target, [(member, True)])))
    if actions := client.actions:
        found.append(("actions", lambda: actions.apply(double.sample_action())))
    return found


async def outcome(call: Callable[[], Awaitable[Any]]) -> tuple[Any, DeliveryError | None]:
    """A call's result or its DeliveryError."""
    try:
        return await call(), None
    except DeliveryError as error:
        return None, error


def with_response(
    app: App,
    faulty: Callable[[str], bool],
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
) -> App:
    """The application, with this response to every request of a faulty path."""

    async def respond(scope: Any, receive: Any, send: Any) -> None:
        if not faulty(scope["path"]):
            return await app(scope, receive, send)
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body})

    return respond


def with_json(app: App, faulty: Callable[[str], bool], answer: Any) -> App:
    """The application, with a 200 and this JSON for every request of a faulty path."""
    headers = [(b"content-type", b"application/json")]
    return with_response(app, faulty, 200, headers, encoded(answer))
