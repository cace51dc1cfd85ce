"""`/dead-letters`: records that failed for good, or that wait for a person."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, model_validator

from connector.domain.lanes import MAX_ID
from connector.ports import DeadLetter, DeadLetterFilter
from connector.service.dead_letters import filter_of
from connector.web.api.context import (
    Cursor,
    Id,
    Input,
    Limit,
    Operator,
    Page,
    Services,
    Viewer,
    write_cursor,
)
from connector.web.api.orders import ACCEPTED, CommandView, Order
from connector.web.api.problems import RESPONSES, ApiError

router = APIRouter(prefix="/dead-letters", tags=["dead letters"], responses=RESPONSES)

State = Literal["held", "dead"]


class DeadLetterView(BaseModel):
    """A record that is held or dead. Times in ms since 1970. It holds no address."""

    id: int
    connection: str
    destination: str
    kind: str
    state: State
    name: str
    unique_id: str
    problem: str
    detail: str
    attempts: int
    received_at: int
    settled_at: int | None


class DeadLetterDetailView(BaseModel):
    """One record in full: what the source sent, and the request and answer of the last attempt."""

    dead_letter: DeadLetterView
    record: Any
    request: dict[str, Any] | None


class Filter(Input):
    """Records that have all of what is given. `cause` is a problem code; `q` occurs in the name,
    the unique id or the detail."""

    connection: str | None = None
    cause: str | None = None
    state: State | None = None
    q: str | None = Field(None, max_length=200)


class Selection(Input):
    """Either `ids`, or a `filter` with the `count` that it had: when the count has changed since,
    nothing is done and the answer is 409. An empty filter stands for every record."""

    ids: list[Annotated[int, Field(ge=1, le=MAX_ID)]] = Field([], max_length=1_000)
    filter: Filter | None = None
    count: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _one_of_both(self) -> Selection:
        if bool(self.ids) == (self.filter is not None):
            raise ValueError("give either `ids` or `filter`")
        if self.filter is not None and self.count is None:
            raise ValueError("a `filter` needs the `count` that it had")
        return self


class Discard(Selection):
    """What to discard for good, and why; the reason is kept with the records."""

    reason: str = Field("", max_length=500)


class DeadLetterPage(Page[DeadLetterView]):
    """`count`: records that match the filter, on all pages."""

    count: int


@router.get("")
async def list_dead_letters(
    services: Services,
    caller: Viewer,
    cursor: Cursor,
    limit: Limit = 50,
    connection: str | None = None,
    cause: str | None = None,
    state: State | None = None,
    q: Annotated[str | None, Query(max_length=200)] = None,
) -> DeadLetterPage:
    """The newest first."""
    which = _filter(Filter(connection=connection, cause=cause, state=state, q=q))
    found = list(await services.commands.dead_letters(which, limit + 1, before=cursor))
    more = found[limit:]
    return DeadLetterPage(
        items=[_view(x) for x in found[:limit]],
        next=write_cursor(found[limit - 1].id) if more else None,
        count=await services.commands.count_dead_letters(which),
    )


@router.get("/{id}")
async def show_dead_letter(id: Id, services: Services, caller: Operator) -> DeadLetterDetailView:
    """For operators, because a record may hold personal data."""
    found = await services.commands.dead_letter(id)
    if found is None:
        raise ApiError(404, f"no held or dead record has the id {id}")
    return DeadLetterDetailView(
        dead_letter=_view(found.dead_letter),
        record=orjson.loads(found.entry.data),
        request=dataclasses.asdict(found.request) if found.request else None,
    )


@router.post("/retry", responses=ACCEPTED)
async def retry_dead_letters(which: Selection, order: Order) -> CommandView:
    """Send records again. They keep their unique ids, so none is recorded twice."""
    args = _args(which)
    return await order.run("retry", args)


@router.post("/discard", responses=ACCEPTED)
async def discard_dead_letters(which: Discard, order: Order) -> CommandView:
    """Never send these records. This cannot be undone."""
    args = _args(which)
    args = {**args, "reason": which.reason or f"discarded by {order.by}"}
    return await order.run("discard", args)


def _args(which: Selection) -> dict[str, Any]:
    if which.filter is None:
        return {"ids": which.ids}
    return {**which.filter.model_dump(exclude_none=True), "count": which.count, "all": True}


def _filter(found: Filter) -> DeadLetterFilter:
    return filter_of(found.model_dump())


def _view(x: DeadLetter) -> DeadLetterView:
    return DeadLetterView(**dataclasses.asdict(x) | {"state": x.state.name.lower()})
