"""Builds a webhook that calls the platform directly, as in the platform's own guides."""

from __future__ import annotations

from connector.actions.requests import USE_CASES
from connector.domain.actions import Action
from connector.service.webhook_builder.builder import EMAIL, webhook
from connector.service.webhook_builder.checks import check
from connector.service.webhook_builder.step import FlowTarget, Step, Webhook
from connector.service.webhook_builder.templates import InvalidStep

WARNING = (
    "Not deduplicated: Klaviyo repeats a call if it gets no response, and the platform applies it"
    " again. once-per has no effect, and there is no cap, no record and no approval."
)


def build_direct(step: Step, target: FlowTarget) -> Webhook:
    """The webhook that calls the platform. Raises InvalidStep with every fault."""
    checked = check(step, target)
    if target.direct is None:
        raise InvalidStep(
            f"{target.title} documents no API call for flows: build it without --direct"
        )
    if isinstance(checked.amount, str):
        raise InvalidStep(
            "with --direct the amount must be a number: the platform accepts no {{ variables }}"
        )
    # Without a use case the direction decides whether the points count as earned.
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
