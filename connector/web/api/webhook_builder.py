"""`/webhook-builder`: a webhook to paste into a Klaviyo flow. Nothing is sent or stored."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StrictInt

from connector.domain.actions import ActionName
from connector.service.webhook_builder import (
    PRESETS,
    InvalidStep,
    Trigger,
    UseCase,
    build,
    build_direct,
    step_of,
)
from connector.web.api.context import Input, Services, Viewer
from connector.web.api.problems import RESPONSES, ApiError

router = APIRouter(prefix="/webhook-builder", tags=["flows"], responses=RESPONSES)


class WebhookStep(Input):
    """A step of a flow. What is left out is as in the `preset`, where one is given. `amount` may be
    one `{{ variable }}`, with `at_most`."""

    connection: str
    preset: str | None = Field(None, description=f"One of {', '.join(PRESETS)}.")
    action: ActionName | None = None
    amount: StrictInt | str | None = Field(None, description="Points.")
    at_most: int | None = Field(None, description="Upper bound of a variable amount.")
    reason: str | None = Field(None, description="Shown to the person; may have {{ variables }}.")
    message: str | None = Field(None, description="Push: the text.")
    url: str | None = Field(None, description="Push: the URL that it opens.")
    trigger: Trigger | None = Field(None, description="What starts the flow.")
    once_per: str | None = Field(None, description="Counts again after this, such as `300d`.")
    use_case: UseCase | None = None
    name: str | None = Field(None, description="The step in its key. Default: from the reason.")
    event_id: str | None = Field(None, description="Path of the event's id: `event.order_id`.")
    direct: bool = Field(False, description="Call the platform directly. Not deduplicated.")
    show_secret: bool = Field(False, description="For operators; `***` otherwise.")


class BuiltWebhook(BaseModel):
    """The fields of Klaviyo's form. `body` is a template that renders to JSON; `curl` is a real
    call with example values."""

    method: Literal["POST"] = "POST"
    url: str
    headers: dict[str, str]
    body: str
    curl: str
    notes: list[str]


_NOT_OF_THE_STEP = {"connection", "preset", "direct", "show_secret"}


@router.post("")
async def build_webhook(
    step: WebhookStep, request: Request, services: Services, caller: Viewer
) -> BuiltWebhook:
    """URL, headers, body and a curl command. Nothing is sent."""
    if step.show_secret:
        services.access.check_change(request, caller)
    given = step.model_dump(exclude=_NOT_OF_THE_STEP)
    if isinstance(step.amount, int):
        given["amount"] = str(step.amount)
    try:
        target = services.flow_target(step.connection)
        made = (build_direct if step.direct else build)(step_of(step.preset, given), target)
    except KeyError:
        raise ApiError(404, f"there is no connection {step.connection!r}") from None
    except InvalidStep as error:
        raise ApiError(422, "the step is not valid", faults=error.faults) from None
    notes = list(made.notes)
    if step.preset:
        notes.insert(0, f"The flow starts with {PRESETS[step.preset].starts_with(target)}.")
    shown = made if step.show_secret else made.masked()
    return BuiltWebhook(
        url=shown.url, headers=dict(shown.headers), body=shown.body, curl=shown.curl, notes=notes
    )
