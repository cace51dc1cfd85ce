"""A webhook that calls the platform itself, as the platform's own guides have it."""

from __future__ import annotations

from connector.actions.requests import USE_CASES
from connector.domain.actions import Action
from connector.tools.webhook_builder.builder import EMAIL, webhook
from connector.tools.webhook_builder.checks import check
from connector.tools.webhook_builder.step import FlowTarget, Step, Webhook
from connector.tools.webhook_builder.templates import InvalidStep

WARNING = (
    "Not deduplicated: Klaviyo repeats a call whose answer it did not get, and the platform then"
    " does it again. once-per counts for nothing, and there is no cap, no record, no approval."
)


def build_direct(step: Step, target: FlowTarget) -> Webhook:
    """The webhook that calls the platform. Raises Unfit with every fault of the step."""
    checked = check(step, target)
    if target.direct is None:
        raise InvalidStep(f"{target.title} documents no call that a flow could make itself")
    if isinstance(checked.amount, str):
        raise InvalidStep("the platform wants the amount as a number: no {{ variables }} in it")
    # Without a use case the direction says whether the points count as earned, as in the routes.
    earned = USE_CASES[step.use_case].earned if step.use_case else step.adds
    action = Action(
        name=step.action,
        email=EMAIL,
        amount=-checked.amount if step.adds is False else checked.amount,
        reason=checked.reason,
        earned=earned,
        message=checked.message,
        url=checked.url,
    )
    try:
        call = target.direct(action)
    except ValueError as error:
        raise InvalidStep(str(error)) from error
    return webhook(call.url, call.headers, call.body, (WARNING,))
