"""`/attention`: what needs a person: uncertain actions, approvals, and everything else."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from connector.console.session import Visit, error_text
from connector.console.view import page
from connector.domain.remedies import Page

_DECISIONS = {
    "applied": ("It was applied", "The points were booked: nothing is sent."),
    "again": ("Send again", "It is sent once more. If it was applied before, it counts twice."),
    "refuse": ("Refuse", "It is never sent. This cannot be undone."),
}
_HERE = f"({Page.NEEDS_YOU.path('', '')})"
"""What is decided on this page is shown with its buttons, and need not be named once more."""
_ANSWERS = {
    "approve": ("Approve", "It continues now."),
    "reject": ("Reject", "It does not happen."),
}


async def show(request: Request) -> Response:
    visit = Visit.of(request)
    commands = visit.services.commands
    status = await commands.latest_status()
    return await page(
        visit,
        "attention.html",
        document=status,
        todo=[item for item in status.attention if _HERE not in item.in_console],
        actions=[
            action
            for action in await commands.actions(None, stuck=True, limit=50)
            if action.state in ("uncertain", "held")
        ],
        approvals=await commands.approvals(),
    )


async def decide_action(request: Request) -> Response:
    decision, id = request.path_params["decision"], request.path_params["id"]
    return await _decide(request, _DECISIONS, decision, f"Action {id}", id)


async def answer_approval(request: Request) -> Response:
    answer, id = request.path_params["answer"], request.path_params["id"]
    return await _decide(request, _ANSWERS, answer, f"Question {id}", id)


async def _decide(
    request: Request, choices: dict[str, tuple[str, str]], choice: str, subject: str, id: int
) -> Response:
    """Carry out a decision; one that cannot be undone asks once more."""
    visit = Visit.of(request)
    if choice not in choices:
        raise HTTPException(404)
    form = await visit.form()
    label, effect = choices[choice]
    if choice in ("refuse", "reject", "again") and form.get("confirmed") != "yes":
        return await page(
            visit,
            "confirm.html",
            title=f"{subject}: {label.lower()}?",
            effect=effect,
            label=label,
            back="/attention",
        )
    done, result = await visit.run(choice, {"id": id, "by": visit.principal.name})
    message = f"{subject}: {label.lower()}." if done else error_text(result)
    name = form.get("from")
    known = any(name == connection.name for connection in visit.services.config().connections)
    back = f"/connections/{name}/links" if known else "/attention"
    return visit.redirect(back, message, failed=not done)


routes = [
    Route("/attention", show, name="attention"),
    Route("/attention/actions/{id:id}/{decision}", decide_action, methods=["POST"]),
    Route("/attention/approvals/{id:id}/{answer}", answer_approval, methods=["POST"]),
]
