"""`/backfills`: sending many people to Klaviyo, behind live traffic."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field, model_validator

from connector.web.api.context import (
    Cursor,
    Id,
    Input,
    Limit,
    Page,
    Services,
    Viewer,
    write_cursor,
)
from connector.web.api.orders import ACCEPTED, CommandView, Order
from connector.web.api.problems import RESPONSES, ApiError

router = APIRouter(prefix="/backfills", tags=["backfills"], responses=RESPONSES)


class BackfillView(BaseModel):
    """A run, its progress and its results. Times in ms since 1970."""

    id: int
    connection: str
    source: str
    what: str | None
    dry_run: bool
    existing_only: bool
    force: bool
    events: bool
    state: Literal["waiting", "running", "done", "stopped", "failed"]
    rows: int
    total: int | None
    done: int
    to_read: int
    to_write: int
    people: dict[str, int]
    past_events: dict[str, int]
    not_at_klaviyo: int
    notes: list[str]
    started_at: int
    ended_at: int | None
    problem: str | None
    detail: str


class BackfillOrder(Input):
    """The people are the members of a Klaviyo list or segment, else everyone that the platform
    lists, else everyone seen so far. `since` is for `events`."""

    connection: str
    klaviyo_list: str = ""
    klaviyo_segment: str = ""
    events: bool = False
    since: date | None = Field(None, strict=False)
    dry_run: bool = False
    existing_only: bool = False
    force: bool = False
    restart: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> BackfillOrder:
        if self.klaviyo_list and self.klaviyo_segment:
            raise ValueError("give either `klaviyo_list` or `klaviyo_segment`")
        if self.since and not self.events:
            raise ValueError("`since` needs `events`")
        return self

    def args(self) -> dict[str, Any]:
        source = {}
        if self.klaviyo_list or self.klaviyo_segment:
            source["source"] = "klaviyo-list" if self.klaviyo_list else "klaviyo-segment"
            source["what"] = self.klaviyo_list or self.klaviyo_segment
        midnight = datetime.combine(self.since, datetime.min.time(), UTC) if self.since else None
        return {
            **self.model_dump(exclude={"klaviyo_list", "klaviyo_segment", "since"}),
            **source,
            "since": round(midnight.timestamp() * 1000) if midnight else None,
        }


@router.get("")
async def list_backfills(
    services: Services,
    caller: Viewer,
    cursor: Cursor,
    limit: Limit = 50,
    connection: str | None = None,
) -> Page[BackfillView]:
    """The newest first."""
    found = await services.commands.backfills(connection, before=cursor, limit=limit + 1)
    return Page(
        items=[BackfillView(**run) for run in found[:limit]],
        next=write_cursor(found[limit - 1]["id"]) if found[limit:] else None,
    )


@router.get("/{id}")
async def show_backfill(id: Id, services: Services, caller: Viewer) -> BackfillView:
    """One run. The results of a run that was stopped or failed are counted now."""
    return await _find(id, services)


@router.post("", responses=ACCEPTED)
async def start_backfill(what: BackfillOrder, order: Order) -> CommandView:
    """Start a run, or resume the one that was stopped or killed. The result has its id."""
    return await order.run("backfill", what.args())


@router.post("/{id}/stop", responses=ACCEPTED)
async def stop_backfill(id: Id, services: Services, order: Order) -> CommandView:
    """Stop a run. It can be resumed."""
    run = await _find(id, services)
    args = {"connection": run.connection}
    return await order.run("backfill-stop", args)


async def _find(id: Id, services: Services) -> BackfillView:
    try:
        return BackfillView(**await services.commands.backfill(id))
    except KeyError:
        raise ApiError(404, f"there is no backfill {id}") from None
