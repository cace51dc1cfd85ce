"""`/actions` and `/approvals`: what waits for a person's decision."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from connector.ports import ActionView
from connector.web.api.context import (
    ActionCursor,
    Id,
    Limit,
    Page,
    Services,
    Viewer,
    write_cursor,
)
from connector.web.api.orders import ACCEPTED, CommandView, Order
from connector.web.api.problems import RESPONSES

router = APIRouter(tags=["decisions"], responses=RESPONSES)


class ActionSummary(BaseModel):
    """An adjustment of points or a push. Times in ms since 1970. It names its person by the id that
    the flow gave only in `GET /people`."""

    id: int
    connection: str
    name: str
    origin: str
    amount: int
    state: Literal[
        "waiting", "sending", "uncertain", "held", "applied", "skipped", "refused", "discarded"
    ]
    problem: str | None
    detail: str
    ref: str
    platform_ref: str | None
    received_at: int
    sent_at: int | None
    settled_at: int | None
    lookups: int
    resent: bool
    evidence: str | None
    decided_by: str | None


class ApprovalView(BaseModel):
    """A question that waits for an answer. `detail` holds numbers and names, no addresses."""

    id: int
    connection: str
    what: str
    subject: str
    detail: dict[str, Any]
    requested_at: int


@router.get("/actions")
async def list_actions(
    services: Services,
    caller: Viewer,
    cursor: ActionCursor,
    limit: Limit = 50,
    connection: str | None = None,
    stuck: bool = Query(False, description="Only uncertain and held ones."),
    state: Literal["uncertain", "held"] | None = None,
) -> Page[ActionSummary]:
    """Uncertain and held ones first, of both the newest first."""
    found = await services.commands.actions(connection, stuck, limit + 1, after=cursor, state=state)
    return Page(
        items=[ActionSummary(**dataclasses.asdict(action)) for action in found[:limit]],
        next=_place(found[limit - 1]) if found[limit:] else None,
    )


def _place(action: ActionView) -> str:
    is_stuck = action.state in ("uncertain", "held")
    return write_cursor(action.id, "stuck" if is_stuck else "other")


@router.post("/actions/{id}/{decision}", responses=ACCEPTED)
async def decide_action(
    id: Id, decision: Literal["applied", "again", "refuse"], services: Services, order: Order
) -> CommandView:
    """Say what happened to an uncertain action, or what to do with a held one: it was applied, send
    it again, or never send it."""
    args = {"id": id, "by": order.by}
    return await order.run(decision, args)


@router.get("/approvals")
async def list_approvals(services: Services, caller: Viewer) -> Page[ApprovalView]:
    """The oldest first."""
    found = await services.commands.approvals()
    return Page(items=[ApprovalView(**_pick(approval)) for approval in found])


@router.post("/approvals/{id}/{answer}", responses=ACCEPTED)
async def answer_approval(
    id: Id, answer: Literal["approve", "reject"], services: Services, order: Order
) -> CommandView:
    """Allow what was asked, or refuse it."""
    args = {"id": id, "by": order.by}
    return await order.run(answer, args)


def _pick(approval: Any) -> dict[str, Any]:
    return {name: getattr(approval, name) for name in ApprovalView.model_fields}
