"""`/`: a card for each connection, and what needs a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.console.chart import Chart, chart
from connector.console.connection_form import MODULES
from connector.console.session import ConsoleServices, Visit
from connector.console.view import SharedPage
from connector.domain.errors import ConfigError, StoreError
from connector.domain.lanes import KLAVIYO
from connector.domain.remedies import Page
from connector.service.status import Attention, ConnectionStatus, LaneStatus, QuotaStatus, Status
from connector.web.access import AccessDenied
from connector.web.event_stream import event_stream

_WORDS = {
    "running": "Working",
    "degraded": "Waiting for the other side",
    "paused": "Paused",
    "held": "Needs you",
    "blocked": "Needs you",
    "stopped": "Stopped",
    "off": "Deactivated",
}
"""State of a lane → what a marketer reads."""
_WORST_FIRST = ("stopped", "blocked", "held", "degraded", "paused", "running", "off")


@dataclass(frozen=True, slots=True)
class Card:
    """A connection as its card shows it. `state` is that of its worst lane, `lane` that lane if it
    does not run. `lag`: age of the oldest entry that waits, in seconds; `eta`: until nothing waits,
    at the present rates, None where something waits and nothing moves. `needs_you`: how many things
    of this connection need a person. `quota`: the endpoint that is nearest to its limit.
    `last_full_sync`: of the link whose last one is the oldest, `links` how many there are."""

    name: str
    connection: ConnectionStatus
    state: str
    word: str
    lane: LaneStatus | None
    waiting: int
    failed: int
    lag: float | None
    eta: float | None
    needs_you: int
    events_per_second: float
    profiles_per_second: float
    quota: QuotaStatus | None
    links: int
    last_full_sync: int | None
    chart: Chart

    @property
    def paused(self) -> bool:
        return self.state == "paused"


def card(name: str, connection: ConnectionStatus, needs_you: int = 0) -> Card:
    lanes = connection.lanes
    worst = min(lanes, key=lambda lane: _WORST_FIRST.index(lane.state), default=None)
    state = "off" if not connection.enabled or worst is None else worst.state
    pace = {"event": 0.0, "profile": 0.0}
    for lane in lanes:
        if lane.destination == KLAVIYO and lane.kind in pace:
            pace[lane.kind] += lane.per_second
    waits = [lane for lane in lanes if lane.ready or lane.in_flight]
    etas = [lane.eta_seconds for lane in waits]
    synced = [link.last_full_sync for link in (*connection.audiences, *connection.segments)]
    return Card(
        name=name,
        connection=connection,
        state=state,
        word=_WORDS[state],
        lane=worst if worst and state not in ("running", "off") else None,
        waiting=sum(lane.ready + lane.in_flight for lane in lanes),
        failed=sum(lane.dead for lane in lanes),
        lag=max((lane.oldest_seconds or 0.0 for lane in waits), default=None),
        eta=None if None in etas else max((eta or 0.0 for eta in etas), default=0.0),
        needs_you=needs_you,
        events_per_second=pace["event"],
        profiles_per_second=pace["profile"],
        quota=max(connection.quota, key=lambda use: use.used / max(1, use.allowed), default=None),
        links=len(synced),
        last_full_sync=min((at or 0 for at in synced), default=0) or None,
        chart=chart(connection.throughput),
    )


def cards(status: Status) -> list[Card]:
    """The connections in trouble first."""
    open_items = Counter(item.connection for item in status.attention)
    found = [
        card(name, connection, open_items[name]) for name, connection in status.connections.items()
    ]
    return sorted(found, key=lambda x: (_WORST_FIRST.index(x.state), -x.failed, x.name))


def _page_of(status: Status) -> Callable[[Attention], str]:
    """The page on which a person can do something about an item whose text links to none: what
    failed, by its cause, else the connection."""
    pages = {
        (group.connection, group.problem): Page.FAILED if group.kind == "event" else Page.PEOPLE
        for group in reversed(status.dead_letters)
    }

    def page_of(item: Attention) -> str:
        if "](" in item.in_console:
            return ""
        code = item.code or ""
        if page := pages.get((item.connection, code)):
            return page.path(item.connection, code)
        return f"/connections/{item.connection}" if item.connection else ""

    return page_of


_page = SharedPage("overview.html", regions=("needs-you", "verdict", "todo", "cards", "process"))


def _values(status: Status, services: ConsoleServices) -> dict[str, Any]:
    return {
        "document": status,
        "cards": cards(status),
        "page_of": _page_of(status),
        "switches_of": partial(_switches_of, services),
    }


def _switches_of(services: ConsoleServices, card: Card) -> Mapping[str, bool]:
    """Module → whether it is on, of those that can be switched here."""
    if services.config().is_set(f"connections.{card.name}.modules"):
        return {}
    offered = offered_modules(services, card.name)
    return {name: name in card.connection.modules for name in MODULES if name in offered}


def offered_modules(services: ConsoleServices, name: str) -> frozenset[str]:
    """Empty where the connection is not in the configuration, or its package fails."""
    try:
        return services.offered_modules(name)
    except (KeyError, ConfigError):
        return frozenset()


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    status = await visit.services.commands.latest_status()
    return _page.of(visit, status, lambda: _values(status, visit.services))


async def stream(request: Request) -> Response:
    """The regions of the page that changed, for each tab that shows it (server-sent events)."""
    return event_stream(_updates(Visit.of(request)))


async def _updates(visit: Visit) -> AsyncIterator[tuple[str, bytes] | None]:
    """Ends when the caller may no longer see the page."""
    seen: Status | None = None
    async for topics in visit.services.changes.changes():
        if not topics:
            yield None
            continue
        try:
            visit.services.access.identify(visit.request)
            status = await visit.services.commands.latest_status()
        except AccessDenied:
            return
        except StoreError:
            continue
        yield (
            "regions",
            _page.updates(visit, status, partial(_values, status, visit.services), seen),
        )
        seen = status


routes = [
    Route("/", show, name="overview"),
    Route("/overview/stream", stream, name="overview_stream"),
]
