"""A webhook that calls the platform itself, as the platform's own guides have it."""

from __future__ import annotations

from connector.actions.requests import USE_CASES
from connector.domain.actions import (
    Action,
)
from connector.tools.webhook_builder.builder import EMAIL, webhook
from connector.tools.webhook_builder.checks import check
from connector.tools.webhook_builder.step import Place, Step, Webhook
from connector.tools.webhook_builder.templates import Unfit

WARNING = (
    "Not deduplicated: Klaviyo repeats a call whose answer it did not get, and the platform then"
    " does it again. once-per counts for nothing, and there is no cap, no record, no approval."
)


def build_direct(step: Step, place: Place) -> Webhook:
    """The webhook that calls the platform. Raises Unfit with every fault of the step."""
    made = check(step, place)
    if place.direct is None:
        raise Unfit(f"{place.title} documents no call that a flow could make itself")
    if isinstance(made.amount, str):
        raise Unfit("the platform wants the amount as a number: no {{ variables }} in it")
    # Without a use case the direction says whether the points count as earned, as in the routes.
    earned = USE_CASES[step.use_case].earned if step.use_case else step.adds
    action = Action(
        name=step.action,
        email=EMAIL,
        amount=-made.amount if step.adds is False else made.amount,
        reason=made.reason,
        earned=earned,
        message=made.message,
        url=made.url,
    )
    try:
        call = place.direct(action)
    except ValueError as error:
        raise Unfit(str(error)) from error
    return webhook(call.url, call.headers, call.body, (WARNING,))
