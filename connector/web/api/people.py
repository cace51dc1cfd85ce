"""`/people`: one person, and all with something that failed. Addresses and platform ids stand in
no URL."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field, model_validator

from connector.service.status import StuckPersonView
from connector.service.views import stuck_person_view
from connector.web.api.context import (
    Input,
    Limit,
    Operator,
    Page,
    Services,
    StuckCursor,
    write_cursor,
)
from connector.web.api.orders import ACCEPTED, CommandView, Order
from connector.web.api.problems import RESPONSES, ApiError
from connector.web.person_keys import open_person, seal_person

router = APIRouter(prefix="/people", tags=["people"], responses=RESPONSES)


class PersonQuery(Input):
    """Either an `email` or a `platform_id`; on one connection, or on all."""

    email: str | None = Field(None, max_length=320)
    platform_id: str | None = Field(None, max_length=255)
    connection: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> PersonQuery:
        if bool(self.email) == bool(self.platform_id):
            raise ValueError("give either `email` or `platform_id`")
        return self


class FoundPerson(BaseModel):
    """`key` stands for the person in the other operations. It is valid on this server only."""

    key: str
    connection: str


class FoundPeople(BaseModel):
    items: list[FoundPerson]


class StuckPerson(StuckPersonView):
    """`key` as in FoundPerson; None where only an address is known."""

    key: str | None


class StuckFilter(Input):
    """The people of one connection with one `cause`, a problem code."""

    connection: str
    cause: str


class Timeline(BaseModel):
    """What was received about a person, what it became, which request carried it, and what the
    remote side answered."""

    connection: str
    person: dict[str, Any]


Key = Annotated[str, Path(max_length=400)]


@router.post("/find")
async def find_people(query: PersonQuery, services: Services, caller: Operator) -> FoundPeople:
    """For operators, because whoever may search by address can learn who is a member."""
    who = query.email or query.platform_id or ""
    found = await services.commands.find_people(who, query.connection)
    return FoundPeople(
        items=[
            FoundPerson(key=seal_person(services.seal, connection, id), connection=connection)
            for connection, id in found
        ]
    )


@router.get("")
async def list_stuck_people(
    services: Services,
    caller: Operator,
    after: StuckCursor,
    limit: Limit = 50,
    connection: str | None = None,
    cause: str | None = None,
) -> Page[StuckPerson]:
    """People whose profile, read or membership is held or died: profiles, then reads, then
    memberships, each with the newest first."""
    found = await services.commands.stuck_people(connection, cause, limit + 1, after=after)
    items = [
        StuckPerson(
            **stuck_person_view(x).model_dump(),
            key=seal_person(services.seal, x.lane.connection, x.person) if x.person else None,
        )
        for x in found[:limit]
    ]
    last = found[limit - 1].position if len(found) > limit else None
    return Page(items=items, next=write_cursor(last.id, last.queue) if last else None)


@router.post("/refresh", responses=ACCEPTED)
async def refresh_stuck_people(which: StuckFilter, order: Order) -> CommandView:
    """Read these people at the platform again, after what is live, and write their profiles again.
    The next full sync sends memberships again."""
    return await order.run("refresh", which.model_dump())


@router.get("/{key}/timeline")
async def show_timeline(key: Key, services: Services, caller: Operator) -> Timeline:
    """What happened to one person, the newest last."""
    connection, person = await _person(key, services)
    return Timeline(connection=connection, person=person)


@router.post("/{key}/refresh", responses=ACCEPTED)
async def refresh_person(key: Key, services: Services, order: Order) -> CommandView:
    """Read the person at the platform now, and send to Klaviyo what has changed."""
    connection, person = await _person(key, services)
    args = {"connection": connection, "person": person["platform_id"] or person["email"]}
    return await order.run("refresh", args)


async def _person(key: str, services: Services) -> tuple[str, dict[str, Any]]:
    try:
        connection, id = open_person(services.seal, key)
        return connection, await services.commands.timeline(id)
    except KeyError:
        detail = "this key is too old or of another server: find the person again"
        raise ApiError(404, detail) from None
