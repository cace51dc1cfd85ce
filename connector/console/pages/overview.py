"""`/`: a card for each connection, and what needs a person."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.console.session import Visit
from connector.console.view import page
from connector.service.status import ConnectionStatus, LaneStatus, Status

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
    does not run."""

    name: str
    connection: ConnectionStatus
    state: str
    word: str
    lane: LaneStatus | None
    waiting: int
    failed: int
    events_per_second: float
    profiles_per_second: float

    @property
    def paused(self) -> bool:
        return self.state == "paused"


def card(name: str, connection: ConnectionStatus) -> Card:
    lanes = connection.lanes
    worst = min(lanes, key=lambda lane: _WORST_FIRST.index(lane.state), default=None)
    state = "off" if not connection.enabled or worst is None else worst.state
    pace = {"event": 0.0, "profile": 0.0}
    for lane in lanes:
        if lane.destination == "klaviyo" and lane.kind in pace:
            pace[lane.kind] += lane.per_second
    return Card(
        name=name,
        connection=connection,
        state=state,
        word=_WORDS[state],
        lane=worst if worst and state not in ("running", "off") else None,
        waiting=sum(lane.ready + lane.in_flight for lane in lanes),
        failed=sum(lane.dead for lane in lanes),
        events_per_second=pace["event"],
        profiles_per_second=pace["profile"],
    )


def cards(status: Status) -> list[Card]:
    """The connections in trouble first."""
    found = [card(name, connection) for name, connection in status.connections.items()]
    return sorted(found, key=lambda x: (_WORST_FIRST.index(x.state), -x.failed, x.name))


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    status = await visit.services.commands.latest_status()
    return await page(visit, "overview.html", document=status, cards=cards(status))


routes = [Route("/", show, name="overview")]
